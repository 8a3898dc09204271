"""Rule files, mappings and ``module:attribute`` become ``Rules``; every mistake is told with file, table and key."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from rlskit.errors import RuleError, RuleFileError
from rlskit.rules import Open, Rule, Rules, TableRules, Unmanaged, allow
from rlskit.words import did_you_mean

_FILE_KEYS = ("role", "bypass_role", "schema", "mode", "match", "tables")
_TABLE_KEYS = ("allow", "columns", "match", "schema", "reassign", "keep", "open", "unmanaged")
_RULE_KEYS = ("owner", "owners", "to", "identity_claim", "match")


def load(source: str | Path | Mapping[str, Any]) -> Rules:
    """Return the rules that ``source`` declares.

    ``source`` is the path of a TOML file (``rlskit.toml``, or a ``pyproject.toml`` with ``[tool.rlskit]``), a mapping of the same
    shape, or ``"module:attribute"`` that names a ``Rules``. The modules are looked for in the working directory too.
    Raises RuleFileError, with the place and the way out; nothing is read from a database.
    """
    if isinstance(source, Mapping):
        return _rules(_Place("the mapping"), source)
    text = str(source)
    if (
        isinstance(source, str)
        and ":" in text
        and "\0" not in text
        and not text.endswith(".toml")
        and not Path(text).exists()
    ):
        return _from_module(text)
    return _from_file(Path(source))


@dataclass(frozen=True)
class _Place:
    """Where in the source we are reading, for errors."""

    path: str
    table: str | None = None
    key: str | None = None

    def error(self, message: str, hint: str = "") -> RuleFileError:
        return RuleFileError(message, path=self.path, table=self.table, key=self.key, hint=hint)

    def at(self, key: str) -> _Place:
        return replace(self, key=key if self.key is None else f"{self.key}.{key}")

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Give a RuleError raised inside its place."""
        try:
            yield
        except RuleFileError:
            raise
        except RuleError as error:
            place = self.at(error.key) if error.key else self
            raise place.error(str(error.args[0]), error.hint) from error


def _from_file(path: Path) -> Rules:
    place = _Place(str(path))
    content: Mapping[str, Any]
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise place.error("there is no such file", "name a TOML file or `module:attribute` with --rules") from None
    except tomllib.TOMLDecodeError as error:
        raise place.error(
            f"is not TOML: {str(error)[:1].lower()}{str(error)[1:]}",
            _DOTTED,
        ) from error
    except (OSError, ValueError) as error:
        raise place.error(f"cannot be read: {type(error).__name__}", "rule files are UTF-8 text") from error
    if path.name == "pyproject.toml":
        tools = content.get("tool")
        if not isinstance(tools, Mapping) or "rlskit" not in tools:
            raise place.error("has no section [tool.rlskit]", "add it, or keep the rules in rlskit.toml")
        content = _as_mapping(place.at("tool.rlskit"), tools["rlskit"])
    return _rules(place, content)


def _from_module(text: str) -> Rules:
    place = _Place(text)
    module_name, _, attribute = text.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise place.error("is neither a file nor `module:attribute`", "for example access:rules, or app.access:rules")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise place.error(
            f"there is no module `{error.name}`",
            "it is looked for in the working directory and where Python finds modules",
        ) from error
    try:
        value = getattr(module, attribute)
    except AttributeError:
        raise place.error(
            f"module `{module_name}` has no `{attribute}`",
            did_you_mean(attribute, (n for n in vars(module) if n[0] != "_")),
        ) from None
    if not isinstance(value, Rules):
        raise place.error("does not hold `Rules`", "write rules = rlskit.Rules(…, role=…) and name it here")
    return value


def _rules(place: _Place, content: Mapping[str, Any]) -> Rules:
    _known_keys(place, content, _FILE_KEYS)
    if "role" not in content:
        raise place.error("`role` is missing", 'say whom policies and privileges are given to: role = "app_user"')
    tables = _mapping(place, content, "tables")
    match = content.get("match")
    with place.at("match")():
        TableRules("match", allow.owner(), match=match)  # refused here, at the file's own key
    read = [
        _table(replace(place, table=name), name, _as_mapping(replace(place, table=name), body), match)
        for name, body in tables.items()
    ]
    with place():
        return Rules(
            *read,
            role=_text(place, content, "role", ""),
            bypass_role=_text(place, content, "bypass_role"),
            schema=_text(place, content, "schema", "public"),
            mode=content.get("mode"),
        )


def _table(place: _Place, name: str, content: Mapping[str, Any], match: object) -> TableRules:
    _known_keys(place, content, _TABLE_KEYS)
    given = [key for key in ("allow", "open", "unmanaged") if key in content]
    if len(given) != 1:
        said = " and ".join(f"`{key}`" for key in given) or "none of them"
        raise place.error(
            f"a table has exactly one of `allow`, `open`, `unmanaged`; here is {said}",
            'for example allow = [{ owner = "owner" }]',
        )
    body: tuple[Rule | Open | Unmanaged, ...]
    if "allow" in content:
        body = _rule_list(place.at("allow"), content["allow"])
        match = content.get("match", match)
        if "match" in content:
            with place.at("match")():
                TableRules(allow.owner(), match=content["match"])
    else:
        made: Callable[..., Open | Unmanaged] = Open if "open" in content else Unmanaged
        inner = place.at(given[0])
        arguments = _mapping(place, content, given[0])
        _known_keys(inner, arguments, ("reason", "to") if "open" in content else ("reason",))
        with inner():
            body = (made(**{"reason": "", **arguments}),)
        match = content.get("match")
    columns = {
        column: _rule_list(place.at(f"columns.{column}"), rules)
        for column, rules in _mapping(place, content, "columns").items()
    }
    with place():
        return TableRules(
            name,
            *body,
            columns=columns,
            match=match,  # type: ignore[arg-type]  # whatever the file says; checked by TableRules
            schema=_text(place, content, "schema"),
            reassign=content.get("reassign", "plain"),
            keep=_mapping(place, content, "keep"),
        )


def _rule_list(place: _Place, given: object) -> tuple[Rule, ...]:
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, list | tuple):
        raise place.error("must be a list of rules", 'for example [{ owner = "owner" }]')
    return tuple(
        _rule(each_place := replace(place, key=f"{place.key}[{index}]"), _as_mapping(each_place, each))
        for index, each in enumerate(given)
    )


def _rule(place: _Place, content: Mapping[str, Any]) -> Rule:
    _known_keys(place, content, _RULE_KEYS)
    if "owner" in content and "owners" in content:
        raise place.error("names both `owner` and `owners`", "write two rules")
    with place():
        if "owner" in content:
            rule = allow.owner_defined_in(content["owner"])
        elif "owners" in content:
            rule = allow.owners_defined_in(content["owners"])
        else:
            rule = allow.same()
        if "identity_claim" in content:
            rule = rule.identity_claim(content["identity_claim"])
        if "match" in content:
            rule = rule.match(content["match"])
        if "to" in content:
            rule = rule.to(content["to"])
        return rule


_DOTTED = 'a table whose name holds a dot is quoted: [tables."app.todo"]'


def _known_keys(place: _Place, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key, value in content.items():
        if key not in known:
            # [tables.app.todo] without quotes reads as the table `app` with the key `todo`.
            dotted = place.table is not None and place.key is None and isinstance(value, Mapping)
            raise place.at(str(key)).error("there is no such key", _DOTTED if dotted else did_you_mean(str(key), known))


def _as_mapping(place: _Place, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise place.error(f"must be a table of keys, got `{value!r}`", "write { key = value } or a [section]")
    return value


def _mapping(place: _Place, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return _as_mapping(place.at(key), content.get(key, {}))


@overload
def _text(place: _Place, content: Mapping[str, Any], key: str) -> str | None: ...
@overload
def _text(place: _Place, content: Mapping[str, Any], key: str, default: str) -> str: ...
def _text(place: _Place, content: Mapping[str, Any], key: str, default: str | None = None) -> str | None:
    value = content.get(key, default)
    if value is not None and not isinstance(value, str):
        raise place.at(key).error(f"must be text, got `{value!r}`", "put it in quotes")
    return value
