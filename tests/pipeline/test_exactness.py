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
def reference(model: Path) -> np.ndarray:
    """Logits of the NumPy reference: not made by the code under test."""
    return exactness.reference_logits(model, exactness.sequences(*exactness.SMALL))


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


def name_of(case: exactness.Case) -> str:
    machine = "-".join(part for part in case.emulator if part != "-cpu") or "native"
    return f"{machine}-{case.isa}-{case.threads}-{case.chunk}"


@pytest.mark.parametrize("case", list(cases()), ids=name_of)
def test_logits_any_machine_equal_the_reference_bit_by_bit(
    case: exactness.Case, model: Path, reference: np.ndarray
) -> None:
    """One answer everywhere: a single differing bit on any path breaks the promise."""
    logits = exactness.compute(case, model, exactness.sequences(*exactness.SMALL))
    assert hashlib.sha384(logits).digest() == hashlib.sha384(reference.tobytes()).digest()
