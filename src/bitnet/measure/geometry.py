"""The geometries that speed is measured on, by name, and what the geometry alone says."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from bitnet.checkpoint import ModelSpec, matrix_shape, vector_length
from bitnet.errors import UsageError

__all__ = ["GEOMETRIES", "find_geometry", "parameter_count"]


def _binary32(value: float) -> float:
    """Returns the value as a checkpoint's configuration is read: rounded to binary32."""
    return float(np.float32(value))


GEOMETRIES: Final[dict[str, ModelSpec]] = {
    # Source: config.json of microsoft/bitnet-b1.58-2B-4T.
    "bitnet-2b-4t": ModelSpec(
        hidden_size=2560,
        intermediate_size=6912,
        layer_count=30,
        head_count=20,
        kv_head_count=5,
        head_dim=128,
        vocab_size=128256,
        context_max=4096,
        activation="relu2",
        norm_eps=_binary32(1e-5),
        rope_theta=500000.0,
        attn_sub_norm=True,
        ffn_sub_norm=True,
        tied_head=True,
        bos_id=128000,
        eos_ids=(128001, 128009),
    ),
    # Source: config.json of TinyLlama/TinyLlama-1.1B-Chat-v1.0. Its weights are not ternary; it is
    # the geometry that peers publish numbers for.
    "tinyllama-1.1b": ModelSpec(
        hidden_size=2048,
        intermediate_size=5632,
        layer_count=22,
        head_count=32,
        kv_head_count=4,
        head_dim=64,
        vocab_size=32000,
        context_max=2048,
        activation="silu",
        norm_eps=_binary32(1e-5),
        rope_theta=10000.0,
        attn_sub_norm=False,
        ffn_sub_norm=False,
        tied_head=False,
        bos_id=1,
        eos_ids=(2,),
    ),
    # Source: config.json of tiiuae/Falcon3-1B-Instruct-1.58bit.
    "falcon3-1b": ModelSpec(
        hidden_size=2048,
        intermediate_size=8192,
        layer_count=18,
        head_count=8,
        kv_head_count=4,
        head_dim=256,
        vocab_size=131072,
        context_max=8192,
        activation="silu",
        norm_eps=_binary32(1e-6),
        rope_theta=1000042.0,
        attn_sub_norm=False,
        ffn_sub_norm=False,
        tied_head=False,
        bos_id=None,
        eos_ids=(11,),
    ),
    # Source: models/demo/config.json.
    "demo": ModelSpec(
        hidden_size=384,
        intermediate_size=1024,
        layer_count=4,
        head_count=6,
        kv_head_count=2,
        head_dim=64,
        vocab_size=4096,
        context_max=512,
        activation="relu2",
        norm_eps=_binary32(1e-5),
        rope_theta=10000.0,
        attn_sub_norm=True,
        ffn_sub_norm=True,
        tied_head=True,
        bos_id=None,
        eos_ids=(3,),
    ),
}


def find_geometry(name: str) -> ModelSpec:
    """Returns the geometry of that name.

    Raises:
        UsageError: There is none.
    """
    spec = GEOMETRIES.get(name)
    if spec is None:
        raise UsageError(
            f"geometry is unknown: `{name}`", hint=f"choose one of {', '.join(GEOMETRIES)}"
        )
    return spec


def _shapes(spec: ModelSpec) -> Iterator[tuple[int, int]]:
    """Yields rows and columns of every tensor that training would have learned."""
    tables = 1 if spec.tied_head else 2
    yield tables * spec.vocab_size, spec.hidden_size
    vectors = ["input_norm", "post_attention_norm"]
    vectors += ["attn_sub_norm"] * spec.attn_sub_norm + ["ffn_sub_norm"] * spec.ffn_sub_norm
    for role in ("q", "k", "v", "o", "gate", "up", "down"):
        rows, cols = matrix_shape(spec, role)
        yield spec.layer_count * rows, cols
    for role in vectors:
        yield spec.layer_count, vector_length(spec, role)
    yield 1, vector_length(spec, "final_norm")


def parameter_count(spec: ModelSpec) -> int:
    """Returns how many parameters a model of this geometry has; a tied table counts once."""
    return sum(rows * cols for rows, cols in _shapes(spec))
