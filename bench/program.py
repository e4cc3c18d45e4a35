"""Times the sealed demo executable: start to first token, prefill, decode.

    python bench/program.py            a table
    python bench/program.py --json     one JSON line a measurement

Every round runs each instruction set and thread count once, in turns; results are medians with the
fastest and the slowest. Start is the wall time from before exec to the first byte of the answer.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.record import REPOSITORY, machine
from bitnet.engine import Engine

DEMO = REPOSITORY / "build" / "demo"
ROUNDS = 15
REQUEST = b"extract a tar.gz archive into a directory\n"
LONG_WORDS = "list all files that were changed today and sort them by size "


def variant(config: str, directory: Path, threads: int, isa: str, max_new_tokens: int) -> Path:
    """Writes the demo's configuration with other values and returns its path."""
    for key, value in (("threads", threads), ("isa", isa), ("max_new_tokens", max_new_tokens)):
        config = re.sub(rf"(?m)^{key}: .*$", f"{key}: {value}", config)
    path = directory / f"{isa}-{threads}-{max_new_tokens}.yaml"
    path.write_text(config, encoding="utf-8")
    return path


def run_once(config: Path, prompt: bytes) -> dict[str, Any]:
    """Runs the executable and returns its statistics with the time to the first byte added."""
    command = [str(DEMO / "bitnet-infer"), "--config", str(config), "--seed", "1", "--stats"]
    start = time.perf_counter_ns()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(prompt)
    process.stdin.close()
    process.stdout.read(1)
    first = time.perf_counter_ns()
    process.stdout.read()
    stats = json.loads(process.stderr.read().decode().splitlines()[-1])
    process.wait()
    return {**stats, "start_ms": (first - start) / 1e6}


def measure() -> Iterator[dict[str, Any]]:
    """Yields a record for each instruction set and thread count."""
    if not (DEMO / "bitnet-infer").is_file():
        raise SystemExit("error: demo is not built\n\nhint: run `make demo`")
    config = (DEMO / "config.yaml").read_text(encoding="utf-8")
    cases = [(isa, threads) for isa in Engine.isa_names() for threads in (1, 2)]
    long_prompt = (LONG_WORDS * 25).encode()
    rounds: dict[tuple[str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for _ in range(ROUNDS):
            for isa, threads in cases:
                short = run_once(variant(config, directory, threads, isa, 96), REQUEST)
                long = run_once(variant(config, directory, threads, isa, 16), long_prompt)
                rounds[isa, threads].append({
                    "start_ms": short["start_ms"],
                    "decode_tokens_per_second": short["decode_tokens_per_second"],
                    "prefill_tokens_per_second": long["prompt_tokens"] / long["prefill_ms"] * 1e3,
                })  # fmt: skip
    facts = machine()
    for (isa, threads), rows in rounds.items():
        record: dict[str, Any] = {"isa": isa, "threads": threads, "rounds": ROUNDS}
        for key in rows[0]:
            values = [row[key] for row in rows]
            record[key] = statistics.median(values)
            record[f"{key}_min"], record[f"{key}_max"] = min(values), max(values)
        yield {"bench": "program", **record, **facts}


def print_table(records: list[dict[str, Any]]) -> None:
    """Prints the records for people."""
    print(f"{records[0]['cpu']}: sealed demo, medians of {ROUNDS} rounds (fastest … slowest)")
    print(f"{'isa':11} {'threads':>7} {'start ms':>26} {'decode tok/s':>26} {'prefill tok/s':>13}")
    for record in records:
        cells = [
            f"{record[key]:.{digits}f} "
            f"({record[f'{key}_min']:.{digits}f} … {record[f'{key}_max']:.{digits}f})"
            for key, digits in (("start_ms", 2), ("decode_tokens_per_second", 0))
        ]
        prefill = f"{record['prefill_tokens_per_second']:.0f}"
        print(
            f"{record['isa']:11} {record['threads']:>7} {cells[0]:>26} {cells[1]:>26} {prefill:>13}"
        )


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description="Times the sealed demo executable.")
    parser.add_argument("--json", action="store_true", help="one JSON line a measurement")
    options = parser.parse_args()
    records = list(measure())
    if options.json:
        print("\n".join(map(json.dumps, records)))
    else:
        print_table(records)


if __name__ == "__main__":
    main()
