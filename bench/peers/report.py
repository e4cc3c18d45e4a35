"""What the rounds say: medians, ratios formed within each round, goals met or not."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.peers.engines import Engine
from bitnet.measure.speed import Spread
from bitnet.measure.summary import LatencySummary, summarize

__all__ = ["Comparison", "EngineResult", "Report", "make_report", "records"]

Round = dict[str, Any]

# Ours may vary at most this share of the steadiest peer, and take that much more than its data.
_JITTER_GOAL: Final = 1 / 3
_MEMORY_GOAL_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class EngineResult:
    """One engine with one number of threads.

    `fraction_of_limit` relates the bytes that a token must read to the best read of the same round;
    None where these bytes are not known. `base_bytes` is what its interpreter took before the
    model was opened. `elsewhere`: processors that other programs used during its turns; where this
    is not near to 0, the numbers are of a disturbed machine.
    """

    engine: str
    version: str | None
    threads: int
    tokens_per_second: Spread
    latency_ns: LatencySummary
    token_bytes: float | None
    fraction_of_limit: Spread | None
    prefill_rounds: int
    prefill_tokens_per_second: Spread | None
    peak_bytes: int | None
    base_bytes: int | None
    memory_bytes: int | None
    faults: int
    disk_reads: int
    elsewhere: Spread | None


@dataclass(frozen=True)
class Comparison:
    """A goal: `what` is decode or prefill (how many times as fast as the peer, the median of the
    ratios of each round), jitter (variation as a share of the steadiest peer's) or memory (bytes
    beyond weights, keys and values; no peer).
    """

    what: str
    ours: str
    peer: str | None
    threads: int
    value: Spread
    goal: float
    met: bool


@dataclass(frozen=True)
class Report:
    """Everything that one geometry's rounds say. `read_limits`: GB/s by number of threads."""

    read_limits: dict[int, Spread]
    engines: tuple[EngineResult, ...]
    comparisons: tuple[Comparison, ...]


def _runs(rounds: Sequence[Round], threads: int, name: str) -> list[tuple[Round, dict[str, Any]]]:
    """Returns each round of that number of threads with the run of an engine in it."""
    return [
        (each, run)
        for each in rounds
        if each["threads"] == threads
        for run in each["runs"]
        if run["engine"] == name
    ]


def _decode_rate(run: dict[str, Any]) -> float:
    return 1e9 * len(run["decode_ns"]) / sum(run["decode_ns"])


def _engine_result(
    rounds: Sequence[Round], threads: int, name: str, prefill_tokens: int
) -> EngineResult:
    runs = _runs(rounds, threads, name)
    last = runs[-1][1]
    fractions = [
        run["token_bytes"] * _decode_rate(run) / 1e9 / each["limits"]["read"]
        for each, run in runs
        if run["token_bytes"] is not None
    ]
    prefills = [1e9 * prefill_tokens / run["prefill_ns"] for _, run in runs if run["prefill_ns"]]
    elsewhere = [run["elsewhere"] for _, run in runs if run.get("elsewhere") is not None]
    peaks = [run["peak_bytes"] for _, run in runs if run["peak_bytes"] is not None]
    return EngineResult(
        engine=name,
        version=last["version"],
        threads=threads,
        tokens_per_second=Spread.of([_decode_rate(run) for _, run in runs]),
        latency_ns=summarize([ns for _, run in runs for ns in run["decode_ns"]]),
        token_bytes=last["token_bytes"],
        fraction_of_limit=Spread.of(fractions) if fractions else None,
        prefill_rounds=len(prefills),
        prefill_tokens_per_second=Spread.of(prefills) if prefills else None,
        peak_bytes=max(peaks, default=None),
        base_bytes=last["base_bytes"],
        memory_bytes=last["memory_bytes"],
        faults=sum(run["faults"] for _, run in runs),
        disk_reads=sum(run["disk_reads"] for _, run in runs),
        elsewhere=Spread.of(elsewhere) if elsewhere else None,
    )


def _speed_ratios(
    rounds: Sequence[Round], threads: int, ours: str, peer: str, what: str
) -> list[float]:
    """Returns how many times as fast ours was, in each round in which both were measured."""
    theirs = {each["round"]: run for each, run in _runs(rounds, threads, peer)}
    ratios = []
    for each, own in _runs(rounds, threads, ours):
        other = theirs[each["round"]]
        if what == "decode":
            ratios.append(_decode_rate(own) / _decode_rate(other))
        elif own["prefill_ns"] and other["prefill_ns"]:
            ratios.append(other["prefill_ns"] / own["prefill_ns"])
    return ratios


def _speed_comparisons(
    rounds: Sequence[Round], threads: int, ours: str, peer: Engine
) -> list[Comparison]:
    assert peer.goal is not None
    found = []
    for what, goal in (("decode", peer.goal.decode), ("prefill", peer.goal.prefill)):
        if ratios := _speed_ratios(rounds, threads, ours, peer.name, what):
            met = statistics.median(ratios) >= goal
            found.append(Comparison(what, ours, peer.name, threads, Spread.of(ratios), goal, met))
    return found


def _own_comparisons(result: EngineResult, peers: Sequence[EngineResult]) -> list[Comparison]:
    """Jitter against the steadiest peer, and memory."""
    found = []
    if peers:
        best = min(peers, key=lambda each: each.latency_ns.cv)
        share = result.latency_ns.cv / best.latency_ns.cv if best.latency_ns.cv > 0 else 1.0
        found.append(
            Comparison(
                "jitter", result.engine, best.engine, result.threads, Spread.of([share]),
                _JITTER_GOAL, share <= _JITTER_GOAL,
            )
        )  # fmt: skip
    if result.peak_bytes is not None and result.memory_bytes is not None:
        beyond = result.peak_bytes - result.memory_bytes
        found.append(
            Comparison(
                "memory", result.engine, None, result.threads, Spread.of([float(beyond)]),
                _MEMORY_GOAL_BYTES, beyond <= _MEMORY_GOAL_BYTES,
            )
        )  # fmt: skip
    return found


def make_report(rounds: Sequence[Round], engines: Sequence[Engine], prefill_tokens: int) -> Report:
    """Returns what the rounds of one geometry say; every round holds every engine."""
    thread_counts = sorted({each["threads"] for each in rounds})
    results = [
        _engine_result(rounds, threads, engine.name, prefill_tokens)
        for threads in thread_counts
        for engine in engines
    ]
    comparisons = []
    for own in (engine for engine in engines if engine.goal is None):
        for threads in thread_counts:
            for peer in engines:
                if peer.goal is not None:
                    comparisons += _speed_comparisons(rounds, threads, own.name, peer)
            with_threads = {each.engine: each for each in results if each.threads == threads}
            peers = [with_threads[each.name] for each in engines if each.goal is not None]
            comparisons += _own_comparisons(with_threads[own.name], peers)
    limits = {
        threads: Spread.of([
            each["limits"]["read"] for each in rounds if each["threads"] == threads
        ])
        for threads in thread_counts
    }  # fmt: skip
    return Report(limits, tuple(results), tuple(comparisons))


def records(report: Report, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns one record for each result, each with everything that it depends on."""
    found = [
        {"bench": "peers-limit", "threads": threads, "read_gb_per_second": asdict(spread), **facts}
        for threads, spread in report.read_limits.items()
    ]
    found += [{"bench": "peers", **asdict(each), **facts} for each in report.engines]
    found += [{"bench": "peers-goal", **asdict(each), **facts} for each in report.comparisons]
    return found
