-- A key for this transaction alone, and a token for whoever says properly who he is, as rlskit.signed_claims() wants it.
call rlskit.add_key('pgtap', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

create function pg_temp.token(settings jsonb)
returns text
language sql
as $token$
  with said (part) as (
    select 'v1.pgtap.' || translate(encode(convert_to(jsonb_build_object(
      'sub', settings ->> 'rlskit.sub',
      'username', nullif(settings ->> 'rlskit.username', ''),
      'claims', coalesce(nullif(settings ->> 'rlskit.claims', ''), '{}')::jsonb,
      'pid', pg_backend_pid(),
      'exp', extract(epoch from now()) + 60
    )::text, 'UTF8'), 'base64'), E'\n', '')
  )
  select part || '.' || encode(sha256(outer_pad || sha256(inner_pad || convert_to(part, 'UTF8'))), 'hex')
  from said, rlskit.key
  where kid = 'pgtap'
$token$;
