"""model.bin, byte for byte, against a second implementation written from the page."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet.checkpoint import Checkpoint, F32Rows, Int8Rows, open_checkpoint
from bitnet.quantize import open_model, write_model
from bitnet.quantize.tiles import (
    pack_int8,
    pack_ternary,
    quantize_rows,
    residual_norms,
    unpack_int8,
    unpack_ternary_codes,
)
from tests.support import model_bin
from tests.support.checkpoints import TinyCheckpoint, make_checkpoint


@st.composite
def tiny_checkpoints(draw: st.DrawFn) -> TinyCheckpoint:
    """Geometries whose widths need padding of every kind."""
    family = draw(st.sampled_from(["bitnet", "llama"]))
    form = draw(st.sampled_from(["autobitlinear", "bitlinear", "default", "online"]))
    kv_heads = draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 2))
    half = draw(st.integers(1, 5))
    head_dim = 2 * half if form == "online" else 4 * half
    hidden = heads * head_dim
    if family == "llama" and draw(st.booleans()):
        hidden = 4 * draw(st.integers(1, 9))
    return make_checkpoint(
        family=family,
        form=form,
        kv_heads=kv_heads,
        heads=heads,
        head_dim=head_dim,
        hidden=hidden,
        intermediate=4 * draw(st.integers(1, 12)),
        layers=draw(st.integers(1, 2)),
        vocab=draw(st.integers(3, 40)),
        tied=draw(st.booleans()),
        activation=draw(st.sampled_from(["relu2", "silu"])),
        seed=draw(st.integers(0, 99)),
    )


def geometry_of(tiny: TinyCheckpoint, kind: int) -> model_bin.Geometry:
    """The header fields as config.json has them."""
    config = tiny.config
    flags = int(config["tie_word_embeddings"]) + (6 if config["model_type"] == "bitnet" else 0)
    return model_bin.Geometry(
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        layer_count=config["num_hidden_layers"],
        head_count=config["num_attention_heads"],
        kv_head_count=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab_size=config["vocab_size"],
        context_max=config["max_position_embeddings"],
        activation={"relu2": 1, "silu": 2}[config["hidden_act"]],
        flags=flags,
        norm_eps=config["rms_norm_eps"],
        kind=kind,
        bos_id=config["bos_token_id"],
        eos_ids=(config["eos_token_id"],),
    )


def encode_slowly(tiny: TinyCheckpoint, checkpoint: Checkpoint, kind: int) -> bytes:
    """The file that the page asks for, from the weights that the checkpoint gives."""

    def values_of(role: str, layer: int) -> Any:
        if role in ("embedding", "head"):
            name = "model.embed_tokens.weight" if role == "embedding" else "lm_head.weight"
            return tiny.values[name]
        if layer != model_bin.NONE and role in ("q", "k", "v", "o", "gate", "up", "down"):
            return checkpoint.matrix(role, layer).weights
        return [checkpoint.vector(role, None if layer == model_bin.NONE else layer)]

    def scale_of(role: str, layer: int) -> float:
        return float(checkpoint.matrix(role, layer).scale)

    return model_bin.encode_model(geometry_of(tiny, kind), scale_of, values_of)


@settings(max_examples=40)
@given(tiny=tiny_checkpoints(), embedding=st.sampled_from(["int8", "f32"]))
def test_write_model_any_geometry_gives_the_bytes_of_the_page(
    tmp_path_factory: pytest.TempPathFactory, tiny: TinyCheckpoint, embedding: str
) -> None:
    """Broken, the file would not be what docs/formats/model.md says, and no other reader fits."""
    directory = tmp_path_factory.mktemp("model")
    output = directory / "model.bin"
    with open_checkpoint(tiny.write(directory / "checkpoint")) as checkpoint:
        summary = write_model(checkpoint, output, embedding=embedding)  # type: ignore[arg-type]
        expected = encode_slowly(tiny, checkpoint, 3 if embedding == "int8" else 4)
    found = output.read_bytes()
    assert found[:512] == expected[:512]
    assert found == expected
    assert summary.file_bytes == len(expected)
    assert summary.root == expected[216:264]


@settings(max_examples=25)
@given(tiny=tiny_checkpoints(), embedding=st.sampled_from(["int8", "f32"]))
def test_open_model_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, tiny: TinyCheckpoint, embedding: str
) -> None:
    """Broken, the reference would compute with other weights than the file's."""
    directory = tmp_path_factory.mktemp("model")
    output = directory / "model.bin"
    with open_checkpoint(tiny.write(directory / "checkpoint")) as checkpoint:
        write_model(checkpoint, output, embedding=embedding)  # type: ignore[arg-type]
        with open_model(output) as model:
            model.verify()
            check_same_weights(checkpoint, model)
            spec = {name: getattr(model.spec, name) for name in model.spec.__slots__}
            theirs = {name: getattr(checkpoint.spec, name) for name in model.spec.__slots__}
            del spec["rope_theta"], theirs["rope_theta"]
            assert spec == theirs


def check_same_weights(checkpoint: Checkpoint, model: Any) -> None:
    for place in model.header.layout.tensors:
        if place.kind == 1:
            ours, theirs = (
                model.matrix(place.role, place.layer),
                checkpoint.matrix(place.role, place.layer),
            )
            assert np.array_equal(ours.weights, theirs.weights)
            assert ours.scale == theirs.scale
            zeros = int((theirs.weights == 0).sum())
            assert model.zero_count(place) == zeros
        elif place.role not in ("embedding", "head"):
            vector = model.vector(place.role, place.layer)
            assert np.array_equal(vector, checkpoint.vector(place.role, place.layer))
    for role in ("embedding", "head"):
        table, exact = model.table(role), checkpoint.table(role).values
        if isinstance(table, F32Rows):
            assert np.array_equal(table.values, exact)
        else:
            assert isinstance(table, Int8Rows)
            error = np.abs(table.codes * table.scales[:, None] - exact)
            assert (error <= 0.5001 * table.scales[:, None]).all()


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 999))
def test_pack_ternary_equals_the_slow_encoder_and_its_decoder(
    rows: int, cols: int, seed: int
) -> None:
    """Broken, tiles would hold the weights of other rows or columns."""
    weights = np.random.default_rng(seed).integers(-1, 2, (rows, cols)).astype(np.int8)
    data = pack_ternary(weights)
    assert data.tobytes() == model_bin.encode_ternary(weights)
    assert model_bin.decode_ternary(data.tobytes(), rows, cols) == weights.tolist()
    codes = unpack_ternary_codes(data, -(-cols // 16) * 16)
    assert np.array_equal(codes[:rows, :cols].astype(np.int8) - 1, weights)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999))
def test_pack_int8_equals_the_slow_encoder(rows: int, cols: int, seed: int) -> None:
    """Broken, embedding rows would be stored in other places than the kernels read."""
    values = np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)
    codes, scales = quantize_rows(values)
    high, low = pack_int8(codes)
    data = high.tobytes() + low.tobytes()
    expected = model_bin.encode_int8(values)
    assert data == expected[: len(data)]
    found = np.frombuffer(expected[len(data) :], "<f4").reshape(2, -1)
    assert np.array_equal(found[:, :rows], [scales, residual_norms(codes)])
    stored = unpack_int8(high, low, -(-cols // 16) * 16)
    assert np.array_equal(stored[:rows, :cols].astype(int) - 128, codes)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=300)
@given(st.lists(FLOATS, min_size=1, max_size=8))
def test_quantize_rows_any_floats_equal_the_page(row: list[float]) -> None:
    """Broken, codes would be off by one on halves, or overflow on subnormal rows."""
    values = np.array([row], np.float32)
    codes, scales = quantize_rows(values)
    expected_codes, expected_scale = model_bin.quantize_row(values[0])
    assert codes[0].tolist() == expected_codes
    assert scales[0] == np.float32(expected_scale)


@pytest.mark.parametrize(
    ("row", "codes", "scale"),
    [
        ([0.0, -0.0], [0, 0], 0.0),
        ([127.0, 0.5, 1.5, -2.5], [127, 0, 2, -2], 1.0),
        ([1e-45], [0], 0.0),  # max / 127 is 0: the row is lost, the codes are defined
        ([190 * 2.0**-149], [127], 2.0**-149),  # a subnormal scale: 190 is clamped
        ([-190 * 2.0**-149], [-127], 2.0**-149),
    ],
)
def test_quantize_rows_edges_are_as_the_page_says(
    row: list[float], codes: list[int], scale: float
) -> None:
    """Broken, a row of zeros or of subnormals would become NaN."""
    found_codes, found_scales = quantize_rows(np.array([row], np.float32))
    assert found_codes.tolist() == [codes]
    assert found_scales.tolist() == [scale]
