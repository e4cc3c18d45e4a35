"""config.json: every field that changes the arithmetic is read, or refused by its name."""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BitNetConfig, LlamaConfig

from bitnet.checkpoint import ModelSpec, WeightForm, open_checkpoint
from bitnet.checkpoint.config import load_config
from bitnet.errors import CheckpointError
from tests.support.checkpoints import TinyCheckpoint, make_checkpoint, make_config


def read(tmp_path: Path, config: dict[str, Any], generation: Any = None) -> ModelSpec:
    """The spec of a directory with these configuration files."""
    TinyCheckpoint(config, {}, generation).write_configs(tmp_path)
    return load_config(tmp_path).spec


def test_config_bitnet_fields_are_read(tmp_path: Path) -> None:
    """Broken, a model would run with another geometry than its own."""
    config = make_config(hidden=32, heads=4, kv_heads=2, intermediate=44, layers=3, vocab=99)
    config |= {"max_position_embeddings": 777, "rms_norm_eps": 2e-6, "rope_theta": 12345.0}
    assert read(tmp_path, config) == ModelSpec(
        hidden_size=32,
        intermediate_size=44,
        layer_count=3,
        head_count=4,
        kv_head_count=2,
        head_dim=8,
        vocab_size=99,
        context_max=777,
        activation="relu2",
        norm_eps=float(np.float32(2e-6)),
        rope_theta=12345.0,
        attn_sub_norm=True,
        ffn_sub_norm=True,
        tied_head=True,
        bos_id=1,
        eos_ids=(2,),
    )


def test_config_falcon_like_llama_is_read(tmp_path: Path) -> None:
    """Broken, the published Llama-shaped 1-bit models would be refused or misread."""
    config = make_config(
        family="llama", form="default", hidden=24, heads=3, head_dim=16, tied=False
    )
    config["quantization_config"] = {
        "modules_to_not_convert": ["lm_head"],
        "quant_method": "bitnet",
    }
    config |= {
        "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
        "is_bitnet_config": True, "mlp_bias": False, "pretraining_tp": 1, "rms_norm_eps": 1e-6,
        "rope_scaling": None, "rope_theta": 1000042, "torch_dtype": "bfloat16",
        "transformers_version": "4.46.3", "use_cache": True, "_name_or_path": "x", "auto_map": {},
    }  # fmt: skip
    TinyCheckpoint(config, {}).write_configs(tmp_path)
    loaded = load_config(tmp_path)
    assert loaded.form is WeightForm.PACKED_DIVIDE
    spec = loaded.spec
    assert (spec.head_dim, spec.rope_theta, spec.activation) == (16, 1000042.0, "silu")
    assert (spec.attn_sub_norm, spec.ffn_sub_norm, spec.tied_head) == (False, False, False)
    assert spec.norm_eps == float(np.float32(1e-6))


@pytest.mark.parametrize(("family", "cls"), [("bitnet", BitNetConfig), ("llama", LlamaConfig)])
def test_config_missing_keys_take_the_defaults_of_the_class(
    tmp_path: Path, family: str, cls: type[Any]
) -> None:
    """Broken, a file that relies on a class default would run with a guess of ours."""
    config = {
        "model_type": family,
        "vocab_size": 200000,
        "hidden_size": 320,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 20,
    }
    theirs = cls(**{key: value for key, value in config.items() if key != "model_type"})
    spec = read(tmp_path, config)
    assert spec.kv_head_count == theirs.num_key_value_heads
    assert spec.head_dim == getattr(theirs, "head_dim", 320 // 20)
    assert spec.activation == theirs.hidden_act
    assert spec.context_max == theirs.max_position_embeddings
    assert spec.norm_eps == float(np.float32(theirs.rms_norm_eps))
    assert spec.rope_theta == theirs.rope_parameters["rope_theta"]
    assert spec.tied_head == theirs.tie_word_embeddings
    assert spec.bos_id == theirs.bos_token_id
    assert spec.eos_ids == (theirs.eos_token_id,)


def test_config_null_kv_heads_means_as_many_as_heads(tmp_path: Path) -> None:
    """Broken, grouped attention would be assumed where there is none."""
    config = make_config(hidden=24, heads=3) | {"num_key_value_heads": None}
    assert read(tmp_path, config).kv_head_count == 3


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_theta": 500.0, "rope_scaling": {"type": "default"}},
        {"rope_theta": 500, "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 1.0}},
    ],
)
def test_config_rope_base_is_read_in_every_spelling(tmp_path: Path, rope: dict[str, Any]) -> None:
    """Broken, files of one transformers generation would turn by the default angle."""
    config = make_config()
    del config["rope_theta"]
    assert read(tmp_path, config | rope).rope_theta == 500.0


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [
        (2, None, (2,)),
        ([2, 5], None, (2, 5)),
        (2, {"eos_token_id": [7, 2]}, (7, 2)),
        (2, {"eos_token_id": 9}, (9, 2)),
        (None, {"eos_token_id": None}, ()),
        (2, {}, (2,)),
    ],
)
def test_config_eos_ids_of_both_files_end_an_answer(
    tmp_path: Path, in_config: Any, in_generation: Any, expected: tuple[int, ...]
) -> None:
    """Broken, the model would not stop at the end of its turn."""
    config = make_config() | {"eos_token_id": in_config}
    assert read(tmp_path, config, in_generation).eos_ids == expected


def test_config_bos_of_generation_config_comes_first(tmp_path: Path) -> None:
    """Broken, a prompt would start with another token than the publisher generates with."""
    assert read(tmp_path, make_config(), {"bos_token_id": 30}).bos_id == 30
    assert read(tmp_path, make_config(), {"bos_token_id": None}).bos_id is None


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "bitnet"}, WeightForm.PACKED_DIVIDE),
        ({"quant_method": "bitnet", "linear_class": "bitlinear"}, WeightForm.PACKED_DIVIDE),
        ({"quant_method": "bitnet", "quantization_mode": "online"}, WeightForm.PACKED_DIVIDE),
        ({"quant_method": "bitnet", "linear_class": "autobitlinear"}, WeightForm.PACKED_MULTIPLY),
        (
            {
                "quant_method": "bitnet",
                "linear_class": "autobitlinear",
                "quantization_mode": "online",
            },
            WeightForm.MASTERS,
        ),
    ],
)
def test_config_weight_form_follows_transformers(
    tmp_path: Path, quantization: dict[str, Any], expected: WeightForm
) -> None:
    """Broken, a scale would multiply where it must divide."""
    config = make_config() | {"quantization_config": quantization}
    TinyCheckpoint(config, {}).write_configs(tmp_path)
    assert load_config(tmp_path).form is expected


@pytest.mark.parametrize(
    ("family", "marker", "expected"),
    [
        ("bitnet", {}, WeightForm.DEQUANTISED),
        ("llama", {"is_bitnet_config": True}, WeightForm.DEQUANTISED),
        ("llama", {}, WeightForm.PLAIN_FLOAT),
    ],
)
def test_config_without_quantization_tells_masters_from_plain_floats(
    tmp_path: Path, family: str, marker: dict[str, Any], expected: WeightForm
) -> None:
    """Broken, an ordinary float model would be converted as if it had been trained for it."""
    config = make_config(family=family, form="float") | marker
    TinyCheckpoint(config, {}).write_configs(tmp_path)
    assert load_config(tmp_path).form is expected


BITNET = {"quant_method": "bitnet"}
REFUSED = [
    # key named in the error, change to config.json
    ("model_type", {"model_type": "qwen3"}),
    ("model_type", {"model_type": None}),
    ("model_type", {"model_type": ["bitnet"]}),
    ("architectures", {"architectures": ["BitnetForCausalLM"]}),
    ("architectures", {"architectures": ["BitNetForCausalLM", "LlamaForCausalLM"]}),
    ("architectures", {"architectures": "BitNetForCausalLM"}),
    ("vocab_size", {"vocab_size": 0}),
    ("vocab_size", {"vocab_size": 1 << 21}),
    ("vocab_size", {"vocab_size": "37"}),
    ("vocab_size", {"vocab_size": 37.0}),
    ("vocab_size", {"vocab_size": True}),
    ("hidden_size", {"hidden_size": 65537}),
    ("hidden_size", {"hidden_size": -24}),
    ("intermediate_size", {"intermediate_size": 131073}),
    ("num_hidden_layers", {"num_hidden_layers": 1025}),
    ("num_attention_heads", {"num_attention_heads": 1025}),
    ("num_attention_heads", {"num_attention_heads": 5}),
    ("num_key_value_heads", {"num_key_value_heads": 2}),
    ("num_key_value_heads", {"num_key_value_heads": 0}),
    ("head_dim", {"head_dim": 7}),
    ("head_dim", {"head_dim": 1026}),
    ("head_dim", {"head_dim": 16}),  # heads × head_dim is not hidden_size, which sub-norms need
    ("max_position_embeddings", {"max_position_embeddings": (1 << 20) + 1}),
    ("rms_norm_eps", {"rms_norm_eps": 0}),
    ("rms_norm_eps", {"rms_norm_eps": 1e-60}),
    ("rms_norm_eps", {"rms_norm_eps": 1.5}),
    ("rms_norm_eps", {"rms_norm_eps": "1e-5"}),
    ("hidden_act", {"hidden_act": "gelu"}),
    ("hidden_act", {"hidden_act": None}),
    ("rope_theta", {"rope_theta": 1}),
    ("rope_theta", {"rope_theta": -1.0}),
    ("rope_theta", {"rope_theta": 500.0, "rope_parameters": {"rope_theta": 600.0}}),
    ("rope_scaling.type", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("rope_scaling.rope_type", {"rope_scaling": {"rope_type": "llama3"}}),
    ("rope_parameters.rope_type", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}),
    ("rope_parameters.factor", {"rope_parameters": {"rope_type": "default", "factor": 4.0}}),
    ("rope_parameters.partial_rotary_factor", {"rope_parameters": {"partial_rotary_factor": 0.5}}),
    ("rope_parameters", {"rope_parameters": [1]}),
    ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
    ("tie_word_embeddings", {"tie_word_embeddings": 1}),
    ("attention_bias", {"attention_bias": True}),
    ("attention_bias", {"attention_bias": 0}),
    ("mlp_bias", {"mlp_bias": True}),
    ("sliding_window", {"sliding_window": 4096}),
    ("use_sliding_window", {"use_sliding_window": True}),
    ("pretraining_tp", {"pretraining_tp": 2}),
    ("layer_types", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("layer_types", {"layer_types": 3}),
    ("bos_token_id", {"bos_token_id": 37}),
    ("bos_token_id", {"bos_token_id": [1, 2]}),
    ("eos_token_id", {"eos_token_id": 37}),
    ("eos_token_id", {"eos_token_id": [2, -1]}),
    ("eos_token_id", {"eos_token_id": [2, True]}),
    ("eos_token_id", {"eos_token_id": list(range(9))}),
    ("logit_scale", {"logit_scale": 0.5}),
    ("scale_emb", {"scale_emb": 12}),
    ("is_bitnet_config", {"is_bitnet_config": "yes", "quantization_config": None}),
    ("quantization_config", {"quantization_config": "bitnet"}),
    ("quantization_config.quant_method", {"quantization_config": {"quant_method": "gptq"}}),
    ("quantization_config.quant_method", {"quantization_config": {}}),
    ("quantization_config.use_rms_norm", {"quantization_config": BITNET | {"use_rms_norm": True}}),
    ("quantization_config.group_size", {"quantization_config": BITNET | {"group_size": 128}}),
    ("quantization_config.linear_class", {"quantization_config": BITNET | {"linear_class": "x"}}),
    ("quantization_config.quantization_mode",
     {"quantization_config": BITNET | {"quantization_mode": "later"}}),
    ("quantization_config.modules_to_not_convert",
     {"quantization_config": BITNET | {"modules_to_not_convert": []}}),
    ("quantization_config.modules_to_not_convert",
     {"quantization_config": BITNET | {"modules_to_not_convert": ["lm_head", "model.layers.0"]}}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "change"), REFUSED)
def test_config_unsupported_value_is_refused_by_name(
    tmp_path: Path, key: str, change: dict[str, Any]
) -> None:
    """Broken, a model would be converted with arithmetic that is not its own."""
    tiny = make_checkpoint()
    tiny.config |= change
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tiny.write(tmp_path))
    assert caught.value.message == f"configuration is not supported: `{key}`"
    assert caught.value.where[0] == f"file {tmp_path / 'config.json'}"


@pytest.mark.parametrize(
    "key",
    ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
)
def test_config_missing_size_is_refused(tmp_path: Path, key: str) -> None:
    """Broken, a truncated configuration would be filled up with sizes of another model."""
    config = make_config()
    del config[key]
    with pytest.raises(CheckpointError, match=f"not supported: `{key}`"):
        read(tmp_path, config)


def test_config_generation_file_errors_name_that_file(tmp_path: Path) -> None:
    """Broken, the user would search the wrong file."""
    with pytest.raises(CheckpointError, match="eos_token_id") as caught:
        read(tmp_path, make_config(), {"eos_token_id": 4000})
    assert caught.value.where[0] == f"file {tmp_path / 'generation_config.json'}"


def test_config_packed_rows_not_a_multiple_of_four_are_refused(tmp_path: Path) -> None:
    """Broken, the stripes of a packed matrix would be cut in the wrong places."""
    tiny = make_checkpoint(hidden=24, heads=3, intermediate=20)
    tiny.config["intermediate_size"] = 22
    with pytest.raises(CheckpointError, match="packed matrix `gate` has 22 rows"):
        open_checkpoint(tiny.write(tmp_path))
