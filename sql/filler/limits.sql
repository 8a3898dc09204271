-- What the rows of these tables have to meet: checks, unique and exclusion indexes, and the bounds of partitions, each with its columns.
-- A row of a partitioned table meets those of its partition too; `own` tells the table's from a partition's.
with recursive tree (table_oid, oid) as (
  select table_.oid, table_.oid from pg_class as table_ where table_.oid = any (%(oids)s::oid[])
  union
  select tree.table_oid, pg_inherits.inhrelid
  from tree
  join pg_inherits on pg_inherits.inhparent = tree.oid
  join pg_class as part on part.oid = pg_inherits.inhrelid and part.relispartition
),
above (table_oid, oid) as (
  select table_.oid, table_.oid from pg_class as table_ where table_.oid = any (%(oids)s::oid[])
  union
  select above.table_oid, pg_inherits.inhparent
  from above
  join pg_class as part on part.oid = above.oid and part.relispartition
  join pg_inherits on pg_inherits.inhrelid = part.oid
),
line as (
  select * from tree union select * from above
)
select
  tree.table_oid,
  constraint_.conname::text as name,
  'check' as kind,
  array(
    select column_.attname::text
    from unnest(constraint_.conkey) as part (number)
    join pg_attribute as column_ on column_.attrelid = constraint_.conrelid and column_.attnum = part.number
  ) as columns,
  pg_get_expr(constraint_.conbin, constraint_.conrelid) as definition,
  tree.oid = tree.table_oid as own,
  false as whole
from tree
join pg_constraint as constraint_ on constraint_.conrelid = tree.oid and constraint_.contype = 'c'
union all
select
  tree.table_oid,
  named.relname::text,
  case when index_.indisunique and not index_.indisexclusion then 'unique' else 'exclusion' end,
  array(
    select column_.attname::text
    from pg_attribute as column_
    where column_.attrelid = index_.indrelid and column_.attnum > 0 and (
      column_.attnum = any ((index_.indkey::int2[])[0:index_.indnkeyatts - 1])
      -- What an expression is about.
      or index_.indexprs is not null and exists (
        select
        from pg_depend
        where classid = 'pg_class'::regclass and objid = index_.indexrelid
          and refclassid = 'pg_class'::regclass and refobjid = index_.indrelid and refobjsubid = column_.attnum
      )
    )
    order by array_position(index_.indkey::int2[], column_.attnum)
  ),
  '',
  tree.oid = tree.table_oid,
  index_.indpred is null and index_.indexprs is null
from tree
join pg_index as index_ on index_.indrelid = tree.oid and (index_.indisunique or index_.indisexclusion)
join pg_class as named on named.oid = index_.indexrelid
union all
select
  line.table_oid,
  null,
  'partition',
  array_agg(distinct column_.attname::text) filter (where column_.attname is not null),
  -- A hash says nothing of the values.
  coalesce(string_agg(distinct bounds.definition, '; ') filter (where bounds.definition !~ '^FOR VALUES WITH'), ''),
  true,
  true
from line
join pg_class as part on part.oid = line.oid
cross join lateral pg_get_expr(part.relpartbound, part.oid) as bounds (definition)
left join pg_partitioned_table as key on key.partrelid = line.oid
-- The columns of the key, and those that its expressions are about: they cannot be dropped without the table.
left join pg_depend as part_of
  on part_of.classid = 'pg_class'::regclass and part_of.objid = key.partrelid and part_of.objsubid > 0
  and part_of.refclassid = 'pg_class'::regclass and part_of.refobjid = key.partrelid and part_of.refobjsubid = 0 and part_of.deptype = 'i'
left join pg_attribute as column_ on column_.attrelid = part_of.objid and column_.attnum = part_of.objsubid
where exists (select from line as other join pg_partitioned_table on partrelid = other.oid where other.table_oid = line.table_oid)
group by line.table_oid
order by 1, 3, 2
