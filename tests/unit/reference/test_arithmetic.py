"""The building blocks against binary64, exact fractions, and a scalar transcription."""

import decimal
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitnet.reference import arithmetic
from tests.support import scalar_pass

F32 = npt.NDArray[np.float32]

FINITE = st.floats(-1e4, 1e4, width=32)
VECTORS = arrays.arrays(np.float32, st.integers(1, 70), elements=FINITE)


def _ulps(got: F32, exact: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the distance in units of the last place of binary32 at the exact value."""
    return np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(np.float32))


def _bits(x: F32 | np.float32 | float) -> list[int]:
    return np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).ravel().tolist()


@given(VECTORS)
def test_sum16_of_any_length_equals_the_scalar_transcription(x: F32) -> None:
    """A change in the order of the sixteen lanes or the tree would show."""
    assert _bits(arithmetic.sum16(x)) == _bits(scalar_pass.sum16(x.tolist()))


@given(st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_dot16_of_any_length_equals_the_scalar_transcription(n: int, seed: int) -> None:
    """A fused product, or another order of summation, would show."""
    x, y = np.random.default_rng(seed).standard_normal((2, n)).astype(np.float32)
    assert _bits(arithmetic.dot16(x, y)) == _bits(scalar_pass.dot16(x.tolist(), y.tolist()))


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_dot16_pairs_of_any_shape_equals_dot16_of_each_pair(
    n: int, count: int, rows: int, seed: int
) -> None:
    """The layout for speed must not change a bit."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, n)).astype(np.float32)
    y = rng.standard_normal((rows, n)).astype(np.float32)
    assert _bits(arithmetic.dot16_pairs(x, y)) == _bits(arithmetic.dot16(x[:, None], y[None, :]))


def test_dot16_pairs_over_several_blocks_equals_dot16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of rows larger than one block must not lose or repeat rows."""
    monkeypatch.setattr(arithmetic, "_PAIRS_BLOCK", 16 * 3 * 4)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 20)).astype(np.float32)
    y = rng.standard_normal((11, 20)).astype(np.float32)
    assert _bits(arithmetic.dot16_pairs(x, y)) == _bits(arithmetic.dot16(x[:, None], y[None, :]))


def test_sum16_where_order_matters_is_not_the_exact_sum() -> None:
    """The lanes are really kept apart: 2^24 swallows a one of its own lane and of no other."""
    x = np.zeros(32, np.float32)
    x[0], x[16], x[1] = 2.0**24, 1.0, 1.0
    assert arithmetic.sum16(x) == 2.0**24
    x[1], x[17] = 1.0, 1.0
    assert arithmetic.sum16(x) == 2.0**24 + 2


def test_rne_at_every_tie_and_neighbour_equals_rint() -> None:
    """Ties go to even, over the whole range that activation codes can need, and beyond."""
    ties = (np.arange(-16300, 16300) + 0.5).astype(np.float32)
    values = np.concatenate(
        (ties, np.nextafter(ties, np.float32(1e9)), np.nextafter(ties, np.float32(-1e9)))
    )
    assert np.array_equal(arithmetic.rne(values), np.rint(values).astype(np.int32))


@given(arrays.arrays(np.float32, 50, elements=st.floats(-(2**22) + 1, 2**22 - 1, width=32)))
def test_rne_of_any_value_in_range_equals_rint(values: F32) -> None:
    """The magic constant works up to its documented limit."""
    assert np.array_equal(arithmetic.rne(values), np.rint(values).astype(np.int32))


def _exp_arguments() -> F32:
    rng = np.random.default_rng(0)
    return np.concatenate(
        (
            np.linspace(-86, 88, 400_001, dtype=np.float32),
            rng.uniform(-1, 1, 200_000).astype(np.float32),
            rng.uniform(-1e-3, 1e-3, 50_000).astype(np.float32),
            np.array([0.0, -0.0, 1e-38, -1e-38, 1e-45, 88.0, -86.0], np.float32),
        )
    )


def test_exp_over_its_range_is_within_its_ulp_bound() -> None:
    """A wrong coefficient or reduction constant costs thousands of ulps."""
    x = _exp_arguments()
    exact = np.exp(x.astype(np.float64))
    assert _ulps(arithmetic.exp(x), exact).max() <= 1.0


def test_exp_oracle_itself_agrees_with_decimal() -> None:
    """numpy's binary64 exp, the yardstick above, is right to far below a binary32 ulp."""
    with decimal.localcontext(prec=40):
        for x in np.random.default_rng(3).uniform(-86, 88, 200):
            exact = decimal.Decimal(float(x)).exp()
            assert abs(decimal.Decimal(float(np.exp(x))) / exact - 1) < decimal.Decimal(2) ** -50


def test_exp_outside_its_range_is_zero_below_and_capped_above() -> None:
    """A masked or hopeless score weighs exactly +0, and nothing becomes infinite."""
    low = np.array([-86.00001, -100, -1e30, -np.inf], np.float32)
    assert _bits(arithmetic.exp(low)) == [0, 0, 0, 0]
    high = np.array([88.5, 1e30, np.inf], np.float32)
    assert np.array_equal(
        arithmetic.exp(high), np.repeat(arithmetic.exp(np.array([88], np.float32)), 3)
    )


@given(arrays.arrays(np.float32, 20, elements=st.floats(-120, 120, width=32)))
def test_exp_of_any_value_equals_the_scalar_transcription(x: F32) -> None:
    """Every rounding stands where the page says."""
    assert _bits(arithmetic.exp(x)) == [_bits(scalar_pass.exp(v))[0] for v in x.tolist()]


def _angles() -> F32:
    rng = np.random.default_rng(0)
    multiples = np.arange(1, 200_000) * (np.pi / 2)
    return np.concatenate(
        (
            np.float32(multiples[multiples < 2**20]),
            rng.uniform(-(2**20), 2**20, 300_000).astype(np.float32),
            rng.uniform(-8, 8, 300_000).astype(np.float32),
            np.array([0.0, -0.0, 1e-45, 1e-20, 2**20 - 1], np.float32),
        )
    )


def test_sincos_over_its_range_is_correctly_rounded_but_for_rare_near_ties() -> None:
    """Every quadrant, also next to multiples of pi/2 where the reduction cancels most."""
    angles = _angles()
    sine, cosine = arithmetic.sincos(angles)
    wide = angles.astype(np.float64)
    for got, exact in ((sine, np.sin(wide)), (cosine, np.cos(wide))):
        # Half an ulp is the rounding; the rest is the binary64 error seen from binary32.
        assert _ulps(got, exact).max() <= 0.5 + 2.0**-20
        assert np.mean(got != exact.astype(np.float32)) < 1e-5


def test_sincos_next_to_multiples_of_a_quarter_turn_agrees_with_exact_reduction() -> None:
    """The two-part pi/2 keeps its precision where nearly all digits cancel; against 60 digits."""
    pi = Fraction("3.14159265358979323846264338327950288419716939937510582097494")
    worst = Fraction(0)
    for k in (1, 2, 3, 101, 5000, 333333, 667542):
        angle = np.array([k * np.pi / 2], np.float32)
        residue = Fraction(float(angle[0])) - k * pi / 2
        sine, cosine = arithmetic.sincos(angle)
        small = float(cosine[0]) if k % 2 else float(sine[0])
        sign = {0: 1, 1: -1, 2: -1, 3: 1}[k % 4]
        exact = sign * (residue - residue**3 / 6 + residue**5 / 120)
        worst = max(worst, abs(Fraction(small) / exact - 1))
    assert worst <= Fraction(1, 2**24) * (1 + Fraction(1, 2**10))


def test_rms_norm_of_random_rows_equals_the_scalar_transcription() -> None:
    """Padded width enters the sum, unpadded width the mean."""
    rng = np.random.default_rng(5)
    for n in (1, 15, 16, 17, 40, 100):
        x = rng.standard_normal((3, n)).astype(np.float32)
        w = rng.standard_normal(n).astype(np.float32)
        got = arithmetic.rms_norm(x, w, np.float32(1e-5))
        rows = [scalar_pass.rms_norm(r, w.tolist(), scalar_pass.f32(1e-5)) for r in x.tolist()]
        assert _bits(got) == _bits(np.array(rows, np.float32))


def _codes(x: F32) -> tuple[npt.NDArray[np.int32], F32]:
    values, scale = arithmetic.quantize(x)
    return arithmetic.rne(values), scale


@given(arrays.arrays(np.float32, (2, 33), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_quantize_of_any_row_equals_the_scalar_transcription_and_stays_in_range(x: F32) -> None:
    """Codes are the documented roundings and fit -127..127 whatever the row holds."""
    codes, scale = _codes(x)
    for row, got, s in zip(x.tolist(), codes.tolist(), scale.tolist(), strict=True):
        assert (got, s) == scalar_pass.quantize(row)
    assert np.abs(codes).max() <= 127


def test_quantize_of_a_zero_row_uses_the_smallest_maximum() -> None:
    """A row of zeros has codes 0 and a finite scale."""
    codes, scale = _codes(np.zeros((1, 16), np.float32))
    assert not codes.any()
    assert scale[0] == np.float32(127) / np.float32(1e-5)


@given(arrays.arrays(np.float32, (2, 33), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_quantize_split_of_any_row_restores_the_value_within_half_a_step(x: F32) -> None:
    """hi and lo stay in their ranges and together hold 15 bits."""
    hi, lo, scale = arithmetic.quantize_split(x)
    assert hi.min() >= -127
    assert lo.min() >= -64
    assert lo.max() <= 63
    restored = (128.0 * hi + lo.astype(np.float64)) * scale.astype(np.float64)[:, None]
    step = scale.astype(np.float64)[:, None]
    # Half a step of rounding, and two binary32 roundings of a value of up to 16256 steps.
    assert (np.abs(restored - x) <= step * (0.5 + 16256 * 2.0**-22)).all()


def test_int8_head_of_random_rows_is_within_its_quantisation_error_of_the_exact_product() -> None:
    """The head's bound: half a step of the split input per element, and a few roundings."""
    rng = np.random.default_rng(8)
    codes = rng.integers(-127, 128, (50, 96)).astype(np.int8)
    scales = rng.uniform(0, 0.02, 50).astype(np.float32)
    x = rng.standard_normal((4, 96)).astype(np.float32)
    rows = codes.astype(np.float64) * scales.astype(np.float64)[:, None]
    exact = x.astype(np.float64) @ rows.T
    step = np.abs(x).max(axis=-1, keepdims=True).astype(np.float64) / 16256
    bound = 0.5 * step * np.abs(rows).sum(axis=-1)
    slack = 2.0**-21 * (np.abs(x.astype(np.float64)) @ np.abs(rows).T)
    assert (np.abs(arithmetic.int8_head(codes, scales, x) - exact) <= bound + slack).all()


def test_ternary_matmul_at_its_widest_is_the_integer_sum() -> None:
    """The largest sums that the limits allow come out exactly, through the float matrix product."""
    cols = 131072
    weights = np.ones((2, cols), np.int8)
    weights[1, ::2] = -1
    codes = np.full((1, cols), 127, np.int8)
    codes[0, 7] = 126
    got = arithmetic.ternary_matmul(weights, codes, np.ones(1, np.float32))
    assert got.tolist() == [[127.0 * cols - 1, -1.0]]


def test_rope_of_a_head_turns_pairs_by_the_angle_and_keeps_their_length() -> None:
    """Element i pairs with element i + head_dim / 2 and turns counter-clockwise."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 2, 10)).astype(np.float32)
    angles = rng.uniform(0, 50, (3, 5)).astype(np.float32)
    got = arithmetic.rope(x, *arithmetic.sincos(angles))
    pairs = x[..., :5].astype(np.complex128) + 1j * x[..., 5:]
    turned = pairs * np.exp(1j * angles.astype(np.float64))[:, None, :]
    assert np.abs(got[..., :5] - turned.real).max() < 1e-6
    assert np.abs(got[..., 5:] - turned.imag).max() < 1e-6


@settings(max_examples=30)
@given(arrays.arrays(np.float32, 20, elements=st.floats(-200, 200, width=32)))
def test_gates_of_any_value_equal_their_definitions(g: F32) -> None:
    """relu2 is zero at and below zero; silu is right to a few ulps, as far as e^-g goes."""
    up = np.full_like(g, 3.0)
    relu = arithmetic.gate_relu2(g, up)
    assert np.array_equal(relu, np.where(g > 0, (g * g) * up, np.float32(0)))
    wide = g.astype(np.float64)
    exact = 3.0 * wide / (1 + np.exp(-wide))
    assert (np.abs(arithmetic.gate_silu(g, up) - exact) <= 4e-7 * np.abs(exact) + 1e-35).all()
