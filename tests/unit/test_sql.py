"""`rlskit.sql`: the whole script, byte for byte; and that a name is never more than a name in it.

RLSKIT_UPDATE_GOLDEN=1 writes the files in `golden/` anew.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlskit import Open, Rules, TableRules, Unmanaged, allow, runtime, sql
from rlskit.errors import UnsupportedRuleError

GOLDEN = Path(__file__).parent / "golden"

EDITORS = allow.owners_defined_in("editors")

SETS = {
    "owner": Rules(TableRules("todo", allow.owner()), role="app_user"),
    "editors": Rules(
        TableRules(
            "todo",
            allow.owner(),
            EDITORS.to("read", "update"),
            columns={
                "owner": allow.same().to("read", "delete"),
                "status": allow.same().to("read", "delete"),
                "title": allow.same(),
            },
        ),
        role="app_user",
        bypass_role="support",
        schema="app",
    ),
    "claims": Rules(
        TableRules("invoice", allow.owner_defined_in("customer").identity_claim("email").to("create", "read")),
        TableRules("crm.contact", allow.owner(), EDITORS.to("read"), match=["full", "sub"], reassign="never"),
        TableRules("crm.note", EDITORS, match="full", columns={"draft": []}),
        role="app_user",
    ),
    "open": Rules(
        TableRules("country", Open(reason="reference data")),
        TableRules("wiki", Open(reason="everyone writes it", to=("create", "read", "update", "delete"))),
        TableRules("audit", Unmanaged(reason="the audit trail has policies of its own")),
        role="app_user",
    ),
    "quoted": Rules(
        TableRules(
            "Order",
            allow.owner_defined_in('placed "by"').to("create", "read"),
            columns={"it's": allow.same().to("read")},
        ),
        TableRules("Ünï.select", allow.owners_defined_in("a\\b%s{}").to("read", "update")),
        role="app-user",
    ),
}


def after_the_runtime(script: str) -> str:
    head, runtime_script, rest = script.partition(runtime.script("runtime.sql"))
    assert (bool(head), bool(runtime_script)) == (True, True)
    return rest


@pytest.mark.parametrize("name", SETS)
def test_the_script_is_the_golden_file(name: str) -> None:
    path = GOLDEN / f"{name}.sql"
    script = after_the_runtime(sql(SETS[name]))
    if os.environ.get("RLSKIT_UPDATE_GOLDEN") == "1":
        path.write_bytes(script.encode())

    assert script.encode() == path.read_bytes()


def test_every_golden_file_has_its_rules() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == SETS.keys()


def test_the_script_begins_with_how_to_run_it() -> None:
    script = sql(SETS["owner"])

    assert script.splitlines()[:3] == [
        "-- Row-level security for the role app_user, written by rlskit.",
        "-- Run it as the owner of the tables:",
        "--   psql -v ON_ERROR_STOP=1 -f FILE",
    ]


def test_the_script_holds_the_runtime_once() -> None:
    assert sql(SETS["claims"]).count(runtime.script("runtime.sql")) == 1


def test_the_script_ends_with_one_newline() -> None:
    assert re.search(r"[^\n]\n\Z", sql(SETS["owner"]))


def test_without_tables_the_script_is_the_runtime() -> None:
    assert after_the_runtime(sql(Rules(role="app_user"))).strip() == ""


def test_what_cannot_be_enforced_gets_no_script() -> None:
    rules = Rules(
        TableRules("todo", allow.owner(), EDITORS.to("read"), columns={"secret": allow.owner()}), role="app_user"
    )

    with pytest.raises(UnsupportedRuleError) as caught:
        sql(rules)

    assert caught.value.message == "table `public.todo`: who may read column `secret` would depend on the row"


# --- the same rules, the same bytes ----------------------------------------------------------------------------------

TABLES = [
    TableRules("todo", allow.owner(), columns={"a": [], "b": allow.same(), "owner": allow.same().to("read")}),
    TableRules("crm.contact", EDITORS, match=["full", "sub"]),
    TableRules("country", Open(reason="reference data", to=("read", "update"))),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_the_order_of_tables_does_not_matter(order: tuple[int, ...]) -> None:
    assert sql(Rules(*(TABLES[number] for number in order), role="app_user")) == sql(Rules(*TABLES, role="app_user"))


def test_the_order_inside_a_table_does_not_matter() -> None:
    """Of its columns, operations and spellings."""
    one = TableRules(
        "todo",
        allow.owner().to("read", "update"),
        columns={"a": [], "b": allow.same().to("read", "update")},
        match=["full", "sub"],
    )
    other = TableRules(
        "todo",
        allow.owner().to("update", "read"),
        columns={"b": [allow.same().to("update", "read")], "a": ()},
        match=["sub", "full"],
    )

    assert sql(Rules(one, role="app_user")) == sql(Rules(other, role="app_user"))


def test_the_schema_may_be_said_in_three_places() -> None:
    said = [
        Rules(TableRules("app.todo", allow.owner()), role="app_user"),
        Rules(TableRules("todo", allow.owner(), schema="app"), role="app_user"),
        Rules(TableRules("todo", allow.owner()), role="app_user", schema="app"),
    ]

    assert len({sql(each) for each in said}) == 1


PRINTS = """
import sys
from rlskit import Open, Rules, TableRules, allow, sql

editors = allow.owners_defined_in("editors")
tables = [TableRules(f"table_{n}", allow.owner(), editors.to("read"), columns={c: [] for c in "abcdef"}) for n in range(9)]
sys.stdout.buffer.write(sql(Rules(*tables, TableRules("country", Open(reason="x")), role="app_user")).encode())
"""


def test_the_hash_seed_does_not_matter() -> None:
    scripts = {
        subprocess.run(
            [sys.executable, "-c", PRINTS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(scripts) == 1


# --- a name is never more than a name --------------------------------------------------------------------------------

TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n\r]*)
    | (?P<dollar>\$(?P<tag>\w*)\$(?P<body>.*?)\$(?P=tag)\$)
    | (?P<escaped>\bE'(?:[^'\\]|\\.|'')*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<identifier>"(?:[^"]|"")+")
    | (?P<word>\w+)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

PLAIN = "plain_name"

Token = tuple[str, str]


def tokens(script: str) -> Iterator[Token]:
    """The script as PostgreSQL reads it: each token's kind and meaning. Dollar-quoted bodies are read in their turn."""
    for found in TOKEN.finditer(script):
        kind, text = found.lastgroup or "", found[0]
        if found["dollar"] is not None:
            yield "begin of a body", ""
            yield from tokens(found["body"])
            yield "end of a body", ""
        elif kind == "escaped":
            yield "string", re.sub(r"\\(.)", r"\1", text[2:-1].replace("''", "'"), flags=re.DOTALL)
        elif kind == "string":
            yield "string", text[1:-1].replace("''", "'")
        elif kind == "identifier":
            yield "identifier", text[1:-1].replace('""', '"')
        elif kind not in ("comment", "space"):
            yield kind, text


def renamed(token: Token, name: str) -> Token:
    """The token of the script with the plain name, as it has to be with this one."""
    kind, text = token
    if kind == "identifier":
        return kind, text.replace(PLAIN, name)
    if kind == "string" and re.fullmatch(r"[0-9a-f]{16}", text):
        return kind, "a digest"
    if kind == "string" and text.startswith("{"):
        plain = re.fullmatch(r'[^\s{},"\\]+', name) and name.upper() != "NULL"
        element = name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return kind, text.replace(PLAIN, element)
    if kind == "string" and text.startswith('"'):
        return kind, text.replace(PLAIN, name.replace('"', '""'))
    return (kind, text.replace(PLAIN, name)) if kind == "string" else token


def without_digests(script: str) -> list[Token]:
    return [
        (kind, "a digest" if kind == "string" and re.fullmatch(r"[0-9a-f]{16}", text) else text)
        for kind, text in tokens(script)
    ]


KINDS_OF_RULES = {
    "owner": lambda name: TableRules(
        name, allow.owner_defined_in(name), columns={name: allow.same().to("read")}, schema=name
    ),
    "owner that moves": lambda name: TableRules(name, allow.owner_defined_in(name), schema=name),
    "owners": lambda name: TableRules(name, allow.owners_defined_in(name), columns={name: []}, schema=name),
    "claim": lambda name: TableRules(
        name, allow.owner_defined_in(name).identity_claim(name), match="full", schema=name
    ),
    "open": lambda name: TableRules(name, Open(reason=f"because {name}", to=("read", "delete")), schema=name),
}

AWKWARD = [
    'we"ird; drop',
    "Ünï",
    "select",
    "it's",
    "''; drop table t; --",
    "$rlskit$",
    "$rlskit$; drop table t; --",
    "$$",
    "back\\slash",
    "\\'; drop table t; --",
    "per%cent",
    "%s %I %(name)s",
    "br{ac}es",
    "{",
    "{0}{role}",
    "a\n; drop table t; --",
    "a\r; drop table t; --",
    "/* comment",
    "-- comment",
    " ",
    ":name",
    "a.b",
    "a,b",
    "NULL",
]


@pytest.mark.parametrize("kind", KINDS_OF_RULES)
@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_name_is_quoted(name: str, kind: str) -> None:
    """The script reads as with a plain name, token by token: the name in every place that takes one, and nothing else."""
    awkward = without_digests(sql(Rules(KINDS_OF_RULES[kind](name), role=name)))
    plain = tokens(sql(Rules(KINDS_OF_RULES[kind](PLAIN), role=PLAIN)))

    assert awkward == [renamed(token, name) for token in plain]


@pytest.mark.parametrize("name", ["x" * 63, "ü" * 31, "🦉" * 15], ids=["63 letters", "62 bytes", "60 bytes"])
def test_a_long_name_is_not_cut(name: str) -> None:
    rules = Rules(TableRules(name, allow.owner_defined_in(name), schema=name), role=name)
    identifiers = {text for kind, text in tokens(after_the_runtime(sql(rules))) if kind == "identifier"}

    assert (name in identifiers, [each for each in identifiers if len(each.encode()) > 63]) == (True, [])
