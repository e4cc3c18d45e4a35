"""`bitnet-infer --bench`: the engine's own account of how long tokens take."""

import json
from pathlib import Path

import pytest

from tests.support.infer import ask, write_config


def test_bench_any_count_accounts_for_every_token(tmp_path: Path) -> None:
    """If this fails, the histogram leaves tokens out, or its figures contradict each other."""
    config = write_config(tmp_path, max_new_tokens=64)
    result = ask(config, "--bench", "200", question=b"")
    assert (result.returncode, result.stderr) == (0, b"")
    record = json.loads(result.stdout)
    assert record["tokens"] == 199
    assert sum(record["histogram"].values()) == 199
    order = [record[key] for key in ("min_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns")]
    assert order == sorted(order)
    assert 0 < order[0] <= record["mean_ns"] <= order[-1]
    assert record["cv"] == pytest.approx(record["sd_ns"] / record["mean_ns"], abs=1e-3)
    lowest = min(map(int, record["histogram"]))
    edge_ns = 1000 * 2 ** (lowest / record["buckets_per_octave"])
    assert lowest == 0 or edge_ns <= order[0] * (1 + 1e-9) < edge_ns * 2**0.25


@pytest.mark.parametrize("value", ["0", "1", "-1", "x", "1048577", ""])
def test_bench_count_out_of_range_is_refused(tmp_path: Path, value: str) -> None:
    """If this fails, a mistyped count measures something else."""
    result = ask(write_config(tmp_path), "--bench", value)
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"`--bench`" in result.stderr


def test_bench_beyond_the_context_is_refused(tmp_path: Path) -> None:
    """If this fails, a bench writes past the cache."""
    result = ask(write_config(tmp_path, context=64, max_new_tokens=16), "--bench", "60")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(b"error: prompt and answer do not fit the context")
