"""Statistics against NumPy's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet.measure.summary import median_interval, percentile, summarize

TIMES = st.lists(st.integers(1, 10**12), min_size=1, max_size=300)


@given(TIMES, st.floats(0, 1))
def test_percentile_any_values_is_that_of_numpy(values: list[int], fraction: float) -> None:
    """Broken, p99 would name another token's time."""
    assert percentile(values, fraction) == pytest.approx(np.quantile(values, fraction), rel=1e-9)


@given(TIMES.filter(lambda values: len(values) > 1))
def test_summarize_any_values_is_what_numpy_says(values: list[int]) -> None:
    """Broken, the jitter that we report would not be the jitter that was."""
    found = summarize(values)
    deviation = float(np.std(values, ddof=1, dtype=np.float64))
    assert found.count == len(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert found.sd == pytest.approx(deviation, rel=1e-6, abs=1e-3)
    assert found.cv == pytest.approx(deviation / np.mean(values), rel=1e-6, abs=1e-9)
    assert found.p50 == pytest.approx(np.median(values))
    assert found.p99 == pytest.approx(np.percentile(values, 99))
    assert found.max == max(values)


def test_summarize_single_value_has_no_spread() -> None:
    """Broken, one round of one token would end in an error."""
    found = summarize([42])
    assert (found.mean, found.sd, found.cv, found.p50, found.p99, found.max) == (
        42,
        0,
        0,
        42,
        42,
        42,
    )


@pytest.mark.parametrize(
    ("count", "below", "above"),
    [(6, 1, 6), (10, 2, 9), (20, 6, 15), (30, 10, 21), (50, 18, 33), (100, 40, 61)],
)
def test_median_interval_known_counts_are_those_of_the_tables(
    count: int, below: int, above: int
) -> None:
    """Ranks for 95 %, from the printed tables (Altman and others, Statistics with confidence)."""
    values = list(range(1, count + 1))
    assert median_interval(values[::-1]) == (below, above)


def test_median_interval_skewed_population_is_held_as_often_as_promised() -> None:
    """Broken, a difference that is noise would be told as one that is real."""
    draws = np.random.default_rng(11).exponential(size=(4000, 17))
    found = np.array([median_interval(each.tolist()) for each in draws])
    held = (found[:, 0] <= math.log(2)) & (math.log(2) <= found[:, 1])
    assert 0.94 < held.mean() < 0.98  # exactly: 0.951


def test_median_interval_too_few_values_say_nothing() -> None:
    """Broken, five rounds would decide what they cannot."""
    assert median_interval([1.0] * 5) == (-math.inf, math.inf)
