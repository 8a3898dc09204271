"""Starts one throwaway PostgreSQL; stops and removes it as soon as its owner says so or is gone.

`rlskit.server` runs this file as `python -I -S _reaper.py TASK`, in a session of its own; it imports nothing
of rlskit. TASK is JSON: "parent", where to make the throwaway directory; "bin", where initdb and postgres
are; "copies", pairs of a directory and its copy's place in the throwaway directory; "user", the user, group
and extra_groups to run as, empty for the present ones.

The throwaway directory is printed once initdb is done. The owner holds the other end of standard input:
"keep" leaves server and files, anything else and the end of the input stop and remove them. When initdb fails
or postgres ends by itself, the end of the log goes to standard error and the exit status is 1.
"""

import contextlib
import json
import locale
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=")


def main(task: dict[str, Any]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # only the owner's word, or its end, counts
    directory = Path(tempfile.mkdtemp(prefix="rlskit-", dir=task["parent"]))
    keep = False
    try:
        keep = serve(directory, task)
    except OSError as error:
        log = (directory / "log").read_text("utf-8", "replace").splitlines()
        print(*log[-20:], error, sep="\n", file=sys.stderr)
        return 1
    finally:
        for _ in range(0 if keep else 50):  # a last process of PostgreSQL may still be writing
            shutil.rmtree(directory, ignore_errors=True)
            if not directory.exists():
                break
            time.sleep(0.1)
    return 0


def serve(directory: Path, task: dict[str, Any]) -> bool:
    """Runs PostgreSQL until the owner speaks or is gone: true to leave it running, else it is stopped."""
    log = (directory / "log").open("wb")
    for source, target in task["copies"]:
        if Path(source).is_dir():
            shutil.copytree(source, directory / target, ignore_dangling_symlinks=True)
    user = task["user"]
    if user:
        for path in (*directory.rglob("*"), directory):  # the last one lets the user in
            os.chown(path, user["user"], user["group"])

    def run(program: str, *options: str) -> Popen[bytes]:
        command = [directory / task["bin"] / program, "-D", directory / "data", *options]
        return Popen(command, stdin=DEVNULL, stdout=log, stderr=log, cwd=directory, **user)  # noqa: S603

    child = run("initdb", "--no-sync", "-U", "postgres", "-A", "trust", "-E", "UTF8", locale_option())
    if ended(child):
        if child.returncode:
            raise ChildProcessError(f"initdb failed with status {child.returncode}")
        print(directory, flush=True)
        child = run("postgres", "-k", str(directory), "-p", "5432", *(f"-c{pair}" for pair in SETTINGS))
        if ended(child, every=0.1):
            raise ChildProcessError(f"postgres ended with status {child.returncode}")
    if os.read(0, 5) == b"keep\n":
        return True
    for number, seconds in ((signal.SIGINT, 10), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
        child.send_signal(number)  # does nothing once the child has ended
        with contextlib.suppress(TimeoutExpired):
            child.wait(seconds)
    return False


def locale_option() -> str:
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return "--no-locale"
    return "--locale=C.UTF-8"


def ended(child: Popen[bytes], every: float = 0.01) -> bool:
    """Waits: true once the child has ended by itself, false once the owner has spoken or is gone."""
    while child.poll() is None:
        if select.select([0], [], [], every)[0]:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
