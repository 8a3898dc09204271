-- A table, and every table that foreign keys lead to from it. A key of or to a partitioned table is listed again for each partition: once is enough.
with recursive reached (oid) as (
  select table_.oid
  from pg_class as table_
  join pg_namespace as schema_ on schema_.oid = table_.relnamespace
  where schema_.nspname = %(schema)s and table_.relname = %(name)s and table_.relkind in ('r', 'p')
  union
  select key.confrelid
  from reached
  join pg_constraint as key on key.conrelid = reached.oid and key.contype = 'f'
  where not exists (select from pg_constraint as whole where whole.oid = key.conparentid and whole.conrelid = key.conrelid)
)
select
  table_.oid,
  schema_.nspname::text as schema_name,
  table_.relname::text as table_name,
  row_security_active(table_.oid) as bound,
  array(
    select column_.attname::text
    from pg_index as index_
    cross join unnest(index_.indkey) with ordinality as part (number, place)
    join pg_attribute as column_ on column_.attrelid = table_.oid and column_.attnum = part.number
    where index_.indrelid = table_.oid and index_.indisprimary and part.place <= index_.indnkeyatts
    order by part.place
  ) as key
from reached
join pg_class as table_ on table_.oid = reached.oid
join pg_namespace as schema_ on schema_.oid = table_.relnamespace
