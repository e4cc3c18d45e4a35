"""What a model is: its geometry, and the weights that a forward pass asks for.

Whatever file they come from: a checkpoint, a model.bin, or memory.
"""

import dataclasses
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["F32Rows", "Int8Rows", "ModelSpec", "TernaryMatrix", "Weights"]

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSpec:
    """The geometry of a decoder with 1-bit linear layers, read from a checkpoint's configuration.

    Nothing here has a default: what changes the arithmetic is read or refused.
    """

    hidden_size: int
    intermediate_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    vocab_size: int
    context_max: int
    activation: Literal["relu2", "silu"]
    norm_eps: float
    rope_theta: float
    attn_sub_norm: bool
    ffn_sub_norm: bool
    tied_head: bool
    bos_id: int | None
    eos_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TernaryMatrix:
    """weights: int8[rows, cols] of -1, 0, +1.

    The layer's output is (weights @ codes) * (scale / activation scale).
    """

    weights: I8
    scale: np.float32


@dataclasses.dataclass(frozen=True, slots=True)
class F32Rows:
    """values: float32[rows, cols]."""

    values: F32


@dataclasses.dataclass(frozen=True, slots=True)
class Int8Rows:
    """codes: int8[rows, cols] in -127..127; scales: float32[rows].

    Row r stands for codes[r] * scales[r].
    """

    codes: I8
    scales: F32


class Weights(Protocol):
    """The weights of a model by role, as named in docs/formats/model.md.

    Roles of matrices: q k v o gate up down. Roles of vectors: rope_inv_freq (layer None),
    input_norm, attn_sub_norm, post_attention_norm, ffn_sub_norm, final_norm (layer None). Tables:
    embedding, head (the embedding again where the head is tied).
    """

    @property
    def spec(self) -> ModelSpec:
        """The geometry."""
        ...

    def matrix(self, role: str, layer: int) -> TernaryMatrix:
        """Returns a ternary matrix of a layer."""
        ...

    def vector(self, role: str, layer: int | None) -> F32:
        """Returns a vector, float32[n]."""
        ...

    def table(self, role: str) -> F32Rows | Int8Rows:
        """Returns the embedding or the head."""
        ...
