-- The whole runtime of rlskit: what the generated policies, defaults and triggers rest on.
--
-- It lives in the schema "rlskit" and holds no data but its version, and the keys of signed identities. It may be run again: psql -f runtime.sql
-- Every function fixes its search_path, so that nobody can slip another function or operator under it.
--
-- Who is asking stands in settings, written for one transaction each:
--   rlskit.sub        the subject, as the identity provider gives it
--   rlskit.username   the user's name
--   rlskit.claims     further claims, a JSON object of texts
--   rlskit.actor      who really acts, where somebody acts as somebody else; no rule looks at it
--   rlskit.token      all of it once more, signed; where signatures are required, this one alone counts
-- After such a transaction a setting reads '' and not NULL; here both mean: not set.

begin;
set local search_path = pg_catalog, pg_temp; -- no operator of anybody's gets into what follows

-- Not "if not exists": that asks for the right to create one even where a DBA has made it.
do $$
begin
  if to_regnamespace('rlskit') is null then
    create schema rlskit;
  end if;
end
$$;
comment on schema rlskit is 'rlskit: row-level security from owner rules';

-- The functions tell a caller nothing but what the caller's own settings say. Those that say who is asking are restricted to the leader of a
-- parallel query, because a token is signed for one backend; behind "(select …)" that hinders no parallel scan.
revoke create on schema rlskit from public;
grant usage on schema rlskit to public;


-- One row: the newest of the files in upgrade/ that this database has.
create table if not exists rlskit.version (
  version_num varchar(32) not null,
  constraint version_pkc primary key (version_num)
);
revoke all on rlskit.version from public;
grant select on rlskit.version to public;


-- A newer runtime is not put back: rlskit install, or the files in upgrade/, know the way forward.
do $$
begin
  if exists (select from rlskit.version where version_num > '0001') then
    raise exception 'this database has a newer runtime of rlskit than 0001';
  end if;
end
$$;


-- The keys of those who may sign. The pads are the key as HMAC uses it (RFC 2104): whoever reads them can sign.
create table if not exists rlskit.key (
  kid text primary key,
  inner_pad bytea not null,
  outer_pad bytea not null,
  created_at timestamptz not null default now()
);
-- From everybody, whatever the default privileges of this database gave away.
do $$
declare
  reader text;
begin
  for reader in
    select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
    from pg_class
    cross join lateral (select relacl union all select attacl from pg_attribute where attrelid = pg_class.oid) as granted (acl)
    cross join lateral aclexplode(acl) as given
    where oid = 'rlskit.key'::regclass and grantee <> relowner
  loop
    execute format('revoke all on rlskit.key from %s cascade', reader); -- and from those to whom he gave it on
  end loop;
end
$$;


-- Whether signatures are required: call rlskit.require_signatures(true). It is a constant, so that asking for it costs nothing.
create or replace procedure rlskit.require_signatures(in required boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  execute format(
    'create or replace function rlskit.is_signed() returns boolean language sql immutable parallel safe return %s', required::text
  );
end
$rlskit$;
comment on procedure rlskit.require_signatures(boolean) is 'says whether an identity has to be signed';

do $$
begin
  if to_regprocedure('rlskit.is_signed()') is null then
    call rlskit.require_signatures(false);
  end if;
end
$$;
comment on function rlskit.is_signed() is 'whether an identity has to be signed';


-- Lets whoever has the secret, 32 to 64 bytes, sign from now on. To retire a key: delete from rlskit.key where kid = …
create or replace procedure rlskit.add_key(in new_kid text, in secret bytea)
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  inner_pad bytea := '';
  outer_pad bytea := '';
  byte int;
begin
  if new_kid !~ '^[0-9A-Za-z_-]{1,32}$' or length(secret) not between 32 and 64 or new_kid is null or secret is null then
    raise invalid_parameter_value using
      message = 'a key has a name of at most 32 letters, digits, - and _, and a secret of 32 to 64 bytes';
  end if;
  for place in 0..63 loop
    byte := case when place < length(secret) then get_byte(secret, place) else 0 end;
    inner_pad := inner_pad || set_byte('\x00', 0, byte # 54);
    outer_pad := outer_pad || set_byte('\x00', 0, byte # 92);
  end loop;
  insert into rlskit.key (kid, inner_pad, outer_pad) values (new_kid, inner_pad, outer_pad);
end
$rlskit$;
comment on procedure rlskit.add_key(text, bytea) is 'lets whoever has the secret sign identities';


-- What the token in the setting rlskit.token says, or NULL where it was not signed by one of the keys, or not for this backend, or was
-- past its time when the transaction began. A token: v1.<kid>.<JSON in base64>.<HMAC-SHA256 of what stands before it, in hexadecimal>
-- The one function that runs with its owner's rights: the caller may not read the keys. It raises for no token that nobody has signed.
create or replace function rlskit.signed_claims()
returns jsonb
language plpgsql stable parallel restricted security definer
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  token text := current_setting('rlskit.token', true);
  part text[];
  signer rlskit.key;
  mac bytea;
  said jsonb;
begin
  if token is null or octet_length(token) > 65536 then
    return null;
  end if;
  part := string_to_array(token, '.');
  if cardinality(part) is distinct from 4 or part[1] <> 'v1' then
    return null;
  end if;
  select * into signer from rlskit.key where kid = part[2];
  if not found then
    return null;
  end if;
  mac := sha256(signer.outer_pad || sha256(signer.inner_pad || convert_to(concat_ws('.', part[1], part[2], part[3]), 'SQL_ASCII')));
  -- Compared by digests under the key: how long that takes says nothing of how much of a forged one is right.
  if sha256(signer.outer_pad || convert_to(encode(mac, 'hex'), 'SQL_ASCII'))
    <> sha256(signer.outer_pad || convert_to(part[4], 'SQL_ASCII'))
  then
    return null;
  end if;
  said := convert_from(decode(part[3], 'base64'), 'UTF8')::jsonb;
  if (said ->> 'pid')::int = pg_backend_pid() and (said ->> 'exp')::numeric > extract(epoch from transaction_timestamp()) then
    return said;
  end if;
  return null;
end
$rlskit$;
comment on function rlskit.signed_claims() is 'what the signed token of this transaction says, or NULL';


-- Presents a token for the rest of the transaction. Rules show nobody's rows for a wrong one; this one raises, for whoever wants to know.
create or replace function rlskit.accept(token text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  perform set_config('rlskit.token', coalesce(token, ''), true);
  if rlskit.signed_claims() is null then
    raise invalid_authorization_specification using message = case
      when token is null then 'this database takes signed identities only'
      else 'the signature of the identity is not accepted'
    end;
  end if;
end
$rlskit$;
comment on function rlskit.accept(text) is 'presents a signed identity for the rest of the transaction';


-- Refuses to go on while a cursor of an earlier transaction is open (WITH HOLD): it would still give the rows of whoever opened it.
create or replace function rlskit.refuse_cursors()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  if exists (select from pg_cursor() where name <> '') then -- the one without a name is the client's own statement
    raise invalid_cursor_state using message = 'a cursor is open that was opened before anybody said who is asking';
  end if;
end
$rlskit$;
comment on function rlskit.refuse_cursors() is 'refuses to go on while a cursor of an earlier transaction is open';


-- One claim of the caller, or NULL where it is missing or could be taken for somebody else's.
create or replace function rlskit.claim(name text)
returns text
language plpgsql stable parallel restricted
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  said jsonb := case when rlskit.is_signed() then rlskit.signed_claims() end;
  sub text := nullif(case when rlskit.is_signed() then said ->> 'sub' else current_setting('rlskit.sub', true) end, '');
  value text;
begin
  if name not in ('sub', 'username') then
    said := case when rlskit.is_signed() then said -> 'claims' else nullif(current_setting('rlskit.claims', true), '')::jsonb end;
    value := said ->> name;
    return case when value !~ '^[ \t\n\r\f\v]*$' then value end; -- the same blanks in every locale
  end if;
  value := case
    when name = 'sub' then sub
    when rlskit.is_signed() then said ->> 'username'
    else current_setting('rlskit.username', true)
  end;
  -- '::' separates the two parts of an owner's name, so it may neither stand in one of them nor arise where they meet.
  if value ~ '::|[[:cntrl:]]|^[[:space:]]*$' or length(value) > 256 then
    return null;
  end if;
  if name = 'sub' and value like '%:' or name = 'username' and value like ':%' then
    return null;
  end if;
  -- A username is chosen by its user; one that looks like a sub must be the user's own.
  if name = 'username' and value ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' and value is distinct from sub then
    return null;
  end if;
  return value;
end
$rlskit$;
comment on function rlskit.claim(text) is 'one claim of the caller, or NULL';


-- Every spelling of the caller that an owner column may hold: full, sub, username. NULL unless both claims are there.
-- Every statement asks for it, so what rlskit.claim says of the two stands here once more: two calls would cost twice as much.
create or replace function rlskit.identities()
returns text[]
language plpgsql stable parallel restricted
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  said jsonb := case when rlskit.is_signed() then rlskit.signed_claims() end;
  sub text := case when rlskit.is_signed() then said ->> 'sub' else current_setting('rlskit.sub', true) end;
  username text := case when rlskit.is_signed() then said ->> 'username' else current_setting('rlskit.username', true) end;
begin
  if sub is null or sub ~ '::|[[:cntrl:]]|^[[:space:]]*$|:$' or length(sub) > 256
    or username is null or username ~ '::|[[:cntrl:]]|^[[:space:]]*$|^:' or length(username) > 256
    or username ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' and username <> sub
  then
    return null;
  end if;
  return array[sub || '::' || username, sub, username];
end
$rlskit$;
comment on function rlskit.identities() is 'every spelling of the caller that an owner column may hold, or NULL';


-- The same, narrowed to some of 'full', 'sub', 'username'.
create or replace function rlskit.identities(variadic spellings text[])
returns text[]
language plpgsql stable parallel restricted
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  everything text[] := rlskit.identities();
begin
  return case when everything is not null then array_remove(array[
    case when 'full' = any (spellings) then everything[1] end,
    case when 'sub' = any (spellings) then everything[2] end,
    case when 'username' = any (spellings) then everything[3] end
  ], null) end;
end
$rlskit$;
comment on function rlskit.identities(text[]) is 'some of the spellings of the caller, or NULL';


-- The caller's name as a new row stores it, <sub>::<username>, or NULL unless both are there.
create or replace function rlskit.identity()
returns text
language plpgsql stable parallel restricted
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  return (rlskit.identities())[1];
end
$rlskit$;
comment on function rlskit.identity() is 'the caller as <sub>::<username>, or NULL';


-- Who really acts, where the application acts as somebody else for him, as it said; NULL where nobody does. For logs: no rule looks at it.
create or replace function rlskit.actor()
returns text
language plpgsql stable parallel restricted
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  return nullif(case when rlskit.is_signed() then rlskit.signed_claims() ->> 'actor' else current_setting('rlskit.actor', true) end, '');
end
$rlskit$;
comment on function rlskit.actor() is 'who really acts, where somebody acts as somebody else, or NULL';


-- A list of one, or NULL for NULL: the default of a column that lists owners.
create or replace function rlskit.list_of(name text)
returns text[]
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  return case when name is not null then array[name] end;
end
$rlskit$;
comment on function rlskit.list_of(text) is 'a list of one, or NULL for NULL';


-- A claim for a uuid column: NULL where it is no uuid, so that a wrong claim finds nothing instead of failing.
create or replace function rlskit.as_uuid(value text)
returns uuid
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  return case when value ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then value::uuid end;
end
$rlskit$;
comment on function rlskit.as_uuid(text) is 'the text as uuid, or NULL where it is none';


-- Whether a row comes from a foreign table: its rows have no place, as if they were not stored yet.
create or replace function rlskit.is_foreign(relation oid)
returns boolean
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  return coalesce((select relkind = 'f' from pg_class where oid = relation), true);
end
$rlskit$;
comment on function rlskit.is_foreign(oid) is 'whether a row comes from a foreign table';


-- The readable part of a stored owner: what stands after the first '::', or all of it where none stands there.
create or replace function rlskit.username_of(owner text)
returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  return case when owner like '%::%' then substr(owner, strpos(owner, '::') + 2) else owner end;
end
$rlskit$;
comment on function rlskit.username_of(text) is 'the readable part of a stored owner';


-- Trigger: notes whom a row will belong to, in the setting rlskit.moving_to, for the policy that has to let the row go.
-- Its arguments are the owner columns; the first name that any of them holds is noted.
-- Whoever writes the setting by hand gains nothing: the policy holds it against rows that are not stored yet.
create or replace function rlskit.note_new_owner()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  held jsonb;
  new_owner text;
begin
  -- The owner columns alone: a row may hold what jsonb cannot.
  execute (
    select format('select jsonb_build_array(%s)', string_agg(format('($1).%I', name), ', ' order by place))
    from unnest(tg_argv) with ordinality as given (name, place)
  )
  into held
  using new;
  new_owner := (
    select coalesce(value ->> 0, value #>> '{}')
    from jsonb_array_elements(held) with ordinality as owner_column (value, place)
    where value not in ('null', '[]')
    order by place
    limit 1
  );
  perform set_config('rlskit.moving_to', coalesce(new_owner, ''), true);
  return new;
end
$rlskit$;
comment on function rlskit.note_new_owner() is 'trigger: notes whom a row will belong to';


-- Trigger: refuses columns that the caller may not write in this row. Column privileges are the same for every row; this is for
-- what depends on the row. Its condition says whom to refuse, its arguments name the columns. An UPDATE names a column by
-- setting it (UPDATE OF); an INSERT by a value that is not the default. Where row security is off for the caller, so is this.
create or replace function rlskit.refuse_columns()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set extra_float_digits = 1
set datestyle = 'ISO'
set array_nulls = on
as $rlskit$
declare
  -- A partition that was made later has the trigger, and no row security of its own.
  ruled regclass := coalesce(pg_partition_root(tg_relid), tg_relid);
  refused text[] := tg_argv;
begin
  if not row_security_active(ruled) and not row_security_active(tg_relid) then
    return new;
  end if;
  if tg_op = 'INSERT' then
    if exists (
      select from unnest(tg_argv) as given (name)
      where name not in (select attname from pg_attribute where attrelid = ruled and attnum > 0 and not attisdropped)
    ) then
      raise undefined_column using
        message = format('a column of table %s, which its rules guard, has another name now', tg_table_name),
        hint = 'Bring the rules up to date, and apply them.';
    end if;
    -- To the bit, because what is equal is not always the same: 0 and -0, {"a": 1} with its spaces.
    execute (
      select format('select array_remove(array[%s], null)', string_agg(
        format(
          'case when record_image_ne(row(($1).%1$I), row((%2$s)::%3$s)) then %1$L end',
          attname,
          coalesce(pg_get_expr(adbin, adrelid), pg_get_expr(typdefaultbin, 0), 'null'),
          format_type(atttypid, atttypmod)
        ),
        ', ' order by attname
      ))
      from pg_attribute
      join pg_type on pg_type.oid = atttypid
      left join pg_attrdef on adrelid = attrelid and adnum = attnum
      where attrelid = ruled and attname = any (tg_argv)
    )
    into refused
    using new;
    if refused = '{}' then
      return new;
    end if;
  end if;
  raise insufficient_privilege using
    message = format(
      case tg_op
        when 'INSERT' then 'permission denied to set %s of a new row in table %s'
        else 'permission denied to update %s of this row in table %s'
      end,
      case cardinality(refused)
        when 0 then 'a column'
        when 1 then 'column ' || refused[array_lower(refused, 1)]
        else 'columns ' || array_to_string(refused, ', ')
      end,
      tg_table_name
    ),
    hint = 'No rule that names the caller in the row allows it.',
    schema = tg_table_schema,
    table = tg_table_name,
    column = case when cardinality(refused) = 1 then refused[array_lower(refused, 1)] else '' end;
end
$rlskit$;
comment on function rlskit.refuse_columns() is 'trigger: refuses columns that the caller may not write in this row';


-- Gives rows away where UPDATE cannot, because the table was declared so (reassign = "explicit"):
--   select rlskit.reassign('todo', '{"id": 17}', 'owner', '77aa::bob')
-- Finds the rows by the columns in "key", writes the new owner, and returns how many rows there were. It runs with the
-- caller's own rights: row security and privileges decide as ever, about the rows found and about the rows written. It goes
-- by way of a cursor, because an UPDATE that reads columns also holds the new row against the SELECT policy.
create or replace function rlskit.reassign(target regclass, key jsonb, owner_column text, new_owner text)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  condition text := (select string_agg(format('%I = %L', name, value), ' and ') from jsonb_each_text(key) as part (name, value));
  mine refcursor;
  reassigned bigint := 0;
begin
  if condition is null then
    raise null_value_not_allowed using message = 'the key names no column', hint = 'Say which row: ''{"id": 17}''.';
  end if;
  open mine for execute format('select from %s where %s for update', target, condition);
  loop
    move next from mine;
    exit when not found;
    execute format('update %s set %I = %L where current of %I', target, owner_column, new_owner, mine);
    reassigned := reassigned + 1;
  end loop;
  close mine;
  return reassigned;
end
$rlskit$;
comment on function rlskit.reassign(regclass, jsonb, text, text) is 'gives rows away where the table wants it said explicitly';


-- The same for a column that lists owners.
create or replace function rlskit.reassign(target regclass, key jsonb, owner_column text, new_owners text[])
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
begin
  return rlskit.reassign(target, key, owner_column, new_owners::text);
end
$rlskit$;
comment on function rlskit.reassign(regclass, jsonb, text, text[]) is 'gives rows away where the table wants it said explicitly';


-- Marks what rlskit has made, in a comment: the digest of what was wanted, and of what the server keeps of it.
-- By the second one a role that may only read the catalogue can tell what was changed by hand.
create or replace procedure rlskit.mark(in kind text, in target regclass, in named name, in wanted text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  stored text := case kind
    when 'policy' then (
      select coalesce(pg_get_expr(polqual, polrelid), '') || ' / ' || coalesce(pg_get_expr(polwithcheck, polrelid), '')
      from pg_policy
      where polrelid = target and polname = named
    )
    when 'trigger' then (
      select coalesce(substring(pg_get_triggerdef(oid) from ' WHEN \((.*)\) EXECUTE FUNCTION '), '')
      from pg_trigger
      where tgrelid = target and tgname = named
    )
    when 'constraint' then (select pg_get_expr(conbin, conrelid) from pg_constraint where conrelid = target and conname = named)
  end;
begin
  execute format(
    'comment on %s %I on %s is %L',
    case kind when 'policy' then 'policy' when 'trigger' then 'trigger' else 'constraint' end,
    named,
    target,
    'rlskit ' || wanted || ' ' || left(encode(sha256(convert_to(stored, 'UTF8')), 'hex'), 16)
  );
end
$rlskit$;
comment on procedure rlskit.mark(text, regclass, name, text) is 'marks a policy, a trigger or a constraint as managed by rlskit';


-- Takes away what rlskit has made on a table: policies, triggers, checks and defaults. Row security stays, so the table is closed.
create or replace procedure rlskit.clear(in target regclass)
language plpgsql
set search_path = pg_catalog, pg_temp
as $rlskit$
declare
  statement text;
begin
  for statement in
    select format('drop policy %I on %s', polname, target)
    from pg_policy
    where polrelid = target and obj_description(oid, 'pg_policy') like 'rlskit %'
    union all
    select format('drop trigger %I on %s', tgname, target)
    from pg_trigger
    where tgrelid = target and tgparentid = 0 and obj_description(oid, 'pg_trigger') like 'rlskit %'
    union all
    select format('alter table %s drop constraint %I', target, conname)
    from pg_constraint
    where conrelid = target and contype = 'c' and obj_description(oid, 'pg_constraint') like 'rlskit %'
    union all
    select format('alter table %s alter column %I drop default', target, attname)
    from pg_attrdef
    join pg_attribute on attrelid = adrelid and attnum = adnum
    where adrelid = target and pg_get_expr(adbin, adrelid) ~ '^rlskit[.](claim|identity|list_of|as_uuid)[(]'
  loop
    execute statement;
  end loop;
end
$rlskit$;
comment on procedure rlskit.clear(regclass) is 'takes away what rlskit has made on a table';

-- Whatever the default privileges of this database say.
grant execute on all routines in schema rlskit to public;


delete from rlskit.version;
insert into rlskit.version (version_num) values ('0001');

commit;
