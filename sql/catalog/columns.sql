-- The columns of these tables, with the sequence that a serial column owns.
select
  column_.attrelid as table_oid,
  column_.attname as name,
  format_type(column_.atttypid, null) as type,
  coalesce(collation_.collisdeterministic, true) as deterministic,
  pg_get_expr(default_.adbin, default_.adrelid) as default_expression,
  column_.attgenerated <> '' as generated,
  exists (
    select from pg_index
    where indrelid = column_.attrelid and indisprimary and column_.attnum = any (indkey)
  ) as key,
  -- An expression's functions are not listed anywhere; a name that one volatile function has is taken for that one.
  column_.attidentity <> '' or exists (
    select
    from regexp_matches(pg_get_expr(default_.adbin, default_.adrelid), '([^.("\s]+)"?\(', 'g') as called (name)
    join pg_proc as function_ on function_.proname = called.name[1]
    where function_.provolatile = 'v' and column_.attgenerated = ''
  ) as fresh,
  sequence_schema.nspname as sequence_schema,
  sequence_.relname as sequence_name
from pg_attribute as column_
left join pg_collation as collation_ on collation_.oid = column_.attcollation
left join pg_attrdef as default_ on default_.adrelid = column_.attrelid and default_.adnum = column_.attnum
left join pg_depend as owned
  on owned.refclassid = 'pg_class'::regclass and owned.refobjid = column_.attrelid and owned.refobjsubid = column_.attnum
  and owned.classid = 'pg_class'::regclass and owned.deptype = 'a'
left join pg_class as sequence_ on sequence_.oid = owned.objid and sequence_.relkind = 'S'
left join pg_namespace as sequence_schema on sequence_schema.oid = sequence_.relnamespace
where column_.attrelid = any (%(oids)s::oid[]) and column_.attnum > 0 and not column_.attisdropped
order by column_.attrelid, column_.attnum
