-- Tables that no rule names and that the application's role reaches all the same, with what it may do there. What inherits stands behind its parent.
select schema.nspname::text as schema_name, class.relname::text as table_name, array_agg(privilege order by number) as privileges
from pg_class as class
join pg_namespace as schema on schema.oid = class.relnamespace
cross join unnest(array['select', 'insert', 'update', 'delete']) with ordinality as asked (privilege, number)
where class.relkind in ('r', 'p', 'f')
  and schema.nspname not in ('information_schema', 'rlskit')
  and not starts_with(schema.nspname, 'pg_')
  and (schema.nspname::text, class.relname::text) not in (select * from unnest(%(schemas)s::text[], %(tables)s::text[]))
  and not exists (select from pg_inherits where inhrelid = class.oid)
  and has_schema_privilege(%(role)s, schema.oid, 'usage')
  and case privilege
    when 'delete' then has_table_privilege(%(role)s, class.oid, 'delete')
    else has_any_column_privilege(%(role)s, class.oid, privilege)
  end
group by 1, 2
order by 1, 2
