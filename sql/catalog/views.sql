-- Views over these tables, also through other views, that read with the rights of an owner whom row security does not
-- bind, and that the role may reach.
with recursive reading as (
  select base.oid as table_oid, base.oid as relation
  from unnest(%(oids)s::oid[]) as base (oid)
  union
  select reading.table_oid, rewrite.ev_class
  from reading
  join pg_depend as depends
    on depends.refclassid = 'pg_class'::regclass and depends.refobjid = reading.relation and depends.classid = 'pg_rewrite'::regclass
  join pg_rewrite as rewrite on rewrite.oid = depends.objid
  join pg_class as view_ on view_.oid = rewrite.ev_class and view_.relkind in ('v', 'm')
)
select distinct
  reading.table_oid,
  schema_.nspname as schema_name,
  view_.relname as name,
  case view_.relkind when 'm' then 'materialized view' else 'view' end as kind,
  owner.rolname as owner
from reading
join pg_class as view_ on view_.oid = reading.relation and view_.relkind in ('v', 'm')
join pg_namespace as schema_ on schema_.oid = view_.relnamespace
join pg_roles as owner on owner.oid = view_.relowner
join pg_roles as app on app.rolname = %(role)s
where (owner.rolsuper or owner.rolbypassrls)
  and not coalesce(view_.reloptions && array['security_invoker=true', 'security_invoker=on', 'security_invoker=1'], false)
  and exists (
    -- by itself, or through a view over it
    with recursive above as (
      select view_.oid as relation
      union
      select rewrite.ev_class
      from above
      join pg_depend as depends
        on depends.refclassid = 'pg_class'::regclass and depends.refobjid = above.relation and depends.classid = 'pg_rewrite'::regclass
      join pg_rewrite as rewrite on rewrite.oid = depends.objid
    )
    select from above
    where has_any_column_privilege(app.oid, above.relation, 'select, insert, update')
      or has_table_privilege(app.oid, above.relation, 'delete')
  )
order by 1, 2, 3
