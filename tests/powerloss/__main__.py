"""`make powerloss`: every call of every verb, stopped, failed, and cut off from power."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.powerloss.interrupted import ACTIONS, VERBS, interrupt, list_calls
from tests.powerloss.scenarios import Scenario, build_driver, scenarios, write_scenarios
from tests.support.installation import Installation

__all__ = ["Outcome", "main", "run_shard"]

LIMIT = 32
SECOND = 2
SHARDS = 2
Outcome = tuple[int, int, int]


def run_shard(
    driver: Path,
    folder: Path,
    scenario: Scenario,
    *,
    every: int,
    phase: int,
    limit: int = LIMIT,
    second: int = SECOND,
) -> Outcome:
    """Tries every `every`-th state of a scenario; returns calls, states tried, and bad ones.

    Args:
        driver: From `build_driver`.
        folder: From `write_scenarios`.
        scenario: What is interrupted.
        every: Of this many states one is tried …
        phase: … and this one first.
        limit: Disks built for one power cut, where there are more.
        second: After every so many calls, the recovery is interrupted as well.
    """
    name = scenario.name.replace(" ", "_")
    numbers = map(str, (limit, second, every, phase))
    command = [str(driver), str(folder), name, *numbers]
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    sys.stderr.write(result.stderr)
    if result.returncode not in (0, 1):
        raise SystemExit(f"error: driver stopped with {result.returncode}: `{scenario.name}`")
    calls, states, bad = map(int, result.stdout.split())
    return calls, states, bad


def _table(rows: dict[str, list[Outcome]], seconds: float) -> Table:
    table = Table(title="Power loss and failing calls", caption=f"{seconds:.0f} s")
    table.add_column("verb")
    for head in ("calls", "states", "bad"):
        table.add_column(head, justify="right")
    for name, outcomes in rows.items():
        states = sum(outcome[1] for outcome in outcomes)
        bad = sum(outcome[2] for outcome in outcomes)
        table.add_row(name, str(outcomes[0][0]), f"{states:,}", str(bad))
    everything = [outcome for outcomes in rows.values() for outcome in outcomes]
    states = sum(outcome[1] for outcome in everything)
    table.add_section()
    calls = sum(outcomes[0][0] for outcomes in rows.values())
    table.add_row("all", str(calls), f"{states:,}", str(sum(each[2] for each in everything)))
    return table


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    return Progress(*columns, console=Console(stderr=True))


def _run_model(limit: int, second: int) -> dict[str, list[Outcome]]:
    """Runs the scenarios; what was done before with the same sources is not done again."""
    driver = build_driver()
    rows: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(SHARDS) as pool:
        folder = Path(scratch) / "scenarios"
        write_scenarios(folder, scenarios())

        def shard(job: tuple[Scenario, int]) -> tuple[str, Outcome]:
            scenario, phase = job
            name = scenario.name.replace(" ", "-")
            kept = driver.with_name(f"{driver.name}-{name}-{limit}-{second}-{phase}.json")
            if not kept.exists():
                outcome = run_shard(
                    driver, folder, scenario, every=SHARDS, phase=phase, limit=limit,
                    second=second,
                )  # fmt: skip
                partial = kept.with_suffix(".new")
                partial.write_text(json.dumps(outcome), encoding="ascii")
                partial.replace(kept)
            calls, states, bad = json.loads(kept.read_text(encoding="ascii"))
            return scenario.name, (calls, states, bad)

        jobs = list(product(scenarios(), range(SHARDS)))
        with _progress() as progress:
            task = progress.add_task("power loss", total=len(jobs))
            for name, outcome in pool.map(shard, jobs):
                rows.setdefault(name, []).append(outcome)
                progress.advance(task)
    return rows


def _run_real(actions: int) -> dict[str, list[Outcome]]:
    """Interrupts the real programs at every call, in `actions` of the six ways each."""
    rows: dict[str, list[Outcome]] = {}
    for name, verb in VERBS.items():
        with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch, _progress() as progress:
            folder = Path(scratch)
            (folder / "ready").mkdir()
            ready = verb.prepare(Installation(folder / "ready"))
            calls = list_calls(ready, verb, folder)
            task = progress.add_task(f"real {name}", total=len(calls) * actions)
            bad = 0
            for number, (call, step) in enumerate(product(calls, range(actions))):
                own = folder / str(number)
                own.mkdir()
                action = ACTIONS[(number // actions + step) % len(ACTIONS)]
                try:
                    interrupt(ready, verb, own, call, action)
                except AssertionError as error:
                    sys.stderr.write(f"bad: real {name}: {error}\n")
                    bad += 1
                progress.advance(task)
            rows[f"real {name}"] = [(len(calls), len(calls) * actions, bad)]
    return rows


def main() -> int:
    """Prints how many states were tried and how many were bad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=LIMIT, help="disks built for one power cut")
    parser.add_argument(
        "--second", type=int, default=SECOND,
        help="the recovery is interrupted as well after every so many calls",
    )  # fmt: skip
    parser.add_argument(
        "--real", type=int, default=6, choices=range(len(ACTIONS) + 1),
        help="ways in which each call of the real programs is interrupted, of six",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the numbers for machines")
    arguments = parser.parse_args()
    begin = time.monotonic()
    rows = _run_model(arguments.limit, arguments.second)
    if arguments.real:
        rows |= _run_real(arguments.real)
    if arguments.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        Console().print(_table(rows, time.monotonic() - begin))
    return 1 if any(outcome[2] for outcomes in rows.values() for outcome in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
