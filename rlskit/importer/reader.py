"""An existing database becomes rules, with notes: policies and privileges that are understood are declared, the rest is kept. Nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import namedtuple_row

from rlskit import catalog, fitter, runtime
from rlskit.errors import PlanError, RuleError
from rlskit.facts import Database, TableFacts
from rlskit.importer import recognizer, renderer
from rlskit.importer.adopter import adopt
from rlskit.importer.recognizer import Asked, Recognized
from rlskit.importer.translator import Note, Role, Table, Translation, applied
from rlskit.names import QualifiedName
from rlskit.rules import Open, Rules, TableRules, allow
from rlskit.state import State
from rlskit.words import did_you_mean


@dataclass(frozen=True)
class Imported:
    """The rules that were read, and what the reader should know of them: ``rules`` can be planned as they are."""

    rules: Rules
    notes: tuple[Note, ...]

    @property
    def is_complete(self) -> bool:
        """Whether everything was understood."""
        return all(each.kind != "kept" for each in self.notes)

    def toml(self) -> str:
        """The rule file, with the notes as comments; tables without rules are suggested at its end."""
        ruled = {table.name for table in self.rules.tables}
        others = sorted({each.table for each in self.notes if each.table is not None} - ruled)
        head = [*_HEAD, *map(str, self._notes_on(None))]
        notes = {name: [str(name), *map(str, self._notes_on(name))] for name in ruled}
        tail = [line for name in others for line in ("", *self._suggestion(name))]
        return renderer.toml(self.rules, head=head, notes=notes, tail=tail)

    def _notes_on(self, table: QualifiedName | None) -> list[Note]:
        return [each for each in self.notes if each.table == table]

    def _suggestion(self, table: QualifiedName) -> Iterator[str]:
        notes = self._notes_on(table)
        yield from (str(table), *map(str, notes))
        if any(each.kind == "open" for each in notes):
            example = TableRules(Open(reason="say why, or write owner rules")).at(table)
            yield from renderer.section(example, self.rules.schema)


_HEAD = (
    "Written by `rlskit import`. Read the notes, then `rlskit plan`: it says what would change.",
    "Once the rules are applied, the application says who is asking with `as_user`, and the owners of the tables are bound as well.",
    "What is kept goes on asking what it asked: go on writing those settings too.",
    "What became rules lets the role past them as long as it is there: `rlskit apply --prune-foreign` drops it.",
)


def read(
    conn: Connection[Any], *, role: str, schemas: Iterable[str] = ("public",), claims: Mapping[str, str] | None = None
) -> Imported:
    """Return what the tables of ``schemas`` give to ``role``, as rules, and notes on what became what. Nothing is changed.

    Tables that rlskit's rules were applied to are read in every schema. ``claims`` says which claim a source of identity stands for:
    ``{"app.user_id": "sub", "request.jwt.claims->>org": "org", "app.me()": "sub"}``; of what it does not name, usual names are guessed, and
    the notes say so. An idle connection is idle afterwards. Raises RuleError for a claim of a source that no policy asks, PlanError for a schema
    or role that does not exist, a role that row security would not bind, and a user who may not create temporary tables.
    """
    with catalog.reading(conn):
        database = catalog.read(conn, _tables(conn, schemas), role)
        fitter.fit(State(), database, role)  # refuses a role that no rule would bind
        server = database.server
        if server.read_only or not server.may_make_temporary:
            raise PlanError(
                "import compares conditions on temporary tables, and may create none here",
                hint=f'connect to the primary, or grant temporary on database "{server.database}" to "{server.user_name}"',
            )
        recognized = recognizer.recognize(conn, database)
        cursor = conn.cursor(row_factory=namedtuple_row)
        about: Any
        (about,) = cursor.execute(runtime.script("import/role.sql"), {"role": role}).fetchall()
    meant, guesses = _meant(recognized, {_canonical(source): claim for source, claim in (claims or {}).items()})
    reaches = Role(role, frozenset(about.holders), frozenset(about.schemas))
    tables = [
        Table(facts, database, recognized, reaches, meant)
        for facts in database.tables.values()
        if facts.kind in ("table", "partitioned table")
    ]
    return _imported(database, role, [_translated(table) for table in tables], guesses)


def _tables(conn: Connection[Any], schemas: Iterable[str]) -> list[QualifiedName]:
    wanted = list(schemas)
    cursor = conn.cursor(row_factory=namedtuple_row)
    rows: list[Any] = cursor.execute(runtime.script("import/tables.sql"), {"schemas": wanted}).fetchall()
    if missing := [row.schema_name for row in rows if not row.is_there]:
        raise PlanError(f"schema `{missing[0]}` does not exist", hint="name one that does with --schema")
    return [QualifiedName(row.schema_name, row.table_name) for row in rows if row.table_name is not None]


def _translated(table: Table) -> Translation:
    """A part of another table has no rules of its own; its policies count only for who names it directly."""
    facts = table.facts
    if not facts.parents:
        return applied(table) if table.own_policies else adopt(table)
    if outside := [parent for parent in facts.parents if parent not in table.database.tables]:
        text = f"it is a part of `{outside[0]}`, which was not read: name its schema with --schema"
        return Translation(None, (table.note("kept", text),))
    if table.policies and not table.own_policies and not _has_own_policies(table, facts):
        text = f"what holds for `{facts.ancestors[0]}` holds for it; its own policies, for whoever names it directly, are not taken over"
        return Translation(None, (table.note("kept", text),))
    return Translation(None, ())


def _has_own_policies(table: Table, facts: TableFacts) -> bool:
    """Whether rules were applied to a table above, whose rules then keep what is here."""
    return any(each.kind == "policy" for name in facts.ancestors for each in table.database.state.of(name))


def _imported(
    database: Database, role: str, translations: Iterable[Translation], guesses: Mapping[str, str]
) -> Imported:
    found = list(translations)
    notes = [
        Note(None, "check", f'`{source}` is taken for the claim `{claim}`; if it is another: --claim "{source}=…"')
        for source, claim in guesses.items()
    ]
    notes += [note for each in found for note in each.notes]
    rules = [each.rules for each in found if each.rules is not None]
    return Imported(Rules(*rules, role=role, mode="signed" if database.server.signed else None), tuple(notes))


# --- who a source of identity names -----------------------------------------------------------------------------------

_USUAL = {
    **dict.fromkeys(
        ("sub", "id", "uid", "user", "user_id", "userid", "user_sub", "current_user", "current_user_id"), "sub"
    ),
    **dict.fromkeys(("username", "user_name", "preferred_username", "cognito:username"), "username"),
    **dict.fromkeys(("email", "user_email"), "email"),
}
_USUAL_FUNCTIONS = {"auth.uid()": "sub", "auth.email()": "email"}


def _canonical(source: str) -> str:
    """``auth.jwt() ->> 'email'`` as ``auth.jwt()->>email``."""
    return re.sub(r"\s*->>\s*'?(.*?)'?\s*$", r"->>\1", source.strip())


def _meant(recognized: Recognized, said: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The claim of each source that some condition asks: as it was said, or as it is guessed; and the guesses alone. Raises RuleError."""
    sources = sorted({each.source for each in recognized.known.values() if isinstance(each, Asked)})
    for source, claim in said.items():
        allow.owner().identity_claim(claim)  # refuses what cannot be the name of a claim
        if source not in sources:
            raise RuleError(f"no policy asks `{source}`", hint=did_you_mean(source, sources), key="claims")
    guesses = {source: guess for source in sources if source not in said and (guess := _guess(source))}
    return {**guesses, **said}, guesses


def _guess(source: str) -> str | None:
    """The claim that a source most likely stands for; None for a login's name and for functions of somebody's own."""
    base, arrow, key = source.partition("->>")
    if source in ("current_user", "session_user") or (base.endswith("()") and not (arrow and base == "auth.jwt()")):
        return _USUAL_FUNCTIONS.get(source)
    name = key if arrow else base.rpartition(".")[2]
    return _USUAL.get(name) or (name if name and "::" not in name else None)
