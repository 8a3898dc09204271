"""Rules become one SQL script without a database: for review, for a DBA, and for those who trust nothing but psql."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from psycopg.sql import SQL, Composed, Identifier, Literal

from rlskit import compiler, ddl, runtime
from rlskit.names import QualifiedName
from rlskit.rules import Rules
from rlskit.state import AllBut, Check, Column, Grant, Index, RowSecurity, TableObject, Trigger

_HEAD = """\
-- Run it as the owner of the tables:
--   psql -v ON_ERROR_STOP=1 -f FILE
-- It may be run again. Each table is one transaction; indexes are built afterwards, while others write.
-- (A partitioned table takes no index concurrently: let `rlskit apply` build that one.)

set client_min_messages = warning;
set search_path = pg_catalog, pg_temp;
"""

# Every partition and child of a table, however deep.
_FAMILY = """\
with recursive family as (
      select inhrelid from pg_inherits where inhparent = {table}::regclass
      union
      select child.inhrelid from family join pg_inherits as child on child.inhparent = family.inhrelid
    )"""

# PostgreSQL copies row triggers down to partitions, but not to children that inherit.
_CHILDREN = """\
declare
  part regclass;
  made record;
begin
  for part in
    {family}
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
      where tgrelid = {table}::regclass and obj_description(oid, 'pg_trigger') like 'rlskit %'
    loop
      execute replace(made.definition, format(' ON %s FOR EACH ROW', {table}::regclass), format(' ON %s FOR EACH ROW', part));
      call rlskit.mark('trigger', part, made.tgname, made.wanted);
    end loop;
  end loop;
end"""

# What a column list means is known only in the database, where a column may have been added since.
_TRIGGER = """\
declare
  names text[] := array(
    select attname::text
    from pg_attribute
    where attrelid = {table}::regclass and attnum > 0 and not attisdropped and attgenerated = ''
      and attname <> all ({named}::text[])
      and not ({inserts} and exists (select from pg_index where indrelid = attrelid and indisprimary and attnum = any (indkey)))
    order by attname collate "C"
  );
begin
  if names <> '{{}}' then
    execute format(
      {statement},
      (select string_agg(quote_ident(each), ', ') from unnest(names) as given (each)),
      (select string_agg(quote_literal(each), ', ') from unnest(names) as given (each))
    );
    {mark};
  end if;
end"""

_GRANTS = """\
declare
  given record;
  columns text;
  part regclass;
begin
  for part in
    {family}
    select inhrelid from family
  loop
    execute format('alter table %s enable row level security', part);
    execute format('alter table %s force row level security', part);
    execute format('revoke all on table %s from %I', part, {role});
  end loop;
  execute format('revoke all on table %s from %I', {table}::regclass, {role});
  for given in
    select * from (values {rows}) as wanted (privilege, all_but, named)
  loop
    select string_agg(quote_ident(attname), ', ' order by attname collate "C") into columns
    from pg_attribute
    where attrelid = {table}::regclass and attnum > 0 and not attisdropped
      and (attname = any (given.named)) is distinct from given.all_but;
    if columns is not null then
      execute format('grant %s (%s) on table %s to %I', given.privilege, columns, {table}::regclass, {role});
    end if;
  end loop;
  for part in
    select objid from pg_depend
    where refclassid = 'pg_class'::regclass and refobjid = {table}::regclass and classid = 'pg_class'::regclass and deptype = 'a'
      and (select relkind from pg_class where oid = objid) = 'S' and {inserts}
  loop
    execute format('grant usage on sequence %s to %I', part, {role});
  end loop;
end"""


def sql(rules: Rules) -> str:
    """Return the whole SQL of ``rules``: the runtime, then table by table. The same rules give the same bytes.

    No database is asked, so owner columns count as ``text``. Raises UnsupportedRuleError for what cannot be enforced exactly.
    """
    state = compiler.compile(rules)
    parts = [
        ddl.comment(f"Row-level security for the role {rules.role}, written by rlskit."),
        _HEAD,
        runtime.script("runtime.sql"),
    ]
    if rules.mode is not None:
        parts.append(f"\n{runtime.requirement(signed=rules.mode == 'signed')};")
    for table in sorted(state.tables):
        parts.append("\n" + ddl.comment(table))
        parts += [ddl.comment(f"note: {each.text}") for each in state.advice_on(table)]
        objects = sorted(state.of(table), key=lambda each: (_ORDER.index(each.kind), each.key))
        parts += ["begin;", *(f"{each};" for each in _statements(table, objects, rules.role)), "commit;"]
        for each in objects:
            if isinstance(each, Check):
                parts += [f"{ddl.text(validate)};" for validate in ddl.alter(replace(each, validated=False), each)]
            if isinstance(each, Index):
                created = ddl.create_index_concurrently(each)
                parts += [
                    ddl.text(created[0]).replace("concurrently", "concurrently if not exists", 1) + ";",
                    ddl.text(created[1]) + ";",
                ]
    return "\n".join(parts) + "\n"


_ORDER = ("column", "row security", "usage", "default", "check", "trigger", "policy", "grant", "index")


def _statements(table: QualifiedName, objects: list[TableObject], role: str) -> Iterator[str]:
    name = ddl.qualified(table)
    for each in objects:
        match each:
            case Column(type=None):
                pass
            case Column():
                add = SQL("alter table {} add column if not exists {} " + (each.type or ""))
                yield ddl.text(add.format(name, Identifier(each.name)))
            case Trigger() if isinstance(each.columns, AllBut) or isinstance(each.arguments, AllBut):
                yield _trigger(name, each)
            case RowSecurity():
                yield from map(ddl.text, ddl.create(each))
                yield ddl.text(SQL("call rlskit.clear({})").format(Literal(ddl.text(name))))
            case Check():
                yield from map(ddl.text, ddl.create(replace(each, validated=False)))
            case Grant() | Index():
                pass
            case _:
                yield from map(ddl.text, ddl.create(each))
    if any(isinstance(each, Trigger) for each in objects):
        yield ddl.block(ddl.text(SQL(_CHILDREN).format(table=Literal(ddl.text(name)), family=_family(name))))
    grants = [each for each in objects if isinstance(each, Grant)]
    yield _grants(name, [each for each in grants if each.columns is not None], role)
    yield from (ddl.text(statement) for each in grants if each.columns is None for statement in ddl.create(each))


def _family(name: Identifier) -> Composed:
    return SQL(_FAMILY).format(table=Literal(ddl.text(name)))


def _trigger(name: Identifier, trigger: Trigger) -> str:
    """A trigger whose columns the database has to list."""
    listed = trigger.columns if isinstance(trigger.columns, AllBut) else trigger.arguments
    assert isinstance(listed, AllBut)
    columns, arguments = (
        ("%1$s",) if isinstance(each, AllBut) else each for each in (trigger.columns, trigger.arguments)
    )
    create, mark = ddl.create(replace(trigger, columns=columns, arguments=arguments))
    statement = ddl.text(create).replace("%", "%%").replace('"%%1$s"', "%1$s").replace("'%%1$s'", "%2$s")
    body = SQL(_TRIGGER).format(
        table=Literal(ddl.text(name)),
        named=Literal(list(listed.columns)),
        inserts=Literal(trigger.event == "insert"),
        statement=Literal(statement),
        mark=mark,
    )
    return ddl.block(ddl.text(body))


def _grants(name: Identifier, grants: list[Grant], role: str) -> str:
    rows = [
        SQL("({}, {}, {}::text[])").format(
            Literal(each.privilege),
            Literal(isinstance(each.columns, AllBut)),
            Literal(list(each.columns.columns if isinstance(each.columns, AllBut) else each.columns or ())),
        )
        for each in grants
    ]
    body = SQL(_GRANTS).format(
        table=Literal(ddl.text(name)),
        family=_family(name),
        role=Literal(role),
        rows=SQL(", ").join(rows) if rows else SQL("(null, null, null::text[])"),
        inserts=Literal(any(each.privilege == "insert" for each in grants)),
    )
    return ddl.block(ddl.text(body))
