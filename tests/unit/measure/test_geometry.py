"""The named geometries against the published models, as transformers builds them."""

from pathlib import Path

import pytest
import torch
from transformers import BitNetConfig, BitNetForCausalLM, LlamaConfig, LlamaForCausalLM

from bitnet.checkpoint import ModelSpec
from bitnet.checkpoint.config import load_config
from bitnet.errors import UsageError
from bitnet.measure.geometry import GEOMETRIES, find_geometry, parameter_count

ROOT = Path(__file__).parents[3]


def transformers_parameter_count(spec: ModelSpec) -> int:
    """Parameters of the published implementation in this geometry, without memory for them."""
    facts = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layer_count,
        "num_attention_heads": spec.head_count,
        "num_key_value_heads": spec.kv_head_count,
        "tie_word_embeddings": spec.tied_head,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    with torch.device("meta"):
        if spec.attn_sub_norm:
            model = BitNetForCausalLM(BitNetConfig(**facts))
        else:
            model = LlamaForCausalLM(LlamaConfig(**facts, head_dim=spec.head_dim))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_parameter_count_any_geometry_is_that_of_transformers(name: str) -> None:
    """Broken, a measurement would not be one of the model that it is named after."""
    spec = GEOMETRIES[name]
    assert parameter_count(spec) == transformers_parameter_count(spec)


@pytest.mark.parametrize(
    ("name", "count"), [("bitnet-2b-4t", 2_412_820_480), ("tinyllama-1.1b", 1_100_048_384)]
)
def test_parameter_count_published_models_is_the_published_number(name: str, count: int) -> None:
    """Broken, a size in the table of geometries is wrong."""
    assert parameter_count(find_geometry(name)) == count


def test_geometry_demo_is_that_of_the_bundled_model() -> None:
    """Broken, `--geometry demo` would measure another model than the one in the repository."""
    assert GEOMETRIES["demo"] == load_config(ROOT / "models" / "demo").spec


def test_find_geometry_unknown_name_lists_the_known_ones() -> None:
    """Broken, a typing error would end in a traceback, or leave the reader guessing."""
    with pytest.raises(UsageError) as caught:
        find_geometry("3b")
    assert caught.value.message == "geometry is unknown: `3b`"
    assert caught.value.hint == "choose one of bitnet-2b-4t, tinyllama-1.1b, falcon3-1b, demo"
