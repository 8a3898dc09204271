-- The server, the database, who is connected, and what the role is.
select
  current_setting('server_version_num')::int as server_version,
  current_database()::text as database,
  current_user::text as user_name,
  pg_is_in_recovery() or current_setting('transaction_read_only')::bool as read_only,
  has_database_privilege(current_database(), 'TEMP') as may_make_temporary,
  has_database_privilege(current_database(), 'CREATE') as may_create,
  app.oid is not null as role_exists,
  coalesce(app.rolsuper or app.rolbypassrls, false) as role_bypasses,
  array(
    select owner.rolname::text
    from pg_roles as owner
    where pg_has_role(app.oid, owner.oid, 'MEMBER')
    order by 1
  ) as role_may_become
from (select) as always
left join pg_roles as app on app.rolname = %(role)s
