-- The policies of these tables, and whether one is for the role: by name, through PUBLIC or through a role that it is in.
select
  policy.polrelid as table_oid,
  policy.polname as name,
  case policy.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end as command,
  array(
    select coalesce(role_.rolname, 'public')::text
    from unnest(policy.polroles) as given (role_oid)
    left join pg_roles as role_ on role_.oid = given.role_oid
    order by 1
  ) as roles,
  policy.polpermissive as permissive,
  pg_get_expr(policy.polqual, policy.polrelid) as using,
  pg_get_expr(policy.polwithcheck, policy.polrelid) as with_check,
  obj_description(policy.oid, 'pg_policy') as mark,
  exists (
    select from unnest(policy.polroles) as given (role_oid)
    left join pg_roles as role_ on role_.oid = given.role_oid
    where given.role_oid = 0
      or pg_has_role(app.oid, given.role_oid, 'MEMBER')
      or (pg_has_role(given.role_oid, app.oid, 'MEMBER') and not role_.rolsuper)
  ) as binds_role
from pg_policy as policy
left join pg_roles as app on app.rolname = %(role)s
where policy.polrelid = any (%(oids)s::oid[])
order by policy.polrelid, policy.polname
