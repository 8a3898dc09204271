-- The foreign keys of these tables. A key of or to a partitioned table is listed again for each partition: once is enough.
select
  key.conrelid as table_oid,
  key.conname::text as name,
  key.confrelid as target_oid,
  key.condeferrable as deferrable,
  key.condeferred as deferred,
  array(
    select column_.attname::text
    from unnest(key.conkey) with ordinality as part (number, place)
    join pg_attribute as column_ on column_.attrelid = key.conrelid and column_.attnum = part.number
    order by part.place
  ) as columns,
  array(
    select column_.attname::text
    from unnest(key.confkey) with ordinality as part (number, place)
    join pg_attribute as column_ on column_.attrelid = key.confrelid and column_.attnum = part.number
    order by part.place
  ) as target_columns
from pg_constraint as key
where key.conrelid = any (%(oids)s::oid[]) and key.contype = 'f'
  and not exists (select from pg_constraint as whole where whole.oid = key.conparentid and whole.conrelid = key.conrelid)
order by key.conrelid, key.conname
