"""The engine for tests: which library, model files made once, its C interface as values.

`BITNET_TEST_LIBRARY` names a library that was built already (one with sanitizers);
`BITNET_TEST_EXAMPLES` scales the number of generated examples, for builds that are slow.
"""

import ctypes
import dataclasses
import functools
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitnet import Engine
from bitnet.checkpoint import open_checkpoint
from bitnet.engine import library
from bitnet.quantize import write_model
from bitnet.seal.toolchain import build_library
from tests.support import model_bin
from tests.support.tiny_models import TinyModel, write_checkpoint

__all__ = [
    "DEMO",
    "DEMO_TOKENIZER",
    "PROTECTIONS",
    "REPOSITORY",
    "Failure",
    "MutableFile",
    "ParsedConfig",
    "available_isas",
    "choose",
    "demo_model",
    "engine_library",
    "example_count",
    "library_path",
    "open_engine",
    "open_handle",
    "parse_config",
    "run_tokens",
    "scratch_directory",
    "small_model",
    "small_model_parts",
    "status_name",
    "write_tiny_model",
]

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "models" / "demo"
DEMO_TOKENIZER = DEMO / "tokenizer.json"

# Words of config.yaml by their numbers in engine/format/config.h.
PROTECTIONS = (
    "memory_lock", "dont_dump", "not_dumpable", "core_limit", "no_new_privileges", "mdwe", "mseal",
    "landlock", "descriptors", "filter",
)  # fmt: skip
_WEIGHTS_WORDS = (b"mapped", b"resident")
_LOCK_WORDS = (b"all", b"arena")
_VERIFY_WORDS = (b"full", b"lazy", b"off")

_LIBRARY_VARIABLE = "BITNET_TEST_LIBRARY"
_EXAMPLES_VARIABLE = "BITNET_TEST_EXAMPLES"


def example_count(count: int) -> int:
    """Returns how many examples to generate where a normal run takes `count`."""
    return max(2, int(count * float(os.environ.get(_EXAMPLES_VARIABLE, "1"))))


@functools.cache
def library_path() -> Path:
    """Returns the library named for this run, else the one of the current sources."""
    name = os.environ.get(_LIBRARY_VARIABLE)
    return Path(name) if name else build_library()


@functools.cache
def engine_library() -> ctypes.CDLL:
    """Returns the library under test."""
    return library.load_library(library_path())


def available_isas() -> list[str]:
    """Returns the kernel tables that this host can run, weakest first."""
    shared = engine_library()
    return [
        shared.bitnet_isa_name(index).decode()
        for index in range(shared.bitnet_isa_count())
        if shared.bitnet_isa_available(index)
    ]


def open_engine(path: Path, **arguments: Any) -> Engine:
    """Returns an Engine over the library under test; keys and values as the reference has them."""
    return Engine(path, shared_library=library_path(), **({"kv_cache": "f32"} | arguments))


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bitnet-tests-")


def scratch_directory() -> Path:
    """Returns a folder that lives as long as this process."""
    return Path(_scratch().name)


@functools.cache
def demo_model(embedding: str = "int8") -> Path:
    """Returns the demo checkpoint as model.bin, written once."""
    path = scratch_directory() / f"demo-{embedding}.bin"
    kind = "int8" if embedding == "int8" else "f32"
    write_model(open_checkpoint(DEMO), path, embedding=kind, tokenizer=DEMO_TOKENIZER)
    return path


def write_tiny_model(model: TinyModel, directory: Path, embedding: str = "int8") -> Path:
    """Writes a random model as a published checkpoint and returns its model.bin."""
    write_checkpoint(directory / "checkpoint", model)
    path = directory / "model.bin"
    kind = "int8" if embedding == "int8" else "f32"
    write_model(open_checkpoint(directory / "checkpoint"), path, embedding=kind, force=True)
    return path


# A model.bin small enough to change each of its bytes, from the slow encoder of tests/support.


def small_model_parts(*, flags: int = 7, kind: int = 3, seed: int = 5, **changes: Any) -> bytes:
    """Returns a valid model.bin of one layer with random weights."""
    fields: dict[str, Any] = {
        "hidden_size": 20,
        "intermediate_size": 24,
        "layer_count": 1,
        "head_count": 2,
        "kv_head_count": 1,
        "head_dim": 10,
        "vocab_size": 19,
        "context_max": 64,
        "activation": 1,
        "norm_eps": 1e-5,
        "bos_id": 1,
        "eos_ids": (2,),
    }
    geometry = model_bin.Geometry(flags=flags, kind=kind, **(fields | changes))
    rng = np.random.default_rng(seed)
    tensors = {
        (role, layer): (code, rows, cols)
        for role, layer, code, rows, cols in model_bin.tensor_list(geometry)
    }

    def values_of(role: str, layer: int) -> npt.NDArray[Any]:
        code, rows, cols = tensors[role, layer]
        if code == 1:
            return rng.integers(-1, 2, (rows, cols))
        if role == "rope_inv_freq":
            exponents = np.arange(cols) * 2 / geometry.head_dim
            return (1.0 / 10000.0**exponents).astype(np.float32)[None]
        if role.endswith("norm"):
            return rng.uniform(0.5, 1.5, (rows, cols)).astype(np.float32)
        return rng.standard_normal((rows, cols)).astype(np.float32)

    return model_bin.encode_model(geometry, lambda role, layer: 0.25, values_of)


@functools.cache
def small_model() -> bytes:
    """Returns the small model with the default geometry; its header is one page."""
    return small_model_parts()


class MutableFile:
    """A file on the disk that can be changed in place between calls of the engine."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        path.write_bytes(content)
        self._file = path.open("r+b")
        self.bytes = mmap.mmap(self._file.fileno(), len(content))

    def close(self) -> None:
        self.bytes.close()
        self._file.close()


# The C interface.


@dataclasses.dataclass(frozen=True)
class Failure:
    """What the engine refused with."""

    status: str
    subject: str
    where: int
    found: int
    limit: int


def status_name(status: int) -> str:
    """Returns the name of a status in engine/base/status.def."""
    columns = (ctypes.c_char_p * 6)()
    engine_library().bitnet_status_row(status, ctypes.byref(columns))
    return (columns[0] or b"").decode()


def _failure(status: int, error: Any) -> Failure:
    assert status == error.status
    subject = error.subject.decode("utf-8", "replace")
    name = status_name(status)
    assert name, f"status {status} is not in status.def"
    return Failure(name, subject, error.where, error.value, error.limit)


def open_handle(
    path: Path,
    *,
    isa: str = "auto",
    context: int = 16,
    prefill_chunk: int = 4,
    threads: int = 1,
    kv_cache: int = 0,
    verify: str = "off",
    head: int = 0,
) -> ctypes.c_void_p | Failure:
    """Calls `bitnet_open` itself: no check of Python stands before it. The caller closes."""
    mode = library.VERIFY_MODES.index(verify)
    options = library.Options(isa.encode(), context, prefill_chunk, threads, kv_cache, mode, head)
    handle = ctypes.c_void_p()
    error = library.new_error()
    status = engine_library().bitnet_open(
        os.fsencode(path), ctypes.byref(options), ctypes.byref(handle), ctypes.byref(error)
    )
    if status == 0:
        assert handle.value
        return handle
    assert not handle.value
    return _failure(status, error)


def run_tokens(handle: ctypes.c_void_p, ids: Sequence[int], count: int) -> list[int] | Failure:
    """Generates greedily without a tokenizer."""
    prompt = np.array(ids, np.uint32)
    options = library.GenerateOptions(count, 0, 0.0, 1.0, 1.0, 0, 0, None)
    chosen: list[int] = []

    def collect(_context: Any, token: int, _data: int | None, _size: int) -> int:
        chosen.append(token)
        return 0

    result = library.GenerateResult()
    error = library.new_error()
    status = engine_library().bitnet_generate(
        handle, None, prompt.ctypes.data, len(prompt), ctypes.byref(options),
        library.sink_type(collect), None, ctypes.byref(result), ctypes.byref(error),
    )  # fmt: skip
    return chosen if status == 0 else _failure(status, error)


@dataclasses.dataclass(frozen=True)
class ParsedConfig:
    """A configuration as the engine understood it."""

    model: bytes
    context: int
    kv_cache: bytes
    max_new_tokens: int
    prompt_bytes_max: int
    prefill_chunk: int
    threads: int
    cores: tuple[int, ...]
    weights: bytes
    lock: bytes
    accept_missing: tuple[bytes, ...]
    verify: bytes
    log: bytes
    log_text: bool
    isa: bytes
    prompt: bytes
    system: bytes
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    stop: tuple[bytes, ...]


def parse_config(text: bytes) -> ParsedConfig | Failure:
    """Returns what `bitnet_parse_config` makes of a file's bytes."""
    # A buffer of the exact size, so that a sanitizer sees a read past its end.
    buffer = (ctypes.c_uint8 * len(text)).from_buffer_copy(text)
    parsed = library.Config()
    error = library.new_error()
    status = engine_library().bitnet_parse_config(
        ctypes.byref(buffer), len(text), ctypes.byref(parsed), ctypes.byref(error)
    )
    if status != 0:
        return _failure(status, error)
    assert parsed.accept_missing < 1 << len(PROTECTIONS)
    plain = {
        field.name: getattr(parsed, field.name)
        for field in dataclasses.fields(ParsedConfig)
        if field.type in ("int", "float", int, float)
    }
    return ParsedConfig(
        **plain,
        model=parsed.model.content(),
        kv_cache=library.KV_CACHE_KINDS[parsed.kv_cache].encode(),
        isa=parsed.isa.content(),
        system=parsed.system.content(),
        prompt=b"chat" if parsed.chat else b"raw",
        cores=tuple(parsed.cores[: parsed.core_count]),
        weights=_WEIGHTS_WORDS[parsed.weights],
        lock=_LOCK_WORDS[parsed.lock],
        accept_missing=tuple(
            name.encode()
            for bit, name in enumerate(PROTECTIONS)
            if parsed.accept_missing >> bit & 1
        ),
        verify=_VERIFY_WORDS[parsed.verify],
        log=parsed.log.content(),
        log_text=bool(parsed.log_text),
        stop=tuple(parsed.stop[i].content() for i in range(parsed.stop_count)),
    )


def choose(
    logits: npt.NDArray[np.float32],
    *,
    isa: str = "ref",
    seen: Sequence[int] = (),
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    index: int = 0,
) -> int | Failure:
    """Returns the token that the engine's sampler chooses from logits: float32[vocab]."""
    shared = engine_library()
    vocab = len(logits)
    padded = -(-vocab // 16) * 16
    row = _aligned(4 * padded).view(np.float32)
    row[:vocab] = logits
    memory = _aligned(shared.bitnet_choose_bytes(vocab))
    noted = np.array(seen, np.uint32)
    options = library.GenerateOptions(
        1, top_k, temperature, top_p, repetition_penalty, 0, seed, None
    )
    chosen = ctypes.c_uint32()
    error = library.new_error()
    names = [shared.bitnet_isa_name(i).decode() for i in range(shared.bitnet_isa_count())]
    status = shared.bitnet_choose(
        names.index(isa), row.ctypes.data, vocab, noted.ctypes.data, len(noted),
        ctypes.byref(options), index, memory.ctypes.data,
        ctypes.byref(chosen), ctypes.byref(error),
    )  # fmt: skip
    return chosen.value if status == 0 else _failure(status, error)


def _aligned(count: int) -> npt.NDArray[np.uint8]:
    """Returns uint8[count] of zeros, 64-byte aligned."""
    array = np.zeros(count + 64, np.uint8)
    offset = -array.ctypes.data % 64
    return array[offset : offset + count]
