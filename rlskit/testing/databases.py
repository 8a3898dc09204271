"""The database of one test: rows stored past the rules, and people who ask as an ordinary login."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args, overload

from psycopg import Connection
from psycopg.rows import dict_row

from rlskit import Identity
from rlskit.attempts import Attempt
from rlskit.errors import KitError
from rlskit.filler.inserter import Filler
from rlskit.gatekeeper import Terms
from rlskit.names import QualifiedName
from rlskit.prelude import Asker
from rlskit.rules import Rule, checked_table
from rlskit.testing import access, proving
from rlskit.testing.access import Asked
from rlskit.testing.cases import MatrixCell
from rlskit.testing.held import Held
from rlskit.testing.keeper import TestServer
from rlskit.testing.places import Asking, AsyncConn, Conn, OwnConnections, Place, Who, identity_of
from rlskit.testing.rows import Row
from rlskit.testing.templates import Template

Isolation: TypeAlias = Literal["database", "transaction"]
ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)

_APART = 'say isolation="database" for this test: @pytest.mark.rlskit(isolation="database")'


class TestDatabase:
    """What the fixture ``rlskit_db`` gives. ``isolation`` is "database", a copy for this test alone, or "transaction", one that is rolled back.

    ``rules`` are the rules in force, ``login`` is the ordinary login that asks, ``name`` the database's, ``version`` the server's as in "18.6", ``key``
    what signs identities, where the rules want them signed.
    """

    __test__ = False  # nothing for pytest to collect

    def __init__(self, server: TestServer, template: Template, name: str, isolation: Isolation) -> None:
        self.name, self.isolation, self.version = name, isolation, server.version
        self.rules, self.login, self.key = template.rules, template.login.name, template.key
        self._server, self._template = server, template
        self._terms = Terms(key=template.key, rules=template.rules)
        self._dsn = server.url(name, template.login)
        self._place: Place = (
            OwnConnections(self._dsn, self._terms) if isolation == "database" else Held(self._dsn, self._terms)
        )
        self._privileged: Connection[Any] | None = None

    # --- where it is ---

    @property
    def dsn(self) -> str:
        """The ordinary login's, as a URI for libpq: for the application's pool. It holds the password."""
        self._require_own("its DSN")
        return self._dsn

    @property
    def url(self) -> str:
        """The same for SQLAlchemy, ``postgresql+psycopg://…``."""
        self._require_own("its URL")
        return self._dsn.replace("postgresql://", "postgresql+psycopg://", 1)

    def connect(self) -> Conn:
        """A further connection of the ordinary login, guarded; the caller closes it. Raises BypassingRoleError as ``guard`` does."""
        return self._require_own("a connection of its own").connect()

    async def connect_async(self) -> AsyncConn:
        """The same as an AsyncConnection."""
        return await self._require_own("a connection of its own").connect_async()

    # --- who asks ---

    def as_user(self, who: Who, *, role: str | None = None) -> Asking:
        """A block in which ``who`` asks, an Identity or the name of a person: ``with db.as_user("alice") as conn``; or a session: ``.session()``."""
        return Asking(self._place, Asker(identity_of(who), role=role))

    def as_nobody(self, *, role: str | None = None) -> Asking:
        """The same for a guest."""
        return Asking(self._place, Asker(None, role=role))

    def as_role(self, role: str, who: Who | None = None) -> Asking:
        """The same on a login that is made for ``role`` and has it alone: what reporting sees, and what somebody sees there.

        Raises BypassingRoleError, with the reason, for a role that no rule binds, when the block begins; KitError for one that is missing.
        """
        self._require_own("a connection of another login")
        account = self._server.account(f"of_{role}", member_of=role)
        place = OwnConnections(self._server.url(self.name, account), self._terms)
        return Asking(place, Asker(None if who is None else identity_of(who)))

    # --- what is stored ---

    def insert(self, table: str, **values: Any) -> Row:
        """Store a row past the rules, with what else it needs filled in, and the rows that it refers to. An Identity stands for its name in that column."""
        name = self._named(table)
        conn = self._past_the_rules("stores rows past the rules")
        owners = self._owners(name)
        given = {column: _spelled(value, owners.get(column)) for column, value in values.items()}
        with conn.transaction():
            filler = Filler(conn)  # a new one each time: the rows that the last one made may be gone
            stored = filler.insert(name, given)
            found = {column: stored[column] for column in filler.shape(name).key} or stored
        (read,) = self._read(name, found)
        return Row(table, read, {column: read[column] for column in found}, is_stored=True)

    @overload
    def stored(self, what: Row) -> dict[str, Any] | None: ...
    @overload
    def stored(self, what: str) -> list[dict[str, Any]]: ...
    def stored(self, what: Row | str) -> dict[str, Any] | list[dict[str, Any]] | None:
        """What is really there, past the rules: a row with all its columns, None where it is gone; or every row of a table."""
        if isinstance(what, str):
            return self._read(self._named(what), {})
        return next(iter(self._read(self._named(what.table), what.key)), None)

    def _read(self, table: QualifiedName, key: Mapping[str, Any]) -> list[dict[str, Any]]:
        conn = self._past_the_rules("looks past the rules")
        with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
            columns = tuple(each.name for each in Filler(conn).shape(table).columns)
            return cursor.execute(Attempt("read", table, key, columns=columns).statement).fetchall()

    # --- what they can ---

    def can(self, who: Who | None, operation: Asked, *rows: Row, **values: Any) -> bool:
        """Whether ``who`` (None: nobody) can do all of it: tried, and undone. Arguments and errors are those of ``assert_can``."""
        asked = access.questions(operation, rows, values, self._named)
        given = access.answers(self._place, who, asked)
        self._require_there([each for each, answer in zip(asked, given, strict=True) if answer.outcome != "allowed"])
        return all(each.outcome == "allowed" for each in given)

    def assert_can(self, who: Who | None, operation: Asked, *rows: Row, **values: Any) -> None:
        """Fail unless ``who`` (None: nobody) can do it to every row: ``assert_can("alice", ["read", "update"], row, content="beer")``.

        ``operation`` is create, read, update or delete, or a list of them; ``values`` are what an update sets, and what a create names besides. Each is
        tried as the ordinary login, and undone. Raises AssertionError with what is missing; KitError for a row that is not there, which would
        prove nothing.
        """
        self._assert(who, operation, rows, values, expected=True)

    def assert_cannot(self, who: Who | None, operation: Asked, *rows: Row, **values: Any) -> None:
        """Fail unless every one of these is refused, or reaches no row. Raises AssertionError with what is extra, and what ``assert_can`` does."""
        self._assert(who, operation, rows, values, expected=False)

    def _assert(
        self, who: Who | None, operation: Asked, rows: tuple[Row, ...], values: Mapping[str, Any], *, expected: bool
    ) -> None:
        __tracebackhide__ = True
        asked = access.questions(operation, rows, values, self._named)
        given = access.answers(self._place, who, asked)
        if not (expected and self.isolation == "transaction"):
            # What is allowed has found its row; of everything else it has to be known that there is one.
            self._require_there(
                [each for each, answer in zip(asked, given, strict=True) if answer.outcome != "allowed"]
            )
        if said := access.verdict(who, asked, given, expected=expected):
            raise AssertionError(said)

    def _require_there(self, asked: list[access.Question]) -> None:
        __tracebackhide__ = True
        for each in asked:
            if each.attempt.operation == "create":
                continue
            if not self._read(each.attempt.table, each.attempt.key):
                raise KitError(
                    f"there is no row {each.row}, so it proves nothing that nobody reaches it",
                    hint="store it first, with rlskit_db.insert, or look at what deleted it",
                )

    def prove(self, cell: MatrixCell) -> None:
        """Fail unless the database does all that the rules say about one cell of ``rls_matrix``.

        Its rows are in a copy that the run has for that, so nothing of this test's is seen, and nothing is left in it. Raises AssertionError with what
        `rlskit test` tells; KitError for a matrix of other rules.
        """
        __tracebackhide__ = True
        if cell.rules != self.rules:
            raise KitError(
                "the matrix is of other rules than the database",
                hint="give rls_matrix the rules that the fixture has: what rlskit_rules names, or its `rules`",
            )
        if said := proving.verdict(self._server, self._template, cell):
            raise AssertionError(said)

    # --- inside ---

    @property
    def is_spoiled(self) -> bool:
        """Whether something of a rolled-back test may have stayed in the database."""
        return self._place.is_spoiled

    def end(self) -> None:
        """The test is over. Raises KitError where a rolled-back transaction was ended inside."""
        if self._privileged is not None:
            self._privileged.close()
        self._place.end()

    def _require_own(self, what: str) -> OwnConnections:
        __tracebackhide__ = True
        if not isinstance(self._place, OwnConnections):
            raise KitError(
                f"{what} would stand outside of the test's one transaction, and see nothing of it", hint=_APART
            )
        return self._place

    def _past_the_rules(self, does: str) -> Connection[Any]:
        __tracebackhide__ = True
        if not isinstance(self._place, OwnConnections):
            raise KitError(
                f"what {does} is another connection, which sees nothing of the test's one transaction",
                hint=f"store as somebody, with as_user, or {_APART}",
            )
        if self._privileged is None:
            self._privileged = self._server.connect(self.name)
        return self._privileged

    def _named(self, table: str) -> QualifiedName:
        named = checked_table(table, None)
        return named if isinstance(named, QualifiedName) else QualifiedName(self.rules.schema, named)

    def _owners(self, table: QualifiedName) -> dict[str, Rule]:
        """The rule by which each owner column of the table names people."""
        found: dict[str, Rule] = {}
        for each in self.rules.tables:
            if each.name == table:
                given = [each.allow if isinstance(each.allow, tuple) else (), *dict(each.columns).values()]
                for rule in (rule for rules in given for rule in rules if rule.column is not None):
                    found.setdefault(str(rule.column), rule)
        return found


def _spelled(value: Any, rule: Rule | None) -> Any:
    """A person as the column spells him: by the rule's claim, or its first spelling."""
    if isinstance(value, Identity):
        return _name(value, rule)
    if isinstance(value, list | tuple):
        return [_name(each, rule) if isinstance(each, Identity) else each for each in value]
    return value


def _name(who: Identity, rule: Rule | None) -> str:
    known = {**who.claims, "sub": who.sub, "username": who.username or ""}
    if rule is not None and rule.claim is not None:
        if not known.get(rule.claim):
            raise KitError(
                f"the column holds the claim `{rule.claim}`, and this identity has none",
                hint=f'person("alice", {rule.claim}="…")',
            )
        return known[rule.claim]
    spelled = dict(zip(("full", "sub", "username"), who.spellings, strict=False))
    return next(spelled[each] for each in (rule and rule.spellings) or ("full",))
