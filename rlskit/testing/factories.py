"""Fixtures to build one's own: a database beside the one that the ini keys describe, and who asks in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlskit.errors import KitError, RlskitError
from rlskit.loader import load as load_rules
from rlskit.rules import Rules
from rlskit.testing.databases import ISOLATIONS, Isolation, TestDatabase
from rlskit.testing.keeper import TestServer
from rlskit.testing.templates import Load, Recipe, Template, template

RulesSource = Rules | Mapping[str, Any] | str | Path


def database(
    *,
    rules: RulesSource,
    load: Load | Sequence[Load] = (),
    prepare: str | Path | Sequence[str | Path] = (),
    isolation: Isolation = "database",
    apply: bool | None = None,
    login: str | None = None,
    name: str | None = None,
) -> Any:
    """Make a fixture like ``rlskit_db``: ``shop = rlskit.testing.database(rules="shop.toml", load="shop.sql")``.

    ``rules`` is what ``rlskit.load`` takes, or Rules; ``load`` is run as the tables' owner: SQL files, or functions that take his DSN; ``prepare`` are SQL files for a
    superuser before. ``apply`` says whether the kit applies the rules (True) or tests what was loaded (False); None: it applies them where nothing of
    rlskit's was loaded. ``login`` asks instead of a login of the kit's. ``name`` is the fixture's, where it is not that of the variable.
    Files are relative to pytest's rootdir.
    """

    def described(config: pytest.Config) -> Recipe:
        root = config.rootpath
        return Recipe(
            rules=loaded(rules, root),
            load=_several(load),
            prepare=_several(prepare),
            apply=apply,
            login=login,
            root=root,
        )

    @pytest.fixture(name=name)
    def made(request: pytest.FixtureRequest) -> Iterator[TestDatabase]:
        with requested(request, described, isolation) as found:
            yield found

    return made


def asking(fixture: str) -> Any:
    """Make a fixture like ``as_user`` for the database that another fixture gives: ``shop_as_user = rlskit.testing.asking("shop")``."""

    @pytest.fixture
    def asks(request: pytest.FixtureRequest) -> Callable[..., Any]:
        made: TestDatabase = request.getfixturevalue(fixture)
        return made.as_user

    return asks


def _several(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def loaded(source: RulesSource, root: Path) -> Rules:
    """The rules, of a file relative to ``root``, of a mapping, or of ``module:attribute``. Raises RuleFileError, and KitError for a file that is missing."""
    if isinstance(source, Rules):
        return source
    if isinstance(source, Mapping) or (isinstance(source, str) and ":" in source and not source.endswith(".toml")):
        return load_rules(source)
    if not (root / source).exists():
        raise KitError(
            f"there is no `{source}` with the rules",
            hint="name a TOML file, relative to pytest's rootdir, or module:attribute",
        )
    return load_rules(root / source)


def configured(config: pytest.Config) -> Recipe:
    """What the ini keys describe. Raises KitError where they name no rules."""
    if not config.getini("rlskit_rules"):
        raise KitError(
            "rlskit_rules is not set, so it is not known which rules to test",
            hint='in pyproject.toml, below [tool.pytest.ini_options]: rlskit_rules = "rlskit.toml" and rlskit_load = ["schema.sql"]',
        )
    return Recipe(
        rules=loaded(config.getini("rlskit_rules"), config.rootpath),
        load=tuple(config.getini("rlskit_load")),
        prepare=tuple(config.getini("rlskit_prepare")),
        login=config.getini("rlskit_login") or None,
        root=config.rootpath,
    )


def isolation_of(request: pytest.FixtureRequest, default: str) -> Isolation:
    """What the test's own marker says, else the command line, else the default. Raises KitError for anything but the two."""
    marker = request.node.get_closest_marker("rlskit")
    said = dict(marker.kwargs) if marker is not None else {}
    wanted = said.pop("isolation", None) or request.config.getoption("rlskit_isolation") or default
    if said or (marker is not None and marker.args) or wanted not in ISOLATIONS:
        raise KitError(
            f"`{wanted}` is no isolation"
            if wanted not in ISOLATIONS
            else "the marker rlskit takes `isolation` and nothing else",
            hint='@pytest.mark.rlskit(isolation="transaction"), or "database"',
        )
    return next(each for each in ISOLATIONS if each == wanted)


@contextmanager
def plainly() -> Iterator[None]:
    """What is wrong is said without a traceback, which would bury it, and hold a DSN where pytest is asked for local variables."""
    try:
        yield
    except RlskitError as error:
        raise pytest.fail.Exception(f"{error.code} {error}", pytrace=False) from None


@contextmanager
def requested(
    request: pytest.FixtureRequest, described: Callable[[pytest.Config], Recipe], default: str
) -> Iterator[TestDatabase]:
    """The database of the test that requests it. ``described`` gives its recipe, before any server is started; ``default`` is its isolation where nobody says another."""
    with plainly():
        recipe, isolation = described(request.config), isolation_of(request, default)
        server: TestServer = request.getfixturevalue("rlskit_server")
        template(server, recipe)
    with for_test(server, recipe, isolation) as found:
        yield found


@contextmanager
def for_test(server: TestServer, recipe: Recipe, isolation: Isolation) -> Iterator[TestDatabase]:
    """The database of one test: a copy of its own, dropped afterwards; or the one that all rolled-back transactions share."""
    made = template(server, recipe)
    with ExitStack() as stack:
        if isolation == "database":
            name = server.create_database(made.owner.name, made.name)
            stack.callback(server.drop_database, name)
            found = TestDatabase(server, made, name, isolation)
            stack.callback(found.end)
            yield found
        else:
            shared = server.kept(made, lambda: _Shared(server, made))
            found = TestDatabase(server, made, shared.name, isolation)
            stack.callback(shared.after, found)
            yield found


class _Shared:
    """The copy that rolled-back transactions share. One that a test has left something in is made anew."""

    def __init__(self, server: TestServer, made: Template) -> None:
        self._server, self._template = server, made
        self.name = server.create_database(made.owner.name, made.name)

    def after(self, found: TestDatabase) -> None:
        """End a test. Raises KitError where its transaction was ended inside."""
        try:
            found.end()
        finally:
            if found.is_spoiled:
                self._server.drop_database(self.name)
                self.name = self._server.create_database(self._template.owner.name, self._template.name)
