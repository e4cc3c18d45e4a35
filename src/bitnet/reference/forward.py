"""The forward pass of docs/numerics.md, the whole prompt at once; it can be read as the definition.

The C++ reference and every kernel must return the same bits. Nothing is cached and nothing is
fast; every token is a row of its own, so that no result depends on its neighbours.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from bitnet.checkpoint.spec import Int8Rows, Weights
from bitnet.errors import EvaluationError, UsageError
from bitnet.reference import arithmetic

__all__ = ["QuantizeTap", "Reference"]

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

QuantizeTap = Callable[[str, int, F32, I8], I8 | None]
"""Sees (site, layer, values: float32[tokens, n], codes: int8[tokens, n]).

May return other codes, or None to keep them. `codes` are `values` rounded, ties to even. Sites, in
the order of one layer: "qkv", "o", "gate_up", "down", after the matrices that read the codes.
"""

# Rows of an int8 head converted at a time: 8192 rows of 4096 columns take 256 MiB as binary64.
_HEAD_ROWS = 8192
# docs/numerics.md, "The KV cache", int8: positions whose weights share a scale, and the smallest
# largest magnitudes of a query and of such weights.
_VALUE_BLOCK = 128
_AMAX_MIN = 1e-5
_WEIGHT_MIN = 1e-30


class Reference:
    """A model, and what it answers.

    Args:
        weights: The weights by role, from `open_checkpoint` or `open_model`.
        on_quantize: See `QuantizeTap`; for tests that observe or replace activation codes.
        kv_cache: How keys and values are kept before they are used: "f32", "f16" or "int8".

    Raises:
        UsageError: There is no such kind of cache.
    """

    def __init__(
        self,
        weights: Weights,
        on_quantize: QuantizeTap | None = None,
        kv_cache: Literal["f32", "f16", "int8"] = "f32",
    ) -> None:
        if kv_cache not in ("f32", "f16", "int8"):
            raise UsageError("argument is out of range: `kv_cache`", where=f"found {kv_cache!r}")
        self.kv_cache = kv_cache
        self.weights = weights
        self.spec = weights.spec
        self.on_quantize = on_quantize
        self._eps = np.float32(self.spec.norm_eps)
        # Two roundings in binary64 and one to binary32: the same on every host, unlike pow().
        self._attention_scale = np.float32(1.0 / math.sqrt(self.spec.head_dim))
        self._gate = {"relu2": arithmetic.gate_relu2, "silu": arithmetic.gate_silu}[
            self.spec.activation
        ]

    def logits(self, ids: Sequence[int]) -> F32:
        """Returns float32[len(ids), vocab]; row p scores the token that follows ids[: p + 1].

        Raises:
            EvaluationError: `ids` is empty, longer than the context, or holds an id outside the
                vocabulary; or a logit is not finite.
        """
        return self._head(self._hidden(ids))

    def greedy(self, ids: Sequence[int], count: int, stop: Sequence[int] = ()) -> list[int]:
        """Returns up to `count` ids that follow `ids`, each the first with the largest logit.

        Ends before the first id that is in `stop`.

        Raises:
            EvaluationError: As `logits`; also where the answer would cross the end of the context.
        """
        answer: list[int] = []
        for _ in range(count):
            last = self._hidden([*ids, *answer])[-1:]
            chosen = int(np.argmax(self._head(last)))
            if chosen in stop:
                break
            answer.append(chosen)
        return answer

    def perplexity(self, ids: Sequence[int]) -> float:
        """Returns exp of the mean of -ln p(ids[i] | ids[:i]) over i >= 1, softmax in binary64.

        Raises:
            EvaluationError: As `logits`; also with fewer than two ids.
        """
        if len(ids) < 2:
            raise EvaluationError(
                "a perplexity needs at least two tokens", where=f"{len(ids)} given"
            )
        logits = self.logits(ids)[:-1].astype(np.float64)
        peak = logits.max(axis=-1)
        log_sum = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=-1))
        chosen = logits[np.arange(len(logits)), np.asarray(ids[1:])]
        with np.errstate(over="ignore"):
            return float(np.exp(np.mean(log_sum - chosen)))

    def _hidden(self, ids: Sequence[int]) -> F32:
        """Returns float32[len(ids), hidden_size], the input of the head."""
        self._check(ids)
        # What overflows shows as a logit that is not finite, which `_head` refuses.
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            x = self._embed(ids)
            positions = np.arange(len(ids), dtype=np.float32)
            angles = positions[:, None] * self.weights.vector("rope_inv_freq", None)[None, :]
            rotation = arithmetic.sincos(angles)
            for layer in range(self.spec.layer_count):
                x = x + self._attention_block(x, rotation, layer)
                x = x + self._ffn_block(x, layer)
            return self._norm(x, "final_norm", None)

    def _embed(self, ids: Sequence[int]) -> F32:
        """Returns float32[len(ids), hidden_size], the rows of the embedding."""
        table = self.weights.table("embedding")
        rows = np.asarray(ids, dtype=np.int64)
        if isinstance(table, Int8Rows):
            return table.codes[rows].astype(np.float32) * table.scales[rows][:, None]
        return np.array(table.values[rows])

    def _attention_block(self, x: F32, rotation: tuple[F32, F32], layer: int) -> F32:
        """Returns what attention adds to x: float32[tokens, hidden_size]."""
        spec = self.spec
        codes, scale = self._quantize("qkv", layer, self._norm(x, "input_norm", layer))
        q, k, v = (
            self._bitlinear(role, layer, codes, scale).reshape(len(x), -1, spec.head_dim)
            for role in ("q", "k", "v")
        )
        q = arithmetic.rope(q, *rotation)
        k = arithmetic.rope(k, *rotation)
        group = spec.head_count // spec.kv_head_count
        heads = [
            self._attend(q[:, j], k[:, j // group], v[:, j // group])
            for j in range(spec.head_count)
        ]
        out = np.concatenate(heads, axis=-1)
        if spec.attn_sub_norm:
            out = self._norm(out, "attn_sub_norm", layer)
        return self._bitlinear("o", layer, *self._quantize("o", layer, out))

    def _attend(self, q: F32, k: F32, v: F32) -> F32:
        """Returns float32[tokens, head_dim] of one head; position p sees positions 0 … p.

        q, k, v: float32[tokens, head_dim].
        """
        keys, key_scales = arithmetic.kept_rows(k, self.kv_cache)
        values, value_scales = arithmetic.kept_rows(v, self.kv_cache)
        if key_scales is None:
            scores = arithmetic.dot16_pairs(q, keys) * self._attention_scale
        else:
            codes, units = arithmetic.integers(q, _AMAX_MIN)
            sums = (codes @ keys.astype(np.int64).T).astype(np.float32)
            scores = sums * (units * self._attention_scale)[:, None] * key_scales[None, :]
        seen = np.tri(len(q), dtype=np.bool_)
        peak = np.where(seen, scores, -np.inf).max(axis=-1)
        # A position that is not seen weighs +0, as padding does: that changes no bit of the sums.
        weights = np.where(seen, arithmetic.exp(scores - peak[:, None]), np.float32(0.0))
        if value_scales is None:
            acc = np.zeros_like(q)
            for t in range(len(q)):
                acc[t:] = acc[t:] + weights[t:, t, None] * values[t]
        else:
            scaled = np.where(seen, weights * value_scales[None, :], np.float32(0.0))
            acc = self._weigh_codes(scaled, values)
        return acc * (np.float32(1.0) / arithmetic.sum16(weights))[:, None]

    def _weigh_codes(self, weights: F32, codes: F32) -> F32:
        """Returns float32[tokens, head_dim], the sum of int8 values, block after block.

        weights: float32[tokens, n], the scale of the value in it; codes: float32[n, head_dim].
        """
        acc = np.zeros((len(weights), codes.shape[1]), np.float32)
        for begin in range(0, len(codes), _VALUE_BLOCK):
            block = slice(begin, begin + _VALUE_BLOCK)
            shares, units = arithmetic.integers(weights[:, block], _WEIGHT_MIN)
            sums = shares @ codes[block].astype(np.int64)
            acc = acc + sums.astype(np.float32) * units[:, None]
        return acc

    def _ffn_block(self, x: F32, layer: int) -> F32:
        """Returns what the feed-forward part adds to x: float32[tokens, hidden_size]."""
        codes, scale = self._quantize("gate_up", layer, self._norm(x, "post_attention_norm", layer))
        gate = self._bitlinear("gate", layer, codes, scale)
        up = self._bitlinear("up", layer, codes, scale)
        h = self._gate(gate, up)
        if self.spec.ffn_sub_norm:
            h = self._norm(h, "ffn_sub_norm", layer)
        return self._bitlinear("down", layer, *self._quantize("down", layer, h))

    def _head(self, f: F32) -> F32:
        """Returns logits: float32[tokens, vocab] for f: float32[tokens, hidden_size]."""
        table = self.weights.table("head")
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if isinstance(table, Int8Rows):
                blocks = [
                    arithmetic.int8_head(
                        table.codes[i : i + _HEAD_ROWS], table.scales[i : i + _HEAD_ROWS], f
                    )
                    for i in range(0, self.spec.vocab_size, _HEAD_ROWS)
                ]
                logits = np.concatenate(blocks, axis=-1)
            else:
                logits = arithmetic.dot16_pairs(f, table.values)
        bad = np.argwhere(~np.isfinite(logits))
        if len(bad):
            raise EvaluationError(
                "a logit is not finite", where=f"position {bad[0][0]}, token {bad[0][1]}"
            )
        return logits

    def _norm(self, x: F32, role: str, layer: int | None) -> F32:
        return arithmetic.rms_norm(x, self.weights.vector(role, layer), self._eps)

    def _quantize(self, site: str, layer: int, x: F32) -> tuple[I8, F32]:
        """Returns (codes: int8[tokens, n], scales: float32[tokens]) of x: float32[tokens, n]."""
        values, scale = arithmetic.quantize(x)
        codes = arithmetic.rne(values).astype(np.int8)
        if self.on_quantize is not None:
            replaced = self.on_quantize(site, layer, values, codes)
            codes = codes if replaced is None else replaced
        return codes, scale

    def _bitlinear(self, role: str, layer: int, codes: I8, scale: F32) -> F32:
        matrix = self.weights.matrix(role, layer)
        return arithmetic.ternary_matmul(matrix.weights, codes, np.float32(matrix.scale) / scale)

    def _check(self, ids: Sequence[int]) -> None:
        if len(ids) == 0:
            raise EvaluationError("there is no token to start from")
        if len(ids) > self.spec.context_max:
            raise EvaluationError(
                "the text is longer than the model's context",
                where=(f"{len(ids)} tokens", f"context {self.spec.context_max}"),
            )
        for position, token in enumerate(ids):
            if not 0 <= token < self.spec.vocab_size:
                raise EvaluationError(
                    f"token id outside the vocabulary: `{token}`",
                    where=(f"position {position}", f"vocabulary {self.spec.vocab_size}"),
                )
