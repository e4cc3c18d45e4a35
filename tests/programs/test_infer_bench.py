"""`bitnet-infer --bench`: the engine's own account of how long tokens take."""

import json
import time
from pathlib import Path

import pytest

from tests.support.infer import ask, write_config


@pytest.mark.parametrize("count", [2, 200])
def test_bench_any_count_accounts_for_every_token(tmp_path: Path, count: int) -> None:
    """If this fails, tokens are left out, or told with times that cannot be theirs."""
    config = write_config(tmp_path, max_new_tokens=64, threads=2, isa="ref")
    begin = time.monotonic_ns()
    result = ask(config, "--bench", str(count), question=b"")
    run_ns = time.monotonic_ns() - begin
    assert (result.returncode, result.stderr) == (0, b"")
    record = json.loads(result.stdout)
    assert (record["isa"], record["threads"]) == ("ref", 2)
    times = record["times_ns"]
    assert len(times) == count - 1  # the first one has the prompt in it
    assert min(times) > 0
    assert sum(times) < run_ns


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
