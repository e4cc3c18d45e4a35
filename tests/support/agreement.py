"""Whether the reference agrees with transformers, and if not, whether a rounding tie is why.

Both implementations round x * s to int8 codes. Their x differ by rounding errors, so a value that
comes to lie next to a half-integer can get one code here and the next one there, and that moves
the logits by far more than rounding errors do. The check finds every such value, shows that it is
one, and shows that with the other code nothing else is left of the difference.

The bound. Let v be the exact value of x * s, given all codes before it (binary64, `exact_pass`),
and h the half-integer between the two codes. One implementation's value lies on each side of h, so

    |v - h| <= max(|ours - v|, |theirs - v|).

Either error is at most LAST_ROUNDINGS plus the error inherited from what the norm is given: x * r,
* w, the same two for the largest element, 127 / amax, and * s are six roundings of relative size
2^-24 of a value of at most 127, that is six times the spacing of binary32 at 127 (ULP = 2^-17).
(The error of r is common to a row and its largest element, and cancels.) Inherited errors grow
with depth and with the size of the attention scores; a worst-case bound of them is of no use
(hundreds of times what happens), so transformers' own error at that token is measured against
binary64 instead, and TIE_LIMIT caps it, so that nothing but a near-tie can pass:

    |v - h| <= LAST_ROUNDINGS * ULP + max over the token's row |theirs - v| <= TIE_LIMIT.

That the reference is no looser than this is asserted too: over every site of every layer its
largest error is at most LAST_ROUNDINGS * ULP + ERROR_RATIO * (transformers' largest error there);
largest errors sit in single ill-conditioned rows, hence the ratio. And there are no more such codes
than chance gives: a half-integer falls between two values that are d apart with probability d, so
the expected count is the sum of |ours - theirs|. Two things are no matter of chance. A model that
repeats a token repeats the tie, so an element of a site counts once, however many positions share
it. And where attention has one position to look at and no norm follows, x * s is 127 times a ratio
of two small integers, which can be a half-integer exactly (EXACT_TIE_ULPS); these are not counted.

Masters have ties of their own: W / mean|W| next to one half. The mean is a sum over the whole
matrix, and transformers takes it in an order of its own, so its last bits differ from the exact
mean that `bitnet.checkpoint` takes. `WithoutMasterTies` asserts that such a weight is a tie and
takes theirs.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from bitnet.checkpoint.spec import F32Rows, Int8Rows, ModelSpec, TernaryMatrix, Weights
from bitnet.reference import Reference
from tests.support.exact_pass import exact_pass
from tests.support.oracle import Oracle, OracleRun

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]

LOGIT_TOLERANCE = 1e-5
ULP = 2.0**-17
LAST_ROUNDINGS = 6
ERROR_RATIO = 4
EXACT_TIE_ULPS = 1e-6
TIE_LIMIT = 2.0**-9


@dataclasses.dataclass(frozen=True)
class Tie:
    """One activation: where it is, and how far its exact value is from the half-integer, in ULP."""

    site: str
    layer: int
    position: int
    index: int
    distance_ulps: float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How a run agreed.

    plain_error, error: largest |difference of logits| / largest |logit|, with the reference's own
    codes and after the ties got the other code; plain_tokens: whether the tokens agreed at once.
    """

    plain_error: float
    plain_tokens: bool
    error: float
    ties: list[Tie]
    site_error_ulps: float


class WithoutMasterTies:
    """`weights`, with transformers' ternary value where a master is a rounding tie.

    W * s and s = 1 / mean are rounded, and so is our mean: three relative errors of 2^-24; theirs
    are the same, plus what the order of their sum costs, which MEAN_ERROR bounds.
    """

    MEAN_ERROR = 2.0**-20

    def __init__(self, weights: Weights, oracle: Oracle) -> None:
        self._weights = weights
        self._oracle = oracle
        self._known: dict[tuple[str, int], TernaryMatrix] = {}
        self.replaced: set[tuple[str, int, int, int]] = set()

    @property
    def spec(self) -> ModelSpec:
        return self._weights.spec

    def vector(self, role: str, layer: int | None) -> F32:
        return self._weights.vector(role, layer)

    def table(self, role: str) -> F32Rows | Int8Rows:
        return self._weights.table(role)

    def matrix(self, role: str, layer: int) -> TernaryMatrix:
        if (role, layer) not in self._known:
            self._known[role, layer] = self._settled(role, layer)
        return self._known[role, layer]

    def _settled(self, role: str, layer: int) -> TernaryMatrix:
        matrix = self._weights.matrix(role, layer)
        theirs = self._oracle.masters(role, layer)
        if theirs is None:
            return matrix
        masters, ternary = theirs
        mean = np.abs(masters).mean(dtype=np.float64)
        for row, col in np.argwhere(matrix.weights != ternary).tolist():
            distance = abs(abs(float(masters[row, col])) / mean - 0.5) / 0.5
            assert distance <= 3 * 2.0**-24 + self.MEAN_ERROR, (role, layer, row, col, distance)
            self.replaced.add((role, layer, row, col))
        return TernaryMatrix(ternary, matrix.scale)


def check_agreement(weights: Weights, run: OracleRun) -> Agreement:
    """Asserts that the reference on `weights` gives the logits and tokens of `run`, ties apart."""
    plain = Reference(weights).logits(run.ids)
    plain_error, plain_tokens = _logit_error(plain, run), _answer(plain, run) == run.answer
    if plain_error <= LOGIT_TOLERANCE and plain_tokens:
        return Agreement(plain_error, plain_tokens, plain_error, [], 0.0)
    watch = _Watch(weights, run)
    logits = Reference(weights, watch.see).logits(run.ids)
    assert watch.ties, f"logits differ by {plain_error} of the largest, and no code does"
    by_chance = [tie for tie in watch.ties if tie.distance_ulps > EXACT_TIE_ULPS]
    distinct = {(tie.site, tie.layer, tie.index) for tie in by_chance}
    limit = watch.expected + 6 * math.sqrt(watch.expected) + 3
    assert len(distinct) <= limit, (watch.expected, watch.ties)
    error = _logit_error(logits, run)
    assert error <= LOGIT_TOLERANCE, (error, watch.ties)
    assert _answer(logits, run) == run.answer
    return Agreement(plain_error, plain_tokens, error, watch.ties, watch.error_ulps)


def _logit_error(logits: F32, run: OracleRun) -> float:
    return float(np.abs(logits - run.logits).max() / np.abs(run.logits).max())


def _answer(logits: F32, run: OracleRun) -> list[int]:
    """Returns the token of largest logit at every position that answers.

    Each is given the tokens before, so equality at all of them is equality of the greedy answers.
    """
    answer: list[int] = logits.argmax(axis=-1)[run.prompt_length - 1 :].tolist()
    return answer


class _Watch:
    """Compares the codes of every site with those of `run`, in order, and puts theirs in place."""

    def __init__(self, weights: Weights, run: OracleRun) -> None:
        self.run = run
        self.exact = exact_pass(weights, run.ids, run.codes)[1]
        self.ties: list[Tie] = []
        self.expected = 0.0
        self.error_ulps = 0.0

    def see(self, site: str, layer: int, values: F32, codes: I8) -> I8:
        exact, theirs = self.exact[site, layer], self.run.codes[site, layer]
        our_error = np.abs(values - exact)
        their_error = np.abs(self.run.values[site, layer] - exact)
        assert our_error.max() <= LAST_ROUNDINGS * ULP + ERROR_RATIO * their_error.max(), (
            site,
            layer,
        )
        self.error_ulps = max(self.error_ulps, float(our_error.max()) / ULP)
        self.expected += float(np.abs(values - self.run.values[site, layer]).sum())
        for position, index in np.argwhere(codes != theirs).tolist():
            pair = int(codes[position, index]), int(theirs[position, index])
            assert abs(pair[0] - pair[1]) == 1, (site, layer, position, index, pair)
            distance = abs(float(exact[position, index]) - sum(pair) / 2)
            bound = LAST_ROUNDINGS * ULP + float(their_error[position].max())
            assert distance <= bound <= TIE_LIMIT, (site, layer, position, index, distance, bound)
            self.ties.append(Tie(site, layer, position, index, distance / ULP))
        return theirs
