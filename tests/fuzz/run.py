"""`make fuzz SECONDS=N`: every harness for N seconds of processor time, one JSON line each.

Corpora and findings lie under build/fuzz/HARNESS and are taken up again by the next run. With
`--record` the lines are also added to bench/results/fuzz.jsonl, with date and commit; `--totals`
shows what all recorded runs come to.
"""

import argparse
import datetime as dt
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.support.engine import REPOSITORY
from tests.support.fuzz_harnesses import HARNESSES
from tests.support.fuzzing import fuzz

RECORD = REPOSITORY / "bench" / "results" / "fuzz.jsonl"


def main() -> int:
    """Returns 1 where a harness found something."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of processor time, each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--record", action="store_true", help=f"add to {RECORD.name}")
    parser.add_argument("--totals", action="store_true", help="only show what is recorded")
    parser.add_argument("names", nargs="*", help="harnesses; all of them if none is named")
    options = parser.parse_args()
    if options.totals:
        Console().print(totals([json.loads(line) for line in RECORD.open()]))
        return 0
    crashes = 0
    for harness in HARNESSES:
        if options.names and harness.name not in options.names:
            continue
        folder = options.directory / harness.name
        result = fuzz(harness, folder, seconds=options.seconds, seed=options.seed)
        report = result.pop("report")
        print(json.dumps(result), flush=True)
        if options.record:
            add(result | {"seed": options.seed})
        if result["crashes"]:
            crashes += 1
            print(f"{report}\nkept under {folder / 'crashes'}", file=sys.stderr)
    return 1 if crashes else 0


def add(result: dict[str, Any]) -> None:
    """Adds a run to the record, with the commit that it ran on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    today = dt.datetime.now(dt.UTC).date().isoformat()
    with RECORD.open("a") as record:
        record.write(json.dumps({"date": today, "commit": commit} | result) + "\n")


def totals(runs: list[dict[str, Any]]) -> Table:
    """Returns a row for each harness: hours of processor time and executions of all its runs.

    Runs before the harnesses reached what they reach now, which do not tell `accepted`, are a
    column of hours and nothing else.
    """
    columns = ("runs", "CPU hours", "executions", "accepted", "edges", "corpus", "findings")
    table = Table("harness", *columns, "before, hours")
    of_harness: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        of_harness[run["harness"]].append(run)
    for name in sorted(of_harness):
        own = [run for run in of_harness[name] if "accepted" in run]
        earlier = [run for run in of_harness[name] if "accepted" not in run]
        table.add_row(
            name,
            str(len(own)),
            f"{hours(own):.2f}",
            f"{sum(run['executions'] for run in own):,}",
            f"{sum(run['accepted'] or 0 for run in own):,}",
            f"{max((run['edges'] for run in own), default=0):,}",
            f"{max((run['corpus'] for run in own), default=0):,}",
            str(sum(run["crashes"] for run in own)),
            f"{hours(earlier):.2f}",
        )
    return table


def hours(runs: list[dict[str, Any]]) -> float:
    """Returns the processor time of runs."""
    return float(sum(run["seconds"] for run in runs)) / 3600


if __name__ == "__main__":
    sys.exit(main())
