-- Before a directive of a migration: the runtime, the first role that is missing, the table with its owner, and a policy of this name.
select
  current_user::text as user_name,
  to_regclass('rlskit.version') is not null as installed,
  (
    select named
    from unnest(%(roles)s::text[]) as given (named)
    where named <> 'public' and not exists (select from pg_roles where rolname = named)
    order by named
    limit 1
  ) as missing_role,
  owner.rolname as owner,
  pg_has_role(current_user, table_.relowner, 'USAGE') as alterable,
  (
    select coalesce(obj_description(policy.oid, 'pg_policy'), '')
    from pg_policy as policy
    where policy.polrelid = table_.oid and policy.polname = %(policy)s
  ) as policy_comment
from (select) as nothing
left join pg_namespace as schema_ on schema_.nspname = %(schema)s
left join pg_class as table_ on table_.relnamespace = schema_.oid and table_.relname = %(name)s and table_.relkind in ('r', 'p')
left join pg_roles as owner on owner.oid = table_.relowner
