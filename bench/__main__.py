"""`make bench`: every benchmark, one after the other; tables on the screen, records in results/."""

import importlib
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

RESULTS = Path(__file__).resolve().parent / "results"
BENCHMARKS = ("program", "tokenizer", "kernels")


def main() -> int:
    """Runs each benchmark, writes its records and prints its table; returns the exit code."""
    RESULTS.mkdir(exist_ok=True)
    console = Console(stderr=True)
    for name in track(BENCHMARKS, description="measuring", console=console):
        bench = importlib.import_module(f"bench.{name}")
        records = list(bench.measure())
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (RESULTS / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        bench.print_table(records)
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
