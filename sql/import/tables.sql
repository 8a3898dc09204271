-- The tables of these schemas, but for those that belong to an extension; and of each schema, whether it is there.
select
  wanted.schema_name,
  schema_.oid is not null as is_there,
  table_.relname as table_name
from unnest(%(schemas)s::text[]) as wanted (schema_name)
left join pg_namespace as schema_ on schema_.nspname = wanted.schema_name
left join pg_class as table_ on table_.relnamespace = schema_.oid and table_.relkind in ('r', 'p') and not exists (
  select from pg_depend as depends
  where depends.classid = 'pg_class'::regclass and depends.objid = table_.oid and depends.deptype = 'e'
)
order by 1, 3
