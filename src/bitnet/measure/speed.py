"""Decode and prefill of one model beside the limits of the machine, all in the same rounds.

Every round measures, for each number of threads, the limits and then every variant once, so that a
neighbour who slows the machine slows what is compared alike. A fraction of a limit is taken within
a round; what is reported is the median over the rounds.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bitnet.checkpoint import ModelSpec
from bitnet.engine.library import KV_CACHE_KINDS
from bitnet.errors import UsageError
from bitnet.limits import THREAD_COUNT_MAX
from bitnet.measure.programs import (
    WEIGHTS_PLACES,
    DecodeProgram,
    DecodeTimes,
    LimitsProgram,
    build_measuring_program,
)
from bitnet.measure.summary import LatencySummary, summarize
from bitnet.measure.token_cost import TokenCost, token_cost
from bitnet.quantize import open_model

__all__ = [
    "DecodeResult",
    "LimitResult",
    "LimitRounds",
    "PrefillResult",
    "SpeedPlan",
    "SpeedReport",
    "Spread",
    "StepProgress",
    "last_cache_bytes",
    "measure_speed",
]

StepProgress = Callable[[str, int, int], None]
"""Called with what is measured next, the steps done, and the steps in all."""

# The loop of bench/limits.cc that bounds the matmuls of a kernel table.
_LOOPS_OF_TABLE: Final = {
    "avx2": ("vpmaddubsw_256",),
    "avx512vnni": ("vpdpbusd_512", "vpdpbusd_256"),
    "neon": ("smlal",),
    "dotprod": ("sdot",),
    "i8mm": ("smmla", "sdot"),  # one token alone goes the way of dotprod
}
_PREFILL_CHUNK_MAX: Final = 512
_TOKENS_MAX: Final = 65536
_PASSES: Final = 3
_WARM_UP_TOKENS: Final = 2
# A buffer, or a model, of fewer times the last cache than this is not read from memory alone.
_TIMES_CACHE: Final = 4
_CACHE_BYTES_UNKNOWN: Final = 32 << 20
_BUFFER_BYTES_MIN: Final = 512 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class SpeedPlan:
    """What is measured.

    Attributes:
        threads: Numbers of threads, 1 … 64.
        isas: Names of kernel tables, or `auto`.
        rounds: How often everything is measured.
        positions: Where decoding starts; the positions before it are in the cache.
        decode_tokens: Tokens of one round at each position.
        prefill_tokens: Tokens of one prefill from position 0; 0 leaves prefill out.
        prefill_chunk: Tokens that are computed together, 1 … 512.
        kv_cache: How keys and values are kept: "f32", "f16" or "int8".
        weights: Where weights are read: "mapped" from the file, or "resident", a copy of it.
    """

    threads: tuple[int, ...]
    isas: tuple[str, ...]
    rounds: int
    positions: tuple[int, ...]
    decode_tokens: int
    prefill_tokens: int
    prefill_chunk: int
    kv_cache: str = "f16"
    weights: str = "resident"

    @property
    def context(self) -> int:
        """Positions that the KV cache must hold."""
        return max(*(each + self.decode_tokens for each in self.positions), self.prefill_tokens)

    def check(self, spec: ModelSpec) -> None:
        """Checks the plan against a model.

        Raises:
            UsageError: A value is out of range; it is named.
        """
        bounds = (
            ("threads", self.threads, 1, THREAD_COUNT_MAX),
            ("rounds", (self.rounds,), 1, 1000),
            ("positions", self.positions, 0, spec.context_max - 1),
            ("tokens", (self.decode_tokens,), 1, _TOKENS_MAX),
            ("prefill", (self.prefill_tokens,), 0, min(_TOKENS_MAX, spec.context_max)),
            ("prefill-chunk", (self.prefill_chunk,), 1, _PREFILL_CHUNK_MAX),
        )
        for name, values, low, high in bounds:
            for value in values:
                if not low <= value <= high:
                    raise UsageError(
                        f"argument is out of range: `--{name}`",
                        where=f"found {value}, allowed {low} … {high}",
                    )
        if self.kv_cache not in KV_CACHE_KINDS:
            raise UsageError(
                f"kind of KV cache is unknown: `--kv-cache {self.kv_cache}`",
                hint=f"choose one of {', '.join(KV_CACHE_KINDS)}",
            )
        if self.weights not in WEIGHTS_PLACES:
            raise UsageError(
                f"place of the weights is unknown: `--weights {self.weights}`",
                hint=f"choose one of {', '.join(WEIGHTS_PLACES)}",
            )
        for name, count in (("threads", len(self.threads)), ("positions", len(self.positions))):
            if count == 0:
                raise UsageError(f"argument is empty: `--{name}`")
        if self.context > spec.context_max:
            raise UsageError(
                "tokens do not fit the model's context: `--positions`, `--tokens`",
                where=f"needed {self.context}, limit {spec.context_max}",
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """One value of each round: their median, smallest and largest."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Returns the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclasses.dataclass(frozen=True, slots=True)
class LimitResult:
    """A limit with a number of threads: `read` in GB/s, or `int8` in giga multiply-adds a second.

    A round's value is its fastest pass. `name` says from where or with which instruction; the row
    named `best` is the largest value of each round over all names, what fractions refer to.
    """

    limit: str
    name: str
    threads: int
    per_second: Spread


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeResult:
    """Decoding at one position.

    `bytes_per_token` at the mean position of the run, with what the choices have read of the head;
    `fraction_of_limit` is None where the model fits the caches, so that memory is not its limit.
    Latencies in ns, over all rounds. `faults` are
    pages mapped while tokens were timed, all rounds together; where any of them came from a disk
    (`disk_reads`), the model was not in memory and the times are not the engine's.
    """

    isa: str
    threads: int
    position: int
    tokens_per_round: int
    tokens_per_second: Spread
    bytes_per_token: float
    gigabytes_per_second: float
    fraction_of_limit: Spread | None
    latency_ns: LatencySummary
    faults: int
    disk_reads: int


@dataclasses.dataclass(frozen=True, slots=True)
class PrefillResult:
    """Prefill from position 0; `giga_macs_per_second` counts multiply-adds with ternary weights.

    `fraction_of_peak` is None for a kernel table without a peak of its own.
    """

    isa: str
    threads: int
    tokens: int
    chunk: int
    tokens_per_second: Spread
    giga_macs_per_second: float
    fraction_of_peak: Spread | None


@dataclasses.dataclass(frozen=True, slots=True)
class SpeedReport:
    """All results of one run, and the cost of a token that they refer to."""

    rounds: int
    cost: TokenCost
    limits: tuple[LimitResult, ...]
    decode: tuple[DecodeResult, ...]
    prefill: tuple[PrefillResult, ...]


@dataclasses.dataclass
class _Variant:
    """A running program and what it has measured, one entry a round."""

    program: DecodeProgram
    threads: int
    decode: dict[int, list[DecodeTimes]]
    prefill_ns: list[int] = dataclasses.field(default_factory=list)

    @property
    def isa(self) -> str:
        return str(self.program.facts["isa"])


@dataclasses.dataclass
class LimitRounds:
    """The limits with one number of threads: the fastest pass of each round, by name."""

    read: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    int8: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, program: LimitsProgram, threads: int) -> None:
        """Measures a round."""
        for name, passes in program.bandwidth(threads, _PASSES).items():
            self.read.setdefault(name, []).append(max(passes))
        for name, passes in program.peak(threads, _PASSES).items():
            self.int8.setdefault(name, []).append(max(passes))

    def best_read(self) -> list[float]:
        """Returns the largest GB/s of each round."""
        return [max(values) for values in zip(*self.read.values())]

    def best_int8(self, isa: str) -> list[float] | None:
        """Returns the giga multiply-adds a second that bound a kernel table, of each round."""
        loops = [self.int8[name] for name in _LOOPS_OF_TABLE.get(isa, ()) if name in self.int8]
        return [max(values) for values in zip(*loops)] if loops else None


class _Steps:
    """Counts the steps of a run for its progress."""

    def __init__(self, total: int, progress: StepProgress | None) -> None:
        self._done = 0
        self._total = total
        self._progress = progress

    def next(self, label: str) -> None:
        if self._progress is not None:
            self._progress(label, self._done, self._total)
        self._done += 1


def last_cache_bytes() -> int:
    """Returns the size of the largest cache of processor 0, or 32 MiB where nothing tells."""
    sizes = [_CACHE_BYTES_UNKNOWN]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text(encoding="ascii").strip()
            sizes.append(int(text.removesuffix("K")) * (1024 if text.endswith("K") else 1))
    return max(sizes)


def measure_speed(
    model: Path, plan: SpeedPlan, progress: StepProgress | None = None
) -> SpeedReport:
    """Measures a model.bin on this host and returns the report.

    Every variant is a process of its own that waits while others run; the model's bytes are shared
    between them through the page cache.

    Raises:
        UsageError: The plan does not fit the model.
        FormatError, IntegrityError: The file is not a model.bin.
        ToolchainError, EvaluationError: A measuring program cannot be built, or stopped.
    """
    with open_model(model) as opened:
        spec, layout = opened.spec, opened.header.layout
    plan.check(spec)
    decode_path, limits_path = (build_measuring_program(name) for name in ("decode", "limits"))
    memory_bytes = _TIMES_CACHE * last_cache_bytes()
    from_memory = layout.file_bytes >= memory_bytes
    buffer_bytes = max(_BUFFER_BYTES_MIN, 2 * memory_bytes)
    variants_count = len(plan.threads) * len(plan.isas)
    parts = len(plan.positions) + (plan.prefill_tokens > 0)
    steps = _Steps(
        variants_count + plan.rounds * (len(plan.threads) + variants_count * parts), progress
    )
    with contextlib.ExitStack() as stack:
        limits_program = stack.enter_context(
            LimitsProgram(limits_path, buffer_bytes, model if from_memory else None)
        )
        variants = []
        for threads in plan.threads:
            for isa in plan.isas:
                steps.next(f"start {_variant_name(isa, threads)}")
                program = stack.enter_context(_open_program(decode_path, model, plan, isa, threads))
                variants.append(_Variant(program, threads, {each: [] for each in plan.positions}))
        limits = {threads: LimitRounds() for threads in plan.threads}
        for number in range(plan.rounds):
            _measure_round(f"round {number + 1}", plan, variants, limits, limits_program, steps)
    return _report(plan, token_cost(spec, layout, plan.kv_cache), variants, limits, from_memory)


def _variant_name(name: str, threads: int) -> str:
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def _open_program(
    path: Path, model: Path, plan: SpeedPlan, isa: str, threads: int
) -> DecodeProgram:
    """Returns a program whose cache is filled up to the last position and that has run once."""
    program = DecodeProgram(
        path,
        model,
        isa=isa,
        threads=threads,
        chunk=plan.prefill_chunk,
        context=plan.context,
        kv_cache=plan.kv_cache,
        weights=plan.weights,
    )
    try:
        if max(plan.positions) > 0:
            program.prefill(0, max(plan.positions))
        program.decode(max(plan.positions), min(_WARM_UP_TOKENS, plan.decode_tokens))
    except BaseException:
        program.close()
        raise
    return program


def _measure_round(
    label: str,
    plan: SpeedPlan,
    variants: Sequence[_Variant],
    limits: dict[int, LimitRounds],
    limits_program: LimitsProgram,
    steps: _Steps,
) -> None:
    for threads, found in limits.items():
        steps.next(f"{label}: {_variant_name('limits', threads)}")
        found.add(limits_program, threads)
        for variant in variants:
            if variant.threads != threads:
                continue
            what = f"{label}: {_variant_name(variant.isa, threads)}"
            for position, rounds in variant.decode.items():
                steps.next(f"{what}, decode at {position}")
                rounds.append(variant.program.decode(position, plan.decode_tokens))
            if plan.prefill_tokens > 0:
                steps.next(f"{what}, prefill")
                variant.prefill_ns.append(variant.program.prefill(0, plan.prefill_tokens))


def _report(
    plan: SpeedPlan,
    cost: TokenCost,
    variants: Sequence[_Variant],
    limits: dict[int, LimitRounds],
    from_memory: bool,
) -> SpeedReport:
    rows = []
    for threads, found in limits.items():
        rows.append(LimitResult("read", "best", threads, Spread.of(found.best_read())))
        for kind, by_name in (("read", found.read), ("int8", found.int8)):
            rows += [
                LimitResult(kind, name, threads, Spread.of(values))
                for name, values in by_name.items()
            ]
    return SpeedReport(
        rounds=plan.rounds,
        cost=cost,
        limits=tuple(rows),
        decode=tuple(
            _decode_result(variant, position, cost, limits[variant.threads], from_memory)
            for variant in variants
            for position in plan.positions
        ),
        prefill=tuple(
            _prefill_result(variant, plan, cost, limits[variant.threads])
            for variant in variants
            if variant.prefill_ns
        ),
    )


def _decode_result(
    variant: _Variant, position: int, cost: TokenCost, limits: LimitRounds, from_memory: bool
) -> DecodeResult:
    rounds = variant.decode[position]
    token_count = len(rounds[0].ns)
    head_bytes = [times.head_bytes for times in rounds if times.head_bytes is not None]
    token_bytes = cost.decode_bytes(
        position + (token_count - 1) / 2,
        sum(head_bytes) / (len(head_bytes) * token_count) if head_bytes else None,
    )
    per_second = [1e9 * token_count / sum(times.ns) for times in rounds]
    fractions = [
        token_bytes * rate / (1e9 * limit) for rate, limit in zip(per_second, limits.best_read())
    ]
    return DecodeResult(
        isa=variant.isa,
        threads=variant.threads,
        position=position,
        tokens_per_round=token_count,
        tokens_per_second=Spread.of(per_second),
        bytes_per_token=token_bytes,
        gigabytes_per_second=token_bytes * statistics.median(per_second) / 1e9,
        fraction_of_limit=Spread.of(fractions) if from_memory else None,
        latency_ns=summarize([each for times in rounds for each in times.ns]),
        faults=sum(times.faults for times in rounds),
        disk_reads=sum(times.disk_reads for times in rounds),
    )


def _prefill_result(
    variant: _Variant, plan: SpeedPlan, cost: TokenCost, limits: LimitRounds
) -> PrefillResult:
    tokens = plan.prefill_tokens
    per_second = [1e9 * tokens / ns for ns in variant.prefill_ns]
    giga_macs = [cost.body_macs * rate / 1e9 for rate in per_second]
    peaks = limits.best_int8(variant.isa)
    fractions = [rate / peak for rate, peak in zip(giga_macs, peaks)] if peaks else None
    return PrefillResult(
        isa=variant.isa,
        threads=variant.threads,
        tokens=tokens,
        chunk=plan.prefill_chunk,
        tokens_per_second=Spread.of(per_second),
        giga_macs_per_second=statistics.median(giga_macs),
        fraction_of_peak=Spread.of(fractions) if fractions else None,
    )
