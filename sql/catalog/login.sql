-- What this login is, and what it could become: whether row security binds it at all. One row, always.
select
  login.rolname::text as login,
  exists (
    select from unnest(array['sub', 'username', 'claims', 'actor', 'token']) as said (name)
    where current_setting('rlskit.' || name, true) <> ''
  ) as preset,
  exists (select from pg_roles as other where other.rolsuper and pg_has_role(login.oid, other.oid, 'MEMBER')) as superuser,
  case
    when login.rolreplication then 'REPLICATION'
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
  exists (
    select from pg_roles as other
    where other.rolbypassrls and pg_has_role(login.oid, other.oid, 'MEMBER')
  ) as bypasses,
  (
    select format('%I.%I', schema_.nspname, table_.relname)
    from pg_policy as policy
    join pg_class as table_ on table_.oid = policy.polrelid
    join pg_namespace as schema_ on schema_.oid = table_.relnamespace
    where obj_description(policy.oid, 'pg_policy') like 'rlskit %'
      and (
        pg_has_role(login.oid, table_.relowner, 'MEMBER')
        or pg_has_role(login.oid, schema_.nspowner, 'MEMBER')
        or exists (
          with recursive family as (
            select inhrelid from pg_inherits where inhparent = table_.oid
            union
            select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
          )
          select from family join pg_class as part on part.oid = family.inhrelid where pg_has_role(login.oid, part.relowner, 'MEMBER')
        )
      )
    order by 1
    limit 1
  ) as owns,
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
    -- A login may write its own, for every session to come; those of a database it may not.
    select split_part(setting, '=', 1)
    from pg_db_role_setting
    cross join lateral unnest(setconfig) as given (setting)
    where setrole = login.oid and setting ~ '^(search_path|role|row_security|session_replication_role|rlskit\..*)='
    order by 1
    limit 1
  ) as own_setting,
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
where login.rolname = session_user
