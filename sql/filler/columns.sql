-- The columns of these tables, and what gives each its value where nobody names it.
select
  column_.attrelid as table_oid,
  column_.attname::text as name,
  column_.atttypid as type_oid,
  column_.atttypmod as modifier,
  column_.attnotnull as not_null,
  column_.attgenerated <> '' as generated,
  nullif(column_.attidentity::text, '') as identity,
  case
    when column_.attgenerated <> '' then null
    when column_.attidentity <> '' then
      format('nextval(%%L::regclass)', pg_get_serial_sequence(column_.attrelid::regclass::text, column_.attname))
    else coalesce(pg_get_expr(default_.adbin, default_.adrelid), pg_get_expr(type_.typdefaultbin, 0))
  end as default_expression
from pg_attribute as column_
join pg_type as type_ on type_.oid = column_.atttypid
left join pg_attrdef as default_ on default_.adrelid = column_.attrelid and default_.adnum = column_.attnum
where column_.attrelid = any (%(oids)s::oid[]) and column_.attnum > 0 and not column_.attisdropped
order by column_.attrelid, column_.attnum
