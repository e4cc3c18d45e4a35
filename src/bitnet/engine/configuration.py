"""config.yaml as bitnet-infer reads it: the engine's own parser, asked from Python.

Source: docs/formats/config.md. What `bitnet config` writes is in bitnet.seal.run_config.
"""

import ctypes
import dataclasses
from pathlib import Path
from typing import Final, Literal

from bitnet.engine import library
from bitnet.files import read_bounded

__all__ = ["CONFIG_BYTES_MAX", "Configuration", "load_configuration"]

CONFIG_BYTES_MAX: Final = 65536

_KV_CACHE_KINDS: Final[tuple[Literal["f32", "f16", "int8"], ...]] = ("f32", "f16", "int8")
assert _KV_CACHE_KINDS == library.KV_CACHE_KINDS


@dataclasses.dataclass(frozen=True, slots=True)
class Configuration:
    """The keys that decide an answer, and those that decide whether a machine can give it."""

    model: str
    isa: str
    context: int
    kv_cache: Literal["f32", "f16", "int8"]
    max_new_tokens: int
    prompt_bytes_max: int
    prefill_chunk: int
    threads: int
    chat: bool
    system: bytes
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    stop: tuple[bytes, ...]


def load_configuration(path: Path) -> Configuration:
    """Returns the settings of a config.yaml that bitnet-infer would take.

    Raises:
        FormatError: The file cannot be read or is too long.
        UsageError: The parser refuses it, with the words in which bitnet-infer would.
        ToolchainError: The engine's library cannot be built.
    """
    data = read_bounded(path, "configuration", CONFIG_BYTES_MAX)
    buffer = ctypes.create_string_buffer(data, len(data))  # changed in place, and pointed to
    shared = library.load_library()
    parsed, error = library.Config(), library.new_error()
    status = shared.bitnet_parse_config(
        ctypes.byref(buffer), len(data), ctypes.byref(parsed), ctypes.byref(error)
    )
    library.check(shared, status, error)
    return Configuration(
        model=parsed.model.content().decode("utf-8", "replace"),
        isa=parsed.isa.content().decode("utf-8", "replace"),
        context=parsed.context,
        kv_cache=_KV_CACHE_KINDS[parsed.kv_cache],
        max_new_tokens=parsed.max_new_tokens,
        prompt_bytes_max=parsed.prompt_bytes_max,
        prefill_chunk=parsed.prefill_chunk,
        threads=parsed.threads,
        chat=bool(parsed.chat),
        system=parsed.system.content(),
        temperature=parsed.temperature,
        top_k=parsed.top_k,
        top_p=parsed.top_p,
        repetition_penalty=parsed.repetition_penalty,
        stop=tuple(parsed.stop[index].content() for index in range(parsed.stop_count)),
    )
