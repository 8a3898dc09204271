-- The database, who is connected, and what the role is.
select
  current_database()::text as database,
  current_user::text as user_name,
  pg_is_in_recovery() or current_setting('transaction_read_only')::bool as read_only,
  has_database_privilege(current_database(), 'TEMP') as may_make_temporary,
  has_database_privilege(current_database(), 'CREATE') as may_create,
  app.oid is not null as role_exists,
  exists (
    select from pg_roles as other
    where pg_has_role(app.oid, other.oid, 'MEMBER')
      and (
        other.rolsuper or other.rolbypassrls or other.rolreplication
        or other.rolname in (
          'pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'
        )
      )
  ) as role_bypasses,
  array(
    select owner.rolname::text
    from pg_roles as owner
    where pg_has_role(app.oid, owner.oid, 'MEMBER')
    order by 1
  ) as role_may_become,
  array(
    select owner.rolname::text
    from pg_roles as owner
    where owner.oid in (
      select nspowner from pg_namespace where nspname = 'rlskit'
      union
      select proowner from pg_proc join pg_namespace as schema_ on schema_.oid = pronamespace where nspname = 'rlskit'
      union
      select relowner from pg_class join pg_namespace as schema_ on schema_.oid = relnamespace where nspname = 'rlskit'
    )
    order by 1
  ) as runtime_owners,
  -- Read and not called: whoever could have written it is not known yet.
  (
    select pg_get_function_sqlbody(function_.oid) = 'RETURN true'
    from pg_proc as function_
    join pg_namespace as schema_ on schema_.oid = pronamespace
    where nspname = 'rlskit' and proname = 'is_signed'
  ) is true as signed,
  exists (
    select from pg_class
    join pg_namespace as schema_ on schema_.oid = relnamespace
    cross join lateral (select relacl union all select attacl from pg_attribute where attrelid = pg_class.oid) as granted (acl)
    cross join lateral aclexplode(acl) as given
    where nspname = 'rlskit' and relname = 'key' and grantee <> relowner
  ) as keys_are_open
from (select) as always
left join pg_roles as app on app.rolname = %(role)s
