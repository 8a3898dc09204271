"""Runs the benchmarks that are named, or all of them, each on every PostgreSQL that it concerns."""

from __future__ import annotations

import argparse
import os
import platform
from collections import defaultdict
from functools import partial
from time import perf_counter

import psycopg

from benchmarks import build, database, demo, downtime, identity, imports, kit, reads, roundtrips, tables
from benchmarks.measure import timed

ALONE = {"imports": imports.run, "demo": demo.run, "kit": kit.run}
ON_EACH_SERVER = {
    "tables": tables.run,
    "reads": reads.run,
    "identity": identity.run,
    "roundtrips": roundtrips.run,
    "build": build.run,
    "downtime": downtime.run,
}


def main() -> None:
    began = perf_counter()
    known = [*ALONE, *ON_EACH_SERVER]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(known)}")
    names = parser.parse_args().names or known
    if unknown := set(names) - set(known):
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {', '.join(known)}")

    print(_machine())
    took: dict[str, float] = defaultdict(float)
    for name, run in ALONE.items():
        if name in names:
            took[name] += timed(run)[0]
    if ON_EACH_SERVER.keys() & set(names):
        for server in database.servers():
            for name, measure in ON_EACH_SERVER.items():
                if name in names:
                    took[name] += timed(partial(measure, server))[0]
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items())
    print(f"\nTotal: {perf_counter() - began:.0f} s ({parts}). Load at the end: {_load()}.")


def _machine() -> str:
    return (
        f"Machine: {os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, "
        f"psycopg {psycopg.__version__} ({psycopg.pq.__impl__}). Load at the start: {_load()}."
    )


def _load() -> str:
    """Processes that want a core, in the last minute: far above the number of cores the figures are somebody else's too."""
    return f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
