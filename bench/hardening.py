"""What the lock-down costs: time a token, start, memory, and whether a crash leaves a core.

    python -m bench.hardening [--rounds N] [--model model.bin]

Four builds, the product and three that leave layers out, in turns: plain, memory-locked, and that
with the filter and without dumps, and everything. The demo model, and a large one if
build/models has it or --model names it. Table on the screen, records in
bench/results/hardening.jsonl, a plot beside them where matplotlib is installed.
"""

import argparse
import dataclasses
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.record import REPOSITORY, machine
from bitnet.checkpoint import open_checkpoint
from bitnet.quantize import open_model, write_model
from bitnet.seal.executable import build_engine
from bitnet.seal.run_config import default_values, emit_config
from bitnet.seal.sources import PROGRAMS, build_root, engine_root
from bitnet.seal.toolchain import Target, find_compiler, host_arch, plan, run

RESULTS: Final = REPOSITORY / "bench" / "results"
DEMO: Final = REPOSITORY / "models" / "demo"
VARIANTS: Final = ("plain", "locked", "filtered", "full")
TITLES: Final = {
    "plain": "plain",
    "locked": "memory locked",
    "filtered": "+ filter, no dumps",
    "full": "+ all the rest",
}
ROUNDS: Final = 9


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


def write_settings(directory: Path, model: Path, threads: int, tokens: int) -> Path:
    """Writes a configuration that accepts no missing layer but the limit on locked memory."""
    with open_model(model) as opened:
        values = default_values(opened.spec, model=str(model), threads=threads)
    values |= {"context": tokens + 64, "max_new_tokens": tokens, "prompt_bytes_max": 4096}
    values |= {"accept_missing": [], "verify": "off", "weights": "mapped"}
    path = directory / f"{model.stem}-{threads}.yaml"
    path.write_text(emit_config(values), encoding="utf-8")
    return path


def run_once(program: Path, config: Path, tokens: int) -> dict[str, float]:
    """Decodes `tokens` tokens; returns times in milliseconds."""
    start = time.perf_counter_ns()
    result = subprocess.run(
        bench_command(program, config, tokens), capture_output=True, check=False
    )
    total = (time.perf_counter_ns() - start) / 1e6
    if result.returncode != 0:
        raise SystemExit(result.stderr.decode())
    times = json.loads(result.stdout)
    return {
        "token_ms": times["p50_ns"] / 1e6,
        "p99_ms": times["p99_ns"] / 1e6,
        "cv": times["cv"],
        "start_ms": total - times["mean_ns"] * times["tokens"] / 1e6,
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
    """Yields one record for each model, thread count and build."""
    programs = {variant: build(variant) for variant in VARIANTS}
    facts = machine()
    threads_of = [1, os.cpu_count() or 1]
    with tempfile.TemporaryDirectory() as name:
        for model, path in models.items():
            for threads in threads_of:
                config = write_settings(Path(name), path, threads, tokens[model])
                rows: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
                for turn in track(range(rounds), f"{model}, threads: {threads}"):
                    # Each round begins with another build, so that none always follows another.
                    order = VARIANTS[turn % 4 :] + VARIANTS[: turn % 4]
                    for variant in order:
                        rows[variant].append(run_once(programs[variant], config, tokens[model]))
                for variant in VARIANTS:
                    program = programs[variant]
                    yield record_of(model, threads, variant, rows, facts) | {
                        "resident_bytes": resident_bytes(program, config, tokens[model]),
                        "core_bytes": core_bytes(program, config),
                    }


def record_of(
    model: str, threads: int, variant: str, rows: dict[str, list[dict[str, float]]],
    facts: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Returns medians over the rounds, and the ratio to plain of the same round."""
    own, plain = rows[variant], rows["plain"]
    ratios = sorted(a["token_ms"] / b["token_ms"] for a, b in zip(own, plain, strict=True))
    middle = {name: statistics.median(row[name] for row in own) for name in own[0]}
    return {
        "bench": "hardening", "model": model, "threads": threads, "variant": variant,
        "rounds": len(own), **middle,
        "ratio_to_plain": statistics.median(ratios), "ratio_min": ratios[0],
        "ratio_max": ratios[-1], **facts,
    }  # fmt: skip


def print_table(records: list[dict[str, Any]]) -> None:
    """Shows the records to a person."""
    columns = ("model", "threads", "build", "ms/token", "against plain", "p99", "spread (cv)")
    table = Table(*columns, "start ms", "resident MB", "core after a crash")
    for record in records:
        core = record["core_bytes"]
        table.add_row(
            record["model"], str(record["threads"]), TITLES[record["variant"]],
            f"{record['token_ms']:.4f}",
            f"{100 * (record['ratio_to_plain'] - 1):+.2f} %", f"{record['p99_ms']:.4f}",
            f"{record['cv']:.3f}", f"{record['start_ms']:.1f}",
            f"{record['resident_bytes'] / 1e6:.1f}", f"{core} bytes" if core else "none",
        )  # fmt: skip
    Console(highlight=False, width=140).print(table)


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draws the ratios to plain with their spread, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    cases = sorted({(record["model"], record["threads"]) for record in records})
    for place, case in enumerate(cases):
        own = [each for each in records if (each["model"], each["threads"]) == case]
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
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--model", type=Path, help="a further model.bin")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of the further model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        demo = Path(name) / "demo.bin"
        write_model(open_checkpoint(DEMO), demo, tokenizer=DEMO / "tokenizer.json")
        models = {"demo": demo}
        large = arguments.model or next((REPOSITORY / "build" / "models").glob("*.bin"), None)
        if large is not None:
            models[large.stem] = large.resolve()
        tokens = {model: 400 if model == "demo" else arguments.tokens for model in models}
        records = list(measure(models, arguments.rounds, tokens))
    RESULTS.mkdir(exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (RESULTS / "hardening.jsonl").write_text(lines, encoding="utf-8")
    plot(records, RESULTS / "hardening.svg")
    print_table(records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
