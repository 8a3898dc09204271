-- What this login is, and what it could become: whether row security binds it at all. One row, always.
select
  login.rolname::text as login,
  login.rolsuper or coalesce(acting.rolsuper, false) as superuser,
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
      and pg_has_role(login.oid, table_.relowner, 'MEMBER')
    order by 1
    limit 1
  ) as owns,
  current_setting('row_security') as row_security,
  to_regprocedure('rlskit.identities()') is not null as has_runtime
from pg_roles as login
left join pg_roles as acting on acting.rolname = current_user
where login.rolname = session_user
