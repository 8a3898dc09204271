-- The tables asked for, those that bear rlskit's mark, and every partition and child of them.
with recursive asked as (
  select table_.oid
  from unnest(%(schemas)s::text[], %(names)s::text[]) as wanted (schema_name, table_name)
  join pg_namespace as schema_ on schema_.nspname = wanted.schema_name
  join pg_class as table_ on table_.relnamespace = schema_.oid and table_.relname = wanted.table_name
  where table_.relkind in ('r', 'p', 'v', 'm', 'f')
  union
  select policy.polrelid
  from pg_policy as policy
  where obj_description(policy.oid, 'pg_policy') like 'rlskit %%'
),
family as (
  select oid, oid as ancestor from asked
  union
  select child.inhrelid, family.ancestor
  from family
  join pg_inherits as child on child.inhparent = family.oid
)
select
  table_.oid,
  schema_.nspname as schema_name,
  table_.relname as table_name,
  table_.relkind::text as kind,
  table_.relispartition as is_partition,
  (select amname from pg_am where pg_am.oid = table_.relam) as access_method,
  table_.relrowsecurity as enabled,
  table_.relforcerowsecurity as forced,
  owner.rolname as owner,
  pg_has_role(current_user, table_.relowner, 'USAGE') as alterable,
  table_.relkind = 'r' and pg_relation_size(table_.oid) > 0 as has_rows,
  array(select ancestor from family where family.oid = table_.oid and family.ancestor <> family.oid) as ancestors,
  array(
    select array[parent_schema.nspname::text, parent.relname::text]
    from pg_inherits
    join pg_class as parent on parent.oid = inhparent
    join pg_namespace as parent_schema on parent_schema.oid = parent.relnamespace
    where inhrelid = table_.oid
    order by 1
  ) as parents
from pg_class as table_
join pg_namespace as schema_ on schema_.oid = table_.relnamespace
join pg_roles as owner on owner.oid = table_.relowner
where table_.oid in (select oid from family)
order by 2, 3
