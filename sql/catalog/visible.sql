-- The tables that this session's search_path finds without a schema, each with the schema where it finds them.
select relname::text as name, nspname::text as schema
from pg_class
join pg_namespace as schema_ on schema_.oid = relnamespace
where relkind in ('r', 'p', 'v', 'm', 'f') and nspname !~ '^pg_' and nspname <> 'information_schema' and pg_table_is_visible(pg_class.oid)
