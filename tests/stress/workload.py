"""What many users do in their transactions, and what goes wrong in them: written once, for threads and for tasks.

The play is a coroutine. Where threads wait for the server nothing in it is awaited, and ``in_thread`` runs it through in one go.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from itertools import islice
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from rlskit import Identity, RowDenied, TableRules, allow, as_nobody, as_user
from rlskit.errors import IdentityConflictError, TransactionInProgressError
from tests.support import Database, full

NAMES = (
    *("alice", "Alice", "alice ", "bob", "zoë", "日本", "💐", "two words", "NULL", "null"),
    *("o'brien", '"quoted"', "back\\slash", "{alice,bob}", "com,ma", "bra}{ce", "'; commit; --", "$1", "%s", "\\'"),
)

# Every other has an email, so that one that was left behind would be noticed.
PEOPLE = tuple(
    Identity(sub=f"{number}-{name}", username=name, claims={"email": f"{name}@example.com"} if number % 2 else {})
    for number, name in enumerate(NAMES)
)

Source = Callable[[], Awaitable[Any]]  # gives a pool, or an open connection

SEED, KEPT, UNDONE = "seed", "kept", "undone"  # what is to become of a row


# --- the stage -------------------------------------------------------------------------------------------------------

# Besides its owner each row says who wrote it, by the word of the worker that asked.
TABLES = (
    "create table todo (id serial primary key, writer text, worker int, fate text, touched text)",
    "create table page (id serial primary key, writer text, worker int, fate text, owners text[])",
)


def furnish(database: Database) -> None:
    """Two tables; everybody has one row of the first, and shares two of the second."""
    database.execute(*TABLES)
    database.apply(TableRules("todo", allow.owner()), TableRules("page", allow.owners_defined_in("owners")))
    with database.connect() as conn:
        for who, neighbour in zip(PEOPLE, (*PEOPLE[1:], PEOPLE[0]), strict=True):
            names = full(who), full(neighbour)
            conn.execute("insert into todo (writer, fate, owner) values (%s, %s, %s)", [names[0], SEED, names[0]])
            conn.execute("insert into page (writer, fate, owners) values (%s, %s, %s)", [names[0], SEED, list(names)])


def misplaced(database: Database) -> list[tuple[Any, ...]]:
    """What is stored under another's name than its writer's, was touched by another, or should have been rolled back."""
    return [
        *database.rows(
            "select * from todo where writer is distinct from owner or touched <> owner or fate not in (%s, %s)",
            [SEED, KEPT],
        ),
        *database.rows(
            "select * from page where fate not in (%s, %s) or fate = %s and array[writer] is distinct from owners",
            [SEED, KEPT, KEPT],
        ),
    ]


# --- threads and tasks -----------------------------------------------------------------------------------------------


def in_thread(play: Coroutine[Any, Any, None]) -> None:
    """Run it through here and now: nothing in it waits but in the driver."""
    with suppress(StopIteration):
        play.send(None)
        raise AssertionError("something was awaited in a thread")


async def settled(value: Any) -> Any:
    """What a method of psycopg returns, whether or not it has to be awaited."""
    return await value if isawaitable(value) else value


@dataclass(frozen=True)
class Striker:
    """What an administrator does to the application's backends at a bad moment."""

    admin: psycopg.Connection[Any]
    login: str

    def strike(self, function: str, chance: Random) -> bool:
        """Any of them, also the one of whoever calls."""
        found = self.admin.execute("select pid from pg_stat_activity where usename = %s order by pid", [self.login])
        pids = [pid for (pid,) in found]
        return bool(pids) and self.call(function, chance.choice(pids))

    def call(self, function: str, pid: int) -> bool:
        return self.admin.execute(f"select {function}(%s)", [pid]).fetchone() == (True,)  # type: ignore[arg-type]


# --- what is done in a transaction -----------------------------------------------------------------------------------


class Oops(Exception):
    """An error of the application."""


@dataclass(frozen=True)
class Plan:
    """One transaction, before it is performed."""

    who: Identity
    other: Identity
    acts: Sequence[str]
    ending: str
    afterwards: str
    disturbance: str
    chance: Random

    @property
    def fate(self) -> str:
        return ENDINGS[self.ending].fate


@dataclass(eq=False)
class Worker:
    """A thread or a task that performs plans, and what it has seen."""

    number: int
    waits: bool  # for itself: a task; a thread is kept waiting by the driver
    striker: Striker
    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, seen: object, wanted: object) -> None:
        """Written down and not raised: an error of the way out could take its place."""
        if seen != wanted:
            self.wrong.append(f"worker {self.number}: {what}: {seen!r} instead of {wanted!r}")

    @asynccontextmanager
    async def entered(self, block: Any) -> AsyncIterator[Any]:
        if self.waits:
            async with block as conn:
                yield conn
        else:
            with block as conn:
                yield conn

    async def ask(self, conn: Any, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        try:
            cursor = await settled(conn.execute(query, parameters or None))
            return await settled(cursor.fetchall()) if cursor.description else []
        except asyncio.CancelledError:
            self.events[MID_STATEMENT] += 1
            raise

    async def perform(self, source: Source, plan: Plan) -> None:
        """The plan; a task may be cancelled after so many turns of the loop, wherever it is by then, or be out of time."""
        if not self.waits:
            await self.undisturbed(source, plan)
        elif plan.disturbance == TIMED_OUT:
            with suppress(TimeoutError):
                async with asyncio.timeout(10 ** plan.chance.uniform(-4, -1)) as limit:
                    await self.undisturbed(source, plan)
            self.events[TIMED_OUT] += limit.expired()
        else:
            task = asyncio.create_task(self.undisturbed(source, plan))
            if plan.disturbance == CANCELLED:
                cancel_later(task, plan.chance.randrange(100))
            await asyncio.wait([task])
            self.events[CANCELLED] += task.cancelled()
            if not task.cancelled():
                task.result()

    async def undisturbed(self, source: Source, plan: Plan) -> None:
        """The plan, and a look at what is left of it to the next on the connection."""
        await self.as_somebody(source, plan)
        if plan.afterwards in UNSEEN:
            await self.unseeing(source, plan.afterwards)

    async def as_somebody(self, source: Source, plan: Plan) -> None:
        ending = ENDINGS[plan.ending]
        try:
            async with self.entered(as_user(await source(), plan.who)) as conn:
                turn = Turn(self, plan, conn)
                await turn.look()
                self.events[TRANSACTIONS] += 1
                if self.waits and plan.disturbance == INSIDE:
                    cancel_later(asyncio.current_task(), plan.chance.randrange(40))
                for name in plan.acts:
                    await ACTS[name].perform(turn)
                    self.events[name] += 1
                await turn.confirm()
                await ending.perform(turn)
        except ending.error:
            self.events[plan.ending] += 1
        except psycopg.Error as error:
            self.lost(error)
        else:
            self.expect(f"error of {plan.ending!r}", (), ending.error)
            self.events[plan.ending] += 1

    async def unseeing(self, source: Source, what: str) -> None:
        try:
            async with UNSEEN[what](self, await source()) as conn:
                await self.see_nothing(what, conn)
                self.events[what] += 1
        except psycopg.Error as error:
            self.lost(error)

    def lost(self, error: psycopg.Error) -> None:
        """A connection, a statement or a savepoint that came to nothing; any other error goes its way."""
        is_usual = isinstance(error, psycopg.OperationalError | psycopg.errors.InFailedSqlTransaction)
        is_told_twice = "received 2 results" in str(error)  # that the backend is gone: by it and by PgBouncer
        is_pool_short = isinstance(error, PoolTimeout)  # a connection is gone for good
        if is_pool_short or not (is_usual or is_told_twice):
            raise error
        self.events[LOST] += 1

    async def see_nothing(self, what: str, conn: Any) -> None:
        for query, wanted in NOTHING.items():
            self.expect(what, await self.ask(conn, query), wanted)

    def nobody(self, source: Any) -> AbstractAsyncContextManager[Any]:
        return self.entered(as_nobody(source))

    @asynccontextmanager
    async def unsaid(self, source: Any) -> AsyncIterator[Any]:
        """A transaction in which nobody said who asks."""
        is_connection = isinstance(source, psycopg.Connection | psycopg.AsyncConnection)
        async with self.entered(source.transaction() if is_connection else source.connection()) as lent:
            yield source if is_connection else lent


def cancel_later(task: asyncio.Task[Any] | None, turns: int) -> None:
    """After so many turns of the loop; one that is done by then is not touched."""
    if turns:
        asyncio.get_running_loop().call_soon(cancel_later, task, turns - 1)
    elif task:
        task.cancel()


WHO = "select rlskit.identity(), rlskit.claim('email')"
NOTHING: Mapping[str, list[Any]] = {WHO: [(None, None)], "select * from todo": [], "select * from page": []}
UNSEEN = {"nobody": Worker.nobody, "no identity": Worker.unsaid}


@dataclass(frozen=True)
class Turn:
    """Somebody's transaction at work."""

    worker: Worker
    plan: Plan
    conn: Any

    async def ask(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        return await self.worker.ask(self.conn, query, *parameters)

    def expect(self, what: str, seen: object, wanted: object) -> None:
        self.worker.expect(f"{what} of {full(self.plan.who)!r}", seen, wanted)

    async def confirm(self) -> None:
        """Who asks is who he is."""
        who = self.plan.who
        self.expect("identity", await self.ask(WHO), [(full(who), who.claims.get("email"))])

    async def look(self) -> None:
        """He sees everything of his own that is sure to be there, and nothing of anybody else."""
        await self.confirm()
        mine = full(self.plan.who)
        todos = await self.ask("select owner, writer, fate from todo")
        self.expect("rows", [row for row in todos if row[:2] != (mine, mine)], [])
        self.expect("rows", [fate for *_, fate in todos].count(SEED), 1)
        pages = await self.ask("select owners, fate from page")
        self.expect("pages", [owners for owners, _ in pages if mine not in owners], [])
        self.expect("pages", [fate for _, fate in pages].count(SEED), 2)

    async def insert(self, table: str, fate: str) -> None:
        await self.ask(
            f"insert into {table} (writer, worker, fate) values (%s, %s, %s)",
            *(full(self.plan.who), self.worker.number, fate),
        )

    async def fail_inside(self, fail: Callable[[Turn], Awaitable[None]], error: type[Exception]) -> None:
        """A savepoint is undone, and the block goes on."""
        with pytest.raises(error):
            async with self.worker.entered(as_user(self.conn, self.plan.who)):
                await self.insert("todo", UNDONE)
                await fail(self)
        await self.confirm()  # psycopg is silent where ROLLBACK TO has failed


# Each touches what this worker has written, whoever he was at the time, so that only row security keeps the users apart; and no worker waits for another.


async def insert(turn: Turn) -> None:
    await turn.insert("todo", turn.plan.fate)


async def insert_page(turn: Turn) -> None:
    await turn.insert("page", turn.plan.fate)


async def update(turn: Turn) -> None:
    mine = full(turn.plan.who)
    query = "update todo set touched = %s where worker = %s returning owner"
    turn.expect("updated", {*await turn.ask(query, mine, turn.worker.number)} - {(mine,)}, set())


async def delete(turn: Turn) -> None:
    mine = full(turn.plan.who)
    for table in ("todo", "page"):
        query = f"delete from {table} where worker = %s returning writer"
        turn.expect("deleted", {*await turn.ask(query, turn.worker.number)} - {(mine,)}, set())


async def look_again(turn: Turn) -> None:
    await turn.look()


async def savepoint(turn: Turn) -> None:
    async with turn.worker.entered(as_user(turn.conn, turn.plan.who)):
        await turn.insert("todo", turn.plan.fate)
        await turn.look()


async def undone_savepoint(turn: Turn) -> None:
    await turn.fail_inside(raise_oops, Oops)


async def failed_savepoint(turn: Turn) -> None:
    await turn.fail_inside(divide_by_zero, psycopg.errors.DivisionByZero)


async def drivers_savepoint(turn: Turn) -> None:
    async with turn.worker.entered(turn.conn.transaction(force_rollback=True)):
        await turn.insert("page", UNDONE)
    await turn.confirm()  # as above


async def another_identity(turn: Turn) -> None:
    for block in (as_user(turn.conn, turn.plan.other), as_nobody(turn.conn)):
        with pytest.raises(IdentityConflictError):
            async with turn.worker.entered(block):
                pass
    await turn.confirm()


async def refused_end(turn: Turn) -> None:
    for end in (turn.conn.commit, turn.conn.rollback):
        with pytest.raises(TransactionInProgressError):
            await settled(end())
    await turn.confirm()


async def strike(turn: Turn) -> None:
    """Somebody's backend is gone, perhaps one's own."""
    turn.worker.events[ENDED] += turn.worker.striker.strike("pg_terminate_backend", turn.plan.chance)


async def interrupt(turn: Turn) -> None:
    """Somebody's statement is cancelled, perhaps his BEGIN, his COMMIT or what the pool sends between two users."""
    turn.worker.events[INTERRUPTED] += turn.worker.striker.strike("pg_cancel_backend", turn.plan.chance)


# --- how a transaction ends ------------------------------------------------------------------------------------------


async def keep(turn: Turn) -> None:
    pass


async def raise_oops(turn: Turn) -> None:
    raise Oops


async def divide_by_zero(turn: Turn) -> None:
    await turn.ask("select 1 / 0")


async def write_for_another(turn: Turn) -> None:
    await turn.ask(
        "insert into todo (owner, writer, worker, fate) values (%s, %s, %s, %s)",
        *(full(turn.plan.other), full(turn.plan.who), turn.worker.number, UNDONE),
    )


async def call_commit(turn: Turn) -> None:
    await settled(turn.conn.commit())


async def call_rollback(turn: Turn) -> None:
    await settled(turn.conn.rollback())


async def commit(turn: Turn) -> None:
    await end_by_statement(turn, "commit")


async def roll_back(turn: Turn) -> None:
    await end_by_statement(turn, "rollback")


async def end_by_statement(turn: Turn, statement: str) -> None:
    """What comes after it sees nothing; and the transaction that psycopg may have begun for it is over, too."""
    await turn.ask(statement)
    await turn.worker.see_nothing(f"after {statement}", turn.conn)
    await turn.ask("rollback")


async def cut(turn: Turn) -> None:
    """By the client; the end of the block tells."""
    turn.worker.events[turn.plan.ending] += 1
    turn.conn.pgconn.finish()


async def lose_backend(turn: Turn) -> None:
    """For sure, and in the middle."""
    await insert(turn)
    ((pid,),) = await turn.ask("select pg_backend_pid()")
    turn.worker.striker.call("pg_terminate_backend", pid)
    turn.worker.events[turn.plan.ending] += 1
    while True:
        await turn.ask("select 1")


# --- plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    perform: Callable[[Turn], Awaitable[None]]
    weight: int


@dataclass(frozen=True)
class Ending:
    perform: Callable[[Turn], Awaitable[None]]
    weight: int
    fate: str = UNDONE
    error: type[Exception] | tuple[()] = ()


ACTS = {
    "insert": Act(insert, 12),
    "insert of a page": Act(insert_page, 8),
    "update": Act(update, 8),
    "delete": Act(delete, 6),
    "second look": Act(look_again, 4),
    "savepoint": Act(savepoint, 4),
    "savepoint undone": Act(undone_savepoint, 4),
    "savepoint failed": Act(failed_savepoint, 4),
    "savepoint of the driver": Act(drivers_savepoint, 4),
    "another identity refused": Act(another_identity, 4),
    "end refused": Act(refused_end, 4),
    "strike": Act(strike, 2),
    "interruption": Act(interrupt, 2),
}

ENDINGS = {
    "committed": Ending(keep, 24, KEPT),
    "error of the application": Ending(raise_oops, 4, error=Oops),
    "error of the database": Ending(divide_by_zero, 4, error=psycopg.errors.DivisionByZero),
    "denied insert": Ending(write_for_another, 4, error=RowDenied),
    "commit() inside": Ending(call_commit, 2, error=TransactionInProgressError),
    "rollback() inside": Ending(call_rollback, 2, error=TransactionInProgressError),
    "COMMIT inside": Ending(commit, 2, KEPT, error=TransactionInProgressError),
    "ROLLBACK inside": Ending(roll_back, 2, error=TransactionInProgressError),
    "connection cut": Ending(cut, 2),
    "backend lost": Ending(lose_backend, 2),
}

TRANSACTIONS, LOST = "transactions", "connection lost"
ENDED, INTERRUPTED = "backend ended", "statement interrupted"
CANCELLED, INSIDE, TIMED_OUT = "task cancelled", "cancelled inside", "task timed out"
MID_STATEMENT = "cancelled in a statement"

AFTERWARDS = {"the next": 6, "nobody": 1, "no identity": 2}
DISTURBANCES = {"none": 8, CANCELLED: 1, INSIDE: 2, TIMED_OUT: 1}

OF_THREADS = {*ACTS, *ENDINGS, *UNSEEN, TRANSACTIONS, LOST, ENDED, INTERRUPTED}
OF_TASKS = {*OF_THREADS, CANCELLED, TIMED_OUT, MID_STATEMENT}


def plans(number: int, times: int) -> list[Plan]:
    """So many, the same for the same number. Each kind of event has its share of them, in random order."""
    chance = Random(number)
    sizes = [each % 4 for each in range(times)]
    acts = iter(dealt(chance, {name: act.weight for name, act in ACTS.items()}, sum(sizes)))
    endings = dealt(chance, {name: ending.weight for name, ending in ENDINGS.items()}, times)
    afterwards = dealt(chance, AFTERWARDS, times)
    disturbances = dealt(chance, DISTURBANCES, times)
    return [
        Plan(*chance.sample(PEOPLE, 2), [*islice(acts, size)], *each, Random(chance.getrandbits(64)))
        for size, *each in zip(sizes, endings, afterwards, disturbances, strict=True)
    ]


def dealt(chance: Random, weights: Mapping[str, int], times: int) -> list[str]:
    cards = [name for name, weight in weights.items() for _ in range(weight)]
    deck = [cards[each % len(cards)] for each in range(times)]
    chance.shuffle(deck)
    return deck
