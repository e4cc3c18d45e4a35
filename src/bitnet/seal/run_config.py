"""config.yaml: the commented text that `bitnet config` writes, and the one list of its keys.

Source: docs/formats/config.md; engine/format/config.cc reads it.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Final

from bitnet.checkpoint.spec import ModelSpec
from bitnet.errors import UsageError

__all__ = ["ISA_NAMES", "KEYS", "Key", "default_values", "emit_config"]

_CONTEXT_DEFAULT_MAX: Final = 4096
_ANSWER_DEFAULT_MAX: Final = 1024
_MAPPED_BYTES_MAX: Final = 64 << 20
_PROMPT_BYTES_PER_POSITION: Final = 16
# Without quotes only what every YAML reader takes for text: `12`, `yes` or `1e5` would be
# something else.
_PLAIN_TEXT: Final = r"sealed|off|[A-Za-z0-9_.+-]*/[A-Za-z0-9_./+-]*|[A-Za-z0-9_+-]+\.bin"


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A key of config.yaml: its name, the kind of its value, and what the file says above it."""

    name: str
    kind: str
    comment: str


# Kernel tables of each architecture, weakest first; engine/kernels/table.cc has the same.
ISA_NAMES: Final = {
    "x86_64": ("ref", "avx2", "avx512vnni"),
    "aarch64": ("ref", "neon", "dotprod", "i8mm"),
}
_ISA_COMMENT: Final = "`auto`, or a kernel table: {}.".format(
    "; ".join(f"{', '.join(names)} ({arch})" for arch, names in ISA_NAMES.items())
)
_KV_CACHE_COMMENT: Final = (
    "How keys and values are kept: f32, f16 or int8. Smaller is faster late in a long context."
)
_CORES_COMMENT: Final = (
    "`any`, or one processor for each thread, such as [0, 1]; docs/performance.md says when."
)
_WEIGHTS_COMMENT: Final = (
    "`mapped`: read from the file's own pages. `resident`: copied to huge pages at start."
)
_ACCEPT_COMMENT: Final = (
    'Layers of the lock-down that may be missing, such as ["mseal"]; any other stops the start.'
)
_VERIFY_COMMENT: Final = (
    "When the model's digests are checked: full (before the first token), lazy, off."
)
_CHUNK_COMMENT: Final = (
    "Tokens of the prompt computed together, 1 to 512. Changes speed and memory, never the answer."
)
_PROMPT_COMMENT: Final = (
    "`chat`: the prompt is put into the model's chat template. `raw`: it is taken as it is."
)
_STOP_COMMENT: Final = (
    'Texts that end the answer, such as ["###"]; the model\'s own stop tokens always do.'
)

KEYS: Final = (
    Key("model", "text", "`sealed`: the model in this executable. Or the path of a model.bin."),
    Key("context", "count", "Positions for prompt and answer together. Memory grows with it."),
    Key("kv_cache", "word", _KV_CACHE_COMMENT),
    Key("max_new_tokens", "count", "Longest answer, in tokens; with the prompt it must fit."),
    Key("prompt_bytes_max", "count", "Longest prompt, in bytes."),
    Key("prefill_chunk", "count", _CHUNK_COMMENT),
    Key("threads", "count", "Threads, 1 to 64. Changes speed, never the answer."),
    Key("cores", "cores", _CORES_COMMENT),
    Key("weights", "word", _WEIGHTS_COMMENT),
    Key("lock", "word", "What never reaches swap: `all`, weights too, or `arena`, all but them."),
    Key("accept_missing", "strings", _ACCEPT_COMMENT),
    Key("verify", "word", _VERIFY_COMMENT),
    Key("log", "text", "`off`, or the path of the event ring, such as /dev/shm/bitnet.log."),
    Key("log_text", "word", "Whether prompts and answers go to the log: yes or no."),
    Key("isa", "word", _ISA_COMMENT),
    Key("prompt", "word", _PROMPT_COMMENT),
    Key("system", "string", 'System message of the chat template; "" for none.'),
    Key("temperature", "number", "0: always the most likely token. Above 0: drawn, with the seed."),
    Key("top_k", "count", "Draw from the k most likely tokens only; 0: off."),
    Key("top_p", "number", "Draw from the most likely tokens that hold this share; 1: off."),
    Key("repetition_penalty", "number", "Above 1: tokens of the context become less likely."),
    Key("stop", "strings", _STOP_COMMENT),
)


def default_values(
    spec: ModelSpec, *, model: str = "sealed", threads: int = 1, chat: bool = True
) -> dict[str, object]:
    """Returns values that fit a model: greedy, the whole context up to 4096 positions.

    Weights that no cache holds are copied to huge pages at start, where they are read faster.
    """
    context = min(spec.context_max, _CONTEXT_DEFAULT_MAX)
    return {
        "model": model,
        "context": context,
        "kv_cache": "f16",
        "max_new_tokens": max(1, min(_ANSWER_DEFAULT_MAX, context // 4)),
        "prompt_bytes_max": context * _PROMPT_BYTES_PER_POSITION,
        "prefill_chunk": 64,
        "threads": threads,
        "cores": "any",
        "weights": "resident" if _layer_bytes(spec) > _MAPPED_BYTES_MAX else "mapped",
        "lock": "all",
        "accept_missing": [],
        "verify": "full",
        "log": "off",
        "log_text": "no",
        "isa": "auto",
        "prompt": "chat" if chat else "raw",
        "system": "",
        "temperature": 0,
        "top_k": 0,
        "top_p": 1,
        "repetition_penalty": 1,
        "stop": [],
    }


def _layer_bytes(spec: ModelSpec) -> int:
    """Bytes of the ternary layers, two bits a weight."""
    attention_rows = 2 * (spec.head_count + spec.kv_head_count) * spec.head_dim
    weights = spec.hidden_size * (attention_rows + 3 * spec.intermediate_size)
    return spec.layer_count * weights // 4


def emit_config(values: Mapping[str, object]) -> str:
    """Returns the text of a complete config.yaml.

    Raises:
        UsageError: A value cannot be written in the subset of YAML that the engine reads.
    """
    lines = [
        "# Settings of bitnet-infer. Every key is required and there are no defaults;",
        "# docs/formats/config.md says what each takes.",
    ]
    for key in KEYS:
        lines += ["", f"# {key.comment}", f"{key.name}: {_emit_value(key, values[key.name])}"]
    return "\n".join(lines) + "\n"


def _emit_value(key: Key, value: object) -> str:
    if key.kind == "string":
        return _quote(key, str(value))
    if key.kind == "strings":
        assert isinstance(value, list)
        return "[" + ", ".join(_quote(key, word) for word in value) + "]"
    if key.kind == "cores" and isinstance(value, list):
        return "[" + ", ".join(str(int(core)) for core in value) + "]"
    if key.kind == "text":
        text = str(value)
        return text if re.fullmatch(_PLAIN_TEXT, text) else _quote(key, text)
    if key.kind == "number":
        assert isinstance(value, int | float)
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return str(value)


def _quote(key: Key, text: str) -> str:
    """A double-quoted string with the escapes that YAML and the engine share."""
    if any(ord(character) < 0x20 and character not in "\n\t" for character in text):
        raise UsageError(f"value holds a control character: `{key.name}`", where=json.dumps(text))
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"value is not UTF-8: `{key.name}`", where=json.dumps(text))
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\x7f": "\\x7f"}
    return '"' + "".join(escapes.get(character, character) for character in text) + '"'
