"""What a set of times says: centre, spread, tail."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

__all__ = ["LatencySummary", "median_interval", "percentile", "summarize"]


@dataclasses.dataclass(frozen=True, slots=True)
class LatencySummary:
    """Times of single tokens, in nanoseconds.

    `sd` is the deviation of the sample (n - 1; 0 for one value), `cv` = sd / mean.
    """

    count: int
    mean: float
    sd: float
    cv: float
    p50: float
    p99: float
    max: float


def percentile(values: Sequence[float], fraction: float) -> float:
    """Returns the value below which `fraction` of the values lie, linear between neighbours."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def summarize(values: Sequence[float]) -> LatencySummary:
    """Returns the summary of at least one value."""
    mean = statistics.fmean(values)
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return LatencySummary(
        count=len(values),
        mean=mean,
        sd=sd,
        cv=sd / mean if mean > 0 else 0.0,
        p50=percentile(values, 0.5),
        p99=percentile(values, 0.99),
        max=max(values),
    )


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Returns two of the values that hold the median of their population between them.

    Nothing is assumed of its distribution: that k or fewer of n values lie below its median is as
    likely as k or fewer heads of n coins. Infinite where there are too few values to say.
    """
    ordered = sorted(values)
    outside = 0.0  # of the interval from value number `below` to its mirror image, on either side
    below = -1
    for heads in range(len(ordered) // 2):
        outside += math.comb(len(ordered), heads) / 2 ** len(ordered)
        if outside > (1 - confidence) / 2:
            break
        below = heads
    if below < 0:
        return -math.inf, math.inf
    return ordered[below], ordered[-1 - below]
