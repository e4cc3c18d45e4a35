"""`bitnet.Engine`: what the sealed executable computes, from Python."""

import ctypes
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt

from bitnet.engine import library
from bitnet.errors import EvaluationError, TokenizerError, UsageError
from bitnet.limits import THREAD_COUNT_MAX
from bitnet.quantize import open_model
from bitnet.tokenizer import compile_tokenizer, cut_added

__all__ = ["Engine", "Generation"]

_FINISH: Final = ("stop_token", "stop_string", "length")


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """An answer.

    Attributes:
        ids: Tokens of the answer, without the stop token.
        data: Bytes of the answer; without a tokenizer empty.
        finish: What ended it: the model's stop token, a stop string, or `max_new_tokens`.
        prompt_tokens: Tokens of the prompt.
        prefill_s: Seconds from the call to the first token.
        decode_s: Seconds from the first token to the end.
        choices: Tokens that were chosen, a stop token included.
        head_rows: Rows of the head that these choices computed exactly.
        head_bytes: Bytes of the head that they read.
    """

    ids: tuple[int, ...]
    data: bytes
    finish: Literal["stop_token", "stop_string", "length"]
    prompt_tokens: int
    prefill_s: float
    decode_s: float
    choices: int = 0
    head_rows: int = 0
    head_bytes: int = 0

    @property
    def text(self) -> str:
        """The answer as text; bytes that are not UTF-8 become U+FFFD."""
        return self.data.decode("utf-8", "replace")


class Engine:
    """A model.bin opened by the C++ engine, the same sources as the sealed executable.

    Not safe for use from several threads at once. Use as a context manager, or call `close`.

    Args:
        path: The model.bin.
        tokenizer: The tokenizer.json of the model (its chat template is looked for beside it), or
        None: then
            prompts are token ids.
        threads: 1 … 64.
        isa: Name of a kernel table (see `isa_names`), or None for the strongest that this host has.
        context: Positions of the KV cache; None for the model's own maximum.
        kv_cache: How keys and values are kept: "f32", "f16" (as `bitnet config` writes it) or
        "int8". Each kind gives results of its own; see docs/numerics.md, The KV cache.
        prefill_chunk: Tokens of a prompt that are computed together, 1 … 512. No value changes a
        result.
        verify: When the bytes are held against their digests: all of them here ("full"), each
        part before its first use ("lazy"), or never ("off").
        head: How a token is chosen: "screened" computes as few rows of the head as a bound allows,
        "full" every row. No value changes a result.
        shared_library: A library that was built already, for tests of other builds.

    Raises:
        FormatError, IntegrityError: The file is not a whole model.bin, or was replaced meanwhile.
        TokenizerError: The tokenizer cannot be compiled, or is not the model's own.
        ToolchainError: The library cannot be built, the host lacks the instruction set or the
        memory.
        UsageError: An argument is out of range.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: str | Path | None = None,
        threads: int = 1,
        isa: str | None = None,
        *,
        context: int | None = None,
        kv_cache: Literal["f32", "f16", "int8"] = "f16",
        prefill_chunk: int = 64,
        verify: Literal["full", "lazy", "off"] = "off",
        head: Literal["screened", "full"] = "screened",
        shared_library: Path | None = None,
    ) -> None:
        self._handle: ctypes.c_void_p | None = None
        self._library = library.load_library(shared_library)
        with open_model(Path(path)) as model:
            self.spec = model.spec
            expected = model.header.tokenizer_sha384
            root = model.root
        self._tables = _native_tables(tokenizer, expected)
        self.context = self.spec.context_max if context is None else context
        for name, value, limit in (
            ("context", self.context, self.spec.context_max),
            ("threads", threads, THREAD_COUNT_MAX),
            ("prefill_chunk", prefill_chunk, 512),
        ):
            if not 1 <= value <= limit:
                raise UsageError(
                    f"argument is out of range: `{name}`", where=f"found {value}, limit {limit}"
                )
        if kv_cache not in library.KV_CACHE_KINDS:
            raise UsageError(
                "argument is out of range: `kv_cache`",
                where=f"found {kv_cache!r}",
                hint=f"use one of {', '.join(library.KV_CACHE_KINDS)}",
            )
        if verify not in library.VERIFY_MODES:
            raise UsageError(
                "argument is out of range: `verify`",
                where=f"found {verify!r}",
                hint=f"use one of {', '.join(library.VERIFY_MODES)}",
            )
        if head not in library.HEAD_MODES:
            raise UsageError(
                "argument is out of range: `head`",
                where=f"found {head!r}",
                hint=f"use one of {', '.join(library.HEAD_MODES)}",
            )
        kind = library.KV_CACHE_KINDS.index(kv_cache)
        modes = library.VERIFY_MODES.index(verify), library.HEAD_MODES.index(head)
        options = library.Options(
            _encode(isa or "auto"), self.context, prefill_chunk, threads, kind, *modes, root
        )
        handle = ctypes.c_void_p()
        error = library.new_error()
        status = self._library.bitnet_open(
            os.fsencode(path), ctypes.byref(options), ctypes.byref(handle), ctypes.byref(error)
        )
        library.check(self._library, status, error)
        self._handle = handle

    def close(self) -> None:
        """Gives memory and threads back; further calls fail."""
        if self._handle is not None:
            self._library.bitnet_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    @property
    def isa(self) -> str:
        """Name of the kernel table in use."""
        name: bytes = self._library.bitnet_isa(self._open_handle())
        return name.decode()

    @staticmethod
    def isa_names() -> list[str]:
        """Returns the kernel tables that this host can run, weakest first."""
        shared = library.load_library()
        return [
            shared.bitnet_isa_name(index).decode()
            for index in range(shared.bitnet_isa_count())
            if shared.bitnet_isa_available(index)
        ]

    def tokenize(self, text: str | bytes, *, added_tokens: bool = False) -> list[int]:
        """Returns the ids of `text`.

        Args:
            text: Any bytes; a string is taken as UTF-8.
            added_tokens: Whether control tokens written out in the text become control tokens.
        """
        tables = self._need_tables()
        content = _encode(text)
        parts = cut_added(tables.source, content) if added_tokens else iter([content])
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                continue
            view = ctypes.byref(library.Text.of(part))
            call = functools.partial(self._library.bitnet_encode, tables.pointer, view)
            ids += self._run_encoder(len(part), call)
        return ids

    def tokenize_chat(self, user: str | bytes, system: str | bytes = b"") -> list[int]:
        """Returns the ids of one request in the model's chat template, ready for an answer.

        Raises:
            EvaluationError: The tokenizer has no chat template, or none for a system message.
        """
        contents = _encode(system), _encode(user)
        views = [ctypes.byref(library.Text.of(content)) for content in contents]
        tables = self._need_tables().pointer
        call = functools.partial(self._library.bitnet_encode_chat, tables, *views)
        return self._run_encoder(sum(map(len, contents)), call)

    def _run_encoder(self, text_bytes: int, call: Callable[..., int]) -> list[int]:
        """Calls an encoder with scratch memory and room for the ids of so many bytes of text."""
        tables = self._need_tables().pointer
        scratch_bytes = self._library.bitnet_encode_scratch_bytes(tables, text_bytes)
        ids = np.empty(self._library.bitnet_encode_ids_max(tables, text_bytes), np.uint32)
        scratch = np.empty(scratch_bytes + 64, np.uint8)
        aligned = scratch.ctypes.data + -scratch.ctypes.data % 64
        count = ctypes.c_size_t()
        error = library.new_error()
        room = (aligned, scratch_bytes, ids.ctypes.data, len(ids))
        status = call(*room, ctypes.byref(count), ctypes.byref(error))
        library.check(self._library, status, error)
        return [int(token) for token in ids[: count.value]]

    def detokenize(self, ids: Sequence[int]) -> bytes:
        """Returns the bytes of `ids`, control tokens included."""
        tables = self._need_tables()
        pieces = []
        for index, token in enumerate(ids):
            if not 0 <= token < tables.vocab_size:
                raise EvaluationError(
                    "token id is outside the vocabulary",
                    where=f"index {index}, id {token}, vocabulary {tables.vocab_size}",
                )
            data = ctypes.c_void_p()
            size = self._library.bitnet_token_bytes(tables.pointer, token, ctypes.byref(data))
            pieces.append(ctypes.string_at(data.value, size) if size and data.value else b"")
        return b"".join(pieces)

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Returns float32[len(ids), vocab]: row i is what the model says after ids[0] … ids[i].

        Raises:
            EvaluationError: An id is outside the vocabulary, or there are more than the context; or
                a logit is not finite.
        """
        tokens = _token_array(ids)
        out = np.empty((len(tokens), self.spec.vocab_size), np.float32)
        error = library.new_error()
        status = self._library.bitnet_logits(
            self._open_handle(),
            tokens.ctypes.data,
            len(tokens),
            out.ctypes.data,
            ctypes.byref(error),
        )
        library.check(self._library, status, error)
        for position, row in enumerate(out):
            finite = np.isfinite(row)
            if not finite.all():
                raise EvaluationError(
                    "a logit is not finite",
                    where=f"position {position}, token {int(np.argmin(finite))}",
                )
        return out

    def generate(
        self,
        prompt: str | bytes | Sequence[int],
        *,
        max_new_tokens: int,
        chat: bool = True,
        system: str | bytes = b"",
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str | bytes] = (),
    ) -> Generation:
        """Returns the model's answer, as the sealed executable would give it.

        Args:
            prompt: Text, or token ids that are taken as they are.
            chat: Put text into the model's chat template; else it is taken raw, after what the
                tokenizer's file puts before a text, such as a BOS.
            system: System message for the template; without one, empty.
            max_new_tokens: 1 …; prompt and answer together must fit the context.
            temperature, top_k, top_p, repetition_penalty, seed: docs/numerics.md, Choosing a token.
            stop: Strings that end the answer, or whole names of control tokens; needs a
                tokenizer.

        Raises:
            EvaluationError: The prompt is empty or does not fit the context.
            UsageError: A sampling argument is out of range, there are stop strings but no
            tokenizer, or a system message without a template.
            KeyboardInterrupt: Ctrl-C was pressed; the answer ends at the next token.
        """
        _check_sampling(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed)
        tokens = self._prompt_tokens(prompt, chat, system)
        stops = [_encode(word) for word in stop]
        if stops:
            self._need_tables()
        views = (library.Text * max(1, len(stops)))(*(library.Text.of(word) for word in stops))
        options = library.GenerateOptions(
            max_new_tokens, top_k, temperature, top_p, repetition_penalty, len(stops), seed, views
        )
        return self._run_generation(tokens, options)

    def _prompt_tokens(
        self, prompt: str | bytes | Sequence[int], chat: bool, system: str | bytes
    ) -> npt.NDArray[np.uint32]:
        """Returns uint32[n], the ids of a prompt of `generate`."""
        if system and not (chat and isinstance(prompt, str | bytes)):
            raise UsageError(
                "`system` is a message for the chat template, and none is used",
                hint="leave it out, or pass text with `chat=True`",
            )
        if not isinstance(prompt, str | bytes):
            return _token_array(prompt)
        if chat:
            return _token_array(self.tokenize_chat(prompt, system))
        return _token_array([*self._need_tables().prefix_ids, *self.tokenize(prompt)])

    def _run_generation(
        self, tokens: npt.NDArray[np.uint32], options: library.GenerateOptions
    ) -> Generation:
        ids: list[int] = []
        pieces: list[bytes] = []

        def take(_context: int | None, token: int, data: int | None, size: int) -> None:
            if token != library.NO_TOKEN:
                ids.append(token)
            if data and size:
                pieces.append(ctypes.string_at(data, size))

        result = library.GenerateResult()
        error = library.new_error()
        with library.sink(take) as sink:
            status = self._library.bitnet_generate(
                self._open_handle(),
                self._tables.pointer if self._tables is not None else None,
                tokens.ctypes.data,
                len(tokens),
                ctypes.byref(options),
                sink,
                None,
                ctypes.byref(result),
                ctypes.byref(error),
            )
        library.check(self._library, status, error)
        return Generation(
            tuple(ids),
            b"".join(pieces),
            _FINISH[result.finish],
            result.prompt_tokens,
            result.prefill_ns / 1e9,
            result.decode_ns / 1e9,
            result.head_choices,
            result.head_rows,
            result.head_bytes,
        )

    def perplexity(self, text: str | bytes | Sequence[int]) -> float:
        """Returns exp of the mean negative log-likelihood (natural log, binary64) of each token
        after the first; infinity where that is beyond binary64.

        Raises:
            EvaluationError: Fewer than two tokens, or more than the context; or a logit is not
                finite.
        """
        ids = self.tokenize(text) if isinstance(text, str | bytes) else list(text)
        if len(ids) < 2:
            raise EvaluationError(
                "text is too short for a perplexity", where=f"{len(ids)} tokens, at least 2"
            )
        logits = self.logits(ids)[:-1].astype(np.float64)
        peak = logits.max(axis=1, keepdims=True)
        log_sum = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1))
        chosen = logits[np.arange(len(logits)), ids[1:]]
        with np.errstate(over="ignore"):
            return float(np.exp((log_sum - chosen).mean()))

    def _open_handle(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise UsageError("engine is closed")
        return self._handle

    def _need_tables(self) -> library.NativeTables:
        if self._tables is None:
            raise UsageError(
                "engine was opened without a tokenizer",
                hint="pass the model's tokenizer.json as `tokenizer`",
            )
        return self._tables


def _native_tables(
    tokenizer: str | Path | None, expected: bytes | None
) -> library.NativeTables | None:
    """Returns the compiled tables of the model's own tokenizer."""
    if tokenizer is None:
        return None
    tables = compile_tokenizer(Path(tokenizer))
    if expected is not None and tables.source_sha384 != expected:
        raise TokenizerError(
            f"tokenizer is not the one the model was made with: `{tokenizer}`",
            where=(f"model      {expected.hex()}", f"tokenizer  {tables.source_sha384.hex()}"),
            hint="pass the tokenizer.json of the model's own checkpoint",
        )
    return library.NativeTables(tables)


def _check_sampling(
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    seed: int,
) -> None:
    """Holds the arguments to the ranges of config.yaml, also as the binary32 that C++ gets."""
    for name, right in (
        ("max_new_tokens", 1 <= max_new_tokens < 1 << 32),
        ("temperature", 0 <= temperature <= 100),
        ("top_k", 0 <= top_k < 1 << 32),
        ("top_p", 0 < top_p <= 1 and _as_binary32(top_p) > 0),
        (
            "repetition_penalty",
            0 < repetition_penalty <= 10 and _as_binary32(repetition_penalty) > 0,
        ),
        ("seed", 0 <= seed < 1 << 64),
    ):
        if not right:
            raise UsageError(
                f"argument is out of range: `{name}`",
                hint="see docs/formats/config.md for the ranges",
            )


def _as_binary32(value: float) -> float:
    return ctypes.c_float(value).value


def _encode(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _token_array(ids: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Returns uint32[n], refusing what does not fit before C++ sees it."""
    for index, token in enumerate(ids):
        if not 0 <= int(token) < 1 << 32:
            raise EvaluationError(
                "token id is outside the vocabulary", where=f"index {index}, id {token}"
            )
    return np.array(ids, np.uint32)
