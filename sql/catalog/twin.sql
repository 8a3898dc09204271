-- What the server keeps of the expressions that were put on a twin: by name, those of its policies and of its triggers.
select polname as name, pg_get_expr(polqual, polrelid) as expression
from pg_policy
where polrelid = %(twin)s::regclass
union all
select tgname, substring(pg_get_triggerdef(oid) from ' WHEN \((.*)\) EXECUTE FUNCTION ')
from pg_trigger
where tgrelid = %(twin)s::regclass
