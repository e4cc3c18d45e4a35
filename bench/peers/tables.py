"""The report for people: tables with rich, plots with matplotlib."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench.peers.report import Comparison, EngineResult, Report
from bitnet.measure.speed import Spread
from bitnet.measure.summary import percentile

__all__ = ["print_report", "write_plots"]

_WIDTH_OF_FILES: Final = 170
_MEGA: Final = 1e6
_DISTURBED: Final = 0.1  # processors


def _rate(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    digits = 0 if spread.median >= 100 else 1
    return f"{spread.median:.{digits}f} ({spread.min:.{digits}f} … {spread.max:.{digits}f})"


def _megabytes(count: float | None) -> str:
    return "-" if count is None else f"{count / _MEGA:.0f}"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _engine_table(title: str, results: Sequence[EngineResult]) -> Table:
    table = _table(
        title,
        ["engine"],
        ["threads", "decode tok/s", "of limit", "mean ms", "sd", "CV", "p50", "p99", "max",
         "prefill tok/s", "rounds", "peak MB", "others"],
    )  # fmt: skip
    for row in results:
        times = row.latency_ns
        table.add_row(
            row.engine,
            str(row.threads),
            _rate(row.tokens_per_second),
            "-" if row.fraction_of_limit is None else f"{row.fraction_of_limit.median:.0%}",
            f"{times.mean / _MEGA:.1f}",
            f"{times.sd / _MEGA:.2f}",
            f"{times.cv:.1%}",
            f"{times.p50 / _MEGA:.1f}",
            f"{times.p99 / _MEGA:.1f}",
            f"{times.max / _MEGA:.1f}",
            _rate(row.prefill_tokens_per_second),
            str(row.prefill_rounds),
            _megabytes(row.peak_bytes),
            "-" if row.elsewhere is None else f"{row.elsewhere.median:.2f}",
        )
    return table


def _values(row: Comparison) -> tuple[str, str]:
    """Returns value and goal in the unit of what is compared."""
    if row.what == "memory":
        return f"{row.value.median / _MEGA:.1f} MB", f"≤ {row.goal / _MEGA:.1f} MB"
    if row.what == "jitter":
        return f"{row.value.median:.2f}", f"≤ {row.goal:.2f}"
    spread = f"{row.value.median:.2f}× ({row.value.min:.2f} … {row.value.max:.2f})"
    return spread, f"≥ {row.goal:g}×"


def _goal_table(comparisons: Sequence[Comparison]) -> Table:
    table = _table("Goals", ["goal", "ours", "against"], ["threads", "value", "wanted", "met"])
    for row in sorted(comparisons, key=lambda each: (each.what, each.peer or "", each.threads)):
        value, goal = _values(row)
        met = "yes" if row.met else "no"
        table.add_row(row.what, row.ours, row.peer or "-", str(row.threads), value, goal, met)
    return table


def print_report(report: Report, geometry: str, facts: dict[str, Any]) -> None:
    """Prints the tables of one geometry."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
    limits = ", ".join(
        f"{_rate(spread)} GB/s with {threads} thread{'s' * (threads > 1)}"
        for threads, spread in report.read_limits.items()
    )
    console.print(f"{geometry}, {facts['cpu']}, {facts['date']}; read limit {limits}")
    console.print(
        _engine_table(
            "Engines: medians (slowest … fastest round); others: processors used by others",
            report.engines,
        )
    )
    console.print(_goal_table(report.comparisons))
    worst = max((row.elsewhere.max for row in report.engines if row.elsewhere), default=0.0)
    if worst > _DISTURBED:
        console.print(
            f"Others used up to {worst:.1f} processors meanwhile: repeat this on a quiet host."
        )
    met = sum(each.met for each in report.comparisons)
    console.print(f"{met} of {len(report.comparisons)} goals met")


def write_plots(
    report: Report, rounds: Sequence[dict[str, Any]], geometry: str, directory: Path
) -> list[Path]:
    """Writes the plots of one geometry as PNG files and returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    return [
        _plot_rates(report, geometry, directory / f"{geometry}-speed.png"),
        _plot_latencies(report, rounds, geometry, directory / f"{geometry}-latency.png"),
    ]


def _bars(axes: Any, report: Report, title: str, unit: str, value: Any) -> None:
    """One group of bars for each engine, one bar for each number of threads."""
    names = list(dict.fromkeys(row.engine for row in report.engines))
    counts = list(report.read_limits)
    height = 0.8 / len(counts)
    for place, threads in enumerate(counts):
        rows = {row.engine: value(row) for row in report.engines if row.threads == threads}
        spreads = [rows[name] or Spread(0, 0, 0) for name in names]
        ends = (
            [each.median - each.min for each in spreads],
            [each.max - each.median for each in spreads],
        )
        axes.barh(
            [index + place * height for index in range(len(names))],
            [each.median for each in spreads],
            height,
            xerr=ends,
            label=f"{threads} thread{'s' * (threads > 1)}",
        )
    axes.set_yticks([index + height * (len(counts) - 1) / 2 for index in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlabel(unit)
    axes.legend()


def _plot_rates(report: Report, geometry: str, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(17, 5), layout="constrained")
    figure.suptitle(f"{geometry}: median, slowest and fastest round")
    _bars(axes[0], report, "decode", "tokens/s", lambda row: row.tokens_per_second)
    _bars(axes[1], report, "decode", "share of the read limit", lambda row: row.fraction_of_limit)
    axes[1].axvline(1, color="black", linewidth=1)
    _bars(axes[2], report, "prefill", "tokens/s", lambda row: row.prefill_tokens_per_second)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _latencies(rounds: Sequence[dict[str, Any]]) -> dict[tuple[str, int], list[float]]:
    """Returns the milliseconds of all tokens by engine and number of threads."""
    found: dict[tuple[str, int], list[float]] = {}
    for each in rounds:
        for run in each["runs"]:
            times = found.setdefault((run["engine"], each["threads"]), [])
            times += [ns / _MEGA for ns in run["decode_ns"]]
    return found


def _plot_latencies(report: Report, rounds: Sequence[Any], geometry: str, path: Path) -> Path:
    """One histogram for each engine and number of threads, all on one axis of time."""
    from matplotlib import pyplot as plt

    latencies = _latencies(rounds)
    names = list(dict.fromkeys(row.engine for row in report.engines))
    counts = list(report.read_limits)
    figure, axes = plt.subplots(
        len(names),
        len(counts),
        figsize=(7 * len(counts), 1.3 * len(names) + 1),
        layout="constrained",
        sharex="col",
        squeeze=False,
    )
    figure.suptitle(f"{geometry}: time of a token, all rounds")
    for column, threads in enumerate(counts):
        end = 1.2 * max(percentile(latencies[name, threads], 0.95) for name in names)
        for row, name in enumerate(names):
            times = latencies[name, threads]
            axis = axes[row][column]
            axis.hist(times, bins=100, range=(0, end))
            beyond = sum(each > end for each in times)
            said = f"largest {max(times):.0f} ms" + f", {beyond} beyond" * (beyond > 0)
            axis.set_title(f"{name}, {said}", loc="left", fontsize=8)
            axis.set_yticks([])
        axes[-1][column].set_xlabel(f"ms, {threads} thread{'s' * (threads > 1)}")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
