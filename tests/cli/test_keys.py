"""`rlskit keys`, and `rlskit install --mode`: the key alone on stdout, once; everything else as the other commands have it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from rlskit import SigningKey, as_user, guard, keyring
from rlskit.installer import install
from tests.cli.test_cli import Shell, rlskit  # noqa: F401 - the fixture
from tests.support import ALICE, Ran

NO_RUNTIME = "error: E202 this database has no schema rlskit that knows keys\nhint: rlskit apply, or rlskit install\n"


@pytest.fixture
def shell(rlskit: Shell) -> Shell:  # noqa: F811
    """With a database that takes signed identities only."""
    with rlskit.database.connect_as_owner() as conn:
        install(conn, mode="signed")
    return rlskit


def add(shell: Shell, *names: str) -> list[SigningKey]:
    made = [SigningKey.generate(name) for name in names]
    with shell.database.connect_as_owner() as conn:
        for key in made:
            keyring.add(conn, key)
    return made


def kids(shell: Shell) -> list[str]:
    return [kid for (kid,) in shell.database.rows("select kid from rlskit.key order by created_at")]


def test_the_mode_is_installed_and_stays(rlskit: Shell) -> None:  # noqa: F811
    both = "install the schema rlskit, version 0001\ntake signed identities only\n"
    there = Ran(0, "The schema rlskit is there, and current.\n", "")
    assert rlskit("install", "--mode", "signed") == Ran(0, both, "")
    assert rlskit("install") == there
    assert rlskit("install", "--mode", "plain") == Ran(0, "take identities as they are, signed or not\n", "")
    wrong = rlskit("install", "--mode", "sign")
    assert (wrong.code, wrong.out) == (2, "")


def test_a_file_of_rules_that_says_signed_is_planned_applied_and_checked(rlskit: Shell) -> None:  # noqa: F811
    file = rlskit.folder / "rlskit.toml"
    file.write_text(f'mode = "signed"\n{file.read_text()}')
    step = "  take signed identities only: an application without a key is nobody from now on: rlskit keys add makes one  [no lock on a table]\n"
    assert step in rlskit("plan").out
    assert rlskit("apply", "--yes").code == 0
    assert rlskit("check").code == 0
    assert "\ncall rlskit.require_signatures(true);\n" in rlskit("sql", dsn=None).out

    rlskit("install", "--mode", "plain")
    found = rlskit("check")
    assert (found.code, step in found.out) == (1, True)


def test_a_key_stands_alone_on_stdout_and_works(shell: Shell) -> None:
    added = shell("keys", "add", "--name", "first")

    assert added.code == 0
    assert re.fullmatch(r"first:[0-9A-Za-z+/]{43}=\n", added.out)
    assert added.err == (
        "The database accepts what key first signs. Keep it where the application's other secrets are; it is not shown again.\n"
    )
    shell("apply", "--yes")
    with shell.database.connect_as_app() as conn:
        guard(conn, key=added.out)
        with as_user(conn, ALICE):
            conn.execute("insert into todo (content) values ('milk')")


def test_a_key_without_a_name_gets_one(shell: Shell) -> None:
    assert [SigningKey.parse(shell("keys", "add").out).kid] == kids(shell)


def test_keys_are_listed_without_their_secrets(shell: Shell) -> None:
    assert shell("keys", "list") == Ran(
        0, "There is no key: where identities have to be signed, everybody is nobody.\n", ""
    )
    keys = add(shell, "first", "bold")

    listed = shell("keys", "list")
    assert (listed.code, listed.err) == (0, "")
    lines = listed.out.splitlines()
    assert [re.sub(r" +\d{4}-\d\d-\d\d \d\d:\d\d UTC$", "", line) for line in lines] == ["first", "bold"]
    as_json = shell("keys", "list", "--format", "json")
    found = json.loads(as_json.out)
    assert [(each["kid"], sorted(each)) for each in found] == [
        ("first", ["created_at", "kid"]),
        ("bold", ["created_at", "kid"]),
    ]
    assert datetime.now(UTC) - datetime.fromisoformat(found[0]["created_at"]) < timedelta(minutes=5)
    assert not any(key.export().partition(":")[2] in listed.out + as_json.out for key in keys)


def test_a_key_is_retired_when_somebody_says_yes(shell: Shell) -> None:
    add(shell, "first", "second", "third")
    refused = shell("keys", "retire", "first")
    assert refused == Ran(2, "", "error: nobody is there to be asked\nhint: read the plan, then say --yes\n")
    assert kids(shell) == ["first", "second", "third"]

    assert shell("keys", "retire", "first", "--yes") == Ran(0, "Key first is accepted no more.\n", "")
    assert kids(shell) == ["second", "third"]


@pytest.mark.parametrize(
    ("names", "left", "answer", "code"),
    [
        (["first"], "No other key is there", "n", 2),
        (["first", "b"], "1 other key stays", "y", 0),
        (["first", "b", "c"], "2 other keys stay", "y", 0),
    ],
    ids=["the last one", "one stays", "two stay"],
)
def test_retiring_asks_and_says_what_is_left(names: list[str], left: str, answer: str, code: int, shell: Shell) -> None:
    add(shell, *names)
    ours, theirs = pty.openpty()
    environment = os.environ | {"DATABASE_URL": shell.database.owner_dsn}
    with subprocess.Popen(
        [sys.executable, "-m", "rlskit", "keys", "retire", "first"], cwd=shell.folder, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        out, err = process.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)

    assert process.returncode == code
    assert f"{left}: whoever signs with first is refused at once. Retire it?" in (out + err).decode()
    assert ("first" in kids(shell)) == bool(code)


FAILURES = {
    "a key that there is": (["keys", "add", "--name", "first"], "error: E306 there is a key `first` already\nhint: give the new one another name\n"),
    "no name for a key": (
        ["keys", "add", "--name", "a.b"],
        "error: E306 the name of a key has at most 32 letters, digits, `-` and `_`\n"
        "hint: rlskit keys add prints one: <name>:<secret in base64>\n",
    ),
    "a key that there is not": (["keys", "retire", "second", "--yes"], "error: E306 there is no key `second`\nhint: rlskit keys list names them\n"),
    "the same, and nobody to be asked": (["keys", "retire", "second"], "error: E306 there is no key `second`\nhint: rlskit keys list names them\n"),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_what_cannot_be_is_told(failure: str, shell: Shell) -> None:
    add(shell, "first")
    arguments, message = FAILURES[failure]

    assert shell(*arguments) == Ran(2, "", message)
    assert kids(shell) == ["first"]


COMMANDS = (["keys", "list"], ["keys", "add"], ["keys", "retire", "first", "--yes"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[1])
def test_without_the_schema_the_way_out_is_told(command: list[str], rlskit: Shell) -> None:  # noqa: F811
    assert rlskit(*command) == Ran(2, "", NO_RUNTIME)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[1])
def test_another_login_than_the_owners_is_refused(command: list[str], shell: Shell) -> None:
    assert shell(*command, dsn=shell.database.app_dsn) == Ran(
        2, "", "error: E200 the keys are not this login's to see or to change: permission denied for table key\n"
        "hint: connect as the owner of the schema rlskit\n",
    )  # fmt: skip


def test_they_need_a_database_and_no_rules(shell: Shell) -> None:
    (shell.folder / "rlskit.toml").unlink()
    assert shell("keys", "list").code == 0
    none = "error: no database is named\nhint: give --dsn, or set DATABASE_URL\n"
    assert shell("keys", "add", dsn=None) == Ran(2, "", none)
