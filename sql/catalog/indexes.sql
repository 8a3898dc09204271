-- The indexes of these tables: the first column, and whether the index serves every row. An index on a partition
-- names the one that it is attached to.
select
  index_.indrelid as table_oid,
  index_schema.nspname as schema_name,
  relation.relname as name,
  method.amname as method,
  column_.attname as first_column,
  index_.indisvalid and index_.indisready as valid,
  index_.indpred is null as whole,
  parent.relname as parent_index,
  obj_description(index_.indexrelid, 'pg_class') as mark
from pg_index as index_
join pg_class as relation on relation.oid = index_.indexrelid
join pg_namespace as index_schema on index_schema.oid = relation.relnamespace
join pg_am as method on method.oid = relation.relam
left join pg_attribute as column_ on column_.attrelid = index_.indrelid and column_.attnum = index_.indkey[0] and column_.attnum > 0
left join pg_inherits as attached on attached.inhrelid = index_.indexrelid
left join pg_class as parent on parent.oid = attached.inhparent
where index_.indrelid = any (%(oids)s::oid[])
order by index_.indrelid, relation.relname
