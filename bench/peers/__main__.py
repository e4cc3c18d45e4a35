"""`make bench-peers`: our engine beside its peers, on the same work, in the same rounds."""

import dataclasses
import importlib.util
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from bench.record import REPOSITORY, RESULTS, free_record, machine, today
from bitnet.checkpoint import ModelSpec
from bitnet.cli import render
from bitnet.errors import ToolchainError, UsageError
from bitnet.measure.geometry import GEOMETRIES, find_geometry
from bitnet.measure.programs import build_measuring_program
from bitnet.measure.random_model import find_model
from bitnet.seal.toolchain import host_arch

HELP: Final = """Measures our engine and its peers in turns, on random weights of one geometry.

Every round measures the read limit of the machine and every engine once, the others waiting; ratios
are formed within a round. Tables come to the screen, records to bench/results, plots to
build/bench-peers. A run that was broken off goes on where it stopped.

Examples:

\b
  python -m bench.peers
  python -m bench.peers --quick
  python -m bench.peers --geometry tinyllama-1.1b --peers llama-tq2_0 --rounds 9 --tokens 128
"""
PACKAGES: Final = ("gguf", "llama_cpp", "matplotlib", "onnx", "onnxruntime")
# Small enough for a smoke test, and of whole blocks of every format.
SMOKE: Final = dataclasses.replace(
    GEOMETRIES["tinyllama-1.1b"],
    hidden_size=512,
    intermediate_size=768,
    layer_count=2,
    head_count=8,
    kv_head_count=2,
    vocab_size=1024,
)
SEED: Final = 1
DIRECTORY: Final = REPOSITORY / "build" / "bench-peers"


def check_packages() -> None:
    """Says what is missing before anything is measured."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ToolchainError(
            f"packages are missing: `{', '.join(missing)}`",
            hint="run `make bench-peers`, which sets them up",
        )


def split(text: str) -> list[str]:
    """The names of a list with commas."""
    return [each.strip() for each in text.split(",") if each.strip()]


def parse_others(others: list[str]) -> list[tuple[str, list[str]]]:
    """Returns name and command of each NAME=COMMAND."""
    found = []
    for text in others:
        name, sign, command = text.partition("=")
        if not name or not sign or not command.strip():
            raise UsageError(
                f"not a name and a command: `--other {text}`",
                hint="write it as in `--other 'mine=./program model {threads}'`",
            )
        found.append((name, shlex.split(command)))
    return found


def measure_geometry(
    name: str, spec: ModelSpec, plan: Any, isas: list[str], peers: list[str],
    others: list[tuple[str, list[str]]], date: str, record: Path | None,
) -> None:  # fmt: skip
    """Measures one geometry and gives everything out."""
    from bench.peers import engines as all_engines
    from bench.peers import report as reports
    from bench.peers import rounds as all_rounds
    from bench.peers import tables

    models = REPOSITORY / "build" / "models"
    with render.progress_bar("model bitnet") as progress:
        model = find_model(name, spec, SEED, models, progress)
    program = build_measuring_program("decode")
    engines = [
        *(all_engines.own_engine(isa, program, model, spec, plan.context) for isa in isas),
        *all_engines.find_peers(peers, name, spec, SEED, plan.context, models),
        *(all_engines.other_engine(*other) for other in others),
    ]
    facts = {"geometry": name, "seed": SEED, "kv_cache": all_engines.KV_CACHE,
             "weights": all_engines.WEIGHTS, **machine()}  # fmt: skip
    header = {
        **facts,
        "plan": {**dataclasses.asdict(plan), "threads": list(plan.threads)},
        "engines": [engine.name for engine in engines],
        "program": program.stat().st_mtime_ns,
    }
    raw = DIRECTORY / f"{name}.jsonl"
    with render.step_progress() as steps:
        rounds = all_rounds.measure_rounds(plan, engines, model, raw, header, steps)
    raw.replace(raw.with_suffix(".done.jsonl"))
    facts = {**facts, "date": date, "rounds": plan.rounds, "position": plan.position,
             "tokens": plan.tokens, "prefill_tokens": plan.prefill_tokens}  # fmt: skip
    report = reports.make_report(rounds, engines, plan.prefill_tokens)
    if record is not None:
        render.write_records(record, reports.records(report, facts))
    tables.print_report(report, name, facts)
    for path in tables.write_plots(report, rounds, name, DIRECTORY):
        print(f"plot    {path.relative_to(REPOSITORY)}")
    print(f"rounds  {raw.with_suffix('.done.jsonl').relative_to(REPOSITORY)}")
    if record is not None:
        print(f"records {record}")
    print(flush=True)


def run(
    geometry: Annotated[
        str, typer.Option("--geometry", metavar="LIST", help="Which geometries.")
    ] = "tinyllama-1.1b,bitnet-2b-4t",
    isa: Annotated[
        str, typer.Option("--isa", metavar="LIST", help="Our kernel tables.")
    ] = "auto,avx2" if host_arch() == "x86_64" else "auto",
    peers: Annotated[
        str, typer.Option("--peers", metavar="LIST", help="Which peers; also llama-q2_0.")
    ] = "llama-q4_k_m,llama-tq2_0,llama-tq1_0,onnx-int4",
    other: Annotated[
        list[str] | None,
        typer.Option("--other", metavar="NAME=COMMAND", help="A program with our commands."),
    ] = None,
    threads: Annotated[str, typer.Option("--threads", metavar="LIST")] = "1,2",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of decoding.")] = 7,
    prefill_rounds: Annotated[
        int, typer.Option("--prefill-rounds", min=0, help="In how many of them also prefill.")
    ] = 2,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of a round.")] = 20,
    position: Annotated[int, typer.Option("--position", min=0, help="Where they begin.")] = 100,
    prefill: Annotated[int, typer.Option("--prefill", min=1, help="Tokens of a prefill.")] = 512,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test: seconds, a toy model, no records.")
    ] = False,
    date: Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD")] = None,
) -> None:
    check_packages()
    from bench.peers.rounds import RoundsPlan

    if not all(each.isdecimal() and 1 <= int(each) <= 64 for each in split(threads)):
        raise UsageError(f"not a list of numbers of threads: `--threads {threads}`")
    counts = tuple(int(each) for each in split(threads))
    plan = RoundsPlan(counts, rounds, position, tokens, prefill, prefill_rounds)
    specs = {name: find_geometry(name) for name in split(geometry)}
    if quick:
        plan = RoundsPlan(counts, 2, 16, 4, 32, 1)
        specs = {"smoke": SMOKE}
    day = date if date is not None else today()
    begin = time.monotonic()
    for name, spec in specs.items():
        path = free_record(RESULTS, f"{day}-peers-{name}")
        measure_geometry(
            name, spec, plan, split(isa), split(peers), parse_others(other or []), day,
            None if quick else path,
        )  # fmt: skip
    print(f"took {time.monotonic() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    app = render.create_app(HELP)
    app.command(help=render.reflow_text(HELP))(run)
    sys.exit(render.run_app(app, "bench.peers", sys.argv[1:]))
