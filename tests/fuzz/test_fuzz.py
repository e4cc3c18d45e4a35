"""Every parser inside the gap under a coverage-guided fuzzer, for a short while."""

from pathlib import Path

import pytest

from tests.support.fuzz_harnesses import HARNESSES
from tests.support.fuzzing import Harness, build_harness, fuzz, replay
from tests.support.host import fixed_addresses

SECONDS = 10
PLANTED = Harness("planted", ("base",), list)
PLANTED_SPAN = Harness("planted_span", ("base",), list)


def test_driver_finds_a_planted_defect_and_keeps_the_input(tmp_path: Path) -> None:
    """If this fails, the runs below find nothing because they look for nothing."""
    result = fuzz(PLANTED, tmp_path, seconds=60)
    assert result["crashes"] == 1
    assert "AddressSanitizer: heap-buffer-overflow" in result["report"]
    (finding,) = (tmp_path / "crashes").iterdir()
    assert finding.read_bytes().startswith(b"signatel")
    assert "heap-buffer-overflow" in replay(PLANTED, finding).stderr.decode()


def test_driver_finds_an_index_beyond_a_span_that_no_sanitizer_sees(tmp_path: Path) -> None:
    """If this fails, what is fuzzed is compiled without the library's checks."""
    result = fuzz(PLANTED_SPAN, tmp_path, seconds=60)
    assert result["crashes"] == 1
    assert "AddressSanitizer: ILL" in result["report"]


def test_driver_a_seed_longer_than_any_input_is_refused(tmp_path: Path) -> None:
    """Each mutation of such a seed would be cut, so that none has the form of the seed."""
    harness = Harness("planted", ("base",), lambda: [bytes(5)], bytes_max=4)
    with pytest.raises(AssertionError, match="seed of 5 bytes"):
        fuzz(harness, tmp_path, seconds=1)


@pytest.mark.skipif(not fixed_addresses(), reason="this host refuses ADDR_NO_RANDOMIZE")
def test_driver_same_seed_and_runs_does_the_same(tmp_path: Path) -> None:
    """A finding that cannot be repeated cannot be repaired."""
    harness = next(each for each in HARNESSES if each.name == "config")
    results = [fuzz(harness, tmp_path / name, seconds=60, runs=20_000) for name in ("a", "b")]
    keys = ("executions", "edges", "features", "corpus", "accepted")
    assert [results[0][key] for key in keys] == [results[1][key] for key in keys]
    names = [{file.name for file in (tmp_path / name / "corpus").iterdir()} for name in ("a", "b")]
    assert names[0] == names[1]


@pytest.mark.parametrize("harness", HARNESSES, ids=lambda harness: harness.name)
def test_parser_under_fuzzing_stays_within_bounds(harness: Harness, tmp_path: Path) -> None:
    """Some input makes a program inside the gap read, write or compute what it must not."""
    build_harness(harness)
    result = fuzz(harness, tmp_path, seconds=SECONDS)
    assert result["crashes"] == 0, result["report"]
    assert result["executions"] > 100  # a loaded machine is slow; nothing at all would be a defect
    assert result["edges"] > harness.edges_min, result
    # Else the door alone is tested: every mutation is refused there.
    if result["accepted"] is not None:
        assert result["accepted"] > len(list(harness.seeds())), result
