"""A line to a server, over TCP on loopback: it counts what passes, and takes as long as it is told to."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from operator import add, sub
from selectors import SelectSelector
from typing import NamedTuple, TypeVar

from psycopg.conninfo import conninfo_to_dict, make_conninfo

Result = TypeVar("Result")
Note = Callable[[bytes], None]

# Which of the server's messages end the answer to each of the client's. A session's first message has no kind; those that are not here,
# such as Flush and Terminate, are not answered. A copy, which the server asks for while it is on, is not told from a query.
READY = b"Z"
ENDS = {b"": READY, b"Q": READY, b"S": READY, b"P": b"1", b"B": b"2", b"C": b"3", b"D": b"Tn", b"E": b"CIs"}
ERROR = b"E"


class Counts(NamedTuple):
    """What has passed.

    A round trip is that the client waits: it sends something after it got the answer to what it had sent before. Their number is the length of
    the longest chain of messages, each of which was sent after the one before it had been answered. What is sent together, or one after the
    other without waiting, is one round trip, in however many pieces the answers come and however often the server is ready for a query.
    """

    round_trips: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*map(add, self, other))

    def minus(self, other: Counts) -> Counts:
        return Counts(*map(sub, self, other))


class Wire:
    """A line to a server: ``dsn`` leads over it. ``rtt`` may be changed while nothing is on its way.

    Half of ``rtt``, in seconds, passes in each direction, for everything that is on its way at once: it is distance, and no narrow line.

    Whether a client waits is told by the order of things. One that sends several messages one by one without waiting has to be counted on a line
    that is long beside its own work: on a short one the first may be answered before it sends the last.

    The line runs in a thread of this process, and cannot while a call keeps the interpreter to itself and waits, as psycopg's ``pgconn.exec_`` does.
    """

    def __init__(self, dsn: str, port: int, rtt: float) -> None:
        place = conninfo_to_dict(dsn)
        self.server = f"{place['host']}/.s.PGSQL.{place['port']}"
        # Over TCP a client would first ask for encryption, in a message of its own.
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        self.rtt = rtt
        self.sessions: list[Session] = []

    @property
    def counts(self) -> Counts:
        """Of all sessions so far. What a client has got is counted already."""
        return Counts(*map(sum, zip(*(each.counts for each in self.sessions), strict=True)))

    def counted(self, action: Callable[[], Result]) -> tuple[Counts, Result]:
        """What passes while it runs, and what comes out of it."""
        before = self.counts
        result = action()
        return self.counts.minus(before), result


@contextmanager
def wire(dsn: str, rtt: float = 0) -> Iterator[Wire]:
    """For the length of the block, a line to the server whose Unix socket the DSN names."""
    listener = socket.create_server(("127.0.0.1", 0))
    line, end = Wire(dsn, listener.getsockname()[1], rtt), asyncio.Event()
    with asyncio.Runner(loop_factory=_punctual) as runner, ThreadPoolExecutor(1, "wire") as thread:
        serving = thread.submit(runner.run, _serve(line, listener, end))
        try:
            yield line
        finally:
            runner.get_loop().call_soon_threadsafe(end.set)
            serving.result()


def _punctual() -> asyncio.AbstractEventLoop:
    """A loop that wakes when it should; with another selector it sleeps for whole milliseconds."""
    return asyncio.SelectorEventLoop(SelectSelector())


async def _serve(line: Wire, listener: socket.socket, end: asyncio.Event) -> None:
    sessions = []  # or else nothing would hold them

    def begin(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        sessions.append(asyncio.create_task(_connect(line, from_client, to_client)))

    server = await asyncio.start_server(begin, sock=listener)
    await end.wait()
    server.close()


async def _connect(line: Wire, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    session = Session()
    line.sessions.append(session)
    with closing(to_client):
        from_server, to_server = await asyncio.open_unix_connection(line.server)
        with closing(to_server):
            await asyncio.gather(
                _carry(line, from_client, to_server, enters=session.send),
                _carry(line, from_server, to_client, leaves=session.receive),
            )


def _pass(data: bytes) -> None:
    """Note nothing."""


async def _carry(
    line: Wire,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    enters: Note = _pass,
    leaves: Note = _pass,
) -> None:
    """One direction, until the end of what is to be read."""
    on_the_way: deque[bytes] = deque()

    def arrive() -> None:
        data = on_the_way.popleft()
        leaves(data)
        writer.write(data)

    with suppress(ConnectionError):
        while data := await reader.read(2**16):
            enters(data)
            on_the_way.append(data)
            asyncio.get_running_loop().call_later(line.rtt / 2, arrive)
    await asyncio.sleep(line.rtt / 2)
    writer.close()


class Session:
    """Counts what one connection sends and receives."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._sent, self._received = Messages(opening=True), Messages()
        # What is not answered yet: the end of its answer, and how many round trips there have been by then.
        self._unanswered: deque[tuple[bytes, int]] = deque()

    def send(self, data: bytes) -> None:
        kinds = self._sent.completed_by(data)
        for kind in kinds:
            if kind in ENDS:
                self._unanswered.append((ENDS[kind], self.counts.round_trips + 1))
        self.counts = self.counts.plus(Counts(messages_sent=len(kinds), bytes_sent=len(data)))

    def receive(self, data: bytes) -> None:
        kinds = self._received.completed_by(data)
        for kind in kinds:
            # After an error the server reads on from the next Sync, and answers nothing of what is before it.
            while kind in (ERROR, READY) and self._unanswered and self._unanswered[0][0] != READY:
                self._answered()
            if self._unanswered and kind in self._unanswered[0][0]:
                self._answered()
        self.counts = self.counts.plus(Counts(messages_received=len(kinds), bytes_received=len(data)))

    def _answered(self) -> None:
        _, round_trips = self._unanswered.popleft()
        self.counts = self.counts._replace(round_trips=round_trips)


class Messages:
    """Finds the messages in a stream of bytes."""

    def __init__(self, *, opening: bool = False) -> None:
        self._rest = bytearray()
        self._kind = 0 if opening else 1  # how many bytes before the length name the kind

    def completed_by(self, data: bytes) -> list[bytes]:
        """The kinds of the messages that end within the next bytes of the stream."""
        self._rest += data
        kinds = []
        while len(self._rest) >= self._kind + 4:
            end = self._kind + int.from_bytes(self._rest[self._kind : self._kind + 4], "big")
            if len(self._rest) < end:
                break
            kinds.append(bytes(self._rest[: self._kind]))
            del self._rest[:end]
            self._kind = 1
        return kinds
