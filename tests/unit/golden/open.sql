

-- public.country
begin;
alter table "public"."country" enable row level security;
alter table "public"."country" force row level security;
call rlskit.clear('"public"."country"');
grant usage on schema "public" to "app_user";
create policy "rlskit_select" on "public"."country"
  as permissive for select
  to "app_user"
  using (
    true
  );
call rlskit.mark('policy', '"public"."country"', 'rlskit_select', '1f7eac9e32f0bdbe');
do $rlskit$
declare
  given record;
  columns text;
  part regclass;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"public"."country"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, 'app_user');
  end loop;
  execute format('revoke all on table %s from %I', '"public"."country"'::regclass, 'app_user');
  for given in
    select * from (values ('select', true, '{}'::text[])) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = '"public"."country"'::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, '"public"."country"'::regclass, 'app_user');
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = '"public"."country"'::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and false
  loop
    execute format('grant usage on sequence %s to %I', part, 'app_user');
  end loop;
end
$rlskit$;
commit;

-- public.wiki
begin;
alter table "public"."wiki" enable row level security;
alter table "public"."wiki" force row level security;
call rlskit.clear('"public"."wiki"');
grant usage on schema "public" to "app_user";
create policy "rlskit_delete" on "public"."wiki"
  as permissive for delete
  to "app_user"
  using (
    true
  );
call rlskit.mark('policy', '"public"."wiki"', 'rlskit_delete', '1f7eac9e32f0bdbe');
create policy "rlskit_insert" on "public"."wiki"
  as permissive for insert
  to "app_user"
  with check (
    true
  );
call rlskit.mark('policy', '"public"."wiki"', 'rlskit_insert', '967e201ab33498d5');
create policy "rlskit_select" on "public"."wiki"
  as permissive for select
  to "app_user"
  using (
    true
  );
call rlskit.mark('policy', '"public"."wiki"', 'rlskit_select', '1f7eac9e32f0bdbe');
create policy "rlskit_update" on "public"."wiki"
  as permissive for update
  to "app_user"
  using (
    true
  )
  with check (
    true
  );
call rlskit.mark('policy', '"public"."wiki"', 'rlskit_update', '199bccd0250bb263');
do $rlskit$
declare
  given record;
  columns text;
  part regclass;
begin
  for part in
    with recursive family as (
      select inhrelid from pg_inherits where inhparent = '"public"."wiki"'::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, 'app_user');
  end loop;
  execute format('revoke all on table %s from %I', '"public"."wiki"'::regclass, 'app_user');
  for given in
    select * from (values ('insert', true, '{}'::text[]), ('select', true, '{}'::text[]), ('update', true, '{}'::text[])) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = '"public"."wiki"'::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, '"public"."wiki"'::regclass, 'app_user');
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = '"public"."wiki"'::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and true
  loop
    execute format('grant usage on sequence %s to %I', part, 'app_user');
  end loop;
end
$rlskit$;
grant delete on "public"."wiki" to "app_user";
commit;
