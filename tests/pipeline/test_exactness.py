"""The exactness table on 8 prompts x 32 positions; `make exactness` takes 200 x 64."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline import exactness


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exactness.make_model(tmp_path_factory.mktemp("exactness"))


@pytest.fixture(scope="module")
def reference(model: Path) -> dict[str, np.ndarray]:
    """Logits of the NumPy reference by kind of cache: not made by the code under test."""
    ids = exactness.sequences(*exactness.SMALL)
    return {kind: exactness.reference_logits(model, ids, kind) for kind in exactness.KV_CACHES}


def cases() -> Iterator[exactness.Case]:
    """The strongest and the plainest tables in all shapes, and everything that is emulated."""
    for case in exactness.native_cases():
        if case.isa != "ref" or case.chunk == 64:
            yield case
    seen_plain = False
    for case in exactness.emulated_cases():
        plain = case.arch == "x86_64"  # slow: the same table under its name and as `auto`
        if not (plain and seen_plain):
            yield case
        seen_plain |= plain
    for kind in exactness.KV_CACHES[1:]:
        yield from (case for case in exactness.kv_cache_cases(kind) if case.isa != "dotprod")


def name_of(case: exactness.Case) -> str:
    machine = "-".join(part for part in case.emulator if part != "-cpu") or "native"
    return f"{machine}-{case.isa}-{case.threads}-{case.chunk}-{case.kv_cache}"


@pytest.mark.parametrize("case", list(cases()), ids=name_of)
def test_logits_any_machine_equal_the_reference_bit_by_bit(
    case: exactness.Case, model: Path, reference: dict[str, np.ndarray]
) -> None:
    """One answer everywhere: a single differing bit on any path breaks the promise."""
    # What a processor has is held against the kernel's list in tests/engine/test_kernels.py.
    if not exactness.runs_here(case):
        pytest.skip(f"this processor cannot run the table `{case.isa}`")
    logits = exactness.compute(case, model, exactness.sequences(*exactness.SMALL))
    expected = reference[case.kv_cache].tobytes()
    assert hashlib.sha384(logits).digest() == hashlib.sha384(expected).digest()


def test_logits_kinds_of_cache_differ(reference: dict[str, np.ndarray]) -> None:
    """The kinds would all be the same one, and the cases above prove nothing about the others."""
    digests = {hashlib.sha384(logits.tobytes()).digest() for logits in reference.values()}
    assert len(digests) == len(exactness.KV_CACHES)
