-- The CHECK constraints of these tables.
select
  constraint_.conrelid as table_oid,
  constraint_.conname as name,
  pg_get_expr(constraint_.conbin, constraint_.conrelid) as expression,
  constraint_.convalidated as validated,
  obj_description(constraint_.oid, 'pg_constraint') as mark
from pg_constraint as constraint_
where constraint_.conrelid = any (%(oids)s::oid[]) and constraint_.contype = 'c'
order by constraint_.conrelid, constraint_.conname
