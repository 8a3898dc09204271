"""What a test expects of the database: that it refuses, or that there is nothing to be seen. And people to ask as."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, overload

import psycopg

from rlskit.denials import ColumnDenied, Counted, Denial, Fetchable, RowDenied, TableDenied, denial, expect_row
from rlskit.errors import NotVisible
from rlskit.identity import Identity
from rlskit.words import counted

Kind: TypeAlias = Literal["row", "column", "table"]

_KINDS: dict[type[Denial], Kind] = {RowDenied: "row", ColumnDenied: "column", TableDenied: "table"}
_RAISES_NOTHING = "an update or delete that reaches no row raises nothing: for that there is not_visible()"


def person(name: str, /, **claims: str) -> Identity:
    """Somebody to ask as, the same every time: ``person("alice", email="alice@example.com")`` has the sub ``alice-sub``.

    Raises InvalidIdentityError for what can be nobody's name.
    """
    return Identity(sub=f"{name}-sub", username=name, claims=claims)


# --- refused ---------------------------------------------------------------------------------------------------------


class Transactional(Protocol):
    """What has savepoints for ``with``: psycopg's connection."""

    def transaction(self) -> AbstractContextManager[Any]:
        """A savepoint."""


class Nestable(Protocol):
    """The same in SQLAlchemy: a session, a connection."""

    def begin_nested(self) -> AbstractContextManager[Any]:
        """A savepoint."""


class AsyncTransactional(Protocol):
    """What has savepoints for ``async with``."""

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint."""


class AsyncNestable(Protocol):
    """The same in SQLAlchemy."""

    def begin_nested(self) -> AbstractAsyncContextManager[Any]:
        """A savepoint."""


class ExpectedDenial:
    """What is expected to be refused; afterwards ``denial`` is what was. For ``with``, also around what is awaited."""

    def __init__(self, match: str | None, kind: Kind | None, table: str | None, columns: frozenset[str] | None) -> None:
        self._match, self._kind, self._table, self._columns = match, kind, table, columns
        self._denial: Denial | None = None

    @property
    def denial(self) -> Denial:
        """What the database refused: RowDenied, ColumnDenied or TableDenied. Raises AssertionError before that."""
        assert self._denial is not None, "nothing was refused yet"
        return self._denial

    def __enter__(self) -> ExpectedDenial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        __tracebackhide__ = True
        if error is None:
            raise AssertionError(f"expected: {self}\ncame:     nothing was refused\n{_RAISES_NOTHING}")
        if _is_the_tests_own(error):
            return False
        found = denial(error)
        wrong = [] if found is None else self._differences(found)
        if found is not None and not wrong:
            self._denial = found
            return True
        if came := _of_database(error):
            raise AssertionError("\n".join([f"expected: {self}", f"came:     {came}", *wrong])) from error
        return False

    def _differences(self, found: Denial) -> list[str]:
        wrong = []
        if self._kind not in (None, _KINDS[type(found)]):
            wrong.append(f"it was the {_KINDS[type(found)]} that was refused, not the {self._kind}")
        if self._table not in (None, found.table):
            wrong.append(f"the table is {_named(found.table)}, not `{self._table}`")
        if self._columns is not None:
            missing, extra = self._columns - {*found.columns}, {*found.columns} - self._columns
            wrong += [f"missing columns: {_listed(missing)}"] if missing else []
            wrong += [f"extra columns: {_listed(extra)}"] if extra else []
        if self._match is not None and not re.search(self._match, found.message):
            wrong.append("the message does not match")
        return wrong

    def __str__(self) -> str:
        parts = [f"{self._kind or 'a row, a column or a table'} refused"]
        parts += [f"table `{self._table}`"] if self._table is not None else []
        parts += [f"columns {_listed(self._columns)}"] if self._columns else []
        parts += [f"a message that matches `{self._match}`"] if self._match is not None else []
        return ", ".join(parts)


class _Undone:
    """A refusal in a savepoint of its own, for ``with`` or ``async with``."""

    def __init__(self, refusal: ExpectedDenial, savepoint: Any) -> None:
        self._refusal, self._savepoint = refusal, savepoint

    def __enter__(self) -> ExpectedDenial:
        if not hasattr(self._savepoint, "__enter__"):
            raise TypeError("`inside` is asynchronous: `async with denied(…)`")
        self._savepoint.__enter__()
        return self._refusal

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        __tracebackhide__ = True
        self._savepoint.__exit__(*_thrown(error))
        return self._refusal.__exit__(kind, error, traceback)

    async def __aenter__(self) -> ExpectedDenial:
        if not hasattr(self._savepoint, "__aenter__"):
            raise TypeError("`inside` is not asynchronous: `with denied(…)`, without `async`")
        await self._savepoint.__aenter__()
        return self._refusal

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        __tracebackhide__ = True
        await self._savepoint.__aexit__(*_thrown(error))
        return self._refusal.__exit__(kind, error, traceback)


def _thrown(error: BaseException | None) -> tuple[Any, Any, Any]:
    """What a savepoint is left with: what was not refused does not stay either."""
    error = error or AssertionError(_RAISES_NOTHING)
    return type(error), error, error.__traceback__


@overload
def denied(
    match: str | None = None,
    *,
    kind: Kind | None = None,
    table: str | None = None,
    columns: Iterable[str] | None = None,
) -> ExpectedDenial: ...
@overload
def denied(
    match: str | None = None,
    *,
    kind: Kind | None = None,
    table: str | None = None,
    columns: Iterable[str] | None = None,
    inside: Transactional | Nestable,
) -> AbstractContextManager[ExpectedDenial]: ...
@overload
def denied(
    match: str | None = None,
    *,
    kind: Kind | None = None,
    table: str | None = None,
    columns: Iterable[str] | None = None,
    inside: AsyncTransactional | AsyncNestable,
) -> AbstractAsyncContextManager[ExpectedDenial]: ...
def denied(
    match: str | None = None,
    *,
    kind: Kind | None = None,
    table: str | None = None,
    columns: Iterable[str] | None = None,
    inside: Any = None,
) -> Any:
    """Expect the database to refuse what happens in the block; ``.denial`` is then what it refused.

    ``with denied(kind="row", table="todo"): …`` It counts whether psycopg raises it, rlskit at the end of ``as_user``, or SQLAlchemy. ``match`` is a regular expression for PostgreSQL's message, ``kind`` what was
    refused ("table" is also a privilege on something else that the statement uses: name the table), ``table`` its bare name, ``columns`` all the columns. ``inside`` is the connection or session whose transaction is to go on:
    the block has a savepoint of its own then, which is rolled back; of an asynchronous one for ``async with``.

    Raises AssertionError where nothing was refused, or something else. What is not the database's goes its way.
    """
    refusal = ExpectedDenial(match, kind, table, None if columns is None else frozenset(columns))
    if inside is None:
        return refusal
    return _Undone(refusal, (inside.begin_nested if hasattr(inside, "begin_nested") else inside.transaction)())


# --- not there -------------------------------------------------------------------------------------------------------


class Invisibility:
    """A block in which ``expect_row`` is to raise NotVisible."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        __tracebackhide__ = True
        if isinstance(error, NotVisible):
            return True
        if error is None:
            raise AssertionError(
                "expected: no row to be visible\ncame:     nothing was raised\n"
                "only expect_row(…) raises NotVisible; of a result say not_visible(result)"
            )
        if not _is_the_tests_own(error) and (came := _of_database(error)):
            raise AssertionError(f"expected: no row to be visible\ncame:     {came}") from error
        return False


_BLOCK: Any = object()


@overload
def not_visible() -> Invisibility: ...
@overload
def not_visible(result: Counted | Fetchable) -> None: ...
def not_visible(result: Any = _BLOCK) -> Invisibility | None:
    """Expect that no row is reached, which the database does not call an error.

    Of a result, that it touched or found none: ``not_visible(conn.execute("update …"))``; of several statements at once each. Of a block, that ``expect_row`` in it raises NotVisible:
    ``with not_visible(): …``. Raises AssertionError where a row was reached, or
    where the block was refused; TypeError for a result that does not know how many rows there are.
    """
    __tracebackhide__ = True
    if result is _BLOCK:
        return Invisibility()
    while True:
        try:
            expect_row(result)
        except NotVisible:
            if not getattr(result, "nextset", bool)():  # of several statements at once psycopg shows the first
                return None
        else:
            raise AssertionError(
                f"expected: no row to be visible\ncame:     {counted(result.rowcount, 'row')} that the statement reached"
            )


# --- in words --------------------------------------------------------------------------------------------------------


def _is_the_tests_own(error: BaseException) -> bool:
    """A failure of the test, or its end: never what the database did, whatever it was raised from."""
    return isinstance(error, AssertionError) or not isinstance(error, Exception)


def _of_database(error: BaseException) -> str | None:
    """What the database says, or does not show; None for an error that is not its own. Without values of rows."""
    found = denial(error)
    if found is not None:
        return _described(found)
    if isinstance(error, NotVisible):
        return f"no row was reached, and nothing refused\n{_RAISES_NOTHING}"
    driver = getattr(error, "orig", error)
    if not isinstance(driver, psycopg.Error):
        return None
    said = driver.diag.message_primary
    return f"{type(driver).__name__}: {said}" if said else type(driver).__name__


def _described(found: Denial) -> str:
    parts = [f"{_KINDS[type(found)]} refused"]
    parts += [f"table `{found.table}`"] if found.table is not None else []
    parts += [f"columns {_listed(found.columns)}"] if found.columns else []
    return f"{', '.join(parts)}: {found.message}"


def _named(name: str | None) -> str:
    return "not told" if name is None else f"`{name}`"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
