"""The C interface of engine/programs/library.cc, declared for ctypes.

Source: docs/decisions/0003-python-through-ctypes.md for why ctypes.
"""

import contextlib
import ctypes
import functools
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import numpy as np

from bitnet.errors import (
    EvaluationError,
    FormatError,
    IntegrityError,
    ToolchainError,
    ToolkitError,
    UsageError,
)
from bitnet.seal.toolchain import build_library
from bitnet.tokenizer.tables import TokenizerTables

__all__ = [
    "HEAD_MODES",
    "KV_CACHE_KINDS",
    "NO_TOKEN",
    "VERIFY_MODES",
    "Config",
    "GenerateOptions",
    "GenerateResult",
    "NativeTables",
    "Options",
    "Text",
    "check",
    "load_library",
    "new_error",
    "sink",
    "sink_type",
]

NO_TOKEN: Final = 0xFFFFFFFF
# By their numbers in format::KvCacheKind.
KV_CACHE_KINDS: Final = ("f32", "f16", "int8")
# By their numbers in format::VerifyMode.
VERIFY_MODES: Final = ("full", "lazy", "off")
# By their numbers in model::HeadMode.
HEAD_MODES: Final = ("screened", "full")

_POINTER = ctypes.c_void_p
_U32 = ctypes.c_uint32
_U64 = ctypes.c_uint64
_SIZE = ctypes.c_size_t


class _Error(ctypes.Structure):
    _fields_ = (
        ("status", _U32),
        ("subject", ctypes.c_char * 260),
        ("where", _U64),
        ("value", _U64),
        ("limit", _U64),
    )


class Options(ctypes.Structure):
    """BitnetOptions."""

    _fields_ = (
        ("isa", ctypes.c_char_p),
        ("context", _U32),
        ("prefill_chunk", _U32),
        ("threads", _U32),
        ("kv_cache", _U32),
        ("verify", _U32),
        ("head", _U32),
        ("root", ctypes.c_char_p),  # 48 bytes, or None
    )


class Text(ctypes.Structure):
    """BitnetText: bytes that Python keeps alive."""

    _fields_ = (("data", _POINTER), ("bytes", _SIZE))

    @classmethod
    def of(cls, content: bytes) -> "Text":
        """Returns a view of `content`, which must outlive it."""
        return cls(ctypes.cast(ctypes.c_char_p(content), _POINTER), len(content))

    def content(self) -> bytes:
        """Returns a copy of the bytes."""
        return ctypes.string_at(self.data, self.bytes) if self.data else b""


class GenerateOptions(ctypes.Structure):
    """BitnetGenerateOptions."""

    _fields_ = (
        ("max_new_tokens", _U32),
        ("top_k", _U32),
        ("temperature", ctypes.c_float),
        ("top_p", ctypes.c_float),
        ("repetition_penalty", ctypes.c_float),
        ("stop_count", _U32),
        ("seed", _U64),
        ("stop", ctypes.POINTER(Text)),
    )


class Config(ctypes.Structure):
    """BitnetConfig."""

    _fields_ = (
        ("model", Text),
        ("isa", Text),
        ("system", Text),
        ("context", _U32),
        ("kv_cache", _U32),
        ("max_new_tokens", _U32),
        ("prompt_bytes_max", _U32),
        ("prefill_chunk", _U32),
        ("threads", _U32),
        ("chat", _U32),
        ("top_k", _U32),
        ("temperature", ctypes.c_float),
        ("top_p", ctypes.c_float),
        ("repetition_penalty", ctypes.c_float),
        ("stop_count", _U32),
        ("stop", Text * 16),
        ("log", Text),
        ("weights", _U32),
        ("lock", _U32),
        ("accept_missing", _U32),
        ("verify", _U32),
        ("log_text", _U32),
        ("core_count", _U32),
        ("cores", _U32 * 64),
    )


class GenerateResult(ctypes.Structure):
    """BitnetGenerateResult."""

    _fields_ = (
        ("prompt_tokens", _U32),
        ("new_tokens", _U32),
        ("finish", _U32),
        ("reserved", _U32),
        ("prefill_ns", _U64),
        ("decode_ns", _U64),
        ("head_choices", _U64),
        ("head_rows", _U64),
        ("head_bytes", _U64),
    )


sink_type = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _U32, _POINTER, _SIZE)

_ERROR_POINTER = ctypes.POINTER(_Error)
_ENCODED = (_POINTER, _SIZE, _POINTER, _SIZE, ctypes.POINTER(_SIZE), _ERROR_POINTER)
_TEXT_POINTER = ctypes.POINTER(Text)

# Name, result, arguments: one row per function of library.cc.
_FUNCTIONS: Final = (
    ("bitnet_version", ctypes.c_char_p, ()),
    ("bitnet_leaf_hash_count", _U32, ()),
    ("bitnet_leaf_hash_name", ctypes.c_char_p, (_U32,)),
    ("bitnet_leaf_hash_lanes", _U32, (_U32,)),
    ("bitnet_leaf_hash_available", _U32, (_U32,)),
    ("bitnet_leaf_digests", None, (_U32, _POINTER, _SIZE, _U64, _U32, _POINTER)),
    ("bitnet_check_leaves", _U32, (_U32, _POINTER, _SIZE, _POINTER)),
    ("bitnet_tables_bytes", _SIZE, ()),
    ("bitnet_status_row", _U32, (_U32, ctypes.POINTER(ctypes.c_char_p * 6))),
    ("bitnet_isa_count", _U32, ()),
    ("bitnet_isa_name", ctypes.c_char_p, (_U32,)),
    ("bitnet_isa_available", _U32, (_U32,)),
    (
        "bitnet_open",
        _U32,
        (ctypes.c_char_p, ctypes.POINTER(Options), ctypes.POINTER(_POINTER), _ERROR_POINTER),
    ),
    ("bitnet_close", None, (_POINTER,)),
    ("bitnet_isa", ctypes.c_char_p, (_POINTER,)),
    ("bitnet_logits", _U32, (_POINTER, _POINTER, _SIZE, _POINTER, _ERROR_POINTER)),
    (
        "bitnet_generate",
        _U32,
        (_POINTER, _POINTER, _POINTER, _SIZE, ctypes.POINTER(GenerateOptions), sink_type, _POINTER,
         ctypes.POINTER(GenerateResult), _ERROR_POINTER),
    ),
    ("bitnet_encode_scratch_bytes", _SIZE, (_POINTER, _SIZE)),
    ("bitnet_encode_ids_max", _SIZE, (_POINTER, _SIZE)),
    ("bitnet_encode", _U32, (_POINTER, _TEXT_POINTER, *_ENCODED)),
    ("bitnet_encode_chat", _U32, (_POINTER, _TEXT_POINTER, _TEXT_POINTER, *_ENCODED)),
    ("bitnet_choose_bytes", _SIZE, (_U32,)),
    (
        "bitnet_choose",
        _U32,
        (_U32, _POINTER, _U32, _POINTER, _SIZE, ctypes.POINTER(GenerateOptions), _U64, _POINTER,
         ctypes.POINTER(_U32), _ERROR_POINTER),
    ),
    ("bitnet_parse_config", _U32, (_POINTER, _SIZE, ctypes.POINTER(Config), _ERROR_POINTER)),
    ("bitnet_token_bytes", _SIZE, (_POINTER, _U32, ctypes.POINTER(_POINTER))),
)  # fmt: skip

_build_lock = threading.Lock()


@functools.lru_cache(maxsize=8)
def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, result, arguments in _FUNCTIONS:
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    assert library.bitnet_tables_bytes() == ctypes.sizeof(_Tables), "stale declaration of Tables"
    return library


def load_library(path: Path | None = None) -> ctypes.CDLL:
    """Returns the engine's library, built first if its sources have changed.

    Args:
        path: A library that was built already, such as one with sanitizers.

    Raises:
        ToolchainError: It cannot be built or loaded.
    """
    with _build_lock:
        try:
            return _load(path if path is not None else build_library())
        except OSError as error:
            raise ToolchainError("engine library cannot be loaded", where=str(error)) from error


# Which exception a status is, by its range in engine/base/status.def; the rest are bad input to a
# run.
_STATUS_ERRORS: Final[tuple[tuple[Collection[int], type[ToolkitError]], ...]] = (
    (range(1, 20), UsageError),
    ((27, 31, 33, 34, 35, 73, 74), IntegrityError),
    ((36, 37), ToolchainError),
    (range(20, 40), FormatError),
    (range(40, 60), EvaluationError),
    (range(60, 80), ToolchainError),
)


def check(library: ctypes.CDLL, status: int, error: _Error) -> None:
    """Raises what `status` stands for, with the words of engine/base/status.def.

    Raises:
        ToolkitError: The subclass of the status; nothing if the status is 0.
    """
    if status == 0:
        return
    columns = (ctypes.c_char_p * 6)()
    library.bitnet_status_row(status, ctypes.byref(columns))
    _, text, where, found, limit, hint = ((column or b"").decode() for column in columns)
    subject = error.subject.decode("utf-8", "replace")
    facts = [
        f"{label} {number}"
        for label, number in ((where, error.where), (found, error.value), (limit, error.limit))
        if label
    ]
    kind = next(kind for numbers, kind in _STATUS_ERRORS if status in numbers)
    raise kind(
        f"{text}: `{subject}`" if subject else text,
        where=(", ".join(facts),) if facts else (),
        hint=hint or None,
    )


def new_error() -> _Error:
    """Returns an error for a call to fill."""
    return _Error()


@contextlib.contextmanager
def sink(take: Callable[..., None]) -> Iterator[Callable[..., int]]:
    """Gives a sink for `bitnet_generate` that hands what it gets to `take`, and outlives the call.

    ctypes drops what is raised inside of a callback and returns anything. So an exception of
    `take`, and Ctrl-C, end the generation and are raised when the block ends.
    """
    raised: list[BaseException] = []

    with _held_interrupt() as interrupted:

        def collect(*arguments: object) -> int:
            try:
                take(*arguments)
            except BaseException as error:  # noqa: BLE001 - raised again below
                raised.append(error)
            return 1 if raised or interrupted else 0

        yield sink_type(collect)
    if raised:
        raise raised[0]


@contextlib.contextmanager
def _held_interrupt() -> Iterator[list[tuple[int, FrameType | None]]]:
    """Gives a list to which Ctrl-C is added; when the block ends, its handler is called.

    The signal may come at the entry of a callback, before any `try` there. Only the main thread is
    interrupted, and only where a handler of Python's is installed.
    """
    pending: list[tuple[int, FrameType | None]] = []
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield pending
        return
    signal.signal(signal.SIGINT, lambda number, frame: pending.append((number, frame)))
    try:
        yield pending
    finally:
        signal.signal(signal.SIGINT, handler)
    if pending:
        handler(*pending[0])  # raises KeyboardInterrupt, where nobody has set another one
        raise KeyboardInterrupt


_SCALARS_BEFORE_DIGEST: Final = (
    "struct_bytes",
    "contractions_fold_case",
    "letters_after_any",
    "letters_with_marks",
    "number_run_max",
    "newline_rules",
    "digits_apart",
    "vocab_size",
    "word_slot_bits",
    "word_bytes_max",
    "merge_bucket_bits",
    "merge_count",
    "nfc_bytes_factor",
    "decomposition_count",
    "composition_count",
    "chat_raw_count",
    "chat_user_count",
    "chat_system_user_count",
    "chat_literal_bytes",
)
_ARRAYS: Final = (
    "token_offsets",
    "token_data",
    "special_bits",
    "byte_ids",
    "word_slots",
    "merge_buckets",
    "merge_entries",
    "merge_ids",
    "class_index",
    "class_rows",
    "class_blocks",
    "nfc_index",
    "nfc_rows",
    "nfc_blocks",
    "decomposition_points",
    "decomposition_offsets",
    "decomposition_data",
    "composition_keys",
    "composition_points",
    "chat_raw",
    "chat_user",
    "chat_system_user",
    "chat_data",
)
_CHAT_ROW_WORDS: Final = 3


class _Tables(ctypes.Structure):
    _fields_ = (
        *((name, _U32) for name in _SCALARS_BEFORE_DIGEST),
        ("source_sha384", ctypes.c_uint8 * 48),
        *((name, _POINTER) for name in _ARRAYS),
    )


class NativeTables:
    """A tokenizer's tables as `struct Tables` (engine/tokenizer/tables.h) over its arrays."""

    def __init__(self, tables: TokenizerTables) -> None:
        self.source = tables
        split = tables.split
        counts = {
            "struct_bytes": ctypes.sizeof(_Tables),
            "merge_count": len(tables.merge_ids),
            "decomposition_count": len(tables.decomposition_points),
            "composition_count": len(tables.composition_keys),
            "chat_raw_count": len(tables.chat_raw) // _CHAT_ROW_WORDS,
            "chat_user_count": len(tables.chat_user) // _CHAT_ROW_WORDS,
            "chat_system_user_count": len(tables.chat_system_user) // _CHAT_ROW_WORDS,
            "chat_literal_bytes": len(tables.chat_data),
        }
        self.vocab_size = tables.vocab_size
        self.prefix_ids = tuple(int(token) for token in tables.prefix_ids)
        self._struct = _Tables()
        for name in _SCALARS_BEFORE_DIGEST:
            value = counts.get(name, getattr(tables, name, None))
            setattr(self._struct, name, int(getattr(split, name) if value is None else value))
        self._struct.source_sha384 = (ctypes.c_uint8 * 48)(*tables.source_sha384)
        self._arrays = [np.ascontiguousarray(getattr(tables, name)) for name in _ARRAYS]
        for name, array in zip(_ARRAYS, self._arrays, strict=True):
            setattr(self._struct, name, array.ctypes.data if array.size else None)

    @property
    def pointer(self) -> int:
        """Address of the struct, valid as long as this object."""
        return ctypes.addressof(self._struct)
