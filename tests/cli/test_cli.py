"""The command line as a user meets it: exit codes, what goes to which stream, and the words."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.support import Database, Ran, run_command

RULES = """
role = "{role}"
[tables.todo]
allow = [{{ owner = "owner" }}]
columns.owner = [{{ owner = "owner", to = ["read", "delete"] }}]
"""


@dataclass
class Shell:
    """A folder with a rule file, and a database to apply it to."""

    folder: Path
    database: Database

    def __call__(self, *arguments: str, dsn: str | None = "", **env: str) -> Ran:
        named = {} if dsn is None else {"DATABASE_URL": dsn or self.database.owner_dsn}
        return run_command(self.folder, *arguments, **named | env)


@pytest.fixture
def rlskit(database: Database, tmp_path: Path) -> Shell:
    database.execute("create table todo (id serial, content text)")
    (tmp_path / "rlskit.toml").write_text(RULES.format(role=database.app))
    return Shell(tmp_path, database)


def test_plan_apply_check(rlskit: Shell) -> None:
    assert rlskit("check").code == 1
    plan = rlskit("plan")
    assert (plan.code, rlskit("plan", "--exit-code").code) == (0, 1)
    app = rlskit.database.app
    assert (
        plan.out
        == f"""\
schema rlskit
  install the schema rlskit, version 0001: policies and defaults rest on its functions  [no lock on a table]
public.todo: allow.owner(), columns={{"owner": [allow.owner().to("read", "delete")]}}
  add column owner text  [ACCESS EXCLUSIVE]
  enable row level security: only the rows that a rule names  [ACCESS EXCLUSIVE]
  force row level security: the owner of the table too  [ACCESS EXCLUSIVE]
  create policy rlskit_delete for delete to {app}  [ACCESS EXCLUSIVE]
  create policy rlskit_insert for insert to {app}  [ACCESS EXCLUSIVE]
  create policy rlskit_select for select to {app}  [ACCESS EXCLUSIVE]
  create policy rlskit_update for update to {app}  [ACCESS EXCLUSIVE]
  let owner default to the caller's name: whoever creates a row owns it  [ACCESS EXCLUSIVE]
  add check rlskit_owner_check: an empty name would be nobody's  [ACCESS EXCLUSIVE]
  create index todo__owner_rlskit on owner (btree): rows are looked up by it  [SHARE]
  grant usage of schema public to {app}  [no lock on a table]
  grant usage of sequence public.todo_id_seq to {app}: the default of id draws from it  [no lock on a table]
  grant delete to {app}  [ACCESS SHARE]
  grant insert (content, id) to {app}  [ACCESS SHARE]
  grant select (content, id, owner) to {app}  [ACCESS SHARE]
  grant update (content, id) to {app}  [ACCESS SHARE]
1 table, 17 steps.
Nothing was changed.
"""
    )
    applied = rlskit("apply", "--yes")
    assert (applied.code, applied.out.splitlines()[-1]) == (
        0,
        "Applied and verified: the database does what the rules say.",
    )
    assert applied.err == "[1 of 2] schema rlskit: 1 step\n[2 of 2] public.todo: 16 steps\n"
    check = rlskit("check")
    assert check == Ran(0, "The database does what the rules say: 1 table, nothing to do.\n", "")
    assert rlskit("apply") == Ran(0, "The database does what the rules say: 1 table, nothing to do.\n", "")


def test_apply_without_a_terminal_needs_yes_and_changes_nothing(rlskit: Shell) -> None:
    refused = rlskit("apply")

    assert (refused.code, refused.err) == (
        2,
        "error: nobody is there to be asked\nhint: read the plan, then say --yes\n",
    )
    assert rlskit.database.rows("select relrowsecurity from pg_class where relname = 'todo'") == [(False,)]


@pytest.mark.parametrize(("answer", "code", "applied"), [("y", 0, True), ("n", 2, False)])
def test_apply_asks_on_a_terminal(answer: str, code: int, applied: bool, rlskit: Shell) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"DATABASE_URL": rlskit.database.owner_dsn}
    with subprocess.Popen(
        [sys.executable, "-m", "rlskit", "apply"], cwd=rlskit.folder, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)

    assert (process.returncode, b"Applied" in out) == (code, applied)


def test_sql_needs_no_database_and_is_the_same_every_time(rlskit: Shell) -> None:
    first, second = rlskit("sql", dsn=None), rlskit("sql", dsn=None, PYTHONHASHSEED="7")

    assert (first.code, first.err) == (0, "")
    assert first.out == second.out


def test_what_sql_prints_conforms_and_may_be_run_again(rlskit: Shell) -> None:
    script = rlskit.folder / "rules.sql"
    script.write_text(rlskit("sql", dsn=None).out)
    for _ in range(2):
        done = subprocess.run(
            [rlskit.database.server.bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", rlskit.database.owner_dsn, "-f", script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert rlskit("check").code == 0


def test_the_sql_of_a_plan_brings_the_database_to_the_rules(rlskit: Shell) -> None:
    script = rlskit.folder / "plan.sql"
    rlskit.database.execute("insert into todo (content) values ('there')")
    script.write_text(rlskit("plan", "--sql").out)
    subprocess.run(
        [
            rlskit.database.server.bin / "psql",
            "-qX",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            rlskit.database.owner_dsn,
            "-f",
            script,
        ],
        check=True,
    )

    assert rlskit("check").code == 0
    assert rlskit("plan", "--sql").out == ""


def test_json_for_machines(rlskit: Shell) -> None:
    plan = json.loads(rlskit("plan", "--format", "json").out)
    assert (plan["conforms"], plan["steps"][1]["table"], plan["steps"][1]["lock"]) == (
        False,
        "public.todo",
        "ACCESS EXCLUSIVE",
    )
    check = rlskit("check", "--format", "json")
    assert (check.code, json.loads(check.out)["conforms"]) == (1, False)


def test_a_stage_is_planned_applied_and_told_by_check(rlskit: Shell) -> None:
    applied = rlskit("apply", "--yes", "--stage", "policies", "--retries", "0")
    missing = "Missing until the rules are in force: 8 steps of stage enable, 1 step of stage force."
    assert (applied.code, applied.out.splitlines()[-1]) == (0, f"Applied and verified: stage policies. {missing}")
    check = rlskit("check")
    assert (check.code, check.out.splitlines()[-1]) == (1, missing)
    plan = json.loads(rlskit("plan", "--stage", "policies", "--format", "json").out)
    assert (plan["conforms"], plan["stage"], plan["steps"]) == (True, "policies", [])
    assert {each["stage"] for each in plan["later"]} == {"enable", "force"}


def test_install_and_uninstall(rlskit: Shell) -> None:
    assert rlskit("install") == Ran(0, "install the schema rlskit, version 0001\n", "")
    assert rlskit("install") == Ran(0, "The schema rlskit is there, and current.\n", "")
    assert rlskit("uninstall", "--yes") == Ran(0, "The schema rlskit is gone.\n", "")
    assert rlskit.database.rows("select count(*) from pg_namespace where nspname = 'rlskit'") == [(0,)]


def test_uninstall_refuses_while_tables_rest_on_it_and_closes_them_when_asked(rlskit: Shell) -> None:
    rlskit("apply", "--yes")
    refused = rlskit("uninstall", "--yes")
    assert refused == Ran(
        2, "", "error: E200 the schema rlskit is in use by 1 table, first `public.todo`\n"
        "hint: take the rules off first: rlskit uninstall --tables, which leaves the tables closed\n",
    )  # fmt: skip
    done = rlskit("uninstall", "--tables", "--yes")

    assert (done.code, done.out.splitlines()[-1]) == (0, "The schema rlskit is gone.")
    flags = rlskit.database.rows("select relrowsecurity, relforcerowsecurity from pg_class where relname = 'todo'")
    assert flags == [(True, True)]
    with rlskit.database.connect_as_app() as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select * from todo")


def test_prune_foreign(rlskit: Shell) -> None:
    rlskit.database.execute("grant select on todo to public")
    refused = rlskit("apply", "--yes")
    assert (refused.code, refused.err.startswith("error: E203 table `public.todo`: ")) == (2, True)
    pruned = rlskit("apply", "--yes", "--prune-foreign")
    assert pruned.code == 0
    assert "--prune-foreign: public.todo: revoke select from public: it undoes the rules  [ACCESS SHARE]" in pruned.out
    assert rlskit("check").code == 0


def test_rules_from_a_module(rlskit: Shell) -> None:
    (rlskit.folder / "access.py").write_text(
        "from rlskit import *\n"
        f"rules = Rules(TableRules('todo', allow.owner(), columns={{'owner': allow.owner().to('read', 'delete')}}), role='{rlskit.database.app}')\n"
    )
    assert rlskit("sql", "--rules", "access:rules", dsn=None).out == rlskit("sql", dsn=None).out


def test_rules_in_pyproject(rlskit: Shell) -> None:
    text = (rlskit.folder / "rlskit.toml").read_text()
    (rlskit.folder / "pyproject.toml").write_text(
        text.replace("[tables.", "[tool.rlskit.tables.").replace("\nrole", "\n[tool.rlskit]\nrole")
    )
    same = rlskit("sql", dsn=None).out
    (rlskit.folder / "rlskit.toml").unlink()

    assert rlskit("sql", dsn=None).out == same


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_usual_spelling_of_a_dsn(scheme: str, rlskit: Shell) -> None:
    directory = str(rlskit.database.server.running.directory).replace("/", "%2F")
    dsn = f"{scheme}://{rlskit.database.owner}@{directory}:5432/{rlskit.database.name}"

    assert rlskit("check", dsn=dsn).code == 1


PASSWORD = "s3cr3t-pa55"
FAILURES = {
    "no database": (["check"], None, "error: no database is named\nhint: give --dsn, or set DATABASE_URL\n"),
    "no file": (
        ["check", "--rules", "no.toml"], "",
        "error: E103 no.toml: there is no such file\nhint: name a TOML file or `module:attribute` with --rules\n",
    ),
    "no server": (["check"], f"postgresql://me:{PASSWORD}@127.0.0.1:1/x", "error: the database cannot be reached: "),
    "no dsn": (["check"], f"me:{PASSWORD}@nowhere", "error: the DSN is no libpq string and no URL\n"),
    "no role": (["check"], "", "error: E200 role "),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_what_cannot_run_exits_2_and_says_why_on_stderr_without_a_password(failure: str, rlskit: Shell) -> None:
    arguments, dsn, message = FAILURES[failure]
    if failure == "no role":
        (rlskit.folder / "rlskit.toml").write_text(RULES.format(role="no_such_role"))
    ran = rlskit(*arguments, dsn=dsn)

    assert (ran.code, ran.out, ran.err.startswith(message), PASSWORD in ran.err) == (2, "", True, False)


def test_a_wrong_option_exits_2(rlskit: Shell) -> None:
    assert rlskit("plan", "--no-such-option").code == 2


def test_version_and_help(rlskit: Shell) -> None:
    assert rlskit("--version", dsn=None).out.startswith("rlskit 0.")
    assert "apply" in rlskit("-h", dsn=None).out


def test_no_colour_in_a_pipe_or_when_that_is_asked(rlskit: Shell) -> None:
    assert "\x1b" not in rlskit("plan").out
    assert "\x1b" not in rlskit("plan", NO_COLOR="1", TERM="xterm-256color").out


# --- the demo ----------------------------------------------------------------------------------------


def test_the_demo_plays_every_scene_as_promised(rlskit: Shell) -> None:
    shown = rlskit("demo", dsn=None)

    assert shown.code == 0
    assert "All 25 answers are those that the rules promise" in shown.out
    assert "NOT AS PROMISED" not in shown.out
    assert "ready in" in shown.err


def test_the_demo_exits_1_when_an_answer_is_another(tmp_path: Path) -> None:
    broken = "import rlskit.demo as d, dataclasses, rlskit.cli as c\nd.STORY = (dataclasses.replace(d.STORY[0], expected='9 rows'),)\nc.main()"
    shown = subprocess.run([sys.executable, "-c", broken, "demo"], capture_output=True, text=True, check=False)

    assert (shown.returncode, "NOT AS PROMISED: 9 rows" in " ".join(shown.stdout.split())) == (1, True)


def test_the_demo_keeps_its_server_when_asked(rlskit: Shell) -> None:
    shown = rlskit("demo", "--keep", dsn=None)
    dsn = shown.out.split("psql '")[1].split("'")[0]
    stop = shown.out.split("Stop and remove it: ")[1].strip()
    try:
        with psycopg.connect(dsn) as conn:
            assert conn.execute("select count(*) from todo").fetchone() == (2,)
    finally:
        subprocess.run(stop, shell=True, check=True)

    assert not Path(dsn.split("host=")[1].split()[0]).exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_demo_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    waiting = "import rlskit.demo as d, time, rlskit.cli as c\nd.play = lambda running: print(running.directory, flush=True) or time.sleep(60)\nc.main()"
    with subprocess.Popen(
        [sys.executable, "-c", waiting, "demo"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        assert directory.exists()
        process.send_signal(how)
        process.wait(timeout=30)
        deadline = time.monotonic() + 20
        while directory.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
