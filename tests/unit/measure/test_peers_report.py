"""Rounds of a comparison and what is made of them, against NumPy."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from bench import __main__ as bench_all
from bench.peers import rounds as all_rounds
from bench.peers.__main__ import parse_others
from bench.peers.engines import Engine, Goal, find_peers, other_engine
from bench.peers.report import Comparison, make_report, records
from bench.peers.rounds import RoundsPlan, measure_rounds, prefill_rounds
from bench.record import free_record
from bitnet.errors import UsageError
from bitnet.measure.geometry import GEOMETRIES
from bitnet.measure.programs import SpeedProgram

PREFILL = 512
RNG = np.random.default_rng(7)
DECODE = {name: RNG.integers(10**6, 10**8, (5, 6)) for name in ("bitnet-auto", "slow", "steady")}
PREFILL_NS = {name: RNG.integers(10**8, 10**9, 5) for name in DECODE}
READ = RNG.uniform(20, 40, 5)


def never(_threads: int) -> SpeedProgram:
    raise AssertionError


ENGINES = [
    Engine("bitnet-auto", never, None, memory_bytes=10**9),
    Engine("slow", never, None, Goal(3, 2)),
    Engine("steady", never, None, Goal(2, 3)),
]


def run_of(name: str, number: int) -> dict:
    return {
        "engine": name,
        "decode_ns": DECODE[name][number].tolist(),
        "faults": number,
        "disk_reads": 0,
        "elsewhere": 0.1 * number,
        "prefill_ns": int(PREFILL_NS[name][number]) if number % 2 == 0 else None,
        "peak_bytes": 10**9 + number * 10**6,
        "base_bytes": None,
        "version": "1",
        "token_bytes": None if name == "steady" else 8e8,
        "memory_bytes": 10**9 if name == "bitnet-auto" else None,
    }


def synthetic_rounds() -> list[dict]:
    return [
        {
            "threads": 2,
            "round": number,
            "limits": {"read": READ[number], "int8": {}},
            "runs": [run_of(name, number) for name in np.roll(list(DECODE), number)],
        }
        for number in range(5)
    ]


def comparison(what: str, peer: str | None = None) -> Comparison:
    report = make_report(synthetic_rounds(), ENGINES, PREFILL)
    (found,) = (
        each
        for each in report.comparisons
        if each.what == what and (peer is None or each.peer == peer)
    )
    return found


@pytest.mark.parametrize(("peer", "goal"), [("slow", 3), ("steady", 2)])
def test_report_decode_ratio_is_the_median_of_ratios_within_rounds(peer: str, goal: int) -> None:
    """Broken, a neighbour who slows one round would decide who is faster."""
    found = comparison("decode", peer)
    ratios = DECODE[peer].sum(axis=1) / DECODE["bitnet-auto"].sum(axis=1)
    assert found.value.median == pytest.approx(np.median(ratios))
    assert (found.value.min, found.value.max) == pytest.approx((ratios.min(), ratios.max()))
    assert found.goal == goal
    assert found.met == (np.median(ratios) >= goal)


def test_report_prefill_ratio_takes_rounds_in_which_both_were_measured() -> None:
    """Broken, prefills of different rounds would be compared."""
    ratios = (PREFILL_NS["slow"] / PREFILL_NS["bitnet-auto"])[::2]
    assert comparison("prefill", "slow").value.median == pytest.approx(np.median(ratios))


def test_report_jitter_is_the_share_of_the_steadiest_peer() -> None:
    """Broken, variation would be claimed to be small beside a peer that is worse than another."""
    variation = {
        name: times.ravel().std(ddof=1) / times.ravel().mean() for name, times in DECODE.items()
    }
    found = comparison("jitter")
    best = min(("slow", "steady"), key=lambda name: variation[name])
    assert found.peer == best
    assert found.value.median == pytest.approx(variation["bitnet-auto"] / variation[best])
    assert not found.met


def test_report_memory_is_what_goes_beyond_weights_and_cache() -> None:
    """Broken, memory would be compared with nothing."""
    found = comparison("memory")
    assert found.value.median == 4 * 10**6
    assert found.met


def test_report_engine_summary_agrees_with_numpy() -> None:
    """Broken, every number of the table would be wrong."""
    report = make_report(synthetic_rounds(), ENGINES, PREFILL)
    result = next(each for each in report.engines if each.engine == "slow")
    times = DECODE["slow"]
    rates = 6e9 / times.sum(axis=1)
    assert result.tokens_per_second.median == pytest.approx(np.median(rates))
    shares = 8e8 * rates / 1e9 / READ
    assert result.fraction_of_limit.median == pytest.approx(np.median(shares))
    assert result.latency_ns.sd == pytest.approx(times.ravel().std(ddof=1))
    assert result.latency_ns.p99 == pytest.approx(np.percentile(times, 99))
    assert result.latency_ns.max == times.max()
    assert result.prefill_rounds == 3
    assert result.elsewhere.median == pytest.approx(0.2)
    expected = np.median(512e9 / PREFILL_NS["slow"][::2])
    assert result.prefill_tokens_per_second.median == pytest.approx(expected)
    steady = next(each for each in report.engines if each.engine == "steady")
    assert steady.fraction_of_limit is None
    assert report.read_limits[2].median == pytest.approx(np.median(READ))


def test_records_hold_everything_they_depend_on() -> None:
    """Broken, a number in a file could not be traced to its conditions, or is no JSON."""
    lines = records(make_report(synthetic_rounds(), ENGINES, PREFILL), {"cpu": "x"})
    assert {line["bench"] for line in lines} == {"peers", "peers-goal", "peers-limit"}
    assert all(line["cpu"] == "x" for line in lines)
    assert len(lines) == 1 + 3 + 4 + 1 + 1
    json.dumps(lines, allow_nan=False)


@pytest.mark.parametrize(
    ("rounds", "wanted", "expected"),
    [(7, 3, {0, 3, 6}), (7, 1, {3}), (7, 0, set()), (7, 9, set(range(7))), (2, 2, {0, 1})],
)
def test_prefill_rounds_are_spread_evenly(rounds: int, wanted: int, expected: set[int]) -> None:
    """Broken, prefill would be measured at one moment only."""
    assert prefill_rounds(rounds, wanted) == expected


FAKE = """
import json, sys
print(json.dumps({"engine": "fake 1", "token_bytes": 5}), flush=True)
for line in sys.stdin:
    open(sys.argv[1], "a").write(sys.argv[2] + " " + line)
    name, position, count = line.split()
    print(json.dumps({"ns": [1000] * int(count), "faults": 0, "reads": 0}), flush=True)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(all_rounds, "_BUFFER_BYTES_MIN", 4 << 20)
    monkeypatch.setattr(all_rounds, "last_cache_bytes", lambda: 1 << 18)
    (tmp_path / "fake.py").write_text(FAKE)
    command = [sys.executable, str(tmp_path / "fake.py"), str(tmp_path / "log"), "{threads}"]
    return other_engine("fake", command)


def test_measure_rounds_broken_off_goes_on_after_the_last_whole_round(
    tmp_path: Path, fake: Engine
) -> None:
    """Broken, an interrupted run would begin anew, or mix rounds of different plans."""
    plan = RoundsPlan((1, 2), 3, 10, 4, 20, 1)
    raw = tmp_path / "raw.jsonl"
    model = tmp_path / "m.bin"
    model.write_bytes(bytes(1 << 20))

    def measure(header: dict) -> list[dict]:
        (tmp_path / "log").write_text("")
        return measure_rounds(plan, [fake], model, raw, header, lambda *_: None)

    first = measure({"a": 1})
    assert [(each["threads"], each["round"]) for each in first] == [
        (threads, number) for threads in (1, 2) for number in range(3)
    ]
    commands = (tmp_path / "log").read_text().split("\n")
    # The middle round of three has the prefill; the first must fill the cache for itself.
    decode = ["1 decode 10 2", "1 decode 12 4"]
    assert commands[:8] == ["1 prefill 0 10", *decode, "1 prefill 0 20", *decode, *decode]
    run = first[0]["runs"][0]
    assert run["decode_ns"] == [1000] * 4
    assert run["elsewhere"] >= 0
    assert (run["version"], run["token_bytes"]) == ("fake 1", 5)
    assert first[0]["limits"]["read"] > 0

    lines = raw.read_text().splitlines(keepends=True)
    raw.write_text("".join(lines[:5]) + lines[5][:20])  # four rounds, and half of the fifth
    resumed = measure({"a": 1})
    assert resumed[:4] == first[:4]
    assert len(resumed) == 6
    assert "1 " not in (tmp_path / "log").read_text()
    assert [each.count("decode 12 4") for each in [(tmp_path / "log").read_text()]] == [2]
    assert len(raw.read_text().splitlines()) == 7
    assert measure({"a": 1}) == resumed
    assert (tmp_path / "log").read_text() == ""

    measure({"a": 2})
    assert (tmp_path / "log").read_text().count("decode 12 4") == 6


@pytest.mark.parametrize("text", ["x", "=run", "x=", "x= "])
def test_parse_others_bad_text_is_named(text: str) -> None:
    """Broken, a typing error would start something else."""
    with pytest.raises(UsageError) as caught:
        parse_others([text])
    assert caught.value.message == f"not a name and a command: `--other {text}`"


def test_parse_others_command_is_split_as_a_shell_does() -> None:
    """Broken, a path with a space could not be given."""
    assert parse_others(["a=run 'b c' {threads}"]) == [("a", ["run", "b c", "{threads}"])]


def test_find_peers_unknown_name_is_refused(tmp_path: Path) -> None:
    """Broken, a typing error would leave a peer out unseen."""
    with pytest.raises(UsageError) as caught:
        find_peers(["none"], "demo", GEOMETRIES["demo"], 1, 64, tmp_path)
    assert caught.value.message == "peer is unknown: `none`"


def test_record_of_the_same_day_is_kept(tmp_path: Path) -> None:
    """The README's table cites one by name: a later run once took its place."""
    first = free_record(tmp_path, "2026-11-25-peers-x")
    assert first == tmp_path / "2026-11-25-peers-x.jsonl"
    first.touch()
    second = free_record(tmp_path, "2026-11-25-peers-x")
    assert second == tmp_path / "2026-11-25-peers-x-2.jsonl"
    second.touch()
    assert free_record(tmp_path, "2026-11-25-peers-x").name == "2026-11-25-peers-x-3.jsonl"


def test_record_of_every_benchmark_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries `make bench` must not take the place of what the pages tell of."""
    monkeypatch.setattr(bench_all, "RESULTS", tmp_path)
    monkeypatch.setattr(bench_all, "today", lambda: "2026-11-26")
    shown: list[int] = []
    fake = types.SimpleNamespace(
        measure=lambda: iter([{"run": len(shown)}]), print_table=lambda _: shown.append(0)
    )
    monkeypatch.setattr(bench_all.importlib, "import_module", lambda _name: fake)
    for _ in range(2):
        assert bench_all.main() == 0
    names = {path.name for path in tmp_path.iterdir()}
    stems = [f"2026-11-26-{name}" for name in bench_all.BENCHMARKS]
    assert names == {f"{stem}{more}.jsonl" for stem in stems for more in ("", "-2")}
    first = json.loads((tmp_path / f"{stems[0]}.jsonl").read_text())
    assert first == {"run": 0}
