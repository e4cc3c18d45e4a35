"""What `make bench-hardening` compares, in which order, and what it makes of the times."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.hardening import (
    ORDERS,
    ROUNDS,
    VARIANTS,
    build,
    large_model,
    record_of,
    round_of,
    write_settings,
)
from tests.support.engine import demo_model


@pytest.mark.parametrize("variant", VARIANTS)
def test_build_with_layers_left_out_links(variant: str) -> None:
    """The cost of the lock-down could no longer be measured."""
    program = build(variant)
    assert program.is_file()
    assert (program.name.startswith("bitnet-infer-")) == (variant == "full")


def test_orders_let_each_build_follow_each_other_equally_often() -> None:
    """What one build leaves behind in caches and clocks would be measured as part of another."""
    rounds = [ORDERS[turn % len(ORDERS)] for turn in range(ROUNDS)]
    pairs = Counter(pair for order in rounds for pair in itertools.pairwise(order))
    assert pairs == dict.fromkeys(itertools.permutations(VARIANTS, 2), ROUNDS // len(ORDERS))
    places = Counter(place for order in rounds for place in enumerate(order))
    assert places == dict.fromkeys(
        itertools.product(range(len(VARIANTS)), VARIANTS), ROUNDS // len(ORDERS)
    )


def test_large_model_is_made_and_no_file_that_lies_there(tmp_path: Path) -> None:
    """The numbers would be those of whatever somebody left in the folder."""
    (tmp_path / "a.bin").write_bytes(b"something")
    path = large_model("demo", tmp_path)
    assert path == tmp_path / "demo-1.bin"
    assert path.stat().st_size > 1 << 20


def test_round_tells_its_tail_and_a_record_keeps_that_of_each() -> None:
    """A wider spread could not be told from one slow token."""
    rng = np.random.default_rng(3)
    rows = {}
    for variant in VARIANTS:
        times = rng.integers(50_000, 5_000_000, (4, 199))
        rows[variant] = [round_of(each.tolist(), int(each.sum()) + 7_000_000) for each in times]
        for row, each in zip(rows[variant], times, strict=True):
            assert row["token_ms"] == pytest.approx(np.median(each) / 1e6)
            assert row["p99_ms"] == pytest.approx(np.percentile(each, 99) / 1e6)
            assert row["cv"] == pytest.approx(each.std(ddof=1) / each.mean())
            assert row["start_ms"] == 7
            tail = row["tail"]
            assert (tail["min_ns"], tail["max_ns"]) == (each.min(), each.max())
            edges = 1000 * 2 ** (np.arange(120) / 4)
            counts, _ = np.histogram(each, edges)
            assert tail["histogram"] == {
                str(bucket): count for bucket, count in enumerate(counts) if count
            }
    record = record_of({"model": "demo"}, "full", rows, {"cpu": "none"})
    assert record["tails"] == [row["tail"] for row in rows["full"]]
    assert (record["model"], record["cpu"], record["rounds"]) == ("demo", "none", 4)
    assert math.isfinite(record["ratio_to_plain"])
    ratios = [a["cv"] / b["cv"] for a, b in zip(rows["full"], rows["plain"], strict=True)]
    assert record["spread_to_plain"] == pytest.approx(np.median(ratios))
    assert record["spread_interval"] is None, "four rounds do not say"
    rows = {variant: (own * 2) for variant, own in rows.items()}
    record = record_of({"model": "demo"}, "full", rows, {"cpu": "none"})
    assert record["spread_interval"] == pytest.approx((min(ratios), max(ratios)))


def test_settings_keep_threads_on_processors_only_where_asked(tmp_path: Path) -> None:
    """All builds of a case must run alike, and the cases must differ in nothing else."""
    texts = [
        write_settings(tmp_path, demo_model(), 1, 20, placement).read_text(encoding="utf-8")
        for placement in ("any", "fixed")
    ]
    differing = [
        lines for lines in zip(*(text.splitlines() for text in texts), strict=True)
        if lines[0] != lines[1]
    ]  # fmt: skip
    (lines,) = differing
    assert [line.split(":")[0] for line in lines] == ["cores", "cores"]
    assert lines[0].split()[1] == "any"
