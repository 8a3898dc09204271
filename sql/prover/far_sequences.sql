-- Every sequence goes on far from where it is, so that a written file has numbers that no row has, and the same ones each time.
do $$
declare
  sequence_ record;
begin
  for sequence_ in
    select format('%I.%I', schemaname, sequencename) as name, least(1900000000, max_value - 10000) as far
    from pg_sequences
    where increment_by > 0 and max_value - 10000 > min_value and not cycle and schemaname not like 'pg\_%'
  loop
    execute format('alter sequence %s restart with %s', sequence_.name, sequence_.far);
  end loop;
end
$$;
