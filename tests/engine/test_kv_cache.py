"""The KV cache in its three kinds: bits against the NumPy reference, overflow, memory, refusals."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from bitnet.errors import EvaluationError, UsageError
from bitnet.quantize import open_model
from bitnet.reference import Reference
from tests.support import model_bin
from tests.support.engine import (
    Failure,
    available_isas,
    demo_model,
    open_engine,
    open_handle,
    write_tiny_model,
)
from tests.support.tiny_models import TinyModel

Kind = Literal["f32", "f16", "int8"]
KINDS: tuple[Kind, ...] = ("f32", "f16", "int8")
GEOMETRY = TinyModel(
    architecture="llama", packing="bitlinear", activation="silu", tied=False, layers=2, heads=4,
    kv_heads=2, head_dim=12, hidden=40, intermediate=52, vocab=37,
)  # fmt: skip


EVERY_SHAPE = tuple(itertools.product((1, 2, 3), (1, 7, 64)))  # threads, prefill chunk
SOME_SHAPES = ((1, 64), (2, 1), (3, 7))


def assert_bit_equal(path: Path, count: int, kind: Kind, shapes: Sequence[tuple[int, int]]) -> None:
    """Every kernel table, with each thread count and chunk size, gives the reference's bits."""
    with open_model(path) as model:
        ids = np.random.default_rng(2).integers(0, model.spec.vocab_size, count).tolist()
        expected = Reference(model, kv_cache=kind).logits(ids).view(np.uint32)
    for isa, (threads, chunk) in itertools.product(available_isas(), shapes):
        arguments: dict[str, Any] = {"isa": isa, "threads": threads, "prefill_chunk": chunk}
        with open_engine(path, kv_cache=kind, **arguments) as engine:
            found = engine.logits(ids).view(np.uint32)
        differing = np.argwhere(found != expected)
        assert len(differing) == 0, (arguments, differing[0], len(differing))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_the_demo_model_equal_the_reference(kind: Kind) -> None:
    """If this fails, the sealed program keeps keys or values in another way than documented."""
    assert_bit_equal(demo_model(), 33, kind, EVERY_SHAPE)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"heads": 6, "kv_heads": 1, "head_dim": 2, "packing": "online"},
        {"heads": 3, "kv_heads": 3, "head_dim": 36, "layers": 1},
        {"heads": 2, "kv_heads": 1, "head_dim": 68, "hidden": 16, "intermediate": 16, "vocab": 16},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_named_geometries_equal_the_reference(
    changes: dict[str, Any], kind: Kind, tmp_path: Path
) -> None:
    """If this fails, rows of the cache overlap, or their padding is not zero."""
    path = write_tiny_model(dataclasses.replace(GEOMETRY, **changes), tmp_path)
    assert_bit_equal(path, 23, kind, SOME_SHAPES)


def model_with_scales(path: Path, scales: dict[str, float]) -> Path:
    """Writes a model of one layer whose `scales` by role are multiplied into its matrices."""
    geometry = model_bin.Geometry(
        flags=7, kind=3, hidden_size=32, intermediate_size=32, layer_count=1, head_count=2,
        kv_head_count=1, head_dim=16, vocab_size=19, context_max=64, activation=1, norm_eps=1e-5,
        bos_id=1, eos_ids=(2,),
    )  # fmt: skip
    rng = np.random.default_rng(4)
    shapes = {
        (role, layer): (code, rows, cols)
        for role, layer, code, rows, cols in model_bin.tensor_list(geometry)
    }

    def values_of(role: str, layer: int) -> np.ndarray[Any, Any]:
        code, rows, cols = shapes[role, layer]
        if code == 1:
            return rng.integers(-1, 2, (rows, cols))
        if role == "rope_inv_freq":
            return (0.1 ** np.arange(cols)).astype(np.float32)[None]
        return rng.uniform(0.5, 1.5, (rows, cols)).astype(np.float32)

    path.write_bytes(
        model_bin.encode_model(geometry, lambda role, layer: scales.get(role, 0.25), values_of)
    )
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["k", "v"])
def test_logits_after_an_overflowing_row_are_not_finite(
    role: str, kind: Kind, tmp_path: Path
) -> None:
    """If this fails, an overflow in a key or value is answered as if it were a number."""
    path = model_with_scales(tmp_path / "model.bin", {role: 3e38})
    for isa in available_isas():
        with open_engine(path, isa=isa, kv_cache=kind) as engine:
            for ids in ([3], [3, 4, 5, 6]):
                with pytest.raises(EvaluationError, match="a logit is not finite") as caught:
                    engine.logits(ids)
                assert caught.value.where == ("position 0, token 0",)


def test_logits_of_values_beyond_binary16_are_refused_by_f16_alone(tmp_path: Path) -> None:
    """If this fails, f16 cuts a large value to a smaller one that nobody computed."""
    path = model_with_scales(tmp_path / "model.bin", {"v": 1e8})
    for kind in KINDS:
        with open_engine(path, kv_cache=kind) as engine:
            if kind != "f16":
                assert np.isfinite(engine.logits([3, 4, 5])).all()
                continue
            with pytest.raises(EvaluationError, match="a logit is not finite"):
                engine.logits([3, 4, 5])


def test_greedy_answer_does_not_depend_on_what_the_cache_held_before() -> None:
    """If this fails, a second prompt reads rows, or scales of rows, of the first."""
    for kind in KINDS:
        with open_engine(demo_model(), kv_cache=kind) as engine:
            first = engine.generate([5, 6, 7], max_new_tokens=8).ids
            engine.generate(list(range(100, 160)), max_new_tokens=20)
            assert engine.generate([5, 6, 7], max_new_tokens=8).ids == first


def test_engine_kind_of_cache_unknown_is_refused() -> None:
    """If this fails, a misspelt kind is another kind."""
    for kind in ("", "F16", "fp8"):
        arguments: dict[str, Any] = {"kv_cache": kind}
        with pytest.raises(UsageError, match="kv_cache"):
            open_engine(demo_model(), **arguments)
        with open_model(demo_model()) as model, pytest.raises(UsageError, match="kv_cache"):
            Reference(model, **arguments)
    failure = open_handle(demo_model(), kv_cache=3)
    assert failure == Failure("kConfigConflict", "kv_cache", 0, 3, 2)
