-- What a relation that is not there could have been meant for. (Its own name is asked for as well, and is not among them.)
select table_.relname::text as name
from pg_class as table_
join pg_namespace as schema_ on schema_.oid = table_.relnamespace
where schema_.nspname = %(schema)s and table_.relname <> %(name)s and table_.relkind in ('r', 'p', 'v', 'm', 'f')
order by 1
