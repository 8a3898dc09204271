

-- crm.contact
begin;
alter table "crm"."contact" add column if not exists "editors" text[];
alter table "crm"."contact" add column if not exists "owner" text;
alter table "crm"."contact" enable row level security;
alter table "crm"."contact" force row level security;
call rlskit.clear('"crm"."contact"');
grant usage on schema "crm" to "app_user";
alter table "crm"."contact" alter column "owner" set default rlskit.identity();
alter table "crm"."contact" add constraint "rlskit_editors_check" check (coalesce(array_ndims("editors"), 1) = 1 and array_position("editors", null) is null and '' <> all ("editors")) not valid;
call rlskit.mark('constraint', '"crm"."contact"', 'rlskit_editors_check', '1ee33d4d453f8c1f');
alter table "crm"."contact" add constraint "rlskit_owner_check" check ("owner" <> '') not valid;
call rlskit.mark('constraint', '"crm"."contact"', 'rlskit_owner_check', 'c77a98eaa605f434');
create policy "rlskit_delete" on "crm"."contact"
  as permissive for delete
  to "app_user"
  using (
    "owner" = any ((select rlskit.identities('full', 'sub'))::text[])
  );
call rlskit.mark('policy', '"crm"."contact"', 'rlskit_delete', '26a0015c69339eac');
create policy "rlskit_insert" on "crm"."contact"
  as permissive for insert
  to "app_user"
  with check (
    "owner" = any ((select rlskit.identities('full', 'sub'))::text[])
  );
call rlskit.mark('policy', '"crm"."contact"', 'rlskit_insert', '08abd11bb06bb562');
create policy "rlskit_select" on "crm"."contact"
  as permissive for select
  to "app_user"
  using (
    "owner" = any ((select rlskit.identities('full', 'sub'))::text[])
    or "editors" && (select rlskit.identities('full', 'sub'))::text[]
  );
call rlskit.mark('policy', '"crm"."contact"', 'rlskit_select', 'c142fe1b56ced487');
create policy "rlskit_update" on "crm"."contact"
  as permissive for update
  to "app_user"
  using (
    "owner" = any ((select rlskit.identities('full', 'sub'))::text[])
  )
  with check (
    "owner" = any ((select rlskit.identities('full', 'sub'))::text[])
  );
call rlskit.mark('policy', '"crm"."contact"', 'rlskit_update', '1fd53877a9cfbc5c');
do $rlskit$
declare
  given record;
  columns text;
  part regclass;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"crm"."contact"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, 'app_user');
  end loop;
  execute format('revoke all on table %s from %I', '"crm"."contact"'::regclass, 'app_user');
  for given in
    select * from (values ('insert', true, '{}'::text[]), ('select', true, '{}'::text[]), ('update', true, '{}'::text[])) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = '"crm"."contact"'::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, '"crm"."contact"'::regclass, 'app_user');
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = '"crm"."contact"'::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and true
  loop
    execute format('grant usage on sequence %s to %I', part, 'app_user');
  end loop;
end
$rlskit$;
grant delete on "crm"."contact" to "app_user";
commit;
alter table "crm"."contact" validate constraint "rlskit_editors_check";
alter table "crm"."contact" validate constraint "rlskit_owner_check";
create index concurrently if not exists "contact__editors_rlskit" on "crm"."contact" using gin ("editors");
comment on index "crm"."contact__editors_rlskit" is 'rlskit';
create index concurrently if not exists "contact__owner_rlskit" on "crm"."contact" using btree ("owner");
comment on index "crm"."contact__owner_rlskit" is 'rlskit';

-- crm.note
-- note: nobody may delete a row, because nobody may delete `draft`
-- note: who may update a row may give it away by writing `editors`, and reads cost more for it. To keep rows with their owners protect the column: allow.same().to("read", "delete")
begin;
alter table "crm"."note" add column if not exists "editors" text[];
alter table "crm"."note" enable row level security;
alter table "crm"."note" force row level security;
call rlskit.clear('"crm"."note"');
grant usage on schema "crm" to "app_user";
alter table "crm"."note" alter column "editors" set default rlskit.list_of(rlskit.identity());
alter table "crm"."note" add constraint "rlskit_editors_check" check (coalesce(array_ndims("editors"), 1) = 1 and array_position("editors", null) is null and '' <> all ("editors")) not valid;
call rlskit.mark('constraint', '"crm"."note"', 'rlskit_editors_check', '1ee33d4d453f8c1f');
create trigger "zz_rlskit_reassign" before update on "crm"."note" for each row
  when ("old"."editors" is distinct from "new"."editors")
  execute function "rlskit"."note_new_owner"('editors');
call rlskit.mark('trigger', '"crm"."note"', 'zz_rlskit_reassign', '744054af2ce49832');
create policy "rlskit_insert" on "crm"."note"
  as permissive for insert
  to "app_user"
  with check (
    "editors" && array[(select rlskit.identity())]
  );
call rlskit.mark('policy', '"crm"."note"', 'rlskit_insert', '18a5e236ab66576f');
create policy "rlskit_select" on "crm"."note"
  as permissive for select
  to "app_user"
  using (
    "editors" && array[(select rlskit.identity())]
    or (ctid = '(4294967295,0)'::tid and ("editors" && array[current_setting('rlskit.moving_to', true)]) and not rlskit.is_foreign(tableoid))
  );
call rlskit.mark('policy', '"crm"."note"', 'rlskit_select', '39ccf3cc049f26e5');
create policy "rlskit_update" on "crm"."note"
  as permissive for update
  to "app_user"
  using (
    "editors" && array[(select rlskit.identity())]
  )
  with check (
    cardinality("editors") > 0
  );
call rlskit.mark('policy', '"crm"."note"', 'rlskit_update', '302ad56e348fbbe0');
do $rlskit$
declare
  part regclass;
  made record;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"crm"."note"'::regclass
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
      where tgrelid = '"crm"."note"'::regclass and obj_description(oid, 'pg_trigger') like 'rlskit %'
    loop
      execute replace(made.definition, format(' ON %s FOR EACH ROW', '"crm"."note"'::regclass), format(' ON %s FOR EACH ROW', part));
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
      select inhrelid from pg_inherits where inhparent = '"crm"."note"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, 'app_user');
  end loop;
  execute format('revoke all on table %s from %I', '"crm"."note"'::regclass, 'app_user');
  for given in
    select * from (values ('insert', true, '{draft}'::text[]), ('select', true, '{draft}'::text[]), ('update', true, '{draft}'::text[])) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = '"crm"."note"'::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, '"crm"."note"'::regclass, 'app_user');
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = '"crm"."note"'::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and true
  loop
    execute format('grant usage on sequence %s to %I', part, 'app_user');
  end loop;
end
$rlskit$;
commit;
alter table "crm"."note" validate constraint "rlskit_editors_check";
create index concurrently if not exists "note__editors_rlskit" on "crm"."note" using gin ("editors");
comment on index "crm"."note__editors_rlskit" is 'rlskit';

-- public.invoice
begin;
alter table "public"."invoice" add column if not exists "customer" text;
alter table "public"."invoice" enable row level security;
alter table "public"."invoice" force row level security;
call rlskit.clear('"public"."invoice"');
grant usage on schema "public" to "app_user";
alter table "public"."invoice" alter column "customer" set default rlskit.claim('email'::text);
alter table "public"."invoice" add constraint "rlskit_customer_check" check ("customer" <> '') not valid;
call rlskit.mark('constraint', '"public"."invoice"', 'rlskit_customer_check', '14b9950756f37dc7');
create policy "rlskit_insert" on "public"."invoice"
  as permissive for insert
  to "app_user"
  with check (
    "customer" = (select rlskit.claim('email'::text))
  );
call rlskit.mark('policy', '"public"."invoice"', 'rlskit_insert', '1ac56227a724ecd5');
create policy "rlskit_select" on "public"."invoice"
  as permissive for select
  to "app_user"
  using (
    "customer" = (select rlskit.claim('email'::text))
  );
call rlskit.mark('policy', '"public"."invoice"', 'rlskit_select', '00de20ce086be680');
do $rlskit$
declare
  given record;
  columns text;
  part regclass;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"public"."invoice"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, 'app_user');
  end loop;
  execute format('revoke all on table %s from %I', '"public"."invoice"'::regclass, 'app_user');
  for given in
    select * from (values ('insert', true, '{}'::text[]), ('select', true, '{}'::text[])) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = '"public"."invoice"'::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, '"public"."invoice"'::regclass, 'app_user');
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = '"public"."invoice"'::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and true
  loop
    execute format('grant usage on sequence %s to %I', part, 'app_user');
  end loop;
end
$rlskit$;
commit;
alter table "public"."invoice" validate constraint "rlskit_customer_check";
create index concurrently if not exists "invoice__customer_rlskit" on "public"."invoice" using btree ("customer");
comment on index "public"."invoice__customer_rlskit" is 'rlskit';
