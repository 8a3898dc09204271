-- What the role holds of these tables, their columns, their schemas and the sequences that they own; and who gave it:
-- the role itself, PUBLIC, a role that it is a member of, or one that is a member of it and so asks by the same rules.
-- A role that the rules were for before, as rlskit's own policies say, counts as the role itself: what it was given is to be taken back.
with app as (
  select oid from pg_roles where rolname = %(role)s
),
former as (
  select distinct unnest(polroles) as oid
  from pg_policy
  where polrelid = any (%(oids)s::oid[]) and obj_description(pg_policy.oid, 'pg_policy') like 'rlskit %%'
),
owned_sequences as (
  select distinct depends.objid as oid, depends.refobjid as table_oid
  from pg_depend as depends
  join pg_class as sequence_ on sequence_.oid = depends.objid and sequence_.relkind = 'S'
  where depends.classid = 'pg_class'::regclass and depends.refclassid = 'pg_class'::regclass
    and depends.deptype = 'a' and depends.refobjid = any (%(oids)s::oid[])
),
held as (
  select 'table' as level, table_.oid as table_oid, null::text as name, null::text as schema_name, acl.*
  from pg_class as table_, aclexplode(table_.relacl) as acl
  where table_.oid = any (%(oids)s::oid[]) and acl.grantee <> table_.relowner
  union all
  select 'column', column_.attrelid, column_.attname, null, acl.*
  from pg_attribute as column_
  join pg_class as table_ on table_.oid = column_.attrelid,
  aclexplode(column_.attacl) as acl
  where column_.attrelid = any (%(oids)s::oid[]) and not column_.attisdropped and acl.grantee <> table_.relowner
  union all
  select 'sequence', owned_sequences.table_oid, sequence_.relname, schema_.nspname, acl.*
  from owned_sequences
  join pg_class as sequence_ on sequence_.oid = owned_sequences.oid
  join pg_namespace as schema_ on schema_.oid = sequence_.relnamespace,
  aclexplode(sequence_.relacl) as acl
  union all
  select 'schema', table_.oid, schema_.nspname, null, acl.*
  from pg_class as table_
  join pg_namespace as schema_ on schema_.oid = table_.relnamespace,
  aclexplode(schema_.nspacl) as acl
  where table_.oid = any (%(oids)s::oid[])
)
select
  held.level,
  held.table_oid,
  held.name,
  held.schema_name,
  lower(held.privilege_type) as privilege,
  coalesce(grantee.rolname, 'public') as grantee,
  coalesce(held.grantee = app.oid, false) or held.grantee in (select oid from former) as direct
from held
left join app on true
left join pg_roles as grantee on grantee.oid = held.grantee
where held.grantee = 0
  or held.grantee in (select oid from former)
  or pg_has_role(app.oid, held.grantee, 'MEMBER')
  or (held.level in ('table', 'column') and pg_has_role(held.grantee, app.oid, 'MEMBER') and not grantee.rolsuper)
order by held.table_oid, held.level, held.name, 5, 6
