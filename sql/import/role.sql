-- Whose policies and privileges are the role's as well: its own, and those of roles that it is in and inherits from. And the schemas that it may use.
select
  array(select holder.rolname::text from pg_roles as holder where pg_has_role(app.oid, holder.oid, 'USAGE') order by 1) as holders,
  array(select schema_.nspname::text from pg_namespace as schema_ where has_schema_privilege(app.oid, schema_.oid, 'USAGE') order by 1) as schemas
from pg_roles as app
where app.rolname = %(role)s
