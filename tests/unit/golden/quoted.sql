

-- public.Order
begin;
alter table "public"."Order" add column if not exists "placed ""by""" text;
alter table "public"."Order" enable row level security;
alter table "public"."Order" force row level security;
call rlskit.clear('"public"."Order"');
grant usage on schema "public" to "app-user";
alter table "public"."Order" alter column "placed ""by""" set default rlskit.identity();
alter table "public"."Order" add constraint "rlskit_placed ""by""_check" check ("placed ""by""" <> '') not valid;
call rlskit.mark('constraint', '"public"."Order"', 'rlskit_placed "by"_check', 'c2cdb1fce83a86ee');
create policy "rlskit_insert" on "public"."Order"
  as permissive for insert
  to "app-user"
  with check (
    "placed ""by""" = any ((select rlskit.identities())::text[])
  );
call rlskit.mark('policy', '"public"."Order"', 'rlskit_insert', 'edc3234ea34c3d89');
create policy "rlskit_select" on "public"."Order"
  as permissive for select
  to "app-user"
  using (
    "placed ""by""" = any ((select rlskit.identities())::text[])
  );
call rlskit.mark('policy', '"public"."Order"', 'rlskit_select', 'c7afbb28e5ea3289');
do $rlskit$
declare
  given record;
  columns text;
  part regclass;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"public"."Order"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, 'app-user');
  end loop;
  execute format('revoke all on table %s from %I', '"public"."Order"'::regclass, 'app-user');
  for given in
    select * from (values ('insert', true, '{it''s}'::text[]), ('select', true, '{}'::text[])) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = '"public"."Order"'::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, '"public"."Order"'::regclass, 'app-user');
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = '"public"."Order"'::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and true
  loop
    execute format('grant usage on sequence %s to %I', part, 'app-user');
  end loop;
end
$rlskit$;
commit;
alter table "public"."Order" validate constraint "rlskit_placed ""by""_check";
create index concurrently if not exists "Order__placed ""by""_rlskit" on "public"."Order" using btree ("placed ""by""");
comment on index "public"."Order__placed ""by""_rlskit" is 'rlskit';

-- Ünï.select
-- note: who may update a row may give it away by writing `a\b%s{}`, and reads cost more for it. To keep rows with their owners protect the column: allow.same().to("read", "delete")
begin;
alter table "Ünï"."select" add column if not exists "a\b%s{}" text[];
alter table "Ünï"."select" enable row level security;
alter table "Ünï"."select" force row level security;
call rlskit.clear('"Ünï"."select"');
grant usage on schema "Ünï" to "app-user";
alter table "Ünï"."select" add constraint "rlskit_a\b%s{}_check" check (coalesce(array_ndims("a\b%s{}"), 1) = 1 and array_position("a\b%s{}", null) is null and '' <> all ("a\b%s{}")) not valid;
call rlskit.mark('constraint', '"Ünï"."select"',  E'rlskit_a\\b%s{}_check', '1bbe011d302c6673');
create trigger "zz_rlskit_reassign" before update on "Ünï"."select" for each row
  when ("old"."a\b%s{}" is distinct from "new"."a\b%s{}")
  execute function "rlskit"."note_new_owner"( E'a\\b%s{}');
call rlskit.mark('trigger', '"Ünï"."select"', 'zz_rlskit_reassign', 'bbbd98e07e30eb4f');
create policy "rlskit_select" on "Ünï"."select"
  as permissive for select
  to "app-user"
  using (
    "a\b%s{}" && (select rlskit.identities())::text[]
    or (ctid = '(4294967295,0)'::tid and ("a\b%s{}" && array[current_setting('rlskit.moving_to', true)]) and not rlskit.is_foreign(tableoid))
  );
call rlskit.mark('policy', '"Ünï"."select"', 'rlskit_select', 'b53a2a32cb445e45');
create policy "rlskit_update" on "Ünï"."select"
  as permissive for update
  to "app-user"
  using (
    "a\b%s{}" && (select rlskit.identities())::text[]
  )
  with check (
    cardinality("a\b%s{}") > 0
  );
call rlskit.mark('policy', '"Ünï"."select"', 'rlskit_update', '2b9033a014306c7f');
do $rlskit$
declare
  part regclass;
  made record;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"Ünï"."select"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family join pg_class on oid = inhrelid where not relispartition
  loop
    for made in
      select tgname from pg_trigger where tgrelid = part and obj_description(oid, 'pg_trigger') like 'rlskit %'
    loop
      execute format('drop trigger %I on %s', made.tgname, part);
    end loop;
    for made in
      select tgname, pg_get_triggerdef(oid) as definition, split_part(obj_description(oid, 'pg_trigger'), ' ', 2) as wanted
      from pg_trigger
      where tgrelid = '"Ünï"."select"'::regclass and obj_description(oid, 'pg_trigger') like 'rlskit %'
    loop
      execute replace(made.definition, format(' ON %s FOR EACH ROW', '"Ünï"."select"'::regclass), format(' ON %s FOR EACH ROW', part));
      call rlskit.mark('trigger', part, made.tgname, made.wanted);
    end loop;
  end loop;
end
$rlskit$;
do $rlskit$
declare
  given record;
  columns text;
  part regclass;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"Ünï"."select"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, 'app-user');
  end loop;
  execute format('revoke all on table %s from %I', '"Ünï"."select"'::regclass, 'app-user');
  for given in
    select * from (values ('select', true, '{}'::text[]), ('update', true, '{}'::text[])) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = '"Ünï"."select"'::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, '"Ünï"."select"'::regclass, 'app-user');
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = '"Ünï"."select"'::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and false
  loop
    execute format('grant usage on sequence %s to %I', part, 'app-user');
  end loop;
end
$rlskit$;
commit;
alter table "Ünï"."select" validate constraint "rlskit_a\b%s{}_check";
create index concurrently if not exists "select__a\b%s{}_rlskit" on "Ünï"."select" using gin ("a\b%s{}");
comment on index "Ünï"."select__a\b%s{}_rlskit" is 'rlskit';
