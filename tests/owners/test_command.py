"""`rlskit owners`: exit codes, what goes to which stream, and that no name does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import Database, Ran, run_command

RULES = """
role = "{role}"
bypass_role = "app_support"
[tables.note]
allow = [{{ owner = "owner" }}, {{ owners = "editors", to = ["read"] }}, {{ owner = "payer", identity_claim = "email", to = ["read"] }}]
{match}
"""
NAMES = ["a1f0", "alice", "b2e1", "stranger", "x@example.com"]


Run = Callable[..., Ran]


@pytest.fixture
def owners(database: Database, tmp_path: Path) -> Run:
    """Runs `rlskit owners` as a superuser, with a table whose rules are not applied."""
    database.execute(
        "create table note (id int, owner text, editors text[], payer text)",
        "insert into note values (1, 'a1f0::alice', null, 'x@example.com'), (2, 'alice', '{a1f0,stranger}', null),"
        " (3, 'a1f0', null, null), (4, null, '{}', null), (5, '', null, null)",
    )

    def run(*arguments: str, match: str = "", dsn: str = database.superuser_dsn, **env: str) -> Ran:
        (tmp_path / "rlskit.toml").write_text(RULES.format(role=database.app, match=match))
        ran = run_command(tmp_path, "owners", *arguments, **{"DATABASE_URL": dsn} | env)
        assert [name for name in NAMES if name in ran.out + ran.err] == []
        return ran

    return run


def trimmed(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_findings_exit_1_and_stand_on_stdout(owners: Run) -> None:
    ran = owners("note", match='match = "full"')

    assert (ran.code, ran.err) == (1, "")
    assert (
        trimmed(ran.out)
        == """\
public.note: 5 rows
column   full  sub  username  other  claim  malformed  nobody
editors     0    1         0      1                 0       4
owner       1    1         1      0                 1       1
payer                                    1          0       4
1 row belongs to nobody: no owner is named
2 rows belong to nobody: owners are named, but in no spelling that the rules accept
1 row belongs to nobody: what is there could be nobody's name
editors: 2 names (1 sub, 1 other) in a spelling that its rules do not accept; they accept full, and --backfill full writes a script
owner: 2 names (1 sub, 1 username) in a spelling that its rules do not accept; they accept full, and --backfill full writes a script
owner: 1 name that nobody could have: empty, NULL in a list, more than one `::`, or the like
note: editors: 1 bare name known neither as a sub nor as a username: --people tells who is who
"""
    )


def test_a_clean_table_exits_0(owners: Run, database: Database) -> None:
    database.execute("delete from note where id > 2")
    ran = owners("note")

    assert (ran.code, ran.err, ran.out.splitlines()[-1]) == (0, "", "Every row is reached by everybody whom it names.")
    assert "note: owner: 1 name that may be bare usernames" in ran.out


def test_json_has_stable_keys(owners: Run) -> None:
    ran = owners("public.note", "--format", "json", match='match = "full"')
    found = json.loads(ran.out)

    assert (ran.code, ran.err) == (1, "")
    assert list(found) == ["table", "clean", "rows", "unreachable", "columns", "findings", "notes"]
    assert (found["table"], found["clean"], found["rows"]) == ("public.note", False, 5)
    assert found["unreachable"] == {"nobody": 1, "unmatched": 2, "malformed": 1}
    assert found["columns"][1] == {
        "column": "owner",
        "list": False,
        "accepts": ["full"],
        "claims": [],
        "nobody": 1,
        "named": 3,
        "malformed": 1,
        "names": {"full": 1, "sub": 1, "username": 1, "other": 0},
        "unmatched": {"full": 0, "sub": 1, "username": 1, "other": 0},
        "shared": 0,
    }
    assert [found["columns"][2][key] for key in ("column", "claims", "names", "unmatched", "named")] == ["payer", ["email"], None, None, 1]  # fmt: skip


def test_the_script_stands_alone_on_stdout(owners: Run, database: Database, tmp_path: Path) -> None:
    database.execute("create table people (sub text, username text)", "insert into people values ('s0', 'stranger')")
    ran = owners("note", "--backfill", "full", "--people", "people")

    assert (ran.code, ran.err.splitlines()[0]) == (0, "public.note: 5 rows")
    assert "the script: a bare username is taken for whoever goes by it" in ran.err
    assert ran.out.startswith("-- Brings the owners in table public.note to one spelling: <sub>::<username>.")
    file = tmp_path / "backfill.sql"
    file.write_text(ran.out)
    psql = [database.server.bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", database.superuser_dsn, "-f", file]
    done = subprocess.run(psql, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert database.rows("select editors from note where id = 2") == [(["a1f0", "s0::stranger"],)]


def test_the_findings_are_json_on_stderr_beside_a_script(owners: Run) -> None:
    ran = owners("note", "--backfill", "full", "-f", "json")

    assert (ran.code, json.loads(ran.err)["rows"], ran.out[:3]) == (0, 5, "-- ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nte"], "error: E200 table `nte` has no rules\nhint: did you mean `note`?\n"),
        (
            ["note", "--people", "note"],
            "error: E101 `public.note` has no column `sub`, which people are known by\nhint: a view can give them the names",
        ),
    ],
)
def test_what_cannot_run_exits_2_and_says_the_way_out(arguments: list[str], message: str, owners: Run) -> None:
    ran = owners(*arguments)

    assert (ran.code, ran.out, ran.err.startswith(message)) == (2, "", True)


def test_whom_row_security_binds_is_told_who_may(owners: Run, database: Database) -> None:
    database.execute("alter table note enable row level security", "alter table note force row level security")
    for arguments in (["note"], ["note", "--backfill", "full"]):
        assert owners(*arguments, dsn=database.owner_dsn) == Ran(
            2, "", f"error: E200 row security binds `{database.owner}` on table `public.note`, so not every row would be counted\n"
            "hint: connect as `app_support`, a superuser or a role with BYPASSRLS\n",
        )  # fmt: skip


def test_a_wrong_spelling_and_no_table_exit_2(owners: Run) -> None:
    assert (owners("note", "--backfill", "email").code, owners().code) == (2, 2)


def test_help_and_no_colour_in_a_pipe(owners: Run) -> None:
    shown = owners("--help").out

    assert [each in shown for each in ("--backfill", "--people", "BYPASSRLS")] == [True] * 3
    assert "\x1b" not in owners("note", TERM="xterm-256color").out
    assert max(map(len, trimmed(owners("note", COLUMNS="20").out).splitlines()[1:5])) == 61


def test_a_column_is_printed_as_it_is_called(owners: Run, database: Database) -> None:
    database.execute('alter table note add column "[red]a[/x]" text')
    ran = owners("note", match='columns.id = [{ owner = "[red]a[/x]" }]')

    assert (ran.code, "\n[red]a[/x]  " in ran.out) == (1, True)
