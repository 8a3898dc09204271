-- For each of these columns of a table that must not be NULL, outside of the primary key: its name, and the statement that lets it be.
select attname as name, 'alter table ' || attrelid::regclass || ' alter column ' || quote_ident(attname) || ' drop not null' as statement
from pg_catalog.pg_attribute
where attrelid = %(table)s::regclass and attname = any(%(columns)s) and attnotnull
  and not exists (select from pg_catalog.pg_constraint where conrelid = attrelid and contype = 'p' and attnum = any(conkey))
order by attnum
