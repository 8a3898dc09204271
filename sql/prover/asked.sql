-- What becomes of a statement when one of pg_temp.people asks: 'allowed', 'not visible' (it touched no row) or 'refused'. It is undone at once.
-- "before" is made first by the same person, and has to succeed. "place" puts the cursor rlskit_row on a row, past the rules: a statement that
-- finds its row by it reads nothing of the row, so that its own policy decides alone. "stored" counts rows as they have to be stored afterwards,
-- past the rules: an insert has to add one, and an update has to leave one.
create function pg_temp.asked(
  person text, statement text, before text[] default '{}', place text default null, stored text default null
)
returns text
language plpgsql
as $asked$
declare
  asker record;
  step text;
  touched bigint := -1; -- what is assigned stays when the statement is undone
  already bigint := 0;
  finally bigint := 1;
  violated text;
  found_row refcursor := 'rlskit_row';
begin
  select * into strict asker from pg_temp.people where name = person;
  if stored is not null and statement ilike 'insert %' then
    execute stored into already;
  end if;
  begin
    perform set_config(setting.name, setting.value, true) from jsonb_each_text(asker.settings) as setting (name, value);
    if asker.signs then
      perform set_config('rlskit.token', pg_temp.token(asker.settings), true);
    end if;
    perform set_config('role', asker.role, true);
    foreach step in array before loop
      execute step;
    end loop;
    if place is not null then
      perform set_config('role', 'none', true);
      perform set_config('enable_partition_pruning', 'off', true); -- or else a partition could be missing in the cursor
      perform set_config('constraint_exclusion', 'off', true);
      open found_row for execute place;
      move next from found_row;
      perform set_config('role', asker.role, true);
    end if;
    touched := 0;
    execute statement;
    get diagnostics touched = row_count;
    perform set_config('role', 'none', true);
    if stored is not null then
      execute stored into finally;
    end if;
    raise exception using errcode = 'RL000', message = 'undone';
  exception
    when sqlstate 'RL000' then
      return case when touched = 0 then 'not visible' when finally > already then 'allowed' else 'allowed, but stored otherwise' end;
    when insufficient_privilege then
      return case when touched < 0 then 'refused too early' else 'refused' end;
    when check_violation then
      get stacked diagnostics violated = constraint_name;
      return case when violated not like 'rlskit\_%' then 'failed: ' || violated when touched < 0 then 'refused too early' else 'refused' end;
    when others then
      return 'failed: ' || sqlstate;
  end;
end
$asked$;
