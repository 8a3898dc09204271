"""A throwaway PostgreSQL in a container: a provider for `rlskit.server.start`, and the door to testcontainers.

::

    with server.start(Container()) as running:
        psycopg.connect(running.dsn)

What testcontainers and Docker read of the environment counts here too: DOCKER_HOST, TESTCONTAINERS_*, TC_*, Docker's own configuration.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import psycopg
from psycopg.conninfo import make_conninfo

from rlskit.errors import ServerError
from rlskit.server import Progress, Running, Source

if TYPE_CHECKING:
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.docker_client import DockerClient

# The major version decides what PostgreSQL does, and such a tag gets its fixes; Alpine's image is the smallest of the official ones.
DEFAULT_IMAGE = "postgres:18-alpine"

_log = logging.getLogger("rlskit")

_PATIENCE = 5  # seconds for an engine to answer
_PORT = 5432
_DATA = "/pgdata"  # the image's own place differs between versions, and is a volume on disk
_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_LOGIN = re.compile("(?<=//)[^/@ ]*@")  # in a URL
_LOOPBACK = "127.0.0.1"
_HINT = "RLSKIT_TEST_IMAGE names another image; RLSKIT_TEST_DSN is the DSN of a server for tests, without a container"


@dataclass(frozen=True, slots=True)
class Container:
    """A container of an image that behaves as the official `postgres` does, with its data in memory.

    `image` is its name and tag; None stands for the value of RLSKIT_TEST_IMAGE, else for `DEFAULT_IMAGE`. The superuser has a random password,
    and the port is published on loopback, where tests reach an engine there. The container is removed after the block, also after an exception;
    when this process is killed, by testcontainers' Ryuk, unless that is disabled. It cannot be kept.
    """

    name: ClassVar[str] = "container"
    image: str | None = None

    def find(self) -> Source | str:
        """A container that can be started, its image pulled where it is not there yet, or in words why there is none.

        Raises `ServerError` when testcontainers cannot read what the environment tells it.
        """
        try:
            from testcontainers.community.postgres import PostgresContainer  # noqa: F401, PLC0415 - optional, and slow
            from testcontainers.core.config import testcontainers_config as config  # noqa: PLC0415
        except ImportError:
            return "testcontainers 4.15 or later is not installed: pip install 'rlskit[test]'"
        except ValueError as error:
            raise ServerError(
                f"testcontainers cannot read its environment: {error}", hint="correct TESTCONTAINERS_* and TC_*"
            ) from None
        image = self.image or os.environ.get("RLSKIT_TEST_IMAGE") or DEFAULT_IMAGE
        if reason := _why_no_engine() or _why_no_image(config.hub_image_name_prefix + image):
            return reason
        if not config.ryuk_disabled and (reason := _why_no_image(config.hub_image_name_prefix + config.ryuk_image)):
            return f"{reason} (TESTCONTAINERS_RYUK_DISABLED=true does without it)"
        return _Image(image)


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that is there."""

    name: str

    @contextmanager
    def run(self, provider: str, keep: bool, say: Progress) -> Iterator[Running]:
        if keep:
            raise ServerError(
                "a container is not kept after its block", hint="start one with `docker run`, and use its DSN"
            )
        began = time.monotonic()
        say(f"starting a container of {self.name}")
        password = secrets.token_urlsafe(24)
        with ExitStack() as stack:
            with _in_words(password):
                server = _Server.configured(self.name, password)
                stack.callback(server.remove)
                server.container.start()
                version = server.ask_version()
            stack.callback(server.check)
            say(f"ready in {time.monotonic() - began:.1f} s")
            yield Running(server.dsn(), version, provider)


@dataclass(frozen=True, slots=True)
class _Server:
    """One container and the server in it; to testcontainers, how to wait for it."""

    container: PostgresContainer
    password: str = field(repr=False)
    host: str | None  # None: as testcontainers finds it

    @classmethod
    def configured(cls, image: str, password: str) -> _Server:
        """Not started yet."""
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - optional, and slow

        container = PostgresContainer(
            image, _PORT, username="postgres", password=password, dbname="postgres", driver="psycopg"
        )
        container.with_command(["postgres", *(part for each in _SETTINGS for part in ("-c", each))])
        container.with_env("PGDATA", _DATA).with_tmpfs_mount(_DATA)
        loopback = _is_local(container.get_docker_client())
        if loopback:
            cast(dict[str, Any], container.ports)[str(_PORT)] = (_LOOPBACK, None)
        server = cls(container, password, _LOOPBACK if loopback else None)
        container.waiting_for(cast(Any, server))
        return server

    def wait_until_ready(self, container: PostgresContainer) -> None:
        """Until the server takes connections; testcontainers' own way waits two minutes for a container that has ended."""
        from testcontainers.core.config import testcontainers_config as config  # noqa: PLC0415 - optional, and slow

        deadline = time.monotonic() + config.timeout
        while True:
            self.check()
            try:
                self.ask_version()
                return
            except (psycopg.OperationalError, OSError) as error:  # OSError: not published yet, or no more
                if time.monotonic() > deadline:
                    reason = _redacted(" ".join(str(error).split()), self.password)
                    raise ServerError(
                        f"the server in the container took no connection within {config.timeout:.0f} s: {reason}",
                        hint=_HINT,
                    ) from None
            time.sleep(0.1)

    def dsn(self) -> str:
        """The superuser's, as libpq reads it."""
        host = self.host or self.container.get_container_host_ip()
        port = self.container.get_exposed_port(_PORT)
        return make_conninfo(host=host, port=port, user="postgres", password=self.password, dbname="postgres")

    def ask_version(self) -> str:
        with psycopg.connect(self.dsn(), connect_timeout=2) as connection:
            return (connection.info.parameter_status("server_version") or "unknown").split()[0]

    def check(self) -> None:
        """Raise `ServerError` with the end of the log when the container has ended by itself."""
        with _in_words(self.password):
            wrapped = self.container.get_wrapped_container()
            wrapped.reload()
            if wrapped.status not in ("exited", "dead"):
                return
            code, log = wrapped.attrs["State"]["ExitCode"], wrapped.logs(tail=20).decode(errors="replace").strip()
        raise ServerError(
            f"the container ended by itself with code {code}; the end of its log:\n{_redacted(log, self.password)}",
            hint=_HINT,
        )

    def remove(self) -> None:
        """Stop and remove the container with its volumes, if there is one."""
        with _in_words(self.password):
            self.container.stop()


@contextmanager
def _in_words(password: str) -> Iterator[None]:
    """What Docker, testcontainers and the driver raise, as `ServerError` without the password."""
    from docker.errors import DockerException  # noqa: PLC0415 - comes with testcontainers

    try:
        yield
    except ServerError:
        raise
    except (DockerException, psycopg.OperationalError, OSError, RuntimeError) as error:
        raise ServerError(f"the container failed: {_redacted(_cause(error), password)}", hint=_HINT) from None


def _why_no_engine() -> str:
    """In words; empty where one answers."""
    from docker.errors import DockerException  # noqa: PLC0415 - comes with testcontainers
    from testcontainers.core.docker_client import get_docker_host  # noqa: PLC0415 - optional, and slow

    host = get_docker_host()  # asked first: a client of testcontainers sets DOCKER_HOST
    place = f"at `{_LOGIN.sub('', host)}`" if host else "at the usual place, and DOCKER_HOST is not set"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with _engine(timeout=_PATIENCE):
                return ""
        except (DockerException, OSError) as error:
            for each in _chain(error):  # holds sockets that Docker's library does not close when they fail
                traceback.clear_frames(each.__traceback__)
            return f"no Docker engine answers {place}: {_cause(error)}"


def _why_no_image(image: str) -> str:
    """In words; empty where it is there, or was pulled."""
    from docker.errors import DockerException, ImageNotFound  # noqa: PLC0415 - comes with testcontainers

    try:
        with _engine() as engine:
            try:
                engine.client.images.get(image)
            except ImageNotFound:
                _log.info("pulling the image %s", image)
                engine.client.images.pull(image)
    except (DockerException, OSError) as error:
        return f"the image `{image}` is not there and cannot be pulled: {_cause(error)}"
    return ""


@contextmanager
def _engine(**options: Any) -> Iterator[DockerClient]:
    """The engine that testcontainers would use; it has answered."""
    from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 - optional, and slow

    engine = DockerClient(**options)
    try:
        yield engine
    finally:
        engine.client.close()


def _is_local(engine: DockerClient) -> bool:
    """Whether what the engine publishes on loopback is within reach."""
    from testcontainers.core.config import ConnectionMode  # noqa: PLC0415 - optional, and slow

    return engine.get_connection_mode() is ConnectionMode.docker_host and engine.host() in ("localhost", _LOOPBACK)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised for."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _cause(error: BaseException) -> str:
    """In one line what is at the bottom of an error; what libraries wrap around it quotes addresses and commands."""
    words = str(getattr(error, "explanation", None) or error)  # an explanation is the engine's own word
    for inner in _chain(error):
        if isinstance(inner, OSError) and inner.strerror:
            words = inner.strerror
        elif isinstance(inner, TimeoutError) and inner is not error:
            words = str(inner)
    return _LOGIN.sub("", " ".join(words.split()))


def _redacted(text: str, password: str) -> str:
    return text.replace(password, "…")
