"""The forward pass: bit by bit against the scalar transcription, and the contract's properties."""

import dataclasses
import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet.checkpoint.spec import F32Rows, Int8Rows, TernaryMatrix
from bitnet.errors import EvaluationError
from bitnet.reference import Reference, forward
from tests.support.exact_pass import exact_pass
from tests.support.scalar_pass import ScalarPass
from tests.support.tiny_models import MemoryWeights, TinyModel, tiny_models

F32 = npt.NDArray[np.float32]
KINDS = st.sampled_from(("f32", "int8"))
CACHES = st.sampled_from(("f32", "f16", "int8"))

MODEL = TinyModel(
    architecture="bitnet",
    packing="autobitlinear",
    activation="relu2",
    tied=True,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=10,
    hidden=40,
    intermediate=52,
    vocab=60,
    seed=3,
)


def _ids(model: TinyModel, count: int) -> list[int]:
    ids: list[int] = np.random.default_rng(model.seed).integers(0, model.vocab, count).tolist()
    return ids


def _same_bits(a: F32, b: F32) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=25, derandomize=True, database=None)
@given(tiny_models(), KINDS, KINDS, CACHES, st.integers(1, 5))
def test_logits_of_random_models_equal_the_scalar_transcription_bit_by_bit(
    model: TinyModel, embedding: str, head: str, cache: Literal["f32", "f16", "int8"], count: int
) -> None:
    """The vectorised pass over a prompt is the documented pass of one token after another."""
    model = dataclasses.replace(model, layers=min(model.layers, 2))
    weights = MemoryWeights(model, embedding, head)
    ids = _ids(model, count)
    scalar = ScalarPass(weights, cache)
    expected = np.array([scalar.step(token) for token in ids], np.float32)
    assert _same_bits(Reference(weights, kv_cache=cache).logits(ids), expected)


@settings(max_examples=40, derandomize=True, database=None)
@given(tiny_models(), KINDS, st.integers(2, 40), st.data())
def test_logits_of_a_prefix_are_the_same_bits(
    model: TinyModel, kind: str, count: int, data: st.DataObject
) -> None:
    """A position depends on nothing after it, nor on how many tokens were computed together."""
    reference = Reference(MemoryWeights(model, kind, kind))
    ids = _ids(model, count)
    length = data.draw(st.integers(1, count - 1))
    whole = reference.logits(ids)
    assert _same_bits(reference.logits(ids[:length]), whole[:length])
    other_end = [*ids[:length], *reversed(ids[length:])]
    assert _same_bits(reference.logits(other_end)[:length], whole[:length])


@settings(max_examples=40, derandomize=True, database=None)
@given(tiny_models(), st.integers(2, 30), st.randoms())
def test_values_before_attention_follow_their_tokens_when_tokens_are_permuted(
    model: TinyModel, count: int, random: object
) -> None:
    """What the first norm gives depends on the token alone, not on its row or its neighbours."""
    ids = _ids(model, count)
    order = list(range(count))
    random.shuffle(order)  # type: ignore[attr-defined]
    seen: list[F32] = []

    def keep(site: str, layer: int, values: F32, codes: npt.NDArray[np.int8]) -> None:
        if (site, layer) == ("qkv", 0):
            seen.append(values.copy())

    reference = Reference(MemoryWeights(model), keep)
    reference.logits(ids)
    reference.logits([ids[i] for i in order])
    assert _same_bits(seen[1], seen[0][order])


@settings(max_examples=40, derandomize=True, database=None)
@given(tiny_models(), st.integers(0, 10), st.integers(1, 30))
def test_repeated_token_gives_repeated_values_and_one_distribution(
    model: TinyModel, token: int, count: int
) -> None:
    """Where all values are equal, attention has one answer at all positions, up to its rounding."""
    logits = Reference(MemoryWeights(model)).logits([token] * count)
    # The tolerance is one code: shares that do not add up to exactly 1 may move a value over a tie.
    assert np.abs(logits - logits[0]).max() <= 0.05 * np.abs(logits).max()


@settings(max_examples=40, derandomize=True, database=None)
@given(tiny_models(), KINDS, st.integers(1, 40))
def test_logits_of_random_models_agree_with_binary64_for_the_same_codes(
    model: TinyModel, kind: str, count: int
) -> None:
    """An error in any float step would be far above rounding; int8 heads add their known step."""
    codes: dict[tuple[str, int], npt.NDArray[np.int8]] = {}

    def keep(site: str, layer: int, values: F32, given_codes: npt.NDArray[np.int8]) -> None:
        codes[site, layer] = given_codes

    weights = MemoryWeights(model, kind, kind)
    ids = _ids(model, count)
    logits = Reference(weights, keep).logits(ids)
    exact, _ = exact_pass(weights, ids, codes)
    tolerance = 1e-6 if kind == "f32" else 1e-3
    assert np.abs(logits - exact).max() <= tolerance * np.abs(exact).max()


def test_int8_head_in_row_blocks_equals_the_head_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary larger than one block must not lose or repeat rows."""
    reference = Reference(MemoryWeights(MODEL, "int8"))
    whole = reference.logits(_ids(MODEL, 5))
    monkeypatch.setattr(forward, "_HEAD_ROWS", 7)
    assert _same_bits(reference.logits(_ids(MODEL, 5)), whole)


def test_tap_sees_every_site_in_order_with_the_codes_of_its_values() -> None:
    """Tests that find rounding ties rest on this."""
    seen: list[tuple[str, int]] = []

    def keep(site: str, layer: int, values: F32, codes: npt.NDArray[np.int8]) -> None:
        seen.append((site, layer))
        width = {"down": MODEL.intermediate}.get(site, MODEL.hidden)
        assert values.shape == codes.shape == (3, width)
        assert np.array_equal(np.rint(values), codes)
        assert (np.abs(codes).max(axis=-1) == 127).all()

    Reference(MemoryWeights(MODEL), keep).logits([1, 2, 3])
    assert seen == [(s, layer) for layer in range(2) for s in ("qkv", "o", "gate_up", "down")]


def test_tap_that_returns_other_codes_changes_that_site_alone_and_what_follows() -> None:
    """A replaced code of the last token cannot reach the tokens before it."""

    def replace(
        site: str, layer: int, values: F32, codes: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.int8] | None:
        if (site, layer) != ("o", 1):
            return None
        codes = codes.copy()
        codes[-1, 0] -= 100 * np.sign(codes[-1, 0], dtype=np.int8)
        return codes

    plain = Reference(MemoryWeights(MODEL)).logits([1, 2, 3])
    changed = Reference(MemoryWeights(MODEL), replace).logits([1, 2, 3])
    assert _same_bits(plain[:2], changed[:2])
    assert not np.array_equal(plain[2], changed[2])


def test_greedy_answers_with_the_first_largest_logit_and_stops_before_a_stop_token() -> None:
    """One token after the other; the stop token is no part of the answer."""
    reference = Reference(MemoryWeights(MODEL))
    answer = reference.greedy([1, 2, 3], 12)
    assert len(answer) == 12
    logits = reference.logits([1, 2, 3, *answer])
    assert logits.argmax(axis=-1)[2:-1].tolist() == answer
    stop = answer[5]
    assert reference.greedy([1, 2, 3], 12, stop=(stop,)) == answer[: answer.index(stop)]
    assert reference.greedy([1, 2, 3], 0) == []


def test_greedy_with_equal_logits_takes_the_smallest_id() -> None:
    """All rows of the head are equal: id 0, as docs/numerics.md says."""

    class Flat(MemoryWeights):
        def table(self, role: str) -> F32Rows | Int8Rows:
            return F32Rows(np.ones((MODEL.vocab, MODEL.hidden), np.float32))

    assert Reference(Flat(MODEL)).greedy([5], 2) == [0, 0]


def test_perplexity_is_exp_of_the_mean_negative_log_probability() -> None:
    """Against the definition, written with math.fsum."""
    reference = Reference(MemoryWeights(MODEL))
    ids = _ids(MODEL, 20)
    logits = reference.logits(ids).astype(np.float64).tolist()
    losses = []
    for row, following in zip(logits[:-1], ids[1:], strict=True):
        losses.append(math.log(math.fsum(math.exp(v) for v in row)) - row[following])
    expected = math.exp(math.fsum(losses) / len(losses))
    assert reference.perplexity(ids) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("ids", "message", "where"),
    [
        ([], "there is no token to start from", ()),
        ([1, 60], "token id outside the vocabulary: `60`", ("position 1", "vocabulary 60")),
        ([-1], "token id outside the vocabulary: `-1`", ("position 0", "vocabulary 60")),
        (
            [0] * 97,
            "the text is longer than the model's context",
            ("97 tokens", "context 96"),
        ),
    ],
)
def test_logits_of_unusable_ids_are_refused(
    ids: list[int], message: str, where: tuple[str, ...]
) -> None:
    """Named errors, no IndexError and no silent wrap-around of negative ids."""
    with pytest.raises(EvaluationError) as caught:
        Reference(MemoryWeights(MODEL)).logits(ids)
    assert (caught.value.message, caught.value.where) == (message, where)


def test_greedy_beyond_the_context_is_refused() -> None:
    """The answer does not slide or wrap."""
    with pytest.raises(EvaluationError, match="longer than the model's context"):
        Reference(MemoryWeights(dataclasses.replace(MODEL, context=8))).greedy([1] * 5, 10)


def test_perplexity_of_one_token_is_refused() -> None:
    """There is nothing to predict."""
    with pytest.raises(EvaluationError, match="at least two tokens"):
        Reference(MemoryWeights(MODEL)).perplexity([1])


@pytest.mark.parametrize("kind", ["f32", "int8"])
@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_logits_that_are_not_finite_are_refused(kind: str, value: float) -> None:
    """An overflow anywhere before the head ends in an error, never in an answer."""

    class Huge(MemoryWeights):
        def vector(self, role: str, layer: int | None) -> F32:
            vector = super().vector(role, layer).copy()
            if role == "final_norm":
                vector[:] = value
            return vector

    with pytest.raises(EvaluationError, match="a logit is not finite"):
        Reference(Huge(MODEL, kind)).logits([1, 2])


@pytest.mark.parametrize("kind", ["f32", "int8"])
@pytest.mark.parametrize("role", ["q", "v", "o", "gate", "down"])
def test_logits_after_an_overflow_in_the_first_layer_are_refused(kind: str, role: str) -> None:
    """What became infinite or NaN is not lost again in a later quantiser, norm or head."""

    class Huge(MemoryWeights):
        def matrix(self, of: str, layer: int) -> TernaryMatrix:
            matrix = super().matrix(of, layer)
            if (of, layer) == (role, 0):
                return TernaryMatrix(matrix.weights, np.float32(3e38))
            return matrix

    with pytest.raises(EvaluationError, match="a logit is not finite"):
        Reference(Huge(MODEL, kind)).logits([1, 2])
