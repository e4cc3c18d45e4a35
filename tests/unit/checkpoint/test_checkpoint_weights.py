"""Weights by role from every published form, against transformers and torch."""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers.integrations.bitnet import WeightQuant, pack_weights, unpack_weights

from bitnet.checkpoint import WeightForm, matrix_shape, open_checkpoint
from bitnet.errors import CheckpointError
from tests.support.checkpoints import MATRICES, as_tensor, make_checkpoint

torch.set_num_threads(1)
DEMO = Path(__file__).parents[3] / "models" / "demo"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("autobitlinear", WeightForm.PACKED_MULTIPLY),
        ("bitlinear", WeightForm.PACKED_DIVIDE),
        ("default", WeightForm.PACKED_DIVIDE),
    ],
)
def test_checkpoint_packed_form_gives_codes_and_multiplier(
    tmp_path: Path, form: str, expected: WeightForm
) -> None:
    """Broken, every layer's output would be off by the square of its scale."""
    tiny = make_checkpoint(form=form, hidden=24, heads=3, intermediate=20)
    with open_checkpoint(tiny.write(tmp_path)) as checkpoint:
        assert checkpoint.form is expected
        for (role, layer), codes in tiny.codes.items():
            matrix = checkpoint.matrix(role, layer)
            assert np.array_equal(matrix.weights, codes)
            stored = tiny.values[f"model.layers.{layer}.{MATRICES[role]}.weight_scale"][0]
            wanted = stored if form == "autobitlinear" else np.float32(1) / stored
            assert matrix.scale == wanted
            assert matrix.scale.dtype == np.float32


def test_checkpoint_packed_rows_are_those_of_transformers(tmp_path: Path) -> None:
    """Broken, rows would come out interleaved: plausible shapes, wrong model."""
    tiny = make_checkpoint(hidden=24, heads=3, intermediate=28)
    for (role, layer), codes in tiny.codes.items():
        packed = pack_weights(torch.tensor(codes.astype(np.int32)))
        name = f"model.layers.{layer}.{MATRICES[role]}.weight"
        assert tiny.tensors[name] == as_tensor(packed.numpy())
    tiny.write(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        for role, name in MATRICES.items():
            theirs = unpack_weights(stored[f"model.layers.1.{name}.weight"], torch.float32)
            assert np.array_equal(checkpoint.matrix(role, 1).weights, theirs.numpy())


@settings(max_examples=25)
@given(data=st.data())
def test_checkpoint_row_blocks_join_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Broken, a matrix larger than a block would be written with rows moved."""
    form = data.draw(st.sampled_from(["autobitlinear", "online"]))
    tiny = make_checkpoint(form=form, hidden=16, heads=2, intermediate=36, layers=1)
    directory = tiny.write(tmp_path_factory.mktemp("blocks"))
    with open_checkpoint(directory) as checkpoint:
        rows, _ = matrix_shape(checkpoint.spec, "gate")
        begin = data.draw(st.integers(0, rows - 1))
        end = data.draw(st.integers(begin + 1, rows))
        whole = checkpoint.matrix("gate", 0).weights
        assert np.array_equal(checkpoint.matrix_rows("gate", 0, begin, end), whole[begin:end])


@pytest.mark.parametrize("spread", [1e-7, 1e-3, 0.02, 3.0])
@pytest.mark.parametrize("form", ["online", "float"])
def test_checkpoint_masters_quantise_as_weight_quant(
    tmp_path: Path, spread: float, form: str
) -> None:
    """Broken, masters would become another ternary model than the one that was trained."""
    tiny = make_checkpoint(form=form, hidden=48, heads=3, intermediate=60, seed=7)
    for layer in range(2):
        for name in MATRICES.values():
            full = f"model.layers.{layer}.{name}.weight"
            tiny.values[full] *= np.float32(spread)
            tiny.tensors[full] = as_tensor(tiny.values[full])
    with open_checkpoint(tiny.write(tmp_path)) as checkpoint:
        for role, name in MATRICES.items():
            weight = torch.tensor(tiny.values[f"model.layers.1.{name}.weight"])
            theirs = WeightQuant.apply(weight).numpy()
            matrix = checkpoint.matrix(role, 1)
            assert np.array_equal(np.sign(theirs).astype(np.int8), matrix.weights)
            nonzero = theirs[theirs != 0]
            if nonzero.size:
                ulp = np.spacing(matrix.scale)
                assert abs(np.abs(nonzero).max() - matrix.scale) <= 2 * ulp


def test_checkpoint_online_zero_matrix_gives_the_floor_of_the_scale(tmp_path: Path) -> None:
    """Broken, a dead layer would divide by zero."""
    tiny = make_checkpoint(form="online")
    name = "model.layers.0.mlp.up_proj.weight"
    tiny.tensors[name] = as_tensor(np.zeros_like(tiny.values[name]))
    with open_checkpoint(tiny.write(tmp_path)) as checkpoint:
        matrix = checkpoint.matrix("up", 0)
    assert not matrix.weights.any()
    assert matrix.scale == np.float32(1) / (np.float32(1) / np.float32(1e-5))


def test_checkpoint_dequantised_values_keep_their_own_magnitude(tmp_path: Path) -> None:
    """Broken, a checkpoint published as {-a, 0, +a} would lose a third of its scale."""
    tiny = make_checkpoint(form="float")
    rng = np.random.default_rng(3)
    name = "model.layers.0.mlp.up_proj.weight"
    codes = rng.integers(-1, 2, tiny.values[name].shape).astype(np.int8)
    tiny.tensors[name] = as_tensor(codes * np.float32(0.0625))
    with open_checkpoint(tiny.write(tmp_path)) as checkpoint:
        assert checkpoint.form is WeightForm.DEQUANTISED
        matrix = checkpoint.matrix("up", 0)
    assert matrix.scale == np.float32(0.0625)
    assert np.array_equal(matrix.weights, codes)


SEVERAL_SCALES = {
    "two shards of rows": lambda codes: np.repeat([[0.5], [0.25]], len(codes) // 2, axis=0),
    "two shards of columns": lambda codes: np.repeat([[0.5, 0.25]], codes.shape[1] // 2, axis=1),
    "one a row": lambda codes: np.linspace(0.1, 0.9, len(codes))[:, None],
    "groups": lambda codes: np.repeat(np.linspace(0.1, 0.9, codes.shape[1] // 4)[None], 4, axis=1),
}


@pytest.mark.parametrize(
    ("scales", "binary"), [*((name, False) for name in SEVERAL_SCALES), ("one a row", True)]
)
@pytest.mark.parametrize("config", [{"is_bitnet_config": True}, {}])
def test_checkpoint_several_scales_in_a_matrix_are_refused(
    tmp_path: Path, scales: str, binary: bool, config: dict[str, bool]
) -> None:
    """Broken, the mean of all magnitudes stands in for each, and the layer answers wrongly."""
    tiny = make_checkpoint(family="llama", form="float")
    tiny.config.pop("is_bitnet_config", None)
    tiny.config |= config
    name = "model.layers.0.mlp.up_proj.weight"
    rng = np.random.default_rng(3)
    shape = tiny.values[name].shape
    codes = rng.choice([-1, 1] if binary else [-1, 0, 1], shape)
    tiny.tensors[name] = as_tensor((codes * SEVERAL_SCALES[scales](codes)).astype(np.float32))
    with open_checkpoint(tiny.write(tmp_path)) as checkpoint:
        for read in (checkpoint.matrix, checkpoint.matrix_scale):
            with pytest.raises(
                CheckpointError, match="looks ternary with several scales"
            ) as caught:
                read("up", 0)
        assert name in caught.value.message
        checkpoint.matrix("gate", 0)  # floats without such a form go on as masters


def test_checkpoint_online_masters_with_zeros_are_taken_as_transformers_does(
    tmp_path: Path,
) -> None:
    """Broken, a model that was trained with sparse masters is refused."""
    tiny = make_checkpoint(form="online")
    name = "model.layers.0.mlp.up_proj.weight"
    values = tiny.values[name] * (np.random.default_rng(5).random(tiny.values[name].shape) > 0.5)
    tiny.tensors[name] = as_tensor(values.astype(np.float32))
    with open_checkpoint(tiny.write(tmp_path)) as checkpoint:
        matrix = checkpoint.matrix("up", 0)
    theirs = WeightQuant.apply(torch.tensor(values.astype(np.float32))).numpy()
    assert np.array_equal(matrix.weights, np.sign(theirs))


@pytest.mark.parametrize("cols", [1, 2, 3, 17, 100, 4096])
def test_row_magnitudes_any_width_equal_the_exact_sum(cols: int) -> None:
    """Broken, the mean of |W| would drift with the width of a matrix."""
    from fractions import Fraction

    from bitnet.checkpoint.ternary import row_magnitudes

    values = np.random.default_rng(cols).standard_normal((3, cols)).astype(np.float32)
    for row, found in zip(values, row_magnitudes(values), strict=True):
        exact = sum(Fraction(abs(float(value))) for value in row)
        assert abs(Fraction(float(found)) - exact) <= exact * Fraction(1, 2**48)


TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@pytest.mark.parametrize("dtype", TORCH_TYPES)
def test_checkpoint_any_float_type_is_read_as_torch_reads_it(tmp_path: Path, dtype: str) -> None:
    """Broken, embeddings of a bf16 or fp8 checkpoint would be read as noise."""
    tiny = make_checkpoint(form="online", tied=False)
    tiny.write(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {name: tensor.to(TORCH_TYPES[dtype]) for name, tensor in load_file(file).items()}
    save_file(state, file)
    with open_checkpoint(tmp_path) as checkpoint:
        table = checkpoint.table("embedding").values
        assert np.array_equal(table, state["model.embed_tokens.weight"].float().numpy())
        assert np.array_equal(
            checkpoint.table_rows("head", 5, 9), state["lm_head.weight"].float().numpy()[5:9]
        )
        norm = checkpoint.vector("ffn_sub_norm", 1)
        assert np.array_equal(norm, state["model.layers.1.mlp.ffn_sub_norm.weight"].float().numpy())
        weight = state["model.layers.0.self_attn.q_proj.weight"].float()
        theirs = np.sign(WeightQuant.apply(weight).numpy())
        assert np.array_equal(checkpoint.matrix("q", 0).weights, theirs)


def test_checkpoint_bf16_scale_of_one_or_no_dimension_is_read(tmp_path: Path) -> None:
    """Broken, checkpoints that store their scales as scalars would be refused."""
    tiny = make_checkpoint()
    scale = np.array(0.40625, ml_dtypes.bfloat16).tobytes()
    tiny.tensors["model.layers.0.mlp.up_proj.weight_scale"] = ("BF16", [1], scale)
    tiny.tensors["model.layers.1.mlp.up_proj.weight_scale"] = ("BF16", [], scale)
    with open_checkpoint(tiny.write(tmp_path)) as checkpoint:
        assert checkpoint.matrix("up", 0).scale == np.float32(0.40625)
        assert checkpoint.matrix("up", 1).scale == np.float32(0.40625)


def test_checkpoint_sharded_equals_single_file(tmp_path: Path) -> None:
    """Broken, large published models, which all come in shards, could not be read."""
    tiny = make_checkpoint(tied=False)
    single = open_checkpoint(tiny.write(tmp_path / "single"))
    sharded = open_checkpoint(tiny.write_sharded(tmp_path / "sharded"))
    assert len(sharded.files) == 3
    assert single.spec == sharded.spec
    for role, layer in tiny.codes:
        assert np.array_equal(
            single.matrix(role, layer).weights, sharded.matrix(role, layer).weights
        )
    for role in ("embedding", "head"):
        assert np.array_equal(single.table(role).values, sharded.table(role).values)


def test_checkpoint_tied_head_is_the_embedding(tmp_path: Path) -> None:
    """Broken, a tied model would have no head."""
    tiny = make_checkpoint(tied=True)
    with open_checkpoint(tiny.write(tmp_path)) as checkpoint:
        embedding = tiny.values["model.embed_tokens.weight"]
        assert np.array_equal(checkpoint.table("head").values, embedding)


def test_checkpoint_tied_head_stored_twice_must_be_equal(tmp_path: Path) -> None:
    """Broken, a head that differs from the embedding would be dropped in silence."""
    tiny = make_checkpoint(tied=True)
    tiny.tensors["lm_head.weight"] = tiny.tensors["model.embed_tokens.weight"]
    open_checkpoint(tiny.write(tmp_path / "same")).close()
    changed = tiny.values["model.embed_tokens.weight"].copy()
    changed[-1, -1] += 1
    tiny.tensors["lm_head.weight"] = as_tensor(changed)
    with pytest.raises(CheckpointError, match="head is tied to the embedding"):
        open_checkpoint(tiny.write(tmp_path / "different"))


def test_checkpoint_demo_reads_as_published() -> None:
    """Broken, the model that the product carries could not be converted."""
    state = load_file(DEMO / "model.safetensors")
    with open_checkpoint(DEMO) as checkpoint:
        assert checkpoint.spec.hidden_size == 384
        assert checkpoint.spec.eos_ids == (3,)
        assert checkpoint.spec.bos_id is None
        for layer in range(4):
            for role, name in MATRICES.items():
                base = f"model.layers.{layer}.{name}.weight"
                matrix = checkpoint.matrix(role, layer)
                theirs = unpack_weights(state[base], torch.float32).numpy()
                assert np.array_equal(matrix.weights, theirs)
                assert matrix.scale == state[base + "_scale"].numpy()[0]
