-- The triggers of these tables, but for those that PostgreSQL itself keeps or copies down to partitions.
select
  trigger_.tgrelid as table_oid,
  trigger_.tgname as name,
  case
    -- tgtype: 1 for each row, 2 before; then 4 insert, 8 delete, 16 update, 32 truncate
    when trigger_.tgtype = 7 then 'insert'
    when trigger_.tgtype = 19 then 'update'
    else pg_get_triggerdef(trigger_.oid)
  end as event,
  array(
    select column_.attname::text
    from unnest(trigger_.tgattr::int2[]) as given (attnum)
    join pg_attribute as column_ on column_.attrelid = trigger_.tgrelid and column_.attnum = given.attnum
    order by 1
  ) as columns,
  function_schema.nspname as function_schema,
  function_.proname as function_name,
  trigger_.tgargs as arguments,
  -- pg_get_expr cannot print a condition on two versions of a row
  substring(pg_get_triggerdef(trigger_.oid) from ' WHEN \((.*)\) EXECUTE FUNCTION ') as when,
  trigger_.tgenabled::text as enabled,
  obj_description(trigger_.oid, 'pg_trigger') as mark
from pg_trigger as trigger_
join pg_proc as function_ on function_.oid = trigger_.tgfoid
join pg_namespace as function_schema on function_schema.oid = function_.pronamespace
where trigger_.tgrelid = any (%(oids)s::oid[]) and not trigger_.tgisinternal and trigger_.tgparentid = 0
order by trigger_.tgrelid, trigger_.tgname
