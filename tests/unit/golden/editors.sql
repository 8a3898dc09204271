

-- app.todo
-- note: who may update a row may give it away by writing `editors`, and reads cost more for it. To keep rows with their owners protect the column: allow.same().to("read", "delete")
begin;
alter table "app"."todo" add column if not exists "editors" text[];
alter table "app"."todo" add column if not exists "owner" text;
alter table "app"."todo" enable row level security;
alter table "app"."todo" force row level security;
call rlskit.clear('"app"."todo"');
grant usage on schema "app" to "app_user";
alter table "app"."todo" alter column "owner" set default rlskit.identity();
alter table "app"."todo" add constraint "rlskit_editors_check" check (coalesce(array_ndims("editors"), 1) = 1 and array_position("editors", null) is null and '' <> all ("editors")) not valid;
call rlskit.mark('constraint', '"app"."todo"', 'rlskit_editors_check', '1ee33d4d453f8c1f');
alter table "app"."todo" add constraint "rlskit_owner_check" check ("owner" <> '') not valid;
call rlskit.mark('constraint', '"app"."todo"', 'rlskit_owner_check', 'c77a98eaa605f434');
create trigger "zz_rlskit_reassign" before update on "app"."todo" for each row
  when ("old"."editors" is distinct from "new"."editors")
  execute function "rlskit"."note_new_owner"('owner', 'editors');
call rlskit.mark('trigger', '"app"."todo"', 'zz_rlskit_reassign', '744054af2ce49832');
create policy "rlskit_delete" on "app"."todo"
  as permissive for delete
  to "app_user"
  using (
    "owner" = any ((select rlskit.identities())::text[])
  );
call rlskit.mark('policy', '"app"."todo"', 'rlskit_delete', '0f9af46bffd59fa8');
create policy "rlskit_insert" on "app"."todo"
  as permissive for insert
  to "app_user"
  with check (
    "owner" = any ((select rlskit.identities())::text[])
  );
call rlskit.mark('policy', '"app"."todo"', 'rlskit_insert', 'fcaf1f345b4beee2');
create policy "rlskit_select" on "app"."todo"
  as permissive for select
  to "app_user"
  using (
    "owner" = any ((select rlskit.identities())::text[])
    or "editors" && (select rlskit.identities())::text[]
    or (ctid = '(4294967295,0)'::tid and ("owner" = current_setting('rlskit.moving_to', true) or "editors" && array[current_setting('rlskit.moving_to', true)]) and not rlskit.is_foreign(tableoid))
  );
call rlskit.mark('policy', '"app"."todo"', 'rlskit_select', '44fc7fc6b8e28d76');
create policy "rlskit_update" on "app"."todo"
  as permissive for update
  to "app_user"
  using (
    "owner" = any ((select rlskit.identities())::text[])
    or "editors" && (select rlskit.identities())::text[]
  )
  with check (
    "owner" is not null or cardinality("editors") > 0
  );
call rlskit.mark('policy', '"app"."todo"', 'rlskit_update', '951035c1ba5c5dc0');
do $rlskit$
declare
  part regclass;
  made record;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"app"."todo"'::regclass
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
      where tgrelid = '"app"."todo"'::regclass and obj_description(oid, 'pg_trigger') like 'rlskit %'
    loop
      execute replace(made.definition, format(' ON %s FOR EACH ROW', '"app"."todo"'::regclass), format(' ON %s FOR EACH ROW', part));
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
      select inhrelid from pg_inherits where inhparent = '"app"."todo"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, 'app_user');
  end loop;
  execute format('revoke all on table %s from %I', '"app"."todo"'::regclass, 'app_user');
  for given in
    select * from (values ('insert', true, '{owner,status}'::text[]), ('select', true, '{}'::text[]), ('update', true, '{owner,status}'::text[])) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = '"app"."todo"'::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, '"app"."todo"'::regclass, 'app_user');
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = '"app"."todo"'::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and true
  loop
    execute format('grant usage on sequence %s to %I', part, 'app_user');
  end loop;
end
$rlskit$;
grant delete on "app"."todo" to "app_user";
commit;
alter table "app"."todo" validate constraint "rlskit_editors_check";
alter table "app"."todo" validate constraint "rlskit_owner_check";
create index concurrently if not exists "todo__editors_rlskit" on "app"."todo" using gin ("editors");
comment on index "app"."todo__editors_rlskit" is 'rlskit';
create index concurrently if not exists "todo__owner_rlskit" on "app"."todo" using btree ("owner");
comment on index "app"."todo__owner_rlskit" is 'rlskit';
