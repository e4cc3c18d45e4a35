"""What one token costs by the geometry alone: bytes that must be read, multiply-adds."""

import dataclasses
from typing import Final

from bitnet.checkpoint import ModelSpec
from bitnet.limits import TILE_ROWS, pad_lanes
from bitnet.quantize.layout import KIND_INT8, KIND_TERNARY, Layout, low_row_bytes, tensor_bytes

__all__ = ["TokenCost", "token_cost"]

# Bytes of an element of a key or value, and of what comes with each row: engine/model/kv_cache.h.
_KV_ELEMENT_BYTES: Final = {"f32": 4, "f16": 2, "int8": 1}
_KV_SCALE_BYTES: Final = {"f32": 0, "f16": 0, "int8": 4}


@dataclasses.dataclass(frozen=True, slots=True)
class TokenCost:
    """Bytes that decoding one token must read, each counted once, and the body's multiply-adds.

    Attributes:
        body_bytes: Tensors of all layers: matrices and norms.
        head_bytes: The head (the embedding where it is tied) with the scales and norms of its
            rows, and the final norm.
        screen_bytes: What the choice of a token reads of that at least: not the low plane.
        embedding_bytes: One row of the embedding with its scale.
        kv_position_bytes: Keys and values of all layers at one position.
        body_macs: Multiply-adds with ternary weights.
    """

    body_bytes: int
    head_bytes: int
    screen_bytes: int
    embedding_bytes: int
    kv_position_bytes: int
    body_macs: int

    @property
    def weight_bytes(self) -> int:
        """What every token must read, wherever it stands."""
        return self.body_bytes + self.screen_bytes + self.embedding_bytes

    def decode_bytes(self, position: float, head_bytes: float | None = None) -> float:
        """Returns the bytes read by a token at `position`, which attends to itself too.

        Its own key and value are written, not read from memory; `position` may be the mean of a
        run of positions, as the cost is linear in it. `head_bytes` is what a choice was found to
        read of the head, where it is known; else it is the least.
        """
        more = 0 if head_bytes is None else head_bytes - self.screen_bytes
        return self.weight_bytes + more + position * self.kv_position_bytes


def token_cost(spec: ModelSpec, layout: Layout, kv_cache: str = "f32") -> TokenCost:
    """Returns the cost of one token of a model.bin whose keys and values are kept as `kv_cache`.

    A matrix is read once for all query heads, keys and values once for all query heads that share
    them: what a perfect engine would read from memory, not what this one does.
    """
    sizes = {"body": 0, "head": 0, "low": 0, "embedding": 0}
    for place in layout.tensors:
        if place.layer is not None:
            sizes["body"] += place.byte_count
            continue
        is_int8 = place.kind == KIND_INT8
        if place.role == "embedding":
            row_bytes = tensor_bytes(place.kind, TILE_ROWS, place.cols) // TILE_ROWS
            sizes["embedding"] += row_bytes - 4 * is_int8  # the norm of a row belongs to the head
        if place.role in ("final_norm", "head") or (place.role == "embedding" and spec.tied_head):
            sizes["head"] += place.byte_count
            rows_padded = -(-place.rows // TILE_ROWS) * TILE_ROWS
            sizes["low"] += is_int8 * rows_padded * low_row_bytes(place.cols)
    ternary = [place for place in layout.tensors if place.kind == KIND_TERNARY]
    row_bytes = pad_lanes(spec.head_dim) * _KV_ELEMENT_BYTES[kv_cache] + _KV_SCALE_BYTES[kv_cache]
    kv_rows = 2 * spec.layer_count * spec.kv_head_count
    return TokenCost(
        body_bytes=sizes["body"],
        head_bytes=sizes["head"],
        screen_bytes=sizes["head"] - sizes["low"],
        embedding_bytes=sizes["embedding"],
        kv_position_bytes=kv_rows * row_bytes,
        body_macs=sum(place.rows * place.cols for place in ternary),
    )
