"""The measuring programs and what is made of their times, on models small enough for a test."""

import subprocess
import time
from pathlib import Path

import pytest

from bitnet.checkpoint import ModelSpec
from bitnet.errors import EvaluationError, ToolchainError, UsageError
from bitnet.measure import speed
from bitnet.measure.programs import (
    DecodeProgram,
    LimitsProgram,
    SpeedProgram,
    build_measuring_program,
)
from bitnet.measure.random_model import write_random_model
from bitnet.measure.speed import SpeedPlan, SpeedReport, measure_speed
from tests.support.engine import open_engine
from tests.support.measure_models import TINY_TIED, TINY_UNTIED

PLAN = SpeedPlan(
    threads=(1, 2),
    isas=("auto", "ref"),
    rounds=2,
    positions=(0, 9),
    decode_tokens=3,
    prefill_tokens=20,
    prefill_chunk=8,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_random_model(TINY_TIED, tmp_path / "m.bin", 1)
    return tmp_path / "m.bin"


def prompt_token(position: int, vocab_size: int) -> int:
    """SplitMix64 of the position. Source: Steele et al., OOPSLA 2014, as published by Vigna."""
    mask = (1 << 64) - 1
    z = (position + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return (z ^ z >> 31) % vocab_size


def open_program(
    model: Path, isa: str = "auto", threads: int = 1, kv_cache: str = "f32", weights: str = "mapped"
) -> DecodeProgram:
    path = build_measuring_program("decode")
    options = {"isa": isa, "threads": threads, "chunk": 8, "context": 32}
    return DecodeProgram(path, model, **options, kv_cache=kv_cache, weights=weights)


@pytest.mark.parametrize(("threads", "weights"), [(1, "mapped"), (2, "mapped"), (2, "resident")])
def test_decode_program_any_threads_computes_what_the_engine_does(
    model: Path, threads: int, weights: str
) -> None:
    """Broken, times would be of something else than the work of a token."""
    prompt = [prompt_token(position, TINY_TIED.vocab_size) for position in range(20)]
    with open_engine(model) as engine:
        after_prefill = int(engine.logits(prompt)[-1].argmax())
        sequence = [*prompt[:9], prompt[9]]
        for _ in range(5):
            sequence.append(int(engine.logits(sequence)[-1].argmax()))
    with open_program(model, threads=threads, weights=weights) as program:
        prefilled = program.ask("prefill", 0, 20)
        decoded = program.ask("decode", 9, 5)
    assert prefilled["next"] == after_prefill
    assert len(prefilled["ns"]) == 3  # 8 + 8 + 4
    assert decoded["next"] == sequence[-1]
    assert len(decoded["ns"]) == 5
    assert min(prefilled["ns"] + decoded["ns"]) > 0


def test_decode_program_facts_name_the_kernels(model: Path) -> None:
    """Broken, a table of numbers would not say which kernels they are of."""
    with open_program(model, isa="ref", threads=2) as program:
        assert program.facts["isa"] == "ref"
        assert program.facts["threads"] == 2
        # Keys and values alone: 3 layers, 2 heads, 32 positions, rows of 16.
        assert program.facts["arena_bytes"] > 2 * 3 * 2 * 32 * 16 * 4


def test_decode_program_kv_cache_is_of_the_kind_asked_for(model: Path) -> None:
    """Broken, speed would be told of another kind of cache than it was measured with."""
    sizes = {}
    for kind in ("f32", "f16", "int8"):
        with open_program(model, kv_cache=kind) as program:
            sizes[kind] = program.facts["arena_bytes"]
    rows = 2 * 3 * 2
    assert sizes["f32"] - sizes["f16"] == 2 * rows * 32 * 16
    # int8: a byte an element and a scale a row, positions in blocks of 128.
    assert sizes["f16"] - sizes["int8"] == 2 * rows * 32 * 16 - rows * 128 * (16 + 4)


def test_speed_program_processor_time_is_that_of_its_work(model: Path) -> None:
    """Broken, a disturbed machine could not be told from a quiet one."""
    with open_program(model) as program:
        before = program.processor_seconds()
        begin = time.monotonic()
        used = 0.0
        while used <= 0.05:  # /proc counts in hundredths of a second
            assert time.monotonic() - begin < 60
            program.prefill(0, 20)
            used = program.processor_seconds() - before
        spent = time.monotonic() - begin
    assert used <= spent + 0.05


def test_speed_program_peak_is_the_memory_of_the_process(model: Path) -> None:
    """Broken, the memory of a peer would be that of this process, or not be told."""
    with open_program(model) as program:
        own = program.peak_bytes()
        program.decode(0, 4)
        assert own is not None
        assert 0 < own <= program.peak_bytes() < 64 << 20


@pytest.mark.parametrize("said", ["words", "[1]", "{"])
def test_measuring_program_answer_of_another_kind_is_named(tmp_path: Path, said: str) -> None:
    """Broken, a peer that prints something of its own would end in a traceback."""
    path = tmp_path / "peer"
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)
    with pytest.raises(EvaluationError) as caught:
        SpeedProgram(path, [], name="peer X")
    assert caught.value.message == "measuring program gave no JSON object: `peer X`"


def test_decode_program_unknown_isa_is_an_error_of_the_host(model: Path) -> None:
    """Broken, a wrong name would hang, or be measured as something else."""
    with pytest.raises(ToolchainError) as caught:
        open_program(model, isa="mmx")
    assert caught.value.message == "measuring program stopped: `decode`"
    assert caught.value.where[:2] == (
        "exit code 5",
        "error: instruction set is not available on this processor: `isa`",
    )


def test_decode_program_damaged_model_says_what_the_engine_says(tmp_path: Path) -> None:
    """Broken, a damaged file would end in a traceback."""
    path = tmp_path / "m.bin"
    path.write_bytes(b"no model" * 100)
    with pytest.raises(EvaluationError) as caught:
        open_program(path)
    assert caught.value.where[0] == "exit code 1"
    assert "error: not a model.bin file" in caught.value.where[1]


def test_decode_program_beyond_the_context_stops_with_the_reason(model: Path) -> None:
    """Broken, a run past the cache would be timed, or wait for an answer for ever."""
    with open_program(model) as program, pytest.raises(EvaluationError) as caught:
        program.decode(30, 5)
    assert "prompt and answer do not fit the context" in caught.value.where[1]


def test_measuring_program_missing_file_cannot_be_started(tmp_path: Path) -> None:
    """Broken, an OSError would leave."""
    with pytest.raises(ToolchainError, match="cannot be started"):
        LimitsProgram(tmp_path / "none", 1 << 22, None)


def test_limits_program_any_threads_measures_every_source(model: Path) -> None:
    """Broken, a fraction would refer to a limit that was never measured."""
    path = build_measuring_program("limits")
    with LimitsProgram(path, 4 << 20, model) as program:
        for threads in (1, 2, 1):
            found = program.bandwidth(threads, 2)
            assert {"plain, 1 stream", "plain, 4 streams", "file, 4 streams"} <= set(found)
            peaks = program.peak(threads, 1)
            assert all(len(passes) == 2 and min(passes) > 0 for passes in found.values())
            assert all(len(passes) == 1 and passes[0] > 0 for passes in peaks.values())


@pytest.mark.parametrize("command", ["decode", "limits"])
def test_measuring_program_aarch64_answers_under_emulation(model: Path, command: str) -> None:
    """Broken, the other architecture could not be measured. No time of an emulator is used."""
    program = build_measuring_program(command, arch="aarch64")
    arguments, line = {
        "decode": ([str(model), "auto", "2", "8", "32", "0", "0"], "decode 0 2"),
        "limits": ([str(2 << 20)], "peak 2 1"),
    }[command]
    result = subprocess.run(
        ["qemu-aarch64-static", "-cpu", "max", str(program), *arguments],
        input=f"{line}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    answer = result.stdout.splitlines()[1]
    assert all(name in answer for name in (("smmla", "sdot") if command == "limits" else ("next",)))


def small_buffers(monkeypatch: pytest.MonkeyPatch, cache_bytes: int) -> None:
    monkeypatch.setattr(speed, "_BUFFER_BYTES_MIN", 4 << 20)
    monkeypatch.setattr(speed, "last_cache_bytes", lambda: cache_bytes)


def test_measure_speed_any_plan_measures_every_variant(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, a variant would be missing from the table, or measured less often."""
    small_buffers(monkeypatch, 1 << 20)
    steps: list[tuple[str, int, int]] = []
    report = measure_speed(model, PLAN, lambda *step: steps.append(step))
    with open_engine(model) as engine:
        auto = engine.isa
    variants = [(isa, threads) for threads in (1, 2) for isa in (auto, "ref")]
    assert [(row.isa, row.threads, row.position) for row in report.decode] == [
        (*variant, position) for variant in variants for position in (0, 9)
    ]
    assert [(row.isa, row.threads, row.tokens) for row in report.prefill] == [
        (*variant, 20) for variant in variants
    ]
    assert all(row.latency_ns.count == 2 * 3 for row in report.decode)
    assert all(row.disk_reads <= row.faults for row in report.decode)
    assert all(row.fraction_of_limit is None for row in report.decode)  # the model fits the cache
    assert [(row.fraction_of_peak is None) for row in report.prefill if row.isa == "ref"] == [
        True,
        True,
    ]
    assert [step[1] for step in steps] == list(range(steps[0][2]))


def measure_once(tmp_path: Path, spec: ModelSpec) -> SpeedReport:
    write_random_model(spec, tmp_path / "m.bin", 1)
    plan = SpeedPlan((1,), ("auto",), 1, (9,), 4, 20, 8)
    return measure_speed(tmp_path / "m.bin", plan)


def test_measure_speed_one_round_fractions_follow_from_the_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, the goal of 85 % would be held against another number."""
    small_buffers(monkeypatch, 1024)  # so that the model counts as read from memory
    report = measure_once(tmp_path, TINY_UNTIED)
    limits = {(row.limit, row.name): row.per_second.median for row in report.limits}
    reads = [value for (kind, name), value in limits.items() if kind == "read" and name != "best"]
    assert limits["read", "best"] == max(reads)
    assert ("read", "file, 1 stream") in limits
    (decode,) = report.decode
    # Four tokens from position 9 on: 9, 10, 11, 12.
    # The choices have read the screen of the head, and no more than all of it and the norms.
    cost = report.cost
    least = cost.decode_bytes(10.5) - 4 * TINY_UNTIED.hidden_size  # the final norm is not counted
    assert least <= decode.bytes_per_token <= cost.decode_bytes(10.5, cost.head_bytes)
    rate = decode.bytes_per_token * decode.tokens_per_second.median / 1e9
    assert decode.gigabytes_per_second == pytest.approx(rate)
    assert decode.tokens_per_second.median == pytest.approx(1e9 / decode.latency_ns.mean)
    assert decode.fraction_of_limit is not None
    assert decode.fraction_of_limit.median == pytest.approx(rate / max(reads))
    (prefill,) = report.prefill
    macs = report.cost.body_macs * prefill.tokens_per_second.median / 1e9
    assert prefill.giga_macs_per_second == pytest.approx(macs)
    loops = {"avx512vnni": ["vpdpbusd_512", "vpdpbusd_256"], "avx2": ["vpmaddubsw_256"]}
    if prefill.isa in loops:
        peak = max(limits["int8", name] for name in loops[prefill.isa])
        assert prefill.fraction_of_peak is not None
        assert prefill.fraction_of_peak.median == pytest.approx(macs / peak)


def test_measure_speed_no_prefill_leaves_it_out(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, `--prefill 0` would divide by nothing."""
    small_buffers(monkeypatch, 1 << 20)
    report = measure_speed(model, SpeedPlan((1,), ("auto",), 1, (0,), 1, 0, 8))
    assert report.prefill == ()
    assert report.decode[0].latency_ns.sd == 0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"threads": (0,)}, "--threads"),
        ({"threads": (65,)}, "--threads"),
        ({"threads": ()}, "--threads"),
        ({"rounds": 0}, "--rounds"),
        ({"positions": (64,)}, "--positions"),
        ({"positions": ()}, "--positions"),
        ({"decode_tokens": 0}, "--tokens"),
        ({"positions": (60,), "decode_tokens": 5}, "--tokens"),
        ({"prefill_tokens": 65}, "--prefill"),
        ({"prefill_tokens": -1}, "--prefill"),
        ({"prefill_chunk": 513}, "--prefill-chunk"),
    ],
)
def test_speed_plan_value_out_of_range_is_named(change: dict[str, object], name: str) -> None:
    """Broken, a plan that cannot run would fail in the middle, or stop the program with a trap."""
    fields = {field: getattr(PLAN, field) for field in PLAN.__dataclass_fields__}
    with pytest.raises(UsageError) as caught:
        SpeedPlan(**{**fields, **change}).check(TINY_TIED)
    assert f"`{name}`" in caught.value.message


def test_last_cache_bytes_on_this_host_is_a_size() -> None:
    """Broken, buffers would be smaller than the caches and their speed taken for memory's."""
    assert 32 << 20 <= speed.last_cache_bytes() < 4 << 30
