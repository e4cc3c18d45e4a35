"""Statistics against NumPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet.measure.summary import percentile, summarize

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
