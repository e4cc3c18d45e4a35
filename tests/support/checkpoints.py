"""Tiny checkpoint directories for tests, in every published form and in any state of damage.

The safetensors bytes are put together here by hand, so that a test can break any part of them; the
packing is taken from transformers where a test needs an oracle, and written out slowly here
(`pack_rows`) where it needs none.
"""

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Tensor = tuple[str, list[int], bytes]

MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}

_DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint8": "U8"}


def as_tensor(values: npt.NDArray[Any]) -> Tensor:
    """Returns an array as (dtype, shape, bytes)."""
    return _DTYPE_NAMES[str(values.dtype)], list(values.shape), values.tobytes()


def pack_rows(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Returns uint8[rows / 4, cols]: row i * (rows / 4) + r in bits 2i of packed row r."""
    rows, cols = weights.shape
    stripe = rows // 4
    packed = np.zeros((stripe, cols), np.uint8)
    for r in range(stripe):
        for c in range(cols):
            packed[r, c] = sum((int(weights[i * stripe + r, c]) + 1) << (2 * i) for i in range(4))
    return packed


def encode_header(entries: dict[str, Any]) -> bytes:
    """Returns the header part of a safetensors file: its length and its JSON."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def encode_file(tensors: dict[str, Tensor]) -> bytes:
    """Returns a safetensors file that holds the tensors one after the other."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        span = [offset, offset + len(data)]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        offset += len(data)
    return encode_header(entries) + b"".join(data for _, _, data in tensors.values())


@dataclasses.dataclass
class TinyCheckpoint:
    """The contents of a checkpoint directory; change them before `write`."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    generation: dict[str, Any] | None = None
    codes: dict[tuple[str, int], npt.NDArray[np.int8]] = dataclasses.field(default_factory=dict)
    values: dict[str, F32] = dataclasses.field(default_factory=dict)

    def write(self, directory: Path) -> Path:
        """Writes the directory, weights in a single file, and returns it."""
        directory.mkdir(parents=True, exist_ok=True)
        self.write_configs(directory)
        (directory / "model.safetensors").write_bytes(encode_file(self.tensors))
        return directory

    def write_configs(self, directory: Path) -> None:
        """Writes config.json and, where there is one, generation_config.json."""
        (directory / "config.json").write_text(json.dumps(self.config))
        if self.generation is not None:
            (directory / "generation_config.json").write_text(json.dumps(self.generation))

    def write_sharded(self, directory: Path, shard_count: int = 3) -> Path:
        """Writes the directory with the tensors dealt out to shards, and returns it."""
        directory.mkdir(parents=True, exist_ok=True)
        self.write_configs(directory)
        names = list(self.tensors)
        weight_map = {}
        for index in range(shard_count):
            shard = f"model-{index + 1:05}-of-{shard_count:05}.safetensors"
            mine = names[index::shard_count]
            weight_map.update(dict.fromkeys(mine, shard))
            data = encode_file({name: self.tensors[name] for name in mine})
            (directory / shard).write_bytes(data)
        index_file = directory / "model.safetensors.index.json"
        index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return directory

    def copy(self) -> "TinyCheckpoint":
        """Returns an independent copy."""
        return copy.deepcopy(self)


def matrix_shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Returns (rows, cols) of the seven matrices of a layer."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    heads = config["num_attention_heads"] * head_dim
    kv_heads = config["num_key_value_heads"] * head_dim
    return {
        "q": (heads, hidden),
        "k": (kv_heads, hidden),
        "v": (kv_heads, hidden),
        "o": (hidden, heads),
        "gate": (wide, hidden),
        "up": (wide, hidden),
        "down": (hidden, wide),
    }


def make_config(
    *,
    family: str = "bitnet",
    form: str = "autobitlinear",
    hidden: int = 24,
    heads: int = 3,
    kv_heads: int = 1,
    head_dim: int | None = None,
    intermediate: int = 20,
    layers: int = 2,
    vocab: int = 37,
    tied: bool = True,
    activation: str | None = None,
) -> dict[str, Any]:
    """Returns the config.json of a tiny model.

    `form`: autobitlinear, bitlinear, default (no linear_class), online, or float (no
    quantization_config at all).
    """
    config: dict[str, Any] = {
        "architectures": ["BitNetForCausalLM" if family == "bitnet" else "LlamaForCausalLM"],
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": activation or ("relu2" if family == "bitnet" else "silu"),
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if head_dim is not None:
        config["head_dim"] = head_dim
    quantization: dict[str, Any] = {"quant_method": "bitnet", "modules_to_not_convert": None}
    if form in ("autobitlinear", "bitlinear"):
        quantization |= {"linear_class": form, "quantization_mode": "offline"}
    elif form == "online":
        quantization |= {"linear_class": "autobitlinear", "quantization_mode": "online"}
    if form != "float":
        config["quantization_config"] = quantization
    return config


def make_checkpoint(*, seed: int = 0, **geometry: Any) -> TinyCheckpoint:
    """Returns a tiny checkpoint with random weights; `geometry` as in `make_config`."""
    config = make_config(**geometry)
    form = geometry.get("form", "autobitlinear")
    rng = np.random.default_rng(seed)
    result = TinyCheckpoint(config, {})

    def add_float(name: str, shape: tuple[int, ...], centre: float = 0.0) -> None:
        values = (centre + 0.5 * rng.standard_normal(shape)).astype(np.float32)
        result.values[name] = values
        result.tensors[name] = as_tensor(values)

    hidden, wide, vocab = (
        config[key] for key in ("hidden_size", "intermediate_size", "vocab_size")
    )
    shapes = matrix_shapes(config)
    add_float("model.embed_tokens.weight", (vocab, hidden))
    for layer in range(config["num_hidden_layers"]):
        base = f"model.layers.{layer}."
        add_float(base + "input_layernorm.weight", (hidden,), 1.0)
        add_float(base + "post_attention_layernorm.weight", (hidden,), 1.0)
        if config["model_type"] == "bitnet":
            add_float(base + "self_attn.attn_sub_norm.weight", (shapes["o"][1],), 1.0)
            add_float(base + "mlp.ffn_sub_norm.weight", (wide,), 1.0)
        for role, name in MATRICES.items():
            if form in ("online", "float"):
                add_float(f"{base}{name}.weight", shapes[role])
                continue
            weights = rng.integers(-1, 2, shapes[role]).astype(np.int8)
            scale = np.array([math.exp(rng.standard_normal())], np.float32)
            result.codes[role, layer] = weights
            result.values[f"{base}{name}.weight_scale"] = scale
            result.tensors[f"{base}{name}.weight"] = as_tensor(pack_rows(weights))
            result.tensors[f"{base}{name}.weight_scale"] = as_tensor(scale)
    add_float("model.norm.weight", (hidden,), 1.0)
    if not config["tie_word_embeddings"]:
        add_float("lm_head.weight", (vocab, hidden))
    return result
