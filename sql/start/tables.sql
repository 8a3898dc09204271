-- The tables that a person made, with the columns that could name an owner. Partitions and children have the rules of the table above them.
select
  schema_.nspname::text as schema_name,
  table_.relname::text as name,
  array(
    select column_.attname::text
    from pg_attribute as column_
    where column_.attrelid = table_.oid and column_.attnum > 0 and not column_.attisdropped and column_.attgenerated = ''
      and column_.atttypid = any (array['text', 'varchar']::regtype[])
    order by column_.attnum
  ) as texts,
  array(
    select column_.attname::text
    from pg_attribute as column_
    where column_.attrelid = table_.oid and column_.attnum > 0 and not column_.attisdropped and column_.attgenerated = ''
      and column_.atttypid = 'uuid'::regtype
    order by column_.attnum
  ) as uuids
from pg_class as table_
join pg_namespace as schema_ on schema_.oid = table_.relnamespace
where table_.relkind in ('r', 'p') and table_.relpersistence <> 't'
  and schema_.nspname <> all (array['rlskit', 'information_schema']) and schema_.nspname !~ '^pg_'
  and not exists (select from pg_inherits where inhrelid = table_.oid)
  and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = table_.oid and deptype = 'e')
order by schema_.nspname, table_.relname
