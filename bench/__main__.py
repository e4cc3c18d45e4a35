"""`make bench`: every benchmark, one after the other; tables on the screen, records in results/."""

import importlib
import json
import sys

from rich.console import Console
from rich.progress import track

from bench.record import RESULTS, free_record, today

BENCHMARKS = ("program", "tokenizer", "kernels")


def main() -> int:
    """Runs each benchmark, writes its records and prints its table; returns the exit code."""
    RESULTS.mkdir(exist_ok=True)
    console, day = Console(stderr=True), today()
    for name in track(BENCHMARKS, description="measuring", console=console):
        bench = importlib.import_module(f"bench.{name}")
        records = list(bench.measure())
        lines = "".join(json.dumps(record) + "\n" for record in records)
        path = free_record(RESULTS, f"{day}-{name}")
        path.write_text(lines, encoding="utf-8")
        bench.print_table(records)
        print(f"records {path}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
