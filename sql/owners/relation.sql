-- One table or view, column by column: what it is, and whether row security binds this login there.
select
  table_.relkind::text as kind,
  row_security_active(table_.oid) as bound,
  current_user::text as login,
  column_.attname::text as name,
  format_type(column_.atttypid, null) as type,
  case when column_.atttypid = any (array['varchar', '_varchar']::regtype[]) and column_.atttypmod > 0 then column_.atttypmod - 4 end as length,
  column_.attgenerated = '' and coalesce(collation_.collisdeterministic, true) as exact
from pg_class as table_
join pg_namespace as schema_ on schema_.oid = table_.relnamespace
left join pg_attribute as column_ on column_.attrelid = table_.oid and column_.attnum > 0 and not column_.attisdropped
left join pg_collation as collation_ on collation_.oid = column_.attcollation
where schema_.nspname = %(schema)s and table_.relname = %(name)s and table_.relkind in ('r', 'p', 'v', 'm', 'f')
order by column_.attnum
