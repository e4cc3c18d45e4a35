"""Random tiny models: as weights in memory, and as checkpoint directories in the published forms.

The packing is written from its description (four ternary rows to a stored row, striped), not taken
from the code under test, so that a checkpoint made here can catch a reader that reads it wrongly.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bitnet.checkpoint.spec import F32Rows, Int8Rows, ModelSpec, TernaryMatrix

F32 = npt.NDArray[np.float32]

MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NORMS = {
    "input_norm": "input_layernorm",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
}
PACKINGS = ("autobitlinear", "bitlinear", "no linear_class", "online")


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """A geometry, the form it is published in, and the seed of its weights."""

    architecture: Literal["bitnet", "llama"]
    packing: str
    activation: Literal["relu2", "silu"]
    tied: bool
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocab: int
    context: int = 96
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    legacy_rope: bool = True
    pad_id: int | None = None
    seed: int = 0

    @property
    def sub_norms(self) -> bool:
        return self.architecture == "bitnet"

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            layer_count=self.layers,
            head_count=self.heads,
            kv_head_count=self.kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab,
            context_max=self.context,
            activation=self.activation,
            norm_eps=self.norm_eps,
            rope_theta=self.rope_theta,
            attn_sub_norm=self.sub_norms,
            ffn_sub_norm=self.sub_norms,
            tied_head=self.tied,
            bos_id=None,
            eos_ids=(1,),
        )


@st.composite
def tiny_models(draw: st.DrawFn, architecture: str = "", packing: str = "") -> TinyModel:
    """Draws a geometry that transformers accepts; architecture and packing too where not given.

    Rows of packed matrices come in fours; masters have no such rule.
    """
    architecture = architecture or draw(st.sampled_from(("bitnet", "llama")))
    packing = packing or draw(st.sampled_from(PACKINGS))
    unit = 1 if packing == "online" else 4
    kv_heads = draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(1, 33))
    head_dim += -(kv_heads * head_dim) % unit  # 2 more at most; the product is even
    heads = kv_heads * draw(st.integers(1, 3))
    hidden = heads * head_dim
    if architecture == "llama":  # its heads need not add up to the hidden size
        step = heads * unit // math.gcd(heads, unit)
        hidden = step * draw(st.integers(-(-20 // step), -(-120 // step)))
    elif hidden < 20:
        head_dim, hidden = 20, heads * 20
    return TinyModel(
        architecture="bitnet" if architecture == "bitnet" else "llama",
        packing=packing,
        activation=draw(st.sampled_from(("relu2", "silu"))),
        tied=draw(st.booleans()),
        layers=draw(st.integers(1, 3)),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        intermediate=unit * draw(st.integers(-(-20 // unit), -(-180 // unit))),
        vocab=draw(st.integers(24, 150)),
        norm_eps=draw(st.sampled_from((1e-5, 1e-6))),
        rope_theta=draw(st.sampled_from((10000.0, 500000.0, 1000042.0))),
        legacy_rope=draw(st.booleans()),
        pad_id=draw(st.sampled_from((None, 0, 7))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def random_tensors(model: TinyModel) -> dict[str, F32]:
    """Returns master weights by published name, scaled so that activations are of order 1 to 10."""
    rng = np.random.default_rng(model.seed)

    def normal(rows: int, cols: int, std: float) -> F32:
        return (std * rng.standard_normal((rows, cols))).astype(np.float32)

    def norm(width: int) -> F32:
        return rng.uniform(0.5, 1.5, width).astype(np.float32)

    attended, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    shapes = {
        "q": (attended, model.hidden),
        "k": (kv, model.hidden),
        "v": (kv, model.hidden),
        "o": (model.hidden, attended),
        "gate": (model.intermediate, model.hidden),
        "up": (model.intermediate, model.hidden),
        "down": (model.hidden, model.intermediate),
    }
    widths = {
        "input_norm": model.hidden,
        "post_attention_norm": model.hidden,
    }
    if model.sub_norms:
        widths |= {"attn_sub_norm": attended, "ffn_sub_norm": model.intermediate}
    tensors = {"model.embed_tokens.weight": normal(model.vocab, model.hidden, 1.0)}
    for layer in range(model.layers):
        prefix = f"model.layers.{layer}."
        for role, (rows, cols) in shapes.items():
            tensors[f"{prefix}{MATRICES[role]}.weight"] = normal(rows, cols, 1 / math.sqrt(cols))
        for role, width in widths.items():
            tensors[f"{prefix}{NORMS[role]}.weight"] = norm(width)
    tensors["model.norm.weight"] = norm(model.hidden)
    if not model.tied:
        tensors["lm_head.weight"] = normal(model.vocab, model.hidden, 1.0)
    return tensors


def ternarise(master: F32) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Returns (int8 of -1, 0, +1; mean|W|), the absmean rule of the published training code."""
    mean = np.float32(np.abs(master).mean(dtype=np.float64))
    codes = np.clip(np.rint(master.astype(np.float64) / np.float64(mean)), -1, 1)
    return codes.astype(np.int8), mean


def pack_rows(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Packs int8[4R, cols] as uint8[R, cols]: bits 2i, 2i+1 of row r hold row i * R + r, plus 1."""
    stripes = (codes + 1).astype(np.uint8).reshape(4, codes.shape[0] // 4, codes.shape[1])
    return stripes[0] | stripes[1] << 2 | stripes[2] << 4 | stripes[3] << 6


def _published_config(model: TinyModel) -> dict[str, object]:
    quantization: dict[str, object] = {"quant_method": "bitnet", "modules_to_not_convert": None}
    if model.packing == "bitlinear":
        quantization["linear_class"] = "bitlinear"
    elif model.packing in ("autobitlinear", "online"):
        quantization["linear_class"] = "autobitlinear"
        quantization["quantization_mode"] = "online" if model.packing == "online" else "offline"
    rope: dict[str, object] = (
        {"rope_theta": model.rope_theta}
        if model.legacy_rope
        else {"rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta}}
    )
    name = {"bitnet": "BitNetForCausalLM", "llama": "LlamaForCausalLM"}[model.architecture]
    # Configurations of the first family have no head_dim of their own.
    head_dim = {"head_dim": model.head_dim} if model.architecture == "llama" else {}
    return {
        "architectures": [name],
        "model_type": model.architecture,
        "vocab_size": model.vocab,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "hidden_act": model.activation,
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied,
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": model.pad_id,
        "torch_dtype": "float32",
        "quantization_config": quantization,
        **rope,
        **head_dim,
    }


def write_checkpoint(directory: Path, model: TinyModel) -> None:
    """Writes config.json and model.safetensors of `model` into `directory`."""
    tensors: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.uint8]] = {}
    for name, master in random_tensors(model).items():
        if model.packing == "online" or not name.endswith("_proj.weight"):
            tensors[name] = master
            continue
        codes, mean = ternarise(master)
        scale = mean if model.packing == "autobitlinear" else np.float32(1) / mean
        tensors[name] = pack_rows(codes)
        tensors[name + "_scale"] = np.array([scale], dtype=np.float32)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(_published_config(model), indent=2))


class MemoryWeights:
    """The weights of a `TinyModel` without a file between; `Weights` of bitnet.checkpoint.spec.

    Args:
        model: What to make.
        embedding: "f32", or "int8" for quantised rows.
        head: As `embedding`; only for an untied head.
    """

    def __init__(self, model: TinyModel, embedding: str = "f32", head: str = "f32") -> None:
        self.model = model
        self._tensors = random_tensors(model)
        self._kinds = {"embedding": embedding, "head": embedding if model.tied else head}

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    def masters(self, role: str, layer: int) -> F32:
        """Returns float32[rows, cols], what the ternary matrix is made of."""
        return self._tensors[f"model.layers.{layer}.{MATRICES[role]}.weight"]

    def matrix(self, role: str, layer: int) -> TernaryMatrix:
        return TernaryMatrix(*ternarise(self.masters(role, layer)))

    def vector(self, role: str, layer: int | None) -> F32:
        if role == "rope_inv_freq":
            exponents = np.arange(0, self.model.head_dim, 2) / self.model.head_dim
            return (1.0 / self.model.rope_theta**exponents).astype(np.float32)
        if role == "final_norm":
            return self._tensors["model.norm.weight"]
        return self._tensors[f"model.layers.{layer}.{NORMS[role]}.weight"]

    def table(self, role: str) -> F32Rows | Int8Rows:
        untied_head = role == "head" and not self.model.tied
        rows = self._tensors["lm_head.weight" if untied_head else "model.embed_tokens.weight"]
        if self._kinds[role] == "f32":
            return F32Rows(rows)
        scales = np.abs(rows).max(axis=-1) / np.float32(127)
        return Int8Rows(np.rint(rows / scales[:, None]).astype(np.int8), scales)
