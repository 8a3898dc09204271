-- The tables for which values can be said: each by its schema and its name.
select nspname as schema_name, relname as table_name
from pg_catalog.pg_class as class
join pg_catalog.pg_namespace as schema on schema.oid = class.relnamespace
where relkind in ('r', 'p', 'f') and nspname <> 'information_schema' and not starts_with(nspname, 'pg_')
order by 1, 2
