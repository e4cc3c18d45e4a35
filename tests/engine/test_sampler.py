"""Choosing a token: the engine against docs/numerics.md in NumPy, Philox, and transformers."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process

from tests.support.engine import Failure, available_isas, choose, example_count

F32 = npt.NDArray[np.float32]
torch.set_num_threads(1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the choice depends on besides the logits."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    index: int = 0
    seen: tuple[int, ...] = ()


def numpy_uniform(seed: int, index: int) -> float:
    """The draw from numpy's generator, which counts its counter up before each block."""
    before = (index - 1) % 2**256
    counter = np.array([before >> 64 * i & (2**64 - 1) for i in range(4)], np.uint64)
    generator = np.random.Philox(key=np.array([seed, 0], np.uint64), counter=counter)
    return (int(generator.random_raw()) >> 11) * 2.0**-53


# The first draws of the first seeds: they leave no gap of 0.05.
UNIFORMS = [numpy_uniform(seed, 0) for seed in range(300)]


def numpy_exp(x: F32) -> F32:
    """exp as the page defines it, operation by operation."""
    f = np.float32
    magic = f(12582912.0)
    bounded = np.minimum(x, f(88))
    t = bounded * np.uint32(0x3FB8AA3B).view(f) + magic
    n = t - magic
    r = bounded - n * f(0.693359375)
    r = r - n * f(-2.12194440e-4)
    p = np.full_like(r, f(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + f(c)
    y = (p * (r * r) + r) + f(1)
    shifted = (y.view(np.int32) + (n.astype(np.int32) << 23)).view(f)
    return np.where(x < f(-86), f(0), shifted)


def numpy_kept(weights: F32, given: Settings) -> tuple[list[int], list[float]]:
    """The kept tokens, heaviest first, and their running sums."""
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    in_order = 0 < given.top_k < len(weights)
    left = order[: given.top_k] if in_order else order
    total = 0.0
    for i in left if in_order else range(len(weights)):
        total = total + float(weights[i])
    wanted = total * float(np.float32(given.top_p))
    sums: list[float] = []
    running = 0.0
    for i in left:
        if sums and running >= wanted:
            break
        running = running + float(weights[i])
        sums.append(running)
    return left[: len(sums)], sums


def penalised(logits: F32, given: Settings) -> F32:
    """Step 1 of the page."""
    out = logits.copy()
    penalty = np.float32(given.repetition_penalty)
    if penalty != 1:
        for token in set(given.seen):
            with np.errstate(over="ignore", under="ignore"):
                changed = out[token] / penalty if out[token] > 0 else out[token] * penalty
            out[token] = changed
    return out


def numpy_weights(logits: F32, given: Settings) -> F32:
    """Steps 1 and 3 of the page."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = penalised(logits, given) / np.float32(given.temperature)
        return numpy_exp(np.maximum(scaled - scaled.max(), np.float32(-200)))


def numpy_choice(logits: F32, given: Settings) -> int:
    """The whole page."""
    if given.temperature == 0:
        return int(np.argmax(penalised(logits, given)))
    kept, sums = numpy_kept(numpy_weights(logits, given), given)
    target = numpy_uniform(given.seed, given.index) * sums[-1]
    return next(
        (token for token, running in zip(kept, sums, strict=True) if running > target), kept[-1]
    )


def engine_choice(logits: F32, given: Settings, isa: str = "ref") -> int | Failure:
    return choose(logits, isa=isa, **dataclasses.asdict(given))


@st.composite
def rows_of_logits(draw: st.DrawFn, size_max: int = 5000, ties: bool = True) -> F32:
    """Logits of ordinary and of extreme spread, many or none of them equal."""
    size = draw(st.integers(1, 40) | st.integers(1, size_max))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([1e-30, 0.01, 1.0, 4.0, 30.0, 1e4, 1e30]))
    row = (spread * rng.standard_normal(size)).astype(np.float32)
    if ties and draw(st.booleans()):
        row = np.float32(spread) * np.round(row / np.float32(spread) * 2) / np.float32(2)
    for value in draw(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=3)
    ):
        row[rng.integers(size)] = value
    if ties and draw(st.booleans()):
        row[rng.integers(size)] = row.max()
    return row.astype(np.float32)


def settings_for(size: int, temperatures: st.SearchStrategy[float]) -> st.SearchStrategy[Settings]:
    return st.builds(
        Settings,
        temperature=temperatures,
        top_k=st.just(0) | st.integers(1, 8) | st.integers(1, 2 * size) | st.just(size),
        top_p=st.just(1.0) | st.floats(2**-24, 1, width=32) | st.just(0.5),
        repetition_penalty=st.just(1.0) | st.floats(0.125, 10, width=32),
        seed=st.integers(0, 2**64 - 1),
        index=st.integers(0, 2**32),
        seen=st.lists(st.integers(0, size - 1), max_size=9).map(tuple),
    )


TEMPERATURES = st.just(0.0) | st.just(1.0) | st.floats(0.0625, 100, width=32)


@settings(max_examples=example_count(500))
@given(st.data())
def test_choice_any_settings_equals_the_page(data: st.DataObject) -> None:
    """If this fails, a seed gives another answer than docs/numerics.md says, or per processor."""
    row = data.draw(rows_of_logits())
    given = data.draw(settings_for(len(row), TEMPERATURES))
    with np.errstate(over="ignore"):
        scaled = penalised(row, given) / np.float32(given.temperature or 1)
    chosen = {isa: engine_choice(row, given, isa) for isa in available_isas()}
    if given.temperature and not np.isfinite(scaled.max()):
        best = int(np.argmax(scaled))
        assert set(chosen.values()) == {Failure("kNotFinite", "logit", best, 0, 0)}
        return
    assert set(chosen.values()) == {numpy_choice(row, given)}


@settings(max_examples=example_count(250))
@given(st.data())
def test_choice_kept_set_is_that_of_transformers(data: st.DataObject) -> None:
    """If this fails, top_k, top_p, temperature or the penalty mean something of their own."""
    size = data.draw(st.integers(3, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    row = (3 * rng.standard_normal(size)).astype(np.float32)
    given = Settings(
        temperature=data.draw(st.floats(0.25, 4, width=32)),
        top_k=data.draw(st.integers(1, size)),
        top_p=data.draw(st.floats(0.0625, 0.96875, width=32)),
        repetition_penalty=data.draw(st.floats(0.5, 3, width=32)),
        seen=tuple(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6))),
    )
    ids = torch.tensor([given.seen])
    scores = torch.tensor(row[None])
    scores = logits_process.RepetitionPenaltyLogitsProcessor(given.repetition_penalty)(ids, scores)
    scores = logits_process.TemperatureLogitsWarper(given.temperature)(ids, scores)
    scores = logits_process.TopKLogitsWarper(given.top_k)(ids, scores)
    probabilities = torch.softmax(scores[0].double(), dim=-1).numpy()
    running = np.cumsum(np.sort(probabilities)[::-1])
    if np.abs(running - given.top_p).min() < 1e-5:
        return  # on the edge, where binary32 and binary64 may part
    scores = logits_process.TopPLogitsWarper(given.top_p)(ids, scores)
    expected = set(np.flatnonzero(np.isfinite(scores[0].numpy())).tolist())
    kept, sums = numpy_kept(numpy_weights(row, given), given)
    assert set(kept) == expected
    # The engine draws exactly these: a seed for each, by the independent generator.
    found = set()
    for seed, uniform in enumerate(UNIFORMS):
        place = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
        if kept[min(place, len(kept) - 1)] not in found:
            found.add(engine_choice(row, dataclasses.replace(given, seed=seed)))
    assert found <= expected
    heavy = {token for token in expected if probabilities[token] > 0.05}
    assert heavy <= found


@pytest.mark.parametrize(
    ("seed", "index"),
    [(0, 0), (0, 1), (1, 0), (2**64 - 1, 0), (42, 2**32), (42, 2**64 - 1), (2**63, 7)],
)
def test_draw_any_seed_and_index_is_that_of_numpy(seed: int, index: int) -> None:
    """If this fails, the generator is not the published one with the documented counter."""
    # 4096 equal weights: the chosen token is floor(u * 4096), so twelve bits of u show.
    chosen = engine_choice(np.zeros(4096, np.float32), Settings(seed=seed, index=index))
    assert chosen == int(numpy_uniform(seed, index) * 4096)


def test_draw_many_indices_follows_the_softmax() -> None:
    """If this fails, tokens are drawn with other odds than the model gives."""
    row = np.log(np.array([1, 2, 3, 4, 5, 6, 7, 8], np.float64)).astype(np.float32)
    counts = np.zeros(8)
    draws = 20_000
    for index in range(draws):
        chosen = engine_choice(row, Settings(seed=20_250_101, index=index))
        assert isinstance(chosen, int)
        counts[chosen] += 1
    expected = draws * np.arange(1, 9) / 36
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 24.3, counts  # seven degrees of freedom, p = 0.001


def test_draw_seeds_and_indices_do_not_repeat() -> None:
    """If this fails, two seeds or two places of an answer share their draws."""
    row = np.zeros(4096, np.float32)
    by_seed = [engine_choice(row, Settings(seed=seed)) for seed in range(200)]
    by_index = [engine_choice(row, Settings(index=index)) for index in range(200)]
    assert len(set(by_seed)) > 180
    assert len(set(by_index)) > 180
    assert by_seed[1:] != by_index[1:]


def test_greedy_equal_logits_takes_the_smallest_id() -> None:
    """If this fails, equal logits are resolved by the order of computation."""
    row = np.array([-1, 2, 2, 0, 2], np.float32)
    assert engine_choice(row, Settings(temperature=0)) == 1
    zeros = np.array([-0.0, 0.0, -0.0], np.float32)
    assert engine_choice(zeros, Settings(temperature=0)) == 0


@pytest.mark.parametrize(
    ("size", "top_k", "top_p"), [(1, 0, 1.0), (1, 1, 0.5), (17, 1, 1.0), (17, 0, 1e-8)]
)
def test_choice_single_candidate_is_the_largest(size: int, top_k: int, top_p: float) -> None:
    """If this fails, the narrowest setting still leaves chance in the answer."""
    row = np.arange(size, dtype=np.float32)[::-1].copy()
    for seed in range(20):
        given = Settings(seed=seed, top_k=top_k, top_p=top_p)
        assert engine_choice(row, given) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("place", [0, 7, 18])
def test_choice_logit_not_finite_is_refused(value: float, temperature: float, place: int) -> None:
    """If this fails, a broken model answers with whatever token its NaN happens to select."""
    row = np.zeros(19, np.float32)
    row[place] = value
    for isa in available_isas():
        failure = engine_choice(row, Settings(temperature=temperature), isa)
        assert failure == Failure("kNotFinite", "logit", place, 0, 0)


def test_choice_overflow_of_the_temperature_is_refused() -> None:
    """If this fails, dividing by a tiny temperature turns the weights into NaN."""
    row = np.array([0, 3e38, 1], np.float32)
    failure = engine_choice(row, Settings(temperature=1e-6))
    assert failure == Failure("kNotFinite", "logit", 1, 0, 0)
