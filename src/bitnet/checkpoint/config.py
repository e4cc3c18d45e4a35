"""config.json and generation_config.json to a ModelSpec.

What changes the arithmetic is read or refused by name; nothing is assumed.
"""

import dataclasses
import enum
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from bitnet import limits
from bitnet.checkpoint.directory import has_file
from bitnet.checkpoint.json_text import load_json_object
from bitnet.checkpoint.spec import ModelSpec
from bitnet.errors import CheckpointError

__all__ = ["CheckpointConfig", "WeightForm", "load_config"]

_CONFIG: Final = "config.json"
_GENERATION: Final = "generation_config.json"


class WeightForm(enum.Enum):
    """How a checkpoint stores its seven matrices per layer."""

    PACKED_MULTIPLY = "packed, scale multiplies (autobitlinear)"
    PACKED_DIVIDE = "packed, scale divides (bitlinear)"
    MASTERS = "float masters, quantised by absolute mean"
    DEQUANTISED = "float, quantised by absolute mean unless already {-a, 0, +a}"
    PLAIN_FLOAT = "float, with no sign of 1-bit training"


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """What the configuration files say: the geometry, and how the matrices are stored."""

    spec: ModelSpec
    form: WeightForm
    architecture: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Family:
    """One supported architecture: its names, and the class defaults that stand for missing keys.

    Source: transformers 5.23.0, models/bitnet/configuration_bitnet.py,
    models/llama/configuration_llama.py, modeling_rope_utils.py (default_theta).
    """

    architecture: str
    model_type: str
    sub_norms: bool
    kv_head_count: int | None  # None: as many as heads
    hidden_act: str
    context_max: int
    norm_eps: float
    rope_theta: float
    bos_id: int
    eos_id: int


_FAMILIES: Final = {
    "bitnet": _Family(
        "BitNetForCausalLM", "bitnet", True, 5, "relu2", 2048, 1e-5, 500000.0, 128000, 128001
    ),
    "llama": _Family("LlamaForCausalLM", "llama", False, None, "silu", 2048, 1e-6, 10000.0, 1, 2),
}

_ACTIVATIONS: Final[dict[str, Literal["relu2", "silu"]]] = {
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",  # the same entry of transformers' ACT2FN
}

# Keys that this module reads and checks.
_READ_KEYS: Final = frozenset({
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "bos_token_id",
    "eos_token_id", "rope_theta", "rope_scaling", "rope_parameters", "quantization_config",
    "is_bitnet_config",
})  # fmt: skip

# Keys that would change the arithmetic unless they hold one of these values.
_NEUTRAL_VALUES: Final[dict[str, tuple[Any, ...]]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "pretraining_tp": (1, None),
    "sliding_window": (None,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1.0, None),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({}, None),
    "chunk_size_feed_forward": (0,),
    "tie_encoder_decoder": (False,),
}

# Keys without influence on the forward pass: training, bookkeeping, other frameworks, padding.
_HARMLESS_KEYS: Final = frozenset({
    "_name_or_path", "_attn_implementation_autoset", "attention_dropout", "auto_map",
    "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty",
    "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "id2label", "initializer_range", "is_decoder", "label2id",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token_id", "prefix", "problem_type", "remove_invalid_values",
    "repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id",
    "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class",
    "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
    "unk_token_id", "use_bfloat16", "use_cache",
})  # fmt: skip

_QUANTIZATION_KEYS: Final = frozenset({
    "quant_method", "linear_class", "quantization_mode", "modules_to_not_convert", "use_rms_norm",
    "rms_norm_eps",
})  # fmt: skip

_ABSENT: Final = object()


class _Reader:
    """Typed access to one JSON object; every refusal names the file and the key."""

    def __init__(self, file: Path, values: dict[str, Any], prefix: str = "") -> None:
        self.file = file
        self.values = values
        self._prefix = prefix

    def refuse(self, key: str, reason: str, hint: str | None = None) -> CheckpointError:
        return CheckpointError(
            f"configuration is not supported: `{self._prefix}{key}`",
            where=(f"file {self.file}", reason),
            hint=hint,
        )

    def refuse_value(self, key: str, expected: str) -> CheckpointError:
        value = repr(self.values.get(key))
        return self.refuse(key, f"value {value[:100]}, expected {expected}")

    def get(self, key: str) -> Any:
        return self.values.get(key, _ABSENT)

    def integer(self, key: str, least: int, limit: int, default: int | None = None) -> int:
        """Returns an integer in [least, limit]; `default` stands for a missing key or null."""
        value = self.get(key)
        if (value is _ABSENT or value is None) and default is not None:
            return default
        if value is _ABSENT:
            raise self.refuse(key, "the key is missing and has no default that could be trusted")
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= limit:
            raise self.refuse_value(key, f"an integer from {least} to {limit}")
        return value

    def number(self, key: str, default: float) -> float:
        """Returns a finite number > 0; `default` stands for a missing key."""
        value = self.get(key)
        if value is _ABSENT:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            raise self.refuse_value(key, "a number above 0")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is _ABSENT:
            return default
        if not isinstance(value, bool):
            raise self.refuse_value(key, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.get(key)
        if value is _ABSENT:
            return default
        if not isinstance(value, str):
            raise self.refuse_value(key, "a text")
        return value

    def sub_object(self, key: str) -> "_Reader | None":
        """Returns the object under `key`, or None where it is missing or null."""
        value = self.get(key)
        if value is _ABSENT or value is None:
            return None
        if not isinstance(value, dict):
            raise self.refuse_value(key, "an object")
        return _Reader(self.file, value, f"{self._prefix}{key}.")


def _find_family(config: _Reader) -> _Family:
    """Returns the architecture that `model_type` and `architectures` name, both of them."""
    model_type = config.get("model_type")
    family = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        found = "missing" if model_type is _ABSENT else repr(model_type)[:100]
        supported = ", ".join(_FAMILIES)
        raise config.refuse("model_type", f"value {found}, supported are {supported}")
    architectures = config.get("architectures")
    if architectures not in (_ABSENT, None) and architectures != [family.architecture]:
        raise config.refuse_value("architectures", f'["{family.architecture}"]')
    return family


def _is_neutral(value: Any, allowed: tuple[Any, ...]) -> bool:
    # 1 == True and 0 == False in Python; a flag and a number are different things in a file.
    return any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed)


def _check_keys(config: _Reader) -> None:
    """Refuses every key that is unknown, and every known one that would change the arithmetic."""
    for key, value in config.values.items():
        if key in _NEUTRAL_VALUES:
            if not _is_neutral(value, _NEUTRAL_VALUES[key]):
                raise config.refuse_value(key, repr(_NEUTRAL_VALUES[key][0]))
        elif key == "layer_types":
            layers = value if isinstance(value, list) else [value]
            if value is not None and any(kind != "full_attention" for kind in layers):
                raise config.refuse_value(key, "full_attention in every layer")
        elif key not in _READ_KEYS and key not in _HARMLESS_KEYS:
            raise config.refuse(
                key, "the key is unknown; it may change the arithmetic, so it is not ignored"
            )


def _read_rope_theta(config: _Reader, family: _Family) -> float:
    """Returns the rotary base; any form of scaling or of partial rotation is refused."""
    bases = []
    if "rope_theta" in config.values:
        bases.append(config.number("rope_theta", family.rope_theta))
    for key in ("rope_parameters", "rope_scaling"):
        rope = config.sub_object(key)
        if rope is None:
            continue
        for kind in ("rope_type", "type"):
            if rope.text(kind, "default") != "default":
                raise rope.refuse_value(kind, "'default'; scaled positions are not supported")
        if not _is_neutral(rope.values.get("partial_rotary_factor"), (None, 1.0)):
            raise rope.refuse_value("partial_rotary_factor", "1.0")
        known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        if unknown := sorted(set(rope.values) - known):
            raise rope.refuse(unknown[0], "the key is unknown and may change the arithmetic")
        if "rope_theta" in rope.values:
            bases.append(rope.number("rope_theta", family.rope_theta))
    if len(set(bases)) > 1:
        raise config.refuse("rope_theta", f"the file gives different bases: {bases}")
    base = bases[0] if bases else family.rope_theta
    if not 1 < base <= 1e12:
        raise config.refuse("rope_theta", f"value {base}, expected above 1 and at most 1e12")
    return base


def _token_ids(reader: _Reader, key: str, vocab_size: int) -> tuple[int, ...]:
    """Returns the ids under `key`: an integer, a list of them, or null."""
    value = reader.get(key)
    if value is _ABSENT or value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
            raise reader.refuse_value(key, f"token ids below {vocab_size}")
    return tuple(ids)


def _read_eos(readers: list[_Reader], vocab_size: int, default: int) -> tuple[int, ...]:
    """Returns every id that ends an answer, of both files, in the order in which they stand."""
    ids: dict[int, None] = {}
    for reader in readers:
        ids.update(dict.fromkeys(_token_ids(reader, "eos_token_id", vocab_size)))
    if not ids and all("eos_token_id" not in reader.values for reader in readers):
        ids.update({default: None} if default < vocab_size else {})
    if len(ids) > limits.EOS_COUNT_MAX:
        raise readers[0].refuse("eos_token_id", f"{len(ids)} ids, limit {limits.EOS_COUNT_MAX}")
    return tuple(ids)


def _read_bos(readers: list[_Reader], vocab_size: int, default: int) -> int | None:
    """Returns the id that starts a text; the first file that states it decides."""
    for reader in readers:
        if "bos_token_id" in reader.values:
            ids = _token_ids(reader, "bos_token_id", vocab_size)
            if len(ids) > 1:
                raise reader.refuse_value("bos_token_id", "one token id")
            return ids[0] if ids else None
    return default if default < vocab_size else None


def _read_attention(config: _Reader, family: _Family, hidden_size: int) -> tuple[int, int, int]:
    """Returns head_count, kv_head_count, head_dim."""
    head_count = config.integer("num_attention_heads", 1, limits.HEAD_COUNT_MAX)
    absent = "num_key_value_heads" not in config.values
    kv_default = family.kv_head_count if absent else None
    kv_head_count = config.integer(
        "num_key_value_heads", 1, limits.HEAD_COUNT_MAX, kv_default or head_count
    )
    if head_count % kv_head_count:
        raise config.refuse(
            "num_key_value_heads", f"value {kv_head_count} does not divide {head_count} heads"
        )
    if config.get("head_dim") in (_ABSENT, None) and hidden_size % head_count:
        raise config.refuse(
            "num_attention_heads", f"value {head_count} does not divide hidden_size {hidden_size}"
        )
    head_dim = config.integer("head_dim", 2, limits.HEAD_DIM_MAX, hidden_size // head_count)
    if head_dim % 2 or not 2 <= head_dim <= limits.HEAD_DIM_MAX:
        raise config.refuse(
            "head_dim", f"value {head_dim}, expected even and at most {limits.HEAD_DIM_MAX}"
        )
    width = head_count * head_dim
    if width > limits.COLS_MAX:
        raise config.refuse("head_dim", f"heads times head_dim is {width}, limit {limits.COLS_MAX}")
    if family.sub_norms and width != hidden_size:
        raise config.refuse(
            "head_dim",
            f"attn_sub_norm needs heads times head_dim, {width}, to be hidden_size, {hidden_size}",
        )
    return head_count, kv_head_count, head_dim


def _read_norm_eps(config: _Reader, family: _Family) -> float:
    """Returns the epsilon as the binary32 number that takes part in the arithmetic."""
    eps = float(np.float32(config.number("rms_norm_eps", family.norm_eps)))
    if not 0 < eps <= 1:
        raise config.refuse_value("rms_norm_eps", "above 0 and at most 1")
    return eps


def _read_spec(config: _Reader, generation: _Reader | None, family: _Family) -> ModelSpec:
    hidden_size = config.integer("hidden_size", 1, limits.HIDDEN_SIZE_MAX)
    vocab_size = config.integer("vocab_size", 1, limits.VOCAB_SIZE_MAX)
    head_count, kv_head_count, head_dim = _read_attention(config, family, hidden_size)
    hidden_act = config.text("hidden_act", family.hidden_act)
    if hidden_act not in _ACTIVATIONS:
        raise config.refuse_value("hidden_act", "one of " + ", ".join(_ACTIVATIONS))
    readers = [config] if generation is None else [generation, config]
    return ModelSpec(
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size", 1, limits.COLS_MAX),
        layer_count=config.integer("num_hidden_layers", 1, limits.LAYER_COUNT_MAX),
        head_count=head_count,
        kv_head_count=kv_head_count,
        head_dim=head_dim,
        vocab_size=vocab_size,
        context_max=config.integer(
            "max_position_embeddings", 1, limits.CONTEXT_MAX, family.context_max
        ),
        activation=_ACTIVATIONS[hidden_act],
        norm_eps=_read_norm_eps(config, family),
        rope_theta=_read_rope_theta(config, family),
        attn_sub_norm=family.sub_norms,
        ffn_sub_norm=family.sub_norms,
        tied_head=config.boolean("tie_word_embeddings", False),
        bos_id=_read_bos(readers, vocab_size, family.bos_id),
        eos_ids=_read_eos(readers, vocab_size, family.eos_id),
    )


def _read_form(config: _Reader, family: _Family) -> WeightForm:
    """Returns how the matrices are stored; the traps are the defaults, see the source.

    A missing `linear_class` is `bitlinear`, whose scale divides; `quantization_mode` has a meaning
    for `autobitlinear` only.

    Source: transformers 5.23.0, utils/quantization_config.py, integrations/bitnet.py.
    """
    quantization = config.sub_object("quantization_config")
    marked = config.boolean("is_bitnet_config", False) or family.model_type == "bitnet"
    if quantization is None:
        return WeightForm.DEQUANTISED if marked else WeightForm.PLAIN_FLOAT
    if quantization.text("quant_method", "") != "bitnet":
        raise quantization.refuse_value("quant_method", "'bitnet'")
    if unknown := sorted(set(quantization.values) - _QUANTIZATION_KEYS):
        raise quantization.refuse(unknown[0], "the key is unknown and may change the arithmetic")
    if quantization.boolean("use_rms_norm", False):
        raise quantization.refuse_value("use_rms_norm", "false")
    if quantization.get("modules_to_not_convert") not in (_ABSENT, None, ["lm_head"]):
        raise quantization.refuse_value("modules_to_not_convert", 'null or ["lm_head"]')
    linear_class = quantization.text("linear_class", "bitlinear")
    mode = quantization.text("quantization_mode", "offline")
    if linear_class not in ("bitlinear", "autobitlinear"):
        raise quantization.refuse_value("linear_class", "'bitlinear' or 'autobitlinear'")
    if mode not in ("online", "offline"):
        raise quantization.refuse_value("quantization_mode", "'online' or 'offline'")
    if linear_class == "bitlinear":
        return WeightForm.PACKED_DIVIDE
    return WeightForm.PACKED_MULTIPLY if mode == "offline" else WeightForm.MASTERS


def load_config(directory: Path) -> CheckpointConfig:
    """Returns what config.json and, where it is there, generation_config.json say.

    Raises:
        CheckpointError: A file is missing or malformed, or says something that this product does
            not carry out exactly. The message names the key.
    """
    config = _Reader(directory / _CONFIG, load_json_object(directory, _CONFIG))
    family = _find_family(config)
    _check_keys(config)
    generation = None
    if has_file(directory, _GENERATION):
        generation = _Reader(directory / _GENERATION, load_json_object(directory, _GENERATION))
    spec = _read_spec(config, generation, family)
    return CheckpointConfig(spec, _read_form(config, family), family.architecture)
