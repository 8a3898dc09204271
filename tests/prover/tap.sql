-- The four functions of pgTAP that a written file calls, for servers that have no pgTAP: the same lines, and nothing else.
create schema tap;
create sequence tap.number;

create function tap.plan(planned integer) returns text language sql as $$ select '1..' || planned $$;

create function tap.is(got anyelement, expected anyelement, description text) returns text language sql as $$
  select case when got is not distinct from expected then 'ok ' else 'not ok ' end || nextval('tap.number') || ' - ' || description
    || case when got is not distinct from expected then '' else format(E'\n#         have: %s\n#         want: %s', got, expected) end
$$;

create function tap.fail(description text) returns text language sql as $$
  select 'not ok ' || nextval('tap.number') || ' - ' || description
$$;

create function tap.finish() returns setof text language sql as $$ select ''::text where false $$;
