"""What rules mean: the whole wanted state of each kind of rule, in short."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlskit import Open, Rule, Rules, TableRules, Unmanaged, allow, compile
from rlskit.compiler import COMMAND_OF, GUARD_TRIGGER, REASSIGN_TRIGGER
from rlskit.errors import RuleError, UnsupportedRuleError
from rlskit.names import QualifiedName, index_name
from rlskit.state import (
    AllBut,
    Always,
    AnyOf,
    CallersName,
    Check,
    Column,
    Default,
    Expression,
    Grant,
    Index,
    MovingAway,
    NamesCaller,
    NamesSomebody,
    OwnerColumn,
    Policy,
    Reassigned,
    RowSecurity,
    State,
    StrangerTo,
    TableObject,
    Trigger,
    Usage,
    WellFormed,
)
from rlskit.vocabulary import OPERATIONS, REASSIGN, Operation

TODO = QualifiedName("public", "todo")


# --- a state in short ------------------------------------------------------------------------------------------------


def summary(state: State) -> str:
    """One line an object, in the order of the state; owner lists end in `[]`, and spellings are left out when they are all three."""
    return "\n".join(line(each) for each in state)


def line(wanted: TableObject) -> str:
    match wanted:
        case Check():
            return f"check {wanted.name}: {expression(wanted.expression)}"
        case Column():
            return f"column {wanted.name} {wanted.type or ''}".rstrip()
        case Default():
            return f"default {wanted.column}: {expression(wanted.expression)}"
        case Grant():
            return f"grant {wanted.privilege}{column_list(wanted.columns)} to {wanted.role}"
        case Index():
            return f"index {wanted.name} on {wanted.column} {wanted.method}"
        case Policy():
            parts = [f"policy {wanted.name} for {wanted.command} to {', '.join(wanted.roles)}"]
            parts += [f"using {expression(wanted.using)}"] if wanted.using is not None else []
            parts += [f"check {expression(wanted.with_check)}"] if wanted.with_check is not None else []
            return " · ".join(parts)
        case RowSecurity():
            return f"row security {'on' if wanted.enabled else 'off'}, {'forced' if wanted.forced else 'not forced'}"
        case Trigger():
            of, given = (column_list(each).strip(" ()") for each in (wanted.columns, wanted.arguments))
            when = f" when {expression(wanted.when)}" if wanted.when is not None else ""
            return (
                f"trigger {wanted.name} on {wanted.event}{f' of {of}' if of else ''}{when}: {wanted.function}({given})"
            )
        case Usage():
            return f"usage to {wanted.role}"
    raise AssertionError(wanted)


def column_list(columns: tuple[str, ...] | AllBut | None) -> str:
    if columns is None:
        return ""
    if isinstance(columns, AllBut):
        return f" (all but {', '.join(columns.columns)})" if columns.columns else " (all)"
    return f" ({', '.join(columns)})"


def expression(wanted: Expression) -> str:
    match wanted:
        case AnyOf(terms):
            return " or ".join(term(each) for each in terms)
        case StrangerTo(version, terms):
            return f"stranger to {version} {' or '.join(term(each) for each in terms)}"
        case Reassigned(owner_columns):
            return f"reassigned {', '.join(each.name for each in owner_columns)}"
        case Always():
            return "anyone"
        case NamesSomebody(owner_columns):
            return f"somebody({names(owner_columns)})"
        case CallersName(column, claim):
            return f"caller{f'.{claim}' if claim else ''}{'[]' if column.many else ''}"
        case WellFormed(column):
            return f"well-formed {name(column)}"
    raise AssertionError(wanted)


def term(wanted: NamesCaller | MovingAway) -> str:
    if isinstance(wanted, MovingAway):
        return f"moving({names(wanted.columns)})"
    how = wanted.claim or (
        "" if wanted.spellings == ("full", "sub", "username") else "/".join(wanted.spellings or ["?"])
    )
    return f"{name(wanted.column)}{f'~{how}' if how else ''}"


def name(column: OwnerColumn) -> str:
    return f"{column.name}{'[]' if column.many else ''}{'' if column.type == 'text' else f' {column.type}'}"


def names(owner_columns: tuple[OwnerColumn, ...]) -> str:
    return ", ".join(map(name, owner_columns))


def compiled(*given: Rule | Open | Unmanaged, **options: Any) -> State:
    return compile(Rules(TableRules("todo", *given, **options), role="app"))


# --- what each kind of rule means ------------------------------------------------------------------------------------

EDITORS = allow.owners_defined_in("editors")

MEANINGS = [
    pytest.param(
        compiled(allow.owner()),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner or moving(owner)
        policy rlskit_update for update to app · using owner · check somebody(owner)
        row security on, forced
        trigger zz_rlskit_reassign on update when reassigned owner: rlskit.note_new_owner(owner)
        usage to app
        """,
        id="owner",
    ),
    pytest.param(
        compiled(allow.owner().to("create", "read", "update")),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner or moving(owner)
        policy rlskit_update for update to app · using owner · check somebody(owner)
        row security on, forced
        trigger zz_rlskit_reassign on update when reassigned owner: rlskit.note_new_owner(owner)
        usage to app
        """,
        id="owner to create, read, update",
    ),
    pytest.param(
        compiled(allow.owner().to("read")),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        grant select (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_select for select to app · using owner
        row security on, forced
        usage to app
        """,
        id="owner to read",
    ),
    pytest.param(
        compiled(allow.owner().to("create")),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant insert (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_insert for insert to app · check owner
        row security on, forced
        usage to app
        """,
        id="owner to create",
    ),
    pytest.param(
        compiled(allow.owner().to("read", "delete")),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        grant delete to app
        grant select (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_select for select to app · using owner
        row security on, forced
        usage to app
        """,
        id="owner to read, delete",
    ),
    pytest.param(
        compiled(allow.owner(), columns={"owner": allow.owner().to("read", "delete")}),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all but owner) to app
        grant select (all) to app
        grant update (all but owner) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner
        policy rlskit_update for update to app · using owner · check owner
        row security on, forced
        usage to app
        """,
        id="a protected owner",
    ),
    pytest.param(
        compiled(allow.owner(), columns={"owner": allow.owner().to("create", "read", "delete")}),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all but owner) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner
        policy rlskit_update for update to app · using owner · check owner
        row security on, forced
        usage to app
        """,
        id="an owner that is written once",
    ),
    pytest.param(
        compiled(allow.owner(), reassign="never"),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner
        policy rlskit_update for update to app · using owner · check owner
        row security on, forced
        usage to app
        """,
        id="reassign never",
    ),
    pytest.param(
        compiled(allow.owner_defined_in("author")),
        """
        check rlskit_author_check: well-formed author
        column author text
        default author: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__author_rlskit on author btree
        policy rlskit_delete for delete to app · using author
        policy rlskit_insert for insert to app · check author
        policy rlskit_select for select to app · using author or moving(author)
        policy rlskit_update for update to app · using author · check somebody(author)
        row security on, forced
        trigger zz_rlskit_reassign on update when reassigned author: rlskit.note_new_owner(author)
        usage to app
        """,
        id="owner_defined_in",
    ),
    pytest.param(
        compiled(EDITORS),
        """
        check rlskit_editors_check: well-formed editors[]
        column editors text[]
        default editors: caller[]
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__editors_rlskit on editors gin
        policy rlskit_delete for delete to app · using editors[]
        policy rlskit_insert for insert to app · check editors[]
        policy rlskit_select for select to app · using editors[] or moving(editors[])
        policy rlskit_update for update to app · using editors[] · check somebody(editors[])
        row security on, forced
        trigger zz_rlskit_reassign on update when reassigned editors: rlskit.note_new_owner(editors)
        usage to app
        """,
        id="owners_defined_in",
    ),
    pytest.param(
        compiled(EDITORS.to("read", "update")),
        """
        check rlskit_editors_check: well-formed editors[]
        column editors text[]
        grant select (all) to app
        grant update (all) to app
        index todo__editors_rlskit on editors gin
        policy rlskit_select for select to app · using editors[] or moving(editors[])
        policy rlskit_update for update to app · using editors[] · check somebody(editors[])
        row security on, forced
        trigger zz_rlskit_reassign on update when reassigned editors: rlskit.note_new_owner(editors)
        usage to app
        """,
        id="owners to read, update",
    ),
    pytest.param(
        compiled(allow.owner(), EDITORS.to("read", "update")),
        """
        check rlskit_editors_check: well-formed editors[]
        check rlskit_owner_check: well-formed owner
        column editors text[]
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__editors_rlskit on editors gin
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner or editors[] or moving(owner, editors[])
        policy rlskit_update for update to app · using owner or editors[] · check somebody(owner, editors[])
        row security on, forced
        trigger zz_rlskit_reassign on update when reassigned owner, editors: rlskit.note_new_owner(owner, editors)
        usage to app
        """,
        id="an owner, and editors to read, update",
    ),
    pytest.param(
        compiled(
            allow.owner(),
            EDITORS.to("read", "update"),
            columns={"owner": allow.same().to("read", "delete"), "editors": allow.same().to("read", "delete")},
        ),
        """
        check rlskit_editors_check: well-formed editors[]
        check rlskit_owner_check: well-formed owner
        column editors text[]
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all but editors, owner) to app
        grant select (all) to app
        grant update (all but editors, owner) to app
        index todo__editors_rlskit on editors gin
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner or editors[]
        policy rlskit_update for update to app · using owner or editors[] · check owner or editors[]
        row security on, forced
        usage to app
        """,
        id="an owner and editors, both protected by same",
    ),
    pytest.param(
        compiled(allow.owner(), EDITORS.to("read", "update"), columns={"owner": allow.same().to("read", "delete")}),
        """
        check rlskit_editors_check: well-formed editors[]
        check rlskit_owner_check: well-formed owner
        column editors text[]
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all but owner) to app
        grant select (all) to app
        grant update (all but owner) to app
        index todo__editors_rlskit on editors gin
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner or editors[] or moving(owner, editors[])
        policy rlskit_update for update to app · using owner or editors[] · check somebody(owner, editors[])
        row security on, forced
        trigger zz_rlskit_reassign on update when reassigned editors: rlskit.note_new_owner(owner, editors)
        usage to app
        """,
        id="editors may be written, the owner not",
    ),
    pytest.param(
        compiled(allow.owner().identity_claim("email")),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller.email
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner~email
        policy rlskit_insert for insert to app · check owner~email
        policy rlskit_select for select to app · using owner~email or moving(owner)
        policy rlskit_update for update to app · using owner~email · check somebody(owner)
        row security on, forced
        trigger zz_rlskit_reassign on update when reassigned owner: rlskit.note_new_owner(owner)
        usage to app
        """,
        id="identity_claim",
    ),
    pytest.param(
        compiled(EDITORS.identity_claim("email").to("create", "read")),
        """
        check rlskit_editors_check: well-formed editors[]
        column editors text[]
        default editors: caller.email[]
        grant insert (all) to app
        grant select (all) to app
        index todo__editors_rlskit on editors gin
        policy rlskit_insert for insert to app · check editors[]~email
        policy rlskit_select for select to app · using editors[]~email
        row security on, forced
        usage to app
        """,
        id="owners by a claim",
    ),
    pytest.param(
        compiled(allow.owner().to("create", "read"), match="full"),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant insert (all) to app
        grant select (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_insert for insert to app · check owner~full
        policy rlskit_select for select to app · using owner~full
        row security on, forced
        usage to app
        """,
        id="match full",
    ),
    pytest.param(
        compiled(allow.owner().match("full", "sub").to("read"), EDITORS.to("read")),
        """
        check rlskit_editors_check: well-formed editors[]
        check rlskit_owner_check: well-formed owner
        column editors text[]
        column owner text
        grant select (all) to app
        index todo__editors_rlskit on editors gin
        index todo__owner_rlskit on owner btree
        policy rlskit_select for select to app · using owner~full/sub or editors[]
        row security on, forced
        usage to app
        """,
        id="match on one rule",
    ),
    pytest.param(
        compiled(allow.owner().to("read"), allow.owner().match("full").to("create")),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant insert (all) to app
        grant select (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_insert for insert to app · check owner~full
        policy rlskit_select for select to app · using owner
        row security on, forced
        usage to app
        """,
        id="two persons in one column",
    ),
    pytest.param(
        compiled(allow.owner(), columns={"status": allow.same().to("read", "delete")}, reassign="never"),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        column status
        default owner: caller
        grant delete to app
        grant insert (all but status) to app
        grant select (all) to app
        grant update (all but status) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner
        policy rlskit_update for update to app · using owner · check owner
        row security on, forced
        usage to app
        """,
        id="a column that is read only",
    ),
    pytest.param(
        compiled(
            allow.owner(),
            EDITORS.to("read"),
            columns={"a": allow.same(), "b": [allow.owner(), EDITORS.to("read")]},
            reassign="never",
        ),
        """
        check rlskit_editors_check: well-formed editors[]
        check rlskit_owner_check: well-formed owner
        column a
        column b
        column editors text[]
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__editors_rlskit on editors gin
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner or editors[]
        policy rlskit_update for update to app · using owner · check owner
        row security on, forced
        usage to app
        """,
        id="columns with the table's rules, in two ways",
    ),
    pytest.param(
        compiled(allow.owner(), columns={"secret": []}, reassign="never"),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        column secret
        default owner: caller
        grant insert (all but secret) to app
        grant select (all but secret) to app
        grant update (all but secret) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner
        policy rlskit_update for update to app · using owner · check owner
        row security on, forced
        usage to app
        """,
        id="a column for nobody, so nobody may delete",
    ),
    pytest.param(
        compiled(allow.owner().to("create", "read"), columns={"title": allow.owner().to("create", "read", "update")}),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        column title
        default owner: caller
        grant insert (all) to app
        grant select (all) to app
        grant update (title) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner
        policy rlskit_update for update to app · using owner · check owner
        row security on, forced
        usage to app
        """,
        id="a column with more than the table",
    ),
    pytest.param(
        compiled(allow.owner().to("create", "read"), columns={"title": allow.same()}),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        column title
        default owner: caller
        grant insert (all) to app
        grant select (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner
        row security on, forced
        usage to app
        """,
        id="same is never more than the table",
    ),
    pytest.param(
        compiled(
            allow.owner().to("read", "delete"),
            EDITORS.to("read", "delete"),
            columns={"audit": allow.owner().to("delete")},
        ),
        """
        check rlskit_editors_check: well-formed editors[]
        check rlskit_owner_check: well-formed owner
        column audit
        column editors text[]
        column owner text
        grant delete to app
        grant select (all but audit) to app
        index todo__editors_rlskit on editors gin
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_select for select to app · using owner or editors[]
        row security on, forced
        usage to app
        """,
        id="a row is deleted by those who may delete every column",
    ),
    pytest.param(
        compiled(allow.owner(), EDITORS.to("read", "update"), columns={"title": [allow.owner(), EDITORS.to("read")]}),
        """
        check rlskit_editors_check: well-formed editors[]
        check rlskit_owner_check: well-formed owner
        column editors text[]
        column owner text
        column title
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__editors_rlskit on editors gin
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner or editors[] or moving(owner, editors[])
        policy rlskit_update for update to app · using owner or editors[] · check somebody(owner, editors[])
        row security on, forced
        trigger 00_rlskit_update_title on update of title when stranger to old owner: rlskit.refuse_columns(title)
        trigger zz_rlskit_reassign on update when reassigned owner, editors: rlskit.note_new_owner(owner, editors)
        usage to app
        """,
        id="a column that an editor may not update",
    ),
    pytest.param(
        compiled(allow.owner(), EDITORS.to("read"), columns={"content": [allow.owner(), EDITORS.to("read", "update")]}),
        """
        check rlskit_editors_check: well-formed editors[]
        check rlskit_owner_check: well-formed owner
        column content
        column editors text[]
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__editors_rlskit on editors gin
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner or editors[] or moving(owner, editors[])
        policy rlskit_update for update to app · using owner or editors[] · check somebody(owner, editors[])
        row security on, forced
        trigger 00_rlskit_update on update of all but content when stranger to old owner: rlskit.refuse_columns()
        trigger zz_rlskit_reassign on update when reassigned owner, editors: rlskit.note_new_owner(owner, editors)
        usage to app
        """,
        id="a column that an editor may update, and no other",
    ),
    pytest.param(
        compiled(
            allow.owner(),
            columns={
                "note": [allow.owner().to("read", "update", "delete"), allow.owner_defined_in("author").to("create")]
            },
        ),
        """
        check rlskit_author_check: well-formed author
        check rlskit_owner_check: well-formed owner
        column author text
        column note
        column owner text
        default author: caller
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__author_rlskit on author btree
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner or author
        policy rlskit_select for select to app · using owner or moving(owner, author)
        policy rlskit_update for update to app · using owner · check somebody(owner, author)
        row security on, forced
        trigger 00_rlskit_create on insert when stranger to new owner: rlskit.refuse_columns(all but note)
        trigger 00_rlskit_create_note on insert when stranger to new author: rlskit.refuse_columns(note)
        trigger zz_rlskit_reassign on update when reassigned owner, author: rlskit.note_new_owner(owner, author)
        usage to app
        """,
        id="a column for another creator",
    ),
    pytest.param(
        compiled(allow.owner(), reassign="explicit"),
        """
        check rlskit_owner_check: well-formed owner
        column owner text
        default owner: caller
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        index todo__owner_rlskit on owner btree
        policy rlskit_delete for delete to app · using owner
        policy rlskit_insert for insert to app · check owner
        policy rlskit_select for select to app · using owner
        policy rlskit_update for update to app · using owner · check somebody(owner)
        row security on, forced
        usage to app
        """,
        id="reassign explicit",
    ),
    pytest.param(
        compiled(Open(reason="reference data")),
        """
        grant select (all) to app
        policy rlskit_select for select to app · using anyone
        row security on, forced
        usage to app
        """,
        id="open",
    ),
    pytest.param(
        compiled(Open(reason="a wiki", to=OPERATIONS)),
        """
        grant delete to app
        grant insert (all) to app
        grant select (all) to app
        grant update (all) to app
        policy rlskit_delete for delete to app · using anyone
        policy rlskit_insert for insert to app · check anyone
        policy rlskit_select for select to app · using anyone
        policy rlskit_update for update to app · using anyone · check anyone
        row security on, forced
        usage to app
        """,
        id="open to everything",
    ),
    pytest.param(compiled(Unmanaged(reason="another team's")), "", id="unmanaged"),
]


@pytest.mark.parametrize(("state", "expected"), MEANINGS)
def test_rules_mean(state: State, expected: str) -> None:
    assert summary(state) == dedent(expected).strip()


def test_every_object_belongs_to_its_table() -> None:
    state = compile(Rules(TableRules("app.todo", allow.owner()), TableRules("country", Open(reason="x")), role="app"))

    assert (
        {each.table for each in state}
        == state.tables
        == {QualifiedName("app", "todo"), QualifiedName("public", "country")}
    )


def test_two_tables_do_not_touch_each_other() -> None:
    both = compile(Rules(TableRules("todo", allow.owner()), TableRules("country", Open(reason="x")), role="app"))
    country = compile(Rules(TableRules("country", Open(reason="x")), role="app"))

    assert both.objects == compiled(allow.owner()).objects | country.objects


def test_unmanaged_tables_are_told_apart_from_those_without_rules() -> None:
    state = compiled(Unmanaged(reason="another team's"))

    assert (state.unmanaged, state.objects, list(state.tables)) == (frozenset([TODO]), frozenset(), [])


def test_managed_tables_are_not_unmanaged() -> None:
    assert compiled(allow.owner()).unmanaged == frozenset()


def test_everything_goes_to_the_role() -> None:
    state = compile(Rules(TableRules("todo", allow.owner()), role="shop", bypass_role="support"))
    roles = {
        role
        for each in state
        for role in (each.roles if isinstance(each, Policy) else [each.role] if isinstance(each, Grant | Usage) else [])
    }

    assert roles == {"shop"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_nobody_has_gets_neither_policy_nor_grant(operation: Operation) -> None:
    allowed: dict[Operation, list[Operation]] = {
        "create": ["read", "update", "delete"],
        "read": ["create"],
        "update": ["create", "read", "delete"],
        "delete": ["create", "read", "update"],
    }
    state = compiled(allow.owner().to(allowed[operation]))

    commands = [each.command for each in state if isinstance(each, Policy)]
    privileges = [each.privilege for each in state if isinstance(each, Grant)]
    assert COMMAND_OF[operation] not in commands + privileges


# --- what depends on the row -----------------------------------------------------------------------------------------

SHOWN_OR_NOT = "PostgreSQL shows a column of every row or of none: let whoever reads the row read the column (`allow.same().to(…)`), or nobody, or move the column to a table of its own"


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        pytest.param(
            TableRules("todo", allow.owner(), EDITORS.to("read"), columns={"secret": allow.owner()}),
            "read column `secret`",
            id="a column for some readers",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), columns={"note": [allow.owner(), EDITORS.to("read")]}),
            "read the columns without rules of their own",
            id="a column for more readers",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), columns={"note": allow.owner().match("full")}),
            "read column `note`",
            id="a column in other spellings",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), columns={"note": allow.owner().identity_claim("email")}),
            "read column `note`",
            id="a column by a claim",
        ),
        pytest.param(
            TableRules(
                "todo",
                allow.owner().to("create"),
                columns={"a": allow.owner().to("read"), "b": allow.owner_defined_in("author").to("read")},
            ),
            "read column `a`",
            id="two columns for two readers",
        ),
        pytest.param(
            TableRules("todo", allow.owner(), EDITORS.to("read"), columns={"b": allow.owner(), "a": allow.owner()}),
            "read column `a`",
            id="the first of two",
        ),
    ],
)
def test_what_is_read_may_not_depend_on_the_row(rules: TableRules, what: str) -> None:
    with pytest.raises(UnsupportedRuleError) as caught:
        compile(Rules(rules, role="app"))

    assert str(caught.value) == f"table `public.todo`: who may {what} would depend on the row\nhint: {SHOWN_OR_NOT}"


# --- advice ----------------------------------------------------------------------------------------------------------


def gives_away(columns: str) -> str:
    return (
        f"who may update a row may give it away by writing {columns}, and reads cost more for it. "
        'To keep rows with their owners protect the column: allow.same().to("read", "delete")'
    )


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        pytest.param(compiled(allow.owner()), [gives_away("`owner`")], id="owner"),
        pytest.param(
            compiled(allow.owner(), EDITORS),
            [gives_away("`owner`, `editors`"), "whoever `editors` names may write `owner` too, and so take a row over"],
            id="owner and editors",
        ),
        pytest.param(
            compiled(allow.owner().to("read"), allow.owner().identity_claim("email").to("read")),
            ["`owner` is compared with different claims: one user's claim could be another's name"],
            id="different claims in one column",
        ),
        pytest.param(
            compiled(allow.owner(), EDITORS, columns={"owner": allow.same().to("read", "delete")}),
            [gives_away("`editors`")],
            id="a protected owner, and editors",
        ),
        pytest.param(compiled(allow.owner(), reassign="never"), [], id="reassign never"),
        pytest.param(compiled(allow.owner().to("create", "read", "delete")), [], id="no update"),
        pytest.param(
            compiled(allow.owner(), columns={"owner": allow.same().to("read", "delete")}), [], id="a protected owner"
        ),
        pytest.param(
            compiled(allow.owner(), columns={"owner": allow.same().to("read")}),
            ["nobody may delete a row, because nobody may delete `owner`"],
            id="an owner that nobody may delete",
        ),
        pytest.param(
            compiled(
                allow.owner(), columns={"a": [], "b": allow.same(), "c": allow.same().to("read")}, reassign="never"
            ),
            ["nobody may delete a row, because nobody may delete `a`, `c`"],
            id="columns that nobody may delete",
        ),
        pytest.param(
            compiled(allow.owner(), columns={"a": []}),
            [gives_away("`owner`"), "nobody may delete a row, because nobody may delete `a`"],
            id="both",
        ),
        pytest.param(compiled(allow.owner().to("read"), columns={"a": []}), [], id="delete was never allowed"),
        pytest.param(compiled(Open(reason="a wiki", to=OPERATIONS)), [], id="open"),
        pytest.param(compiled(Unmanaged(reason="another team's")), [], id="unmanaged"),
    ],
)
def test_the_reader_is_advised(state: State, advice: list[str]) -> None:
    assert [(each.table, each.text) for each in state.advice] == [(TODO, text) for text in advice]


def test_nobody_may_delete_is_said_also_when_different_people_hold_the_columns() -> None:
    """The owner may not delete `a` and the editors may not delete `b`, so nobody may delete a row: silence would mislead."""
    state = compiled(
        allow.owner(),
        EDITORS.to("read", "delete"),
        columns={
            "a": [allow.owner().to("create", "update"), EDITORS.to("delete")],
            "b": allow.owner().to("create", "update", "delete"),
        },
        reassign="never",
    )

    (advice,) = state.advice
    assert advice.text.removeprefix("nobody may delete a row, because ") not in (advice.text, "nobody may delete ")


# --- why each object is there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "why"),
    [
        pytest.param(
            compiled(allow.owner(), EDITORS.to("read"), reassign="never"),
            {
                ("check", "rlskit_editors_check"): "an empty name would be nobody's",
                ("check", "rlskit_owner_check"): "an empty name would be nobody's",
                ("column", "editors"): 'allow.owners_defined_in("editors").to("read")',
                ("column", "owner"): "allow.owner()",
                ("default", "owner"): "whoever creates a row owns it",
                ("grant", "app", "delete", "table"): "allow.owner()",
                ("grant", "app", "insert", "columns"): "allow.owner()",
                ("grant", "app", "select", "columns"): 'allow.owner() or allow.owners_defined_in("editors").to("read")',
                ("grant", "app", "update", "columns"): "allow.owner()",
                ("index", "todo__editors_rlskit"): "rows are looked up by it",
                ("index", "todo__owner_rlskit"): "rows are looked up by it",
                ("policy", "rlskit_delete"): "allow.owner()",
                ("policy", "rlskit_insert"): "allow.owner()",
                ("policy", "rlskit_select"): 'allow.owner() or allow.owners_defined_in("editors").to("read")',
                ("policy", "rlskit_update"): "allow.owner()",
                ("row security",): "only the rows that a rule names",
                ("usage", "app", "usage"): "",
            },
            id="owner rules",
        ),
        pytest.param(
            compiled(Open(reason="reference data")),
            {
                ("grant", "app", "select", "columns"): "open to read: reference data",
                ("policy", "rlskit_select"): "open to read: reference data",
                ("row security",): "open to read: reference data",
                ("usage", "app", "usage"): "",
            },
            id="open",
        ),
    ],
)
def test_every_object_says_which_rule_wants_it(state: State, why: dict[tuple[str, ...], str]) -> None:
    assert {(each.key[0], *each.key[3:]): each.why for each in state} == why


def test_what_only_columns_want_says_so() -> None:
    state = compiled(allow.owner().to("read"), columns={"title": allow.owner().to("read", "update")})
    whys = [each.why for each in state if isinstance(each, Policy) and each.command == "update"]

    assert whys == ["its columns' rules"]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["t", "t" * 63, "ü" * 31])
@pytest.mark.parametrize("column", ["c", "c" * 63, "ü" * 31])
def test_every_name_fits(table: str, column: str) -> None:
    state = compile(
        Rules(TableRules(table, allow.owner_defined_in(column), allow.owners_defined_in("editors")), role="app")
    )
    made = [each.name for each in state if isinstance(each, Check | Index | Policy | Trigger)]

    assert [name for name in made if len(name.encode()) > 63] == []


@pytest.mark.parametrize("table", ["t", "t" * 63])
def test_long_columns_that_begin_alike_get_names_of_their_own(table: str) -> None:
    state = compile(
        Rules(
            TableRules(table, allow.owner_defined_in("c" * 60 + "1"), allow.owner_defined_in("c" * 60 + "2")),
            role="app",
        )
    )
    made = [each.name for each in state if isinstance(each, Check | Index)]

    assert len(set(made)) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("todo", "item_owner"), ("todo_item", "owner"), id="plain words"),
        pytest.param(("a", "b_c"), ("a_b", "c"), id="letters"),
        pytest.param(("a_", "b"), ("a", "_b"), id="underscores where the two meet"),
        pytest.param(("a__b", "c"), ("a", "b__c"), id="two underscores"),
    ],
)
def test_indexes_of_one_schema_have_names_of_their_own(one: tuple[str, str], other: tuple[str, str]) -> None:
    """An index's name is unique in its schema, not in its table."""
    tables = [TableRules(table, allow.owner_defined_in(column)) for table, column in (one, other)]
    state = compile(Rules(*tables, role="app"))
    made = [each.name for each in state if isinstance(each, Index)]

    assert len(set(made)) == 2


UNDERSCORED = st.text("a_", min_size=1, max_size=5)


@settings(deadline=None)
@given(one=st.tuples(UNDERSCORED, UNDERSCORED), other=st.tuples(UNDERSCORED, UNDERSCORED))
def test_no_two_columns_of_a_schema_share_an_indexs_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    names = [index_name(QualifiedName("public", table), column) for table, column in (one, other)]

    assert (names[0] == names[1]) == (one == other)


# --- always the same -------------------------------------------------------------------------------------------------

TABLES = [
    TableRules(
        "todo",
        allow.owner(),
        EDITORS.to("read", "update"),
        columns={"secret": [], "owner": allow.same().to("read", "delete")},
    ),
    TableRules("country", Open(reason="reference data")),
    TableRules("crm.contact", allow.owner().identity_claim("email")),
    TableRules("audit", Unmanaged(reason="policies of its own")),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_order_of_tables_does_not_matter(order: tuple[int, ...]) -> None:
    state = compile(Rules(*(TABLES[number] for number in order), role="app"))

    same = compile(Rules(*TABLES, role="app"))
    assert (list(state), state.unmanaged, state.advice) == (list(same), same.unmanaged, same.advice)


def test_a_state_lists_each_tables_objects_together() -> None:
    state = compile(Rules(*TABLES, role="app"))

    assert [each for table in sorted(state.tables) for each in state.of(table)] == list(state)


def test_a_table_without_rules_has_no_objects() -> None:
    assert compiled(allow.owner()).of(QualifiedName("public", "other")) == ()


# --- whatever the rules are ------------------------------------------------------------------------------------------

SOME = st.lists(st.sampled_from(OPERATIONS), min_size=1, unique=True)
RULES = st.builds(
    lambda rule, operations: rule.to(operations),
    st.sampled_from(
        [
            allow.owner(),
            allow.owner_defined_in("author"),
            EDITORS,
            allow.owner().identity_claim("email"),
            allow.owner().match("full"),
        ]
    ),
    SOME,
)
COLUMN_RULES = st.lists(RULES | st.builds(lambda operations: allow.same().to(operations), SOME), max_size=2)


@st.composite
def tables(draw: st.DrawFn) -> TableRules:
    columns = draw(st.dictionaries(st.sampled_from(["owner", "title", "editors"]), COLUMN_RULES, max_size=2))
    try:
        return TableRules(
            "todo",
            *draw(st.lists(RULES, min_size=1, max_size=3)),
            columns=columns,
            reassign=draw(st.sampled_from(REASSIGN)),
        )
    except RuleError:
        return TableRules("todo", allow.owner())


def people(wanted: Policy) -> Iterator[NamesCaller]:
    condition = wanted.with_check if wanted.command == "insert" else wanted.using
    assert isinstance(condition, AnyOf)
    yield from (each for each in condition.terms if isinstance(each, NamesCaller))


def writers(policies: dict[str, Policy]) -> Iterator[NamesCaller]:
    for command in ("update", "delete"):
        if command in policies:
            yield from people(policies[command])


def covers(one: NamesCaller, other: NamesCaller) -> bool:
    """Whether the one reaches every row that the other does."""
    return (one.column, one.claim) == (other.column, other.claim) and set(one.spellings or ()) >= set(
        other.spellings or ()
    )


def guarding(triggers: list[Trigger], operation: Operation) -> list[Trigger]:
    return [each for each in triggers if each.name.startswith(GUARD_TRIGGER.format(operation=operation))]


@settings(deadline=None, max_examples=300)
@given(rules=tables())
def test_whatever_the_rules_are(rules: TableRules) -> None:
    """Policies and grants go together, name somebody, find the rows that they change; no column list is empty."""
    try:
        state = compile(Rules(rules, role="app"))
    except UnsupportedRuleError:
        return

    policies = {each.command: each for each in state if isinstance(each, Policy)}
    grants = {each.privilege: each for each in state if isinstance(each, Grant)}
    assert policies.keys() == grants.keys()
    assert all(list(people(each)) for each in policies.values())
    assert all(each.columns != () for each in grants.values())
    assert all(any(covers(reader, each) for reader in people(policies["select"])) for each in writers(policies))
    moving = any(isinstance(each, MovingAway) for each in getattr(policies.get("select"), "using", AnyOf(())).terms)
    triggers = [each for each in state if isinstance(each, Trigger)]
    assert moving == any(each.name == REASSIGN_TRIGGER for each in triggers)
    assert all(COMMAND_OF[operation] in policies for operation in ("create", "update") if guarding(triggers, operation))
    assert {each.column for each in state if isinstance(each, Default)} == (
        {each.column.name for each in people(policies["insert"])} if "insert" in policies else set()
    )


@settings(deadline=None)
@given(rules=tables())
def test_the_same_rules_give_the_same_state(rules: TableRules) -> None:
    def attempt() -> object:
        try:
            state = compile(Rules(rules, role="app"))
        except UnsupportedRuleError as error:
            return str(error)
        return list(state), [each.why for each in state], state.advice

    assert attempt() == attempt()
