-- Proves on this server what reassign = "plain" rests on: an UPDATE hands a row to somebody else, and nobody sees more for it.
-- It is run on pg_temp.rlskit_canary, which has the policies and the trigger of a table that allow.owner() and
-- allow.owners_defined_in("owners") are for, inside of a transaction that is rolled back.
do $rlskit$
declare
  alice constant text := 'a::alice';
  bob constant text := 'b::bob';
begin
  -- Whom row security does not bind, it would show everything.
  if (select rolsuper or rolbypassrls from pg_roles where rolname = current_user) then
    begin
      execute format('set local role %I', current_setting('rlskit.canary_role'));
    exception when insufficient_privilege then
      raise exception '"%" is bound by no rule and may not become "%", so it could not be proved that rows can be given away here',
        current_user, current_setting('rlskit.canary_role')
        using hint = 'Grant it that role, or say reassign = "explicit" or "never".';
    end;
  end if;

  perform set_config('rlskit.sub', 'b', true), set_config('rlskit.username', 'bob', true);
  insert into pg_temp.rlskit_canary (id) values (1);
  perform set_config('rlskit.sub', 'a', true), set_config('rlskit.username', 'alice', true);
  insert into pg_temp.rlskit_canary (id) values (2);

  -- What is hers she gives away, and then it is gone.
  update pg_temp.rlskit_canary set owner = bob, owners = array[bob] where id = 2 and owner = alice;
  if not found or exists (select from pg_temp.rlskit_canary) then
    raise exception 'a row that was given away is still where it was';
  end if;

  -- What tells the policy of the new owner shows nothing of his.
  perform set_config('rlskit.moving_to', bob, true);
  if exists (select from pg_temp.rlskit_canary) then
    raise exception 'rlskit.moving_to shows rows that are stored';
  end if;
  update pg_temp.rlskit_canary set owner = alice where id = 1;
  if found then
    raise exception 'rlskit.moving_to opens rows that are stored';
  end if;
  delete from pg_temp.rlskit_canary where id = 1;
  if found then
    raise exception 'rlskit.moving_to opens rows that are stored';
  end if;

  perform set_config('rlskit.sub', 'b', true), set_config('rlskit.username', 'bob', true);
  if (select count(*) from pg_temp.rlskit_canary where owner = bob and owners = array[bob]) <> 2 then
    raise exception 'a row that was given away did not arrive';
  end if;
exception
  when insufficient_privilege then
    raise exception 'this server does not let an UPDATE give a row away: %', sqlerrm
      using hint = 'Say reassign = "explicit", and give rows away with rlskit.reassign(…); or reassign = "never".';
end
$rlskit$;
