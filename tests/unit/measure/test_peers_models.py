"""The models that peers are measured on, read back by the packages of the peers."""

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from bench.peers import blocks, gguf_model
from bitnet.errors import UsageError
from bitnet.measure.geometry import GEOMETRIES

SMALL = dataclasses.replace(
    GEOMETRIES["bitnet-2b-4t"],
    hidden_size=256,
    intermediate_size=768,
    layer_count=9,
    head_count=4,
    kv_head_count=2,
    head_dim=64,
    vocab_size=320,
)
UNTIED = dataclasses.replace(SMALL, tied_head=False, attn_sub_norm=False, ffn_sub_norm=False)


def random_values(kind: str) -> np.ndarray:
    data = blocks.random_blocks(kind, 2000, np.random.Generator(np.random.SFC64(1)))
    if kind == "Q2_0":  # the package does not know it yet; ggml-quants.c: (code - 1) * d
        scale = data[:, :2].copy().view(np.float16).astype(np.float32)
        codes = data[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
        return (codes.reshape(len(data), -1).astype(np.float32) - 1) * scale
    return dequantize(data, gguf.GGMLQuantizationType[kind])


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "TQ1_0", "TQ2_0", "Q2_0"])
def test_random_blocks_any_format_are_weights_of_the_usual_size(kind: str) -> None:
    """Broken, a peer would be timed on infinities, denormals or a drift that no model has."""
    values = random_values(kind)
    assert values.shape == (2000, blocks.BLOCK_WEIGHTS[kind])
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.05 * blocks.DEVIATION
    assert values.std() == pytest.approx(blocks.DEVIATION, rel=0.05)


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0", "Q2_0"])
def test_random_blocks_ternary_formats_hold_each_trit_equally_often(kind: str) -> None:
    """Broken, a kernel that skips zeros, or meets a fourth code, would be timed as another."""
    values, counts = np.unique(random_values(kind), return_counts=True)
    assert len(values) == 3
    assert values[1] == 0
    assert values[0] == -values[2]
    assert counts / counts.sum() == pytest.approx([1 / 3] * 3, abs=0.01)


@pytest.mark.parametrize("form", ["q4_k_m", "tq2_0", "tq1_0"])
@pytest.mark.parametrize("spec", [SMALL, UNTIED], ids=["tied", "untied"])
def test_write_gguf_any_format_is_read_by_the_package(tmp_path: Path, form: str, spec) -> None:
    """Broken, llama.cpp would refuse the file, or read weights at wrong places."""
    path = tmp_path / "m.gguf"
    gguf_model.write_gguf(spec, form, path, 1)
    reader = gguf.GGUFReader(path)
    arch = "bitnet" if spec.attn_sub_norm else "llama"
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == arch
    assert fields[f"{arch}.block_count"] == 9
    assert fields[f"{arch}.attention.head_count_kv"] == 2
    assert fields[f"{arch}.vocab_size"] == 320
    assert fields["tokenizer.ggml.model"] == "no_vocab"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == len(gguf_model.plan_tensors(spec, form))
    assert list(tensors["blk.8.ffn_down.weight"].shape) == [768, 256]  # columns first
    assert list(tensors["blk.0.attn_k.weight"].shape) == [256, 128]
    head = "token_embd.weight" if spec.tied_head else "output.weight"
    assert tensors[head].tensor_type == gguf.GGMLQuantizationType.Q6_K
    assert ("blk.3.attn_sub_norm.weight" in tensors) == spec.attn_sub_norm
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        expected = (1, 0) if tensor.tensor_type == gguf.GGMLQuantizationType.F32 else (0, 0.02)
        assert (values.mean(), values.std()) == pytest.approx(expected, abs=2e-3)
    assert [each.name for each in tmp_path.iterdir()] == ["m.gguf"]


def test_write_gguf_q2_0_has_the_number_that_llama_cpp_gives_it(tmp_path: Path) -> None:
    """Broken, llama.cpp would take the file for another format."""
    gguf_model.write_gguf(SMALL, "q2_0", tmp_path / "m.gguf", 1)
    with pytest.raises(ValueError, match=r"42\)? is not a valid GGMLQuantizationType"):
        gguf.GGUFReader(tmp_path / "m.gguf")


def test_write_gguf_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Broken, two runs would not measure the same."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        gguf_model.write_gguf(SMALL, "tq1_0", tmp_path / name, seed)
    data = {name: (tmp_path / name).read_bytes() for name in "abc"}
    assert data["a"] == data["b"]
    assert data["a"] != data["c"]


def test_plan_tensors_q4_k_m_gives_six_bits_where_llama_cpp_does() -> None:
    """Broken, Q4_K_M would be another format than users have. By hand from llama-quant.cpp."""
    tensors = gguf_model.plan_tensors(GEOMETRIES["bitnet-2b-4t"], "q4_k_m")
    six_bits = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]
    for name in ("attn_v", "ffn_down"):
        kinds = {each.name: each.kind for each in tensors if f".{name}." in each.name}
        found = [layer for layer in range(30) if kinds[f"blk.{layer}.{name}.weight"] == "Q6_K"]
        assert found == six_bits
    others = {each.kind for each in tensors if ".ffn_up." in each.name or ".attn_q." in each.name}
    assert others == {"Q4_K"}


@pytest.mark.parametrize(
    ("geometry", "form", "megabytes"),
    [
        ("bitnet-2b-4t", "q4_k_m", 1511),
        ("bitnet-2b-4t", "tq2_0", 806),
        ("tinyllama-1.1b", "q4_k_m", 630),
    ],
)
def test_token_bytes_published_geometries_are_what_files_of_quantisers_have(
    geometry: str, form: str, megabytes: int
) -> None:
    """Broken, a peer's share of the read limit would be wrong. Sizes of converted checkpoints."""
    spec = GEOMETRIES[geometry]
    assert gguf_model.token_bytes(spec, form, 0) / 1e6 == pytest.approx(megabytes, rel=4e-3)
    position = 2 * 2 * spec.layer_count * spec.kv_head_count * spec.head_dim
    grown = gguf_model.token_bytes(spec, form, 7.5) - gguf_model.token_bytes(spec, form, 0)
    assert grown == 7.5 * position


def test_plan_tensors_row_of_no_whole_blocks_is_refused() -> None:
    """Broken, a file would be written that nothing can read."""
    spec = dataclasses.replace(SMALL, hidden_size=320)
    with pytest.raises(UsageError) as caught:
        gguf_model.plan_tensors(spec, "tq2_0")
    assert caught.value.message == "row is no whole number of blocks: `token_embd.weight`"


def test_write_onnx_chain_computes_what_its_weights_say(tmp_path: Path) -> None:
    """Broken, ONNX Runtime would be timed on other work than the geometry's."""
    needs = "onnx and onnxruntime come with `make bench-peers`; the tests' own set-up has neither"
    pytest.importorskip("onnx", reason=needs)
    onnxruntime = pytest.importorskip("onnxruntime", reason=needs)
    from bench.peers import onnx_model

    spec = dataclasses.replace(SMALL, layer_count=1, vocab_size=64)
    path = tmp_path / "m.onnx"
    onnx_model.write_onnx(spec, path, 1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    hidden = np.random.default_rng(1).standard_normal((1, 3, 256), np.float32)
    (logits,) = session.run(None, {"hidden": hidden})
    expected = chain_logits(path, spec, hidden[0, -1])
    # Activations become int8: half a step of 127, relative to the largest, on each product.
    error = np.linalg.norm(logits[0, 0] - expected) / np.linalg.norm(expected)
    assert logits.shape == (1, 1, 64)
    assert error < 0.05
    sizes = sum(each.stat().st_size for each in tmp_path.iterdir() if each.suffix == ".data")
    assert onnx_model.token_bytes(spec) <= sizes < onnx_model.token_bytes(spec) + 17 * 4096


def chain_logits(path: Path, spec, row: np.ndarray) -> np.ndarray:
    """The chain in NumPy from the weights of the file."""
    import onnx

    model = onnx.load(path)
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}

    def matrix(name: str) -> np.ndarray:
        packed, scales = tensors[f"{name}.codes"], tensors[f"{name}.scales"]
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(*scales.shape, 32)
        return ((codes - 8.0) * scales[..., None]).reshape(len(scales), -1)

    def norm(values: np.ndarray) -> np.ndarray:
        return values / np.sqrt(np.mean(values**2) + spec.norm_eps)

    inner = norm(row)
    kv = matrix("k0") @ inner + matrix("v0") @ inner
    mixed = matrix("q0") @ inner + np.tile(kv, spec.head_count // spec.kv_head_count)
    middle = row + matrix("o0") @ mixed
    inner = norm(middle)
    gated = np.maximum(matrix("gate0") @ inner, 0) * (matrix("up0") @ inner)
    return matrix("head") @ norm(middle + matrix("down0") @ gated)
