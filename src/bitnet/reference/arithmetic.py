"""The building blocks of docs/numerics.md as elementwise NumPy operations, bit for bit.

NumPy runs every ufunc as one IEEE-754 operation per element, rounded to nearest even, subnormals
kept, never fused with the next (a test checks this host), so the order of operations written here
is the order that is computed. Rows and tokens are vectorised; a reduction never is: it walks its
sixteen lanes in steps and folds them with the fixed tree.

Vectors may come unpadded: the reductions pad with +0, which changes no bit, because a lane that
starts at +0 is never -0.

Source: docs/numerics.md, "Building blocks".
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from bitnet.limits import LANES, pad_lanes

__all__ = [
    "dot16",
    "dot16_pairs",
    "exp",
    "gate_relu2",
    "gate_silu",
    "int8_head",
    "integers",
    "kept_rows",
    "quantize",
    "quantize_split",
    "rms_norm",
    "rne",
    "rope",
    "sincos",
    "sum16",
    "ternary_matmul",
]

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

# Adding 1.5 * 2^23 (or 2^52) leaves no bit for a fraction: the addition itself rounds to an
# integer, ties to even.
_ROUND_F32: Final = np.float32(12582912.0)
_ROUND_F64: Final = np.float64(6755399441055744.0)

_EXP_COEFFICIENTS: Final = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
# Highest power first: S6 … S1 and C6 … C1.
_SIN_COEFFICIENTS: Final = (
    1.58969099521155010221e-10,
    -2.50507602534068634195e-08,
    2.75573137070700676789e-06,
    -1.98412698298579493134e-04,
    8.33333333332248946124e-03,
    -1.66666666666666324348e-01,
)
_COS_COEFFICIENTS: Final = (
    -1.13596475577881948265e-11,
    2.08757232129817482790e-09,
    -2.75573143513906633035e-07,
    2.48015872894767294178e-05,
    -1.38888888888741095749e-03,
    4.16666666666666019037e-02,
)

# Elements of one block of pairs: the block and its products stay in a core's second-level cache.
_PAIRS_BLOCK: Final = 1 << 17


def _padded(x: F32) -> F32:
    """Returns x: float32[..., n] with +0 appended to a multiple of 16 elements."""
    missing = pad_lanes(x.shape[-1]) - x.shape[-1]
    if missing == 0:
        return x
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])


def _fold(lanes: F32) -> F32:
    """Returns the tree sum over the first axis of lanes: float32[16, ...]."""
    for step in (8, 4, 2, 1):
        lanes = lanes[:step] + lanes[step : 2 * step]
    total: F32 = lanes[0]
    return total


def sum16(x: F32) -> F32:
    """Returns the sum over the last axis of x: float32[..., n] in sixteen lanes and the tree."""
    x = _padded(x)
    lanes = np.zeros((LANES, *x.shape[:-1]), np.float32)
    for begin in range(0, x.shape[-1], LANES):
        lanes = lanes + np.moveaxis(x[..., begin : begin + LANES], -1, 0)
    return _fold(lanes)


def dot16(x: F32, y: F32) -> F32:
    """Returns the dot products over the last axis of x, y: float32[..., n].

    Every product is rounded before it is added.
    """
    return sum16(x * y)


def dot16_pairs(x: F32, rows: F32) -> F32:
    """Returns float32[count, row_count] with dot16(x[i], rows[j]) at [i, j].

    The same operations on the same numbers, laid out so that NumPy's inner loop runs over rows.

    Args:
        x: float32[count, n].
        rows: float32[row_count, n].
    """
    out = np.empty((x.shape[0], rows.shape[0]), np.float32)
    steps = np.ascontiguousarray(_padded(x).T).reshape(-1, LANES, x.shape[0], 1)
    block_rows = max(1, _PAIRS_BLOCK // (LANES * max(1, x.shape[0])))
    for begin in range(0, rows.shape[0], block_rows):
        block = np.ascontiguousarray(_padded(rows[begin : begin + block_rows]).T)
        lanes = np.zeros((LANES, x.shape[0], block.shape[1]), np.float32)
        for step, weights in zip(steps, block.reshape(-1, LANES, 1, block.shape[1]), strict=True):
            lanes += step * weights
        out[:, begin : begin + block_rows] = _fold(lanes)
    return out


def rne(v: F32) -> I32:
    """Returns v: float32[...], |v| < 2^22, rounded to the nearest integer, ties to even."""
    integers: I32 = (v + _ROUND_F32).view(np.int32) - _ROUND_F32.view(np.int32)
    return integers


def exp(x: F32) -> F32:
    """Returns e^x for x: float32[...]: +0 below -86, e^88 from 88 on.

    Source: Cephes `expf`: ln 2 in two parts, a polynomial of degree 7, the exponent added to the
    bits.
    """
    bounded = np.minimum(np.maximum(x, np.float32(-86.0)), np.float32(88.0))
    n = (bounded * np.float32(1.44269502) + _ROUND_F32) - _ROUND_F32
    r = bounded - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    p: F32 = np.full_like(r, _EXP_COEFFICIENTS[0])
    for coefficient in _EXP_COEFFICIENTS[1:]:
        p = p * r + coefficient
    y = (p * (r * r) + r) + np.float32(1.0)
    scaled = (y.view(np.int32) + (n.astype(np.int32) << 23)).view(np.float32)
    positive = np.where(x < np.float32(-86.0), np.float32(0.0), scaled)
    return np.where(np.isnan(x), x, positive)


def sincos(angle: F32) -> tuple[F32, F32]:
    """Returns (sin, cos) of angle: float32[...], |angle| < 2^20.

    Computed in binary64 and rounded once.

    Source: fdlibm `__kernel_sin`, `__kernel_cos`; pi/2 in two parts, the first of 33 bits.
    """
    d = angle.astype(np.float64)
    k = (d * 0.63661977236758134 + _ROUND_F64) - _ROUND_F64
    r = d - k * 1.57079632673412561417
    r = r - k * 6.07710050650619224932e-11
    z = r * r
    s_poly = np.full_like(z, _SIN_COEFFICIENTS[0])
    for coefficient in _SIN_COEFFICIENTS[1:]:
        s_poly = s_poly * z + coefficient
    c_poly = np.full_like(z, _COS_COEFFICIENTS[0])
    for coefficient in _COS_COEFFICIENTS[1:]:
        c_poly = c_poly * z + coefficient
    s = r + (r * z) * s_poly
    c = (1.0 - 0.5 * z) + (z * z) * c_poly
    quadrant = k.astype(np.int64) & 3
    sine = np.choose(quadrant, (s, c, -s, -c))
    cosine = np.choose(quadrant, (c, -s, -c, s))
    return sine.astype(np.float32), cosine.astype(np.float32)


def rms_norm(x: F32, weight: F32, eps: np.float32) -> F32:
    """Returns (x * r) * weight with r = 1 / sqrt(mean(x^2) + eps).

    Args:
        x: float32[tokens, n].
        weight: float32[n].
        eps: Added to the mean.
    """
    mean = dot16(x, x) / np.float32(x.shape[-1])
    r = np.float32(1.0) / np.sqrt(mean + eps)
    y: F32 = (x * r[:, None]) * weight
    return y


def quantize(x: F32) -> tuple[F32, F32]:
    """Returns what the int8 codes of x: float32[tokens, n] are rounded from, and the scales.

    Returns:
        (float32[tokens, n] of x * scale, whose `rne` in -127..127 are the codes;
        float32[tokens] scales).
    """
    amax = np.maximum(np.abs(x).max(axis=-1), np.float32(1e-5))
    scale = np.float32(127.0) / amax
    return x * scale[:, None], scale


def kept_rows(x: F32, kind: str) -> tuple[F32, F32 | None]:
    """Returns what the KV cache gives back for rows x: float32[n, head_dim], and their scales.

    Args:
        x: Keys after RoPE, or values.
        kind: "f32", "f16" or "int8"; the scales, float32[n], are None unless it is int8.

    Source: docs/numerics.md, "The KV cache". NumPy's binary16 rounds to nearest even.
    """
    if kind == "f16":
        return x.astype(np.float16).astype(np.float32), None
    if kind == "int8":
        values, _ = quantize(x)
        amax = np.maximum(np.abs(x).max(axis=-1), np.float32(1e-5))
        return rne(values).astype(np.int8).astype(np.float32), amax / np.float32(127.0)
    return x, None


def integers(x: F32, least: float) -> tuple[I64, F32]:
    """Returns rows x: float32[..., n] as 15-bit integers, and what one of each row is worth.

    Attention over an int8 cache has queries and the weights of values so. The second is NaN where
    the row is not finite, whatever the integers are.

    Args:
        x: The rows.
        least: A largest magnitude below this is taken as this.

    Source: docs/numerics.md, "The KV cache", int8.
    """
    amax = np.maximum(np.abs(x).max(axis=-1), np.float32(least))
    finite = np.isfinite(amax)[..., None]
    codes = rne(np.where(finite, x, np.float32(0.0)) * (np.float32(16256.0) / amax)[..., None])
    return codes.astype(np.int64), ((amax - amax) + amax) / np.float32(16256.0)


def quantize_split(x: F32) -> tuple[I8, I8, F32]:
    """Returns 15-bit codes 128 * hi + lo of x: float32[tokens, n] as (hi, lo, amax / 16256).

    hi: int8[tokens, n] in -127..127; lo: int8[tokens, n] in -64..63; the third: float32[tokens].
    """
    amax = np.maximum(np.abs(x).max(axis=-1), np.float32(1e-5))
    scale = np.float32(16256.0) / amax
    q = rne(x * scale[:, None])
    hi = (q + 64) >> 7
    return hi.astype(np.int8), (q - 128 * hi).astype(np.int8), amax / np.float32(16256.0)


def ternary_matmul(weights: I8, codes: I8, multipliers: F32) -> F32:
    """Returns float32[tokens, rows] of float(weights @ codes) * multiplier.

    Args:
        weights: int8[rows, cols] of -1, 0, +1, cols <= COLS_MAX.
        codes: int8[tokens, cols] in -127..127.
        multipliers: float32[tokens].
    """
    # Every partial sum is an integer below 2^24 (bitnet.limits), so binary32 holds it exactly: any
    # order, fused or not, gives the integer sum.
    sums = codes.astype(np.float32) @ weights.astype(np.float32).T
    return sums * multipliers[:, None]


def int8_head(codes: I8, row_scales: F32, x: F32) -> F32:
    """Returns logits: float32[tokens, rows] of int8 rows.

    Args:
        codes: int8[rows, cols] in -127..127, cols <= HIDDEN_SIZE_MAX.
        row_scales: float32[rows].
        x: float32[tokens, cols], the hidden states.
    """
    hi, lo, scale = quantize_split(x)
    # Integers below 2^31, exact in binary64 in any order; the cast to binary32 is the one rounding
    # of float(int32).
    transposed = codes.astype(np.float64).T
    hi_sum = (hi.astype(np.float64) @ transposed).astype(np.float32)
    lo_sum = (lo.astype(np.float64) @ transposed).astype(np.float32)
    return (hi_sum * np.float32(128.0) + lo_sum) * (row_scales[None, :] * scale[:, None])


def rope(x: F32, sine: F32, cosine: F32) -> F32:
    """Returns x: float32[tokens, heads, head_dim] rotated.

    Args:
        x: Element i of a head's first half pairs with element i of its second half.
        sine: float32[tokens, head_dim / 2].
        cosine: float32[tokens, head_dim / 2].
    """
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    sn, cs = sine[:, None, :], cosine[:, None, :]
    return np.concatenate((first * cs - second * sn, second * cs + first * sn), axis=-1)


def gate_relu2(gate: F32, up: F32) -> F32:
    """Returns (t * t) * up with t = max(gate, +0), elementwise."""
    t = np.where(gate > 0, gate, np.float32(0.0))
    return (t * t) * up


def gate_silu(gate: F32, up: F32) -> F32:
    """Returns (gate / (1 + exp(-gate))) * up, elementwise."""
    return (gate / (np.float32(1.0) + exp(-gate))) * up
