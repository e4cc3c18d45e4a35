"""Times every kernel on every instruction set that this processor has.

    python bench/kernels.py                    a table
    python bench/kernels.py --json             one JSON line a measurement
    python bench/kernels.py --only ternary     operations whose name contains the word

All tables of an operation are timed in turns, round after round, by `kernels_test --bench`; the
result is the median of the rounds, with the fastest and the slowest, in processor time of one
thread. Nothing is timed under emulation. Where a case says "memory", consecutive calls take
consecutive matrices of a set of 100 MiB; else the same matrix stays in the caches.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from bench.record import machine
from bitnet.seal.toolchain import host_arch
from tests.support import kernel_driver

ROUNDS = 7
ROUND_MS = 40
MEMORY_SET_BYTES = 100 << 20


@dataclass(frozen=True)
class Measurement:
    """One thing to time.

    Attributes:
        operation: Name of the kernel.
        title: What a reader should know of the case.
        sizes: As `tests/engine/kernels_case.h` says for the operation.
        work: Multiply-adds with a weight for a matmul, elements otherwise, of one call.
        read_bytes: Weights or inputs that one call reads once.
        matrices: How many matrices take turns.
    """

    operation: str
    title: str
    sizes: tuple[int, ...]
    work: int
    read_bytes: int
    matrices: int = 1


def matmul(operation: str, rows: int, cols: int, tokens: int, *, memory: bool) -> Measurement:
    """A matrix times one token (decode) or several (prefill)."""
    bytes_by_four = {"ternary_matmul": 1, "int8_high": 2, "int8_low": 2, "f32_matmul": 16}[
        operation
    ]
    weight_bytes = rows * cols * bytes_by_four // 4
    last = rows if operation == "f32_matmul" else rows // 16
    stride = (cols + 127) // 128 * 128
    matrices = -(-MEMORY_SET_BYTES // weight_bytes) if memory else 1
    phase = "decode" if tokens == 1 else f"prefill {tokens}"
    title = f"{rows} x {cols}, {phase}, {'memory' if memory else 'cache'}"
    sizes = (cols, 0, last, tokens, stride, rows * matrices)
    if operation == "int8_low":  # all blocks of all rows in order
        sizes = (cols, 0, last, 0, stride // 128, 1)
    return Measurement(operation, title, sizes, rows * cols * tokens, weight_bytes, matrices)


def vector(operation: str, title: str, sizes: tuple[int, ...], elements: int) -> Measurement:
    """An operation on vectors of `elements` float32 inputs in all."""
    return Measurement(operation, title, sizes, elements, 4 * elements)


def measurements() -> Iterator[Measurement]:
    """Every case, in the order of the table: the geometry of a model with two billion weights."""
    for operation in ("ternary_matmul", "int8_high", "int8_low"):
        for rows in (2560, 6912):
            yield matmul(operation, rows, 2560, 1, memory=False)
            yield matmul(operation, rows, 2560, 1, memory=True)
            if operation == "ternary_matmul":  # the head takes one token at a time
                yield matmul(operation, rows, 2560, 64, memory=False)
    yield matmul("f32_matmul", 1024, 2560, 1, memory=False)
    yield vector("rms_norm", "2560", (2560, 2560, 0), 2 * 2560)
    yield vector("quantize_int8", "2560", (2560,), 2560)
    yield vector("quantize_split", "2560", (2560,), 2560)
    yield vector("relu2_gate", "6912", (6912, 0), 2 * 6912)
    yield vector("silu_gate", "6912", (6912, 0), 2 * 6912)
    yield vector("add_in_place", "2560", (2560,), 2 * 2560)
    yield vector("rope", "head of 128", (128,), 256)
    yield vector("rope_angles", "position 777, 64 angles", (777, 64), 64)
    for tokens, positions in ((1, 128), (1, 2048), (4, 2048)):
        title = f"{positions} positions, 4 heads x {tokens}"
        sizes = (positions, 128, 4, tokens, 4 * 128, positions + 32)
        elements = 2 * positions * 128
        for operation, width in (("attention", 4), ("attention_f16", 2), ("attention_int8", 1)):
            work = elements * 4 * tokens
            yield Measurement(operation, title, sizes, work, width * elements)
    yield vector("exp_sum", "128256", (128256, 128256, 0), 128256)


def time_case(driver: Path, case: Measurement) -> Iterator[dict[str, Any]]:
    """Yields a record for each table that this processor can run."""
    arguments = (case.operation, ROUNDS, ROUND_MS, case.matrices, *case.sizes)
    result = kernel_driver.run_driver(driver, host_arch(), "--bench", *map(str, arguments))
    if result.returncode != 0:
        raise SystemExit(f"error: benchmark failed: `{case.operation}`\n{result.stderr.decode()}")
    for line in result.stdout.decode().splitlines():
        record = json.loads(line)
        times = record.pop("ns")
        median = statistics.median(times)
        yield {
            **record,
            "case": case.title,
            "sizes": case.sizes,
            "matrices": case.matrices,
            "ns": median,
            "ns_min": min(times),
            "ns_max": max(times),
            "rounds": len(times),
            "giga_per_second": case.work / median,
            "gigabytes_per_second": case.read_bytes / median,
        }


def print_row(record: dict[str, Any]) -> None:
    """One line of the table."""
    spread = (record["ns_max"] - record["ns_min"]) / record["ns"]
    print(
        f"{record['operation']:15} {record['case']:30} {record['isa']:11} "
        f"{record['ns'] / 1e3:12.2f} {spread:7.0%} "
        f"{record['giga_per_second']:9.2f} {record['gigabytes_per_second']:8.2f}"
    )


def measure(only: str = "") -> Iterator[dict[str, Any]]:
    """Yields a record for each operation with `only` in its name, each case and each table."""
    driver = kernel_driver.build(host_arch())
    facts = machine()
    for case in measurements():
        if only in case.operation:
            for record in time_case(driver, case):
                yield {"bench": "kernels", **record, **facts}


def print_table(records: list[dict[str, Any]]) -> None:
    """Prints the records for people."""
    first = records[0]
    print(f"{first['cpu']}, {first['compiler']}; giga: multiply-adds or elements a second")
    columns = f"{'µs':>12} {'spread':>7} {'giga/s':>9} {'GB/s':>8}"
    print(f"{'operation':15} {'case':30} {'isa':11} {columns}")
    for record in records:
        print_row(record)


def main() -> None:
    """Parses the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description="Times every kernel on this processor.")
    parser.add_argument("--json", action="store_true", help="one JSON line a measurement")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="operations with this in the name"
    )
    options = parser.parse_args()
    records = list(measure(options.only))
    if options.json:
        print("\n".join(map(json.dumps, records)))
    else:
        print_table(records)


if __name__ == "__main__":
    main()
