"""Rounds in which every engine works once, in turns, while the others wait; resumable.

For each number of threads all engines are started, then measured round by round, so that a
neighbour who slows the machine slows what is compared alike. Each finished round is a line of a
file; a run that was broken off goes on after the last one.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.peers.engines import Engine
from bitnet.measure.programs import LimitsProgram, SpeedProgram, build_measuring_program
from bitnet.measure.speed import LimitRounds, last_cache_bytes

__all__ = ["RoundsPlan", "measure_rounds", "prefill_rounds"]

StepProgress = Callable[[str, int, int], None]
Round = dict[str, Any]

_WARM_UP_TOKENS: Final = 2
_BUFFER_BYTES_MIN: Final = 512 << 20
_TIMES_CACHE: Final = 8


@dataclass(frozen=True)
class RoundsPlan:
    """What is measured.

    Attributes:
        threads: Numbers of threads, one after the other.
        rounds: How often decoding is measured.
        position: Where decoding starts.
        tokens: Tokens decoded in a round.
        prefill_tokens: Tokens of a prefill from position 0.
        prefill_rounds: In how many of the rounds prefill is measured.
    """

    threads: tuple[int, ...]
    rounds: int
    position: int
    tokens: int
    prefill_tokens: int
    prefill_rounds: int

    @property
    def context(self) -> int:
        """Positions that are used."""
        return max(self.position + _WARM_UP_TOKENS + self.tokens, self.prefill_tokens)


def prefill_rounds(rounds: int, wanted: int) -> set[int]:
    """Returns `wanted` rounds out of 0 … rounds - 1, spread evenly; one alone is the middle."""
    wanted = min(wanted, rounds)
    if wanted <= 1:
        return {rounds // 2} if wanted == 1 else set()
    return {round(index * (rounds - 1) / (wanted - 1)) for index in range(wanted)}


def _engine_prefill_rounds(plan: RoundsPlan, engine: Engine) -> set[int]:
    """Returns the rounds in which an engine prefills: the slow ones in the first of them only."""
    wanted = plan.prefill_rounds
    if engine.prefill_rounds_max is not None:
        wanted = min(wanted, engine.prefill_rounds_max)
    chosen = prefill_rounds(plan.rounds, plan.prefill_rounds)
    if wanted < plan.prefill_rounds:
        ordered = sorted(chosen)
        return set(ordered[:wanted])
    return chosen


class _Steps:
    def __init__(self, total: int, progress: StepProgress) -> None:
        self._done = 0
        self._total = total
        self._progress = progress

    def next(self, label: str) -> None:
        self._progress(label, self._done, self._total)
        self._done += 1

    def skip(self, count: int) -> None:
        self._done += count


def _read_rounds(path: Path, header: dict[str, Any]) -> list[Round]:
    """Returns the finished rounds of a run with the same header; a torn last line is dropped."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        return []
    with contextlib.suppress(ValueError):
        found, *rounds = map(json.loads, lines)
        if found == header:
            return rounds
    return []


def _write_lines(path: Path, lines: Sequence[dict[str, Any]], mode: str) -> None:
    with path.open(mode, encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


@dataclass
class _Running:
    """A started engine; `filled` once the positions before the first decoded one are computed."""

    engine: Engine
    program: SpeedProgram
    filled: bool = False


@contextlib.contextmanager
def _open_engines(
    engines: Sequence[Engine], threads: int, steps: _Steps
) -> Iterator[list[_Running]]:
    with contextlib.ExitStack() as stack:
        running = []
        for engine in engines:
            steps.next(f"start, {threads} thread{'s' * (threads > 1)}: {engine.name}")
            running.append(_Running(engine, stack.enter_context(engine.open(threads))))
        yield running


def _measure_limits(program: LimitsProgram, threads: int) -> dict[str, Any]:
    """The best read in GB/s of one round, and every loop of multiply-adds."""
    limits = LimitRounds()
    limits.add(program, threads)
    peaks = {name: values[0] for name, values in limits.int8.items()}
    return {"read": limits.best_read()[0], "int8": peaks}


def _busy_seconds() -> float | None:
    """The time of all processors spent on anything, or taken by other guests of the machine."""
    with contextlib.suppress(OSError, ValueError):
        line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
        user, nice, system, _idle, _wait, *others = map(int, line.split()[1:9])
        return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")
    return None


class _Elsewhere:
    """How many processors something else than a program was using since the start."""

    def __init__(self, program: SpeedProgram) -> None:
        self._program = program
        self._before = self._now()

    def _now(self) -> tuple[float, float | None, float | None]:
        return time.monotonic(), _busy_seconds(), self._program.processor_seconds()

    def share(self) -> float | None:
        """Returns it; None where nothing tells."""
        (begin, busy, own), (end, busy_now, own_now) = self._before, self._now()
        if busy is None or own is None or busy_now is None or own_now is None:
            return None
        return max(0.0, (busy_now - busy) - (own_now - own)) / (end - begin)


def _measure_engine(running: _Running, plan: RoundsPlan, *, with_prefill: bool) -> dict[str, Any]:
    """Prefills, then decodes after some tokens that bring the weights back into the tables."""
    engine, program = running.engine, running.program
    elsewhere = _Elsewhere(program)
    prefill_ns = program.prefill(0, plan.prefill_tokens) if with_prefill else None
    filled = plan.prefill_tokens if with_prefill else plan.position if running.filled else 0
    if filled < plan.position:
        program.prefill(filled, plan.position - filled)
    running.filled = True
    program.decode(plan.position, _WARM_UP_TOKENS)
    times = program.decode(plan.position + _WARM_UP_TOKENS, plan.tokens)
    return {
        "engine": engine.name,
        "decode_ns": list(times.ns),
        "faults": times.faults,
        "disk_reads": times.disk_reads,
        "elsewhere": elsewhere.share(),
        "prefill_ns": prefill_ns,
        "peak_bytes": program.peak_bytes(),
        "base_bytes": program.facts.get("base_bytes"),
        "version": program.facts.get("engine") or program.facts.get("isa"),
        "token_bytes": _token_bytes(engine, program, plan),
        "memory_bytes": engine.memory_bytes,
    }


def _token_bytes(engine: Engine, program: SpeedProgram, plan: RoundsPlan) -> float | None:
    if engine.token_bytes is None:
        return program.facts.get("token_bytes")
    return engine.token_bytes(plan.position + _WARM_UP_TOKENS + (plan.tokens - 1) / 2)


def _measure_round(
    number: int,
    threads: int,
    running: Sequence[_Running],
    limits: LimitsProgram,
    plan: RoundsPlan,
    steps: _Steps,
) -> Round:
    """Every round begins with another engine."""
    label = f"round {number + 1} of {plan.rounds}, {threads} thread{'s' * (threads > 1)}"
    steps.next(f"{label}: limits")
    found = _measure_limits(limits, threads)
    first = number % len(running)
    runs = []
    for each in [*running[first:], *running[:first]]:
        with_prefill = number in _engine_prefill_rounds(plan, each.engine)
        steps.next(f"{label}: {each.engine.name}{' with prefill' * with_prefill}")
        runs.append(_measure_engine(each, plan, with_prefill=with_prefill))
    return {"threads": threads, "round": number, "limits": found, "runs": runs}


def measure_rounds(
    plan: RoundsPlan,
    engines: Sequence[Engine],
    model: Path,
    path: Path,
    header: dict[str, Any],
    progress: StepProgress,
) -> list[Round]:
    """Measures what is not yet in the file `path` and returns all rounds.

    Args:
        plan: What is measured.
        engines: Who takes part.
        model: Our model.bin, read as a mapped file for the limits.
        path: The rounds so far; begun anew where its first line is not `header`.
        header: Everything that must be the same in one run.
        progress: Called before every step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rounds = _read_rounds(path, header)
    _write_lines(path, [header, *rounds], "w")  # without what a run left half written
    done = {(each["threads"], each["round"]) for each in rounds}
    round_steps = 1 + len(engines)
    steps = _Steps(len(plan.threads) * (len(engines) + plan.rounds * round_steps), progress)
    buffer_bytes = max(_BUFFER_BYTES_MIN, _TIMES_CACHE * last_cache_bytes())
    limits_path = build_measuring_program("limits")
    for threads in plan.threads:
        missing = [each for each in range(plan.rounds) if (threads, each) not in done]
        steps.skip((plan.rounds - len(missing)) * round_steps)
        if not missing:
            steps.skip(len(engines))
            continue
        with (
            LimitsProgram(limits_path, buffer_bytes, model) as limits,
            _open_engines(engines, threads, steps) as running,
        ):
            for number in missing:
                rounds.append(_measure_round(number, threads, running, limits, plan, steps))
                _write_lines(path, rounds[-1:], "a")
    return rounds
