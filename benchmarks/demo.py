"""How long ``rlskit demo`` takes, from nothing to the last line."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

from benchmarks.measure import bytecode_cached, report

RUNS = 3


def run() -> None:
    with bytecode_cached() as environment:
        subprocess.run([sys.executable, "-m", "rlskit", "--version"], env=environment, check=True, capture_output=True)
        runs = [_once(environment) for _ in range(RUNS)]
    rows = [[str(number), *(f"{each:.2f}" for each in took)] for number, took in enumerate(runs, 1)]
    rows.append(["median", *(f"{median(column):.2f}" for column in zip(*runs, strict=True))])
    report(
        "demo: `python -m rlskit demo`, in seconds",
        f"{RUNS} runs, each a fresh process with a fresh server; imports have cached bytecode, as pip leaves it.",
        ["run", 'until "ready in"', "from there to the first result", "the whole"],
        rows,
    )


def _once(environment: dict[str, str]) -> tuple[float, float, float]:
    began = perf_counter()
    ready = first = 0.0
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "rlskit", "demo"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready in"):
                ready = perf_counter()
            elif ready and not first and line.strip():
                first = perf_counter()
    assert process.returncode == 0, "the demo failed"
    assert first, "the demo printed no result"
    return ready - began, first - ready, perf_counter() - began
