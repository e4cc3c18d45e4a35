"""`bitnet bench`: speed on a known geometry beside the limits of this machine."""

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bitnet.checkpoint import ModelSpec
from bitnet.cli import render
from bitnet.errors import UsageError
from bitnet.measure.geometry import GEOMETRIES, find_geometry, parameter_count
from bitnet.measure.machine import machine
from bitnet.measure.random_model import MARGIN_TRAINED, find_model
from bitnet.measure.speed import SpeedPlan, SpeedReport, Spread, measure_speed
from bitnet.seal.sources import build_root

__all__ = ["register"]

_HELP: Final = f"""Measures decode and prefill on a geometry, beside the limits of this machine.

The model has random weights in the geometry of a published one, which changes nothing for the
speed; it is written once and kept. Geometries: {", ".join(GEOMETRIES)}. Each round measures the
limits (memory reads, int8 multiply-adds in registers) and every variant in turns; results are
medians of the rounds. docs/performance.md explains the columns.

Examples:

\b
  bitnet bench --geometry tinyllama-1.1b
  bitnet bench --geometry bitnet-2b-4t --isa auto,avx2 --threads 1,2 --json
  bitnet bench --geometry demo --rounds 3 --record demo.jsonl
"""

_NUMBERS_MAX: Final = 64
_POSITIONS_DEFAULT: Final = (0, 100, 1000)


def _parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """Returns the numbers of a list with commas."""
    parts = [part.strip() for part in text.split(",")]
    good = all(part.isascii() and part.isdecimal() and len(part) <= 9 for part in parts)
    if not good or len(parts) > _NUMBERS_MAX:
        raise UsageError(
            f"not a list of numbers: `{option} {text}`", hint=f"write it as in `{option} 1,2`"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def _parse_names(option: str, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(name.isascii() and name.isalnum() for name in names):
        raise UsageError(
            f"not a list of names: `{option} {text}`", hint=f"write it as in `{option} auto,avx2`"
        )
    return names


def _choose_positions(text: str | None, spec: ModelSpec, tokens: int) -> tuple[int, ...]:
    """Returns the positions asked for, or those of the default that fit the context."""
    if text is not None:
        return _parse_numbers("--positions", text)
    fitting = tuple(each for each in _POSITIONS_DEFAULT if each + tokens <= spec.context_max)
    return fitting or _POSITIONS_DEFAULT[:1]


def _records(report: SpeedReport, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns one record for each result, each with everything that it depends on."""
    sections = (("limit", report.limits), ("decode", report.decode), ("prefill", report.prefill))
    return [
        {"bench": name, "rounds": report.rounds, **dataclasses.asdict(result), **facts}
        for name, results in sections
        for result in results
    ]


def _rate(spread: Spread) -> str:
    digits = 0 if spread.median >= 1000 else 1 if spread.median >= 100 else 2
    return f"{spread.median:.{digits}f} ({spread.min:.{digits}f} … {spread.max:.{digits}f})"


def _percent(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.0%}"


def _print_limits(report: SpeedReport) -> None:
    rows = [
        [
            f"{row.limit}, {row.name}",
            str(row.threads),
            _rate(row.per_second),
            "GB/s" if row.limit == "read" else "GMAC/s",
        ]
        for row in report.limits
    ]
    render.print_columns(["limit", "threads", "median (lowest … highest)", "unit"], rows)


def _print_decode(report: SpeedReport) -> None:
    header = [
        "decode", "threads", "position", "tok/s (lowest … highest)", "MB/token", "GB/s", "of limit",
        "mean ms", "sd", "CV", "p50", "p99", "max", "faults", "disk",
    ]  # fmt: skip
    rows = []
    for row in report.decode:
        times = row.latency_ns
        rows.append([
            row.isa,
            str(row.threads),
            str(row.position),
            _rate(row.tokens_per_second),
            f"{row.bytes_per_token / 1e6:.1f}",
            f"{row.gigabytes_per_second:.2f}",
            _percent(row.fraction_of_limit),
            f"{times.mean / 1e6:.2f}",
            f"{times.sd / 1e6:.2f}",
            f"{times.cv:.1%}",
            f"{times.p50 / 1e6:.2f}",
            f"{times.p99 / 1e6:.2f}",
            f"{times.max / 1e6:.2f}",
            str(row.faults),
            str(row.disk_reads),
        ])  # fmt: skip
    render.print_columns(header, rows)


def _print_prefill(report: SpeedReport) -> None:
    rows = [
        [
            row.isa,
            str(row.threads),
            str(row.tokens),
            _rate(row.tokens_per_second),
            f"{row.giga_macs_per_second:.1f}",
            _percent(row.fraction_of_peak),
        ]
        for row in report.prefill
    ]
    header = ["prefill", "threads", "tokens", "tok/s (lowest … highest)", "GMAC/s", "of peak"]
    render.print_columns(header, rows)


def _print_report(report: SpeedReport, facts: dict[str, Any]) -> None:
    cost = report.cost

    def mega(count: float) -> str:
        return f"{count / 1e6:.3g} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"

    screen, head = mega(cost.screen_bytes), mega(cost.head_bytes)
    parts = f"layers {mega(cost.body_bytes)}, head {screen} of {head}"
    render.print_facts([
        ("geometry", f"{facts['geometry']}, {facts['parameters']} parameters, random weights"),
        ("machine", f"{facts['cpu']}, {facts['cores']} cores"),
        ("date", facts["date"]),
        ("rounds", f"{report.rounds}; medians, and in brackets the slowest and fastest round"),
        ("a token reads", f"{mega(cost.weight_bytes)}: {parts}"),
        ("a position adds", f"{mega(cost.kv_position_bytes)}, keys and values {facts['kv_cache']}"),
    ])  # fmt: skip
    for print_section, wanted in (
        (_print_limits, True),
        (_print_decode, True),
        (_print_prefill, bool(report.prefill)),
    ):
        if wanted:
            print()
            print_section(report)


def _measure(
    geometry: str, spec: ModelSpec, seed: int, margin: float, plan: SpeedPlan, directory: Path
) -> SpeedReport:
    plan.check(spec)
    with render.progress_bar("random model") as bytes_progress:
        model = find_model(geometry, spec, seed, directory, bytes_progress, margin)
    with render.step_progress() as steps:
        return measure_speed(model, plan, steps)


def _give_out(
    report: SpeedReport, facts: dict[str, Any], record: Path | None, as_json: bool
) -> None:
    records = _records(report, facts)
    if record is not None:
        render.write_records(record, records)
    if as_json:
        cost = dataclasses.asdict(report.cost)
        render.print_json({**facts, "token_cost": cost, "records": records})
    else:
        _print_report(report, facts)


def _today() -> str:
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


def bench(
    geometry: Annotated[
        str, typer.Option("--geometry", metavar="NAME", help="Which geometry to measure.")
    ],
    threads: Annotated[
        str, typer.Option("--threads", metavar="LIST", help="Numbers of threads.")
    ] = "1,2",
    isa: Annotated[
        str,
        typer.Option("--isa", metavar="LIST", help="Kernel tables; auto: the strongest here."),
    ] = "auto",
    rounds: Annotated[int, typer.Option("--rounds", help="How often all is measured.")] = 7,
    positions: Annotated[
        str | None,
        typer.Option(
            "--positions",
            metavar="LIST",
            help="Where decoding starts (default: 0,100,1000, as far as the context goes).",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", help="Tokens decoded at each position in a round.")
    ] = 16,
    prefill: Annotated[
        int, typer.Option("--prefill", help="Tokens of the prompt that is timed; 0 for none.")
    ] = 512,
    prefill_chunk: Annotated[
        int, typer.Option("--prefill-chunk", help="Tokens of a prompt computed together.")
    ] = 64,
    kv_cache: Annotated[str, typer.Option(help="f32, f16 or int8.")] = "f16",
    weights: Annotated[str, typer.Option(help="mapped or resident.")] = "resident",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random weights.")] = 1,
    margin: Annotated[
        float, typer.Option(help="How far the best row of a head stands out, in deviations.")
    ] = MARGIN_TRAINED,
    models: Annotated[
        Path | None,
        typer.Option("--models", metavar="DIR", help="Models are kept there (or build/models)."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Write the results as JSON lines, too."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option("--date", metavar="YYYY-MM-DD", help="Date in the records (or today, UTC)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    spec = find_geometry(geometry)
    plan = SpeedPlan(
        threads=_parse_numbers("--threads", threads),
        isas=_parse_names("--isa", isa),
        rounds=rounds,
        positions=_choose_positions(positions, spec, tokens),
        decode_tokens=tokens,
        prefill_tokens=prefill,
        prefill_chunk=prefill_chunk,
        kv_cache=kv_cache,
        weights=weights,
    )
    directory = models if models is not None else build_root() / "models"
    report = _measure(geometry, spec, seed, margin, plan, directory)
    facts: dict[str, Any] = {"geometry": geometry, "parameters": parameter_count(spec)}
    facts |= {"seed": seed, "margin": margin, "kv_cache": kv_cache, "weights": weights}
    facts |= {"date": date if date is not None else _today(), **machine()}
    _give_out(report, facts, record, as_json)


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("bench", help=render.reflow_text(_HELP), no_args_is_help=True)(bench)
