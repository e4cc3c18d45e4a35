"""What the lock-down costs: time a token, start, memory, and whether a crash leaves a core.

    python -m bench.hardening [--rounds N] [--geometry NAME]

Four builds, the product and three that leave layers out, in turns: plain, memory-locked, and that
with the filter and without dumps, and everything. The demo model, and random weights of a large
geometry, which are made where build/models does not hold them. With more than one thread twice:
where the system places them, and each kept on a processor of its own. Table on the screen, records
in bench/results/DATE-hardening.jsonl, a plot beside them where matplotlib is installed.
"""

import argparse
import collections
import dataclasses
import json
import math
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.record import REPOSITORY, RESULTS, free_record, machine, today
from bitnet.checkpoint import open_checkpoint
from bitnet.cli import render
from bitnet.measure.geometry import GEOMETRIES, find_geometry
from bitnet.measure.random_model import find_model
from bitnet.measure.summary import median_interval, summarize
from bitnet.quantize import open_model, write_model
from bitnet.seal.executable import build_engine
from bitnet.seal.run_config import default_values, emit_config
from bitnet.seal.sources import PROGRAMS, build_root, engine_root
from bitnet.seal.toolchain import Target, find_compiler, host_arch, plan, run

DEMO: Final = REPOSITORY / "models" / "demo"
VARIANTS: Final = ("plain", "locked", "filtered", "full")
TITLES: Final = {
    "plain": "plain",
    "locked": "memory locked",
    "filtered": "+ filter, no dumps",
    "full": "+ all the rest",
}
# A Williams design: in four rounds each build comes directly behind each other one exactly once,
# and takes each place once. One order turned in a circle has the same neighbours in all rounds.
ORDERS: Final = tuple(
    tuple(VARIANTS["ABCD".index(each)] for each in order)
    for order in ("ABDC", "BCAD", "CDBA", "DACB")
)
ROUNDS: Final = 8
LARGE: Final = "bitnet-2b-4t"
SEED: Final = 1  # as `make bench-peers`: one file serves both
# Parts of an octave that a bucket of the histogram spans: bucket b counts times from 2^(b/4) to
# below 2^((b+1)/4) microseconds.
BUCKETS_PER_OCTAVE: Final = 4


def build(variant: str) -> Path:
    """Links bitnet-infer with some layers left out; `full` is the product itself."""
    tokenizer = DEMO / "tokenizer.json"
    product = build_engine(tokenizer, Target(host_arch()))
    if variant == "full":
        return product
    inputs = build_root() / "tokenizer"
    program = PROGRAMS["bitnet-infer"]
    for folder in sorted(inputs.iterdir()):
        arguments = {
            "engine": engine_root(),
            "build": build_root().resolve(),
            "compiler": str(find_compiler()),
            "include": (folder.resolve(),),
        }
        if plan(program, Target(host_arch()), **arguments)[-1].output == product:
            lockdown = "platform/lockdown_linux.cc"
            parts = tuple(part for part in program.parts if part != lockdown)
            parts += (f"../bench/layers/{variant}.cc",)
            without = dataclasses.replace(program, name=f"infer-{variant}", parts=parts)
            commands = plan(without, Target(host_arch()), **arguments)
            return run(commands, directory=engine_root())
    raise SystemExit("error: compiled tokenizer is not found")


def large_model(name: str, directory: Path) -> Path:
    """Returns random weights of a geometry: never a file that happens to lie there."""
    with render.progress_bar(f"model {name}") as progress:
        return find_model(name, find_geometry(name), SEED, directory, progress)


def write_settings(
    directory: Path, model: Path, threads: int, tokens: int, placement: str = "any"
) -> Path:
    """Writes a configuration that accepts no missing layer but the limit on locked memory."""
    with open_model(model) as opened:
        values = default_values(opened.spec, model=str(model), threads=threads)
    values |= {"context": tokens + 64, "max_new_tokens": tokens, "prompt_bytes_max": 4096}
    values |= {"accept_missing": [], "verify": "off", "weights": "mapped"}
    if placement == "fixed":
        values["cores"] = sorted(os.sched_getaffinity(0))[:threads]
    path = directory / f"{model.stem}-{threads}-{placement}.yaml"
    path.write_text(emit_config(values), encoding="utf-8")
    return path


def run_once(program: Path, config: Path, tokens: int) -> dict[str, Any]:
    """Decodes `tokens` tokens; returns what round_of says."""
    start = time.perf_counter_ns()
    result = subprocess.run(
        bench_command(program, config, tokens), capture_output=True, check=False
    )
    run_ns = time.perf_counter_ns() - start
    if result.returncode != 0:
        raise SystemExit(result.stderr.decode())
    return round_of(json.loads(result.stdout)["times_ns"], run_ns)


def round_of(times_ns: Sequence[int], run_ns: int) -> dict[str, Any]:
    """Returns the figures of a round, and under `tail` what stays with it alone.

    `start_ms` is the run without these tokens: start, prefill of 16 tokens, first token, end.
    """
    times = summarize(times_ns)
    buckets = collections.Counter(
        max(0, math.floor(BUCKETS_PER_OCTAVE * math.log2(each / 1000))) for each in times_ns
    )
    return {
        "token_ms": times.p50 / 1e6,
        "p99_ms": times.p99 / 1e6,
        "cv": times.cv,
        "start_ms": (run_ns - sum(times_ns)) / 1e6,
        "tail": {
            "min_ns": min(times_ns),
            "max_ns": max(times_ns),
            "histogram": {str(bucket): buckets[bucket] for bucket in sorted(buckets)},
        },
    }


def bench_command(program: Path, config: Path, tokens: int) -> list[str]:
    """Returns the command line that decodes and times `tokens` tokens."""
    return [str(program), "--config", str(config), "--seed", "1", "--bench", str(tokens)]


def resident_bytes(program: Path, config: Path, tokens: int) -> int:
    """Returns the most memory that a run of its own had at one time."""
    most = 0
    with subprocess.Popen(
        bench_command(program, config, tokens), stdout=subprocess.DEVNULL
    ) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
            most = max(most, int(found[1]) * 1024 if found else 0)
            time.sleep(0.001)
    return most


def core_bytes(program: Path, config: Path) -> int:
    """Ends a run by SIGSEGV where cores are wanted; returns the size of what it leaves."""
    with tempfile.TemporaryDirectory() as folder:

        def prepare() -> None:
            limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
            resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))

        process = subprocess.Popen(
            [program, "--config", config, "--seed", "1"], cwd=folder, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            preexec_fn=prepare,  # noqa: PLW1509 - no other thread runs here
        )  # fmt: skip
        state = Path(f"/proc/{process.pid}/syscall")
        deadline = time.monotonic() + 30
        # In the read of its prompt: set-up is over.
        while not state.read_text().startswith(("0 0x0 ", "63 0x0 ")):
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("error: program did not come to its prompt")
            time.sleep(0.01)
        process.send_signal(signal.SIGSEGV)
        process.communicate()
        return sum(path.stat().st_size for path in Path(folder).iterdir())


def measure(
    models: dict[str, Path], rounds: int, tokens: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Yields one record for each model, thread count, placement of threads, and build."""
    programs = {variant: build(variant) for variant in VARIANTS}
    facts = machine()
    processors = len(os.sched_getaffinity(0))
    cases = [(1, "any"), *((processors, each) for each in ("any", "fixed") if processors > 1)]
    with tempfile.TemporaryDirectory() as name:
        for model, path in models.items():
            for threads, placement in cases:
                config = write_settings(Path(name), path, threads, tokens[model], placement)
                rows: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
                for turn in track(range(rounds), f"{model}, threads: {threads}, {placement}"):
                    for variant in ORDERS[turn % len(ORDERS)]:
                        rows[variant].append(run_once(programs[variant], config, tokens[model]))
                for variant in VARIANTS:
                    program = programs[variant]
                    case = {"model": model, "threads": threads, "placement": placement}
                    yield record_of(case, variant, rows, facts) | {
                        "resident_bytes": resident_bytes(program, config, tokens[model]),
                        "core_bytes": core_bytes(program, config),
                    }


def record_of(
    case: dict[str, Any], variant: str, rows: dict[str, list[dict[str, Any]]],
    facts: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Returns medians over the rounds, ratios to plain of the same round, and each tail.

    `spread_to_plain` is the median ratio of the cv, `spread_interval` what holds it with 95 %
    confidence; None where the rounds are too few to say.
    """
    own, plain = rows[variant], rows["plain"]
    ratios = sorted(a["token_ms"] / b["token_ms"] for a, b in zip(own, plain, strict=True))
    spreads = [a["cv"] / b["cv"] for a, b in zip(own, plain, strict=True)]
    interval = median_interval(spreads)
    middle = {
        name: statistics.median(row[name] for row in own) for name in own[0] if name != "tail"
    }
    return {
        "bench": "hardening", **case, "variant": variant, "rounds": len(own), **middle,
        "ratio_to_plain": statistics.median(ratios), "ratio_min": ratios[0],
        "ratio_max": ratios[-1], "spread_to_plain": statistics.median(spreads),
        "spread_interval": interval if math.isfinite(interval[0]) else None,
        "tails": [row["tail"] for row in own],
        "buckets_per_octave": BUCKETS_PER_OCTAVE, **facts,
    }  # fmt: skip


def words_of(record: dict[str, Any]) -> str:
    """Returns the number of threads, and whether each has a processor of its own."""
    return f"{record['threads']}{', fixed' if record['placement'] == 'fixed' else ''}"


def spread_words(record: dict[str, Any]) -> str:
    """Returns the ratio of the spread to that of plain, with what holds it, for people."""
    ratio = f"{record['spread_to_plain']:.2f}"
    interval = record["spread_interval"]
    if interval is None or record["variant"] == "plain":
        return ratio
    return f"{ratio} ({interval[0]:.2f} … {interval[1]:.2f})"


def print_table(records: list[dict[str, Any]]) -> None:
    """Shows the records to a person."""
    columns = ("model", "threads", "build", "ms/token", "against plain", "p99", "spread (cv)")
    against = "spread to plain (95 %)"
    start = "start, prompt of 16 and first token, ms"
    table = Table(
        *columns, against, "slowest token, ms", start, "resident MB", "core after a crash"
    )
    for record in records:
        core = record["core_bytes"]
        table.add_row(
            record["model"], words_of(record), TITLES[record["variant"]],
            f"{record['token_ms']:.4f}",
            f"{100 * (record['ratio_to_plain'] - 1):+.2f} %", f"{record['p99_ms']:.4f}",
            f"{record['cv']:.3f}", spread_words(record),
            f"{max(each['max_ns'] for each in record['tails']) / 1e6:.3f}",
            f"{record['start_ms']:.1f}",
            f"{record['resident_bytes'] / 1e6:.1f}", f"{core} bytes" if core else "none",
        )  # fmt: skip
    Console(highlight=False, width=170).print(table)


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draws the ratios to plain with their spread, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    cases = sorted({(record["model"], words_of(record)) for record in records})
    for place, case in enumerate(cases):
        own = [each for each in records if (each["model"], words_of(each)) == case]
        ratios = [100 * (each["ratio_to_plain"] - 1) for each in own]
        spread = [
            [100 * (each["ratio_to_plain"] - each["ratio_min"]) for each in own],
            [100 * (each["ratio_max"] - each["ratio_to_plain"]) for each in own],
        ]
        places = [index + 0.15 * place for index in range(len(own))]
        label = f"{case[0]}, threads: {case[1]}"
        axes.errorbar(places, ratios, yerr=spread, fmt="o", capsize=3, label=label)
    axes.set_xticks(range(len(VARIANTS)), [TITLES[each] for each in VARIANTS])
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_ylabel("time a token against plain, %")
    axes.legend()
    figure.savefig(path)


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="a multiple of 4")
    parser.add_argument("--geometry", choices=GEOMETRIES, default=LARGE, help="the large model")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of the large model")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.rounds % len(ORDERS) != 0:
        parser.error(f"--rounds is no multiple of {len(ORDERS)}: builds would not follow alike")
    with tempfile.TemporaryDirectory() as name:
        demo = Path(name) / "demo.bin"
        write_model(open_checkpoint(DEMO), demo, tokenizer=DEMO / "tokenizer.json")
        large = large_model(arguments.geometry, REPOSITORY / "build" / "models")
        models = {"demo": demo, large.stem: large}
        tokens = {model: 400 if model == "demo" else arguments.tokens for model in models}
        records = list(measure(models, arguments.rounds, tokens))
    RESULTS.mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    path = free_record(RESULTS, f"{today()}-hardening")
    path.write_text(lines, encoding="utf-8")
    plot(records, path.with_suffix(".svg"))
    print_table(records)
    print(f"records {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
