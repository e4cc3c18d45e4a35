"""The builds that `make bench-hardening` compares."""

import pytest

from bench.hardening import VARIANTS, build


@pytest.mark.parametrize("variant", VARIANTS)
def test_build_with_layers_left_out_links(variant: str) -> None:
    """The cost of the lock-down could no longer be measured."""
    program = build(variant)
    assert program.is_file()
    assert (program.name.startswith("bitnet-infer-")) == (variant == "full")
