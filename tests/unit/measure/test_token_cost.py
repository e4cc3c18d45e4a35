"""Bytes and multiply-adds of a token against sums over the tensor table of a written file."""

import struct
from pathlib import Path

import pytest

from bitnet.checkpoint import ModelSpec
from bitnet.measure.geometry import GEOMETRIES
from bitnet.measure.random_model import write_random_model
from bitnet.measure.token_cost import token_cost
from bitnet.quantize.layout import KIND_INT8, plan_layout
from tests.support.measure_models import TINY_TIED, TINY_UNTIED

EMBEDDING, FINAL_NORM, HEAD = 1, 14, 15
TERNARY = 1
NO_LAYER = 0xFFFFFFFF


def read_table(data: bytes) -> list[tuple[int, int, int, int, int, int]]:
    """(role, layer, kind, rows, cols, bytes) of each tensor: docs/formats/model.md."""
    (count,) = struct.unpack_from("<I", data, 120)
    entries = []
    for index in range(count):
        at = 512 + 64 * index
        role, layer, kind, rows, cols = struct.unpack_from("<5I", data, at)
        (size,) = struct.unpack_from("<Q", data, at + 32)
        entries.append((role, layer, kind, rows, cols, size))
    return entries


@pytest.mark.parametrize("spec", [TINY_TIED, TINY_UNTIED], ids=["tied", "untied"])
def test_token_cost_any_geometry_adds_up_the_tensor_table(tmp_path: Path, spec: ModelSpec) -> None:
    """Broken, every fraction of the memory limit would be wrong."""
    write_random_model(spec, tmp_path / "m.bin", 1)
    table = read_table((tmp_path / "m.bin").read_bytes())
    cost = token_cost(spec, plan_layout(spec, KIND_INT8, KIND_INT8))
    assert cost.body_bytes == sum(size for _, layer, *_, size in table if layer != NO_LAYER)
    head_role = EMBEDDING if spec.tied_head else HEAD
    assert cost.head_bytes == sum(row[5] for row in table if row[0] in (head_role, FINAL_NORM))
    assert cost.body_macs == sum(row[3] * row[4] for row in table if row[2] == TERNARY)


def test_token_cost_2b_is_the_sum_done_by_hand() -> None:
    """Broken, the numbers of docs/performance.md would not follow from the geometry."""
    spec = GEOMETRIES["bitnet-2b-4t"]
    cost = token_cost(spec, plan_layout(spec, KIND_INT8, KIND_INT8))
    assert cost.body_macs == 30 * (2 * 2560 * 2560 + 2 * 640 * 2560 + 3 * 6912 * 2560)
    assert cost.body_bytes == cost.body_macs // 4 + 30 * 4 * (3 * 2560 + 6912)
    assert cost.head_bytes == 128256 * (2560 + 8) + 4 * 2560
    assert cost.screen_bytes == 128256 * (1280 + 8) + 4 * 2560
    assert cost.embedding_bytes == 2560 + 4
    assert cost.kv_position_bytes == 2 * 30 * 5 * 128 * 4
    assert cost.weight_bytes == cost.body_bytes + cost.screen_bytes + cost.embedding_bytes


def test_token_cost_position_adds_its_keys_and_values() -> None:
    """Broken, a long context would seem slower than memory makes it, or faster."""
    cost = token_cost(TINY_TIED, plan_layout(TINY_TIED, KIND_INT8, KIND_INT8))
    # Rows of the cache are padded from 10 to 16.
    row_bytes = 16 * 4
    assert cost.decode_bytes(0) == cost.weight_bytes
    assert cost.decode_bytes(7) - cost.decode_bytes(0) == 7 * 2 * 3 * 2 * row_bytes
    more = cost.decode_bytes(7, cost.screen_bytes + 100.5) - cost.decode_bytes(7)
    assert more == 100.5
    assert cost.decode_bytes(7.5) == (cost.decode_bytes(7) + cost.decode_bytes(8)) / 2


@pytest.mark.parametrize(
    ("kind", "row_bytes"), [("f32", 16 * 4), ("f16", 16 * 2), ("int8", 16 + 4)]
)
def test_token_cost_kinds_of_cache_have_their_sizes(kind: str, row_bytes: int) -> None:
    """Broken, a small cache would seem to be read faster than memory is."""
    cost = token_cost(TINY_TIED, plan_layout(TINY_TIED, KIND_INT8, KIND_INT8), kind)
    assert cost.kv_position_bytes == 2 * 3 * 2 * row_bytes
