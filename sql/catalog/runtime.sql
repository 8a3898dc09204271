-- The functions of the schema rlskit as the server has them. The body is compared with the shipped one; that of is_signed() is a setting.
select
  function_.proname || '(' || pg_get_function_identity_arguments(function_.oid) || ')' as signature,
  function_.prosrc as body,
  concat_ws(
    ' ',
    language.lanname,
    case function_.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
    case function_.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' else 'parallel unsafe' end,
    case when function_.prosecdef then 'security definer' end,
    case when function_.proleakproof then 'leakproof' end,
    array_to_string(function_.proconfig, ' ')
  ) as attributes
from pg_proc as function_
join pg_namespace as schema_ on schema_.oid = function_.pronamespace
join pg_language as language on language.oid = function_.prolang
where schema_.nspname = 'rlskit' and function_.proname <> 'is_signed'
order by 1
