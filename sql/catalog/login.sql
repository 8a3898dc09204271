-- What this login is, and what it could become: whether row security binds it at all. One row, always.
select
  login.rolname::text as login,
  exists (
    select from unnest(array['sub', 'username', 'claims', 'actor', 'token']) as said (name)
    where current_setting('rlskit.' || name, true) <> ''
  ) as preset,
  -- Who is one: the login itself, or a role that it may become.
  (
    select other.rolname::text
    from pg_roles as other
    where other.rolsuper and pg_has_role(login.oid, other.oid, 'MEMBER')
    order by other.oid <> login.oid, 1
    limit 1
  ) as superuser,
  (
    select other.rolname::text
    from pg_roles as other
    where other.rolbypassrls and pg_has_role(login.oid, other.oid, 'MEMBER')
    order by other.oid <> login.oid, 1
    limit 1
  ) as bypasses,
  case
    when login.rolreplication then 'REPLICATION'
    when has_parameter_privilege(login.oid, 'session_replication_role', 'SET') and not login.rolsuper then 'SET on session_replication_role'
    when login.rolcreaterole and current_setting('server_version_num')::int < 160000 then 'CREATEROLE'
    else (
      select other.rolname::text
      from pg_roles as other
      where other.rolname in (
        'pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'
      )
      and pg_has_role(login.oid, other.oid, 'MEMBER')
      order by 1
      limit 1
    )
  end as reads_past,
  owned.what as owns,
  owned.owner as owner,
  exists (
    select from pg_namespace as schema_
    left join pg_proc as function_ on function_.pronamespace = schema_.oid
    left join pg_class as table_ on table_.relnamespace = schema_.oid
    where schema_.nspname = 'rlskit'
      and (
        pg_has_role(login.oid, schema_.nspowner, 'MEMBER')
        or pg_has_role(login.oid, function_.proowner, 'MEMBER')
        or pg_has_role(login.oid, table_.relowner, 'MEMBER')
      )
  ) as owns_runtime,
  exists (
    select from pg_class
    join pg_namespace as schema_ on schema_.oid = relnamespace
    cross join lateral (select relacl union all select attacl from pg_attribute where attrelid = pg_class.oid) as granted (acl)
    cross join lateral aclexplode(acl) as given
    where nspname = 'rlskit' and relname = 'key'
      and case grantee when 0 then true else pg_has_role(login.oid, grantee, 'MEMBER') end
  ) as reaches_keys,
  (
    -- A login may write its own, for every session to come, where no superuser is needed for it; those of a database it may not.
    select name
    from pg_db_role_setting
    cross join lateral unnest(setconfig) as given (setting)
    cross join lateral split_part(setting, '=', 1) as given_name (name)
    where setrole = login.oid
      and login.rolcanlogin
      and (
        name in ('role', 'session_replication_role')
        or name not in (
          'application_name', 'default_transaction_deferrable', 'default_transaction_isolation', 'default_transaction_read_only',
          'effective_cache_size', 'hash_mem_multiplier', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'jit', 'lock_timeout',
          'max_parallel_workers_per_gather', 'random_page_cost', 'statement_timeout', 'temp_buffers', 'timezone', 'TimeZone',
          'transaction_timeout', 'work_mem'
        )
        and not exists (select from pg_settings where pg_settings.name = given_name.name and context <> 'user')
      )
    order by 1
    limit 1
  ) as own_setting,
  (
    -- What somebody else's statements could fall into: a function, an operator, a table of the same name.
    select what
    from (
      select 1, format('CREATE on database %I', current_database())
      where has_database_privilege(login.oid, current_database(), 'CREATE')
      union all
      select 2, format('CREATE on schema %I', nspname)
      from pg_namespace
      where nspname !~ '^pg_' and has_schema_privilege(login.oid, oid, 'CREATE')
      union all
      select 3, format('%s, which it owns', pg_class.oid::regclass)
      from pg_class
      where relkind in ('r', 'p', 'v', 'm', 'f') and relpersistence <> 't' and pg_has_role(login.oid, relowner, 'MEMBER')
    ) as found (rank, what)
    order by rank, what
    limit 1
  ) as makes,
  current_setting('row_security') as row_security,
  has_schema_privilege(to_regnamespace('rlskit')::oid, 'USAGE') is true as has_runtime,
  (
    select pg_get_function_sqlbody(function_.oid) = 'RETURN true'
    from pg_proc as function_
    join pg_namespace as schema_ on schema_.oid = pronamespace
    where nspname = 'rlskit' and proname = 'is_signed'
  ) is true as signed,
  pg_backend_pid() as backend_pid
from pg_roles as login
left join lateral (
  -- A managed table, a part of one, or the schema of one: the first that it owns, or whose owner it may become.
  with recursive family as (
    select polrelid as part from pg_policy as policy where obj_description(policy.oid, 'pg_policy') like 'rlskit %'
    union
    select inhrelid from family join pg_inherits on inhparent = part
  )
  select what, owner.rolname::text as owner
  from family
  join pg_class as table_ on table_.oid = part
  join pg_namespace as schema_ on schema_.oid = table_.relnamespace
  cross join lateral format('%I.%I', schema_.nspname, table_.relname) as named (name)
  cross join lateral (
    values (table_.relowner, 'table ' || name), (schema_.nspowner, 'the schema of table ' || name)
  ) as possession (owner_oid, what)
  join pg_roles as owner on owner.oid = owner_oid
  where pg_has_role(login.oid, owner_oid, 'MEMBER')
  order by owner_oid <> login.oid, what
  limit 1
) as owned on true
where login.rolname = session_user
