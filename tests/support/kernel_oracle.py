"""The operations of docs/numerics.md in NumPy, transcribed from that page for the kernels' tests.

Independent of `bitnet.reference` and of the C++: the weights are packed here, one element after the
other, straight from docs/formats/model.md, and the integer sums are made from the unpacked matrix.
Every float array is float32 and every operation on it one elementwise NumPy operation.
"""

from typing import Any, Final

import numpy as np

__all__ = [
    "attention",
    "attention_f16",
    "attention_int8",
    "dot16",
    "exp_float32",
    "exp_sum",
    "int8_high",
    "int8_low",
    "key_blocks",
    "pack_int8",
    "pack_ternary",
    "quantize_int8",
    "quantize_split",
    "relu2_gate",
    "rms_norm",
    "rope",
    "silu_gate",
    "sincos",
    "store_f16",
    "store_int8",
    "ternary_matmul",
]

Array = np.ndarray[Any, Any]
F: Final = np.float32
MAGIC: Final = F(12582912.0)


def pack_ternary(weights: Array) -> Array:
    """Packs `weights: int[rows, cols]`, multiples of 16, as kind 1 of docs/formats/model.md."""
    rows, cols = weights.shape
    packed = np.zeros(rows * cols // 4, np.uint8)
    for row in range(rows):
        for col in range(cols):
            tile, r = divmod(row, 16)
            k, inside = divmod(col, 16)
            p, b = divmod(inside, 4)
            block = tile * (cols // 16) + k
            packed[64 * block + 4 * r + b] |= (int(weights[row, col]) + 1) << (2 * p)
    return packed


def pack_int8(codes: Array) -> tuple[Array, Array]:
    """Packs `codes: int[rows, cols]`, both multiples of 16, as the two planes of kind 3."""
    rows, cols = codes.shape
    blocks = -(-cols // 128)
    planes = np.zeros(rows * cols // 2, np.uint8), np.zeros(rows * blocks * 64, np.uint8)
    for row in range(rows):
        for col in range(cols):
            tile, r = divmod(row, 16)
            high, low = divmod(int(codes[row, col]) + 128, 16)
            k, inside = divmod(col, 8)
            upper, b = divmod(inside, 4)
            planes[0][64 * (tile * (cols // 8) + k) + 4 * r + b] |= high << (4 * upper)
            k, inside = divmod(col, 128)
            upper, j = divmod(inside, 64)
            planes[1][64 * (row * blocks + k) + j] |= low << (4 * upper)
    return planes


def ternary_matmul(weights: Array, codes: Array, multipliers: Array) -> Array:
    """Returns float32[tokens, rows]."""
    sums = codes.astype(np.int64) @ weights.astype(np.int64).T
    return sums.astype(F) * multipliers[:, None]


def int8_high(weights: Array, hi: Array, lo: Array) -> tuple[Array, Array]:
    """Returns int32[rows] twice: 16 times the upper four bits of the stored codes, times hi, lo."""
    return _plane_sums((weights.astype(np.int64) + 128) // 16 * 16, hi, lo)


def int8_low(weights: Array, hi: Array, lo: Array) -> tuple[Array, Array]:
    """Returns int32[rows] twice: the lower four bits of the stored codes times hi, times lo."""
    return _plane_sums((weights.astype(np.int64) + 128) % 16, hi, lo)


def _plane_sums(plane: Array, hi: Array, lo: Array) -> tuple[Array, Array]:
    hi_sums, lo_sums = (plane @ part.astype(np.int64) for part in (hi, lo))
    return hi_sums.astype(np.int32), lo_sums.astype(np.int32)


def _tree(lanes: Array) -> Any:
    for step in (8, 4, 2, 1):
        lanes = lanes[:step] + lanes[step : 2 * step]
    return lanes[0]


def dot16(x: Array, y: Array) -> Any:
    """dot16 of docs/numerics.md."""
    lanes = np.zeros(16, F)
    for a, b in zip(x.reshape(-1, 16), y.reshape(-1, 16), strict=True):
        lanes = lanes + a * b
    return _tree(lanes)


def sum16(x: Array) -> Any:
    """sum16 of docs/numerics.md."""
    lanes = np.zeros(16, F)
    for a in x.reshape(-1, 16):
        lanes = lanes + a
    return _tree(lanes)


def rms_norm(x: Array, w: Array, n: int, eps: float) -> Array:
    """Step 2.1."""
    mean = dot16(x, x) / F(n)
    r = F(1.0) / np.sqrt(mean + F(eps))
    return (x * r) * w


def _rne(v: Array) -> Array:
    bits = (v + MAGIC).astype(F).view(np.int32).astype(np.int64)
    return bits - int(MAGIC.view(np.int32))


def quantize_int8(x: Array) -> tuple[Array, int, Any]:
    """Step 2.2: codes, their sum, s."""
    s = F(127.0) / max(np.abs(x).max(), F(1e-5))
    codes = _rne(x * s)
    assert np.abs(codes).max() <= 127
    return codes.astype(np.int8), int(codes.sum()), s


def quantize_split(x: Array) -> tuple[Array, Array, int, int, Any]:
    """Step 4: hi, lo, their sums, amax / 16256."""
    amax = max(np.abs(x).max(), F(1e-5))
    q = _rne(x * (F(16256.0) / amax))
    hi = (q + 64) >> 7
    lo = q - 128 * hi
    assert np.abs(hi).max() <= 127
    assert lo.min() >= -64
    assert lo.max() <= 63
    return (
        hi.astype(np.int8),
        lo.astype(np.int8),
        int(hi.sum()),
        int(lo.sum()),
        amax / F(16256.0),
    )


def exp_float32(x: Array) -> Array:
    """exp of docs/numerics.md."""
    below = x < F(-86.0)
    x = np.minimum(np.where(below, F(0.0), x), F(88.0))
    t = x * F(1.44269502) + MAGIC
    n = t - MAGIC
    r = x - n * F(0.693359375)
    r = r - n * F(-2.12194440e-4)
    p = np.full_like(x, F(1.9875691500e-4))
    for c in (
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    ):
        p = p * r + F(c)
    y = (p * (r * r) + r) + F(1.0)
    bits = y.view(np.int32).astype(np.int64) + (n.astype(np.int64) << 23)
    return np.where(below, F(0.0), bits.astype(np.int32).view(F))


def relu2_gate(gate: Array, up: Array) -> Array:
    """Step 2.9, relu2."""
    t = np.where(gate > 0, gate, F(0.0))
    return (t * t) * up


def silu_gate(gate: Array, up: Array) -> Array:
    """Step 2.9, silu."""
    return (gate / (F(1.0) + exp_float32(-gate))) * up


_S: Final = (
    1.58969099521155010221e-10,
    -2.50507602534068634195e-08,
    2.75573137070700676789e-06,
    -1.98412698298579493134e-04,
    8.33333333332248946124e-03,
    -1.66666666666666324348e-01,
)
_C: Final = (
    -1.13596475577881948265e-11,
    2.08757232129817482790e-09,
    -2.75573143513906633035e-07,
    2.48015872894767294178e-05,
    -1.38888888888741095749e-03,
    4.16666666666666019037e-02,
)


def sincos(angle: Array) -> tuple[Array, Array]:
    """sincos of docs/numerics.md, in binary64 until the end."""
    d = angle.astype(np.float64)
    k = (d * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0
    r = d - k * 1.57079632673412561417
    r = r - k * 6.07710050650619224932e-11
    z = r * r
    ps = np.full_like(z, _S[0])
    pc = np.full_like(z, _C[0])
    for s_next, c_next in zip(_S[1:], _C[1:], strict=True):
        ps = ps * z + s_next
        pc = pc * z + c_next
    s = r + (r * z) * ps
    c = (1.0 - 0.5 * z) + (z * z) * pc
    quadrant = k.astype(np.int64) & 3
    sin = np.choose(quadrant, [s, c, -s, -c])
    cos = np.choose(quadrant, [c, -s, -c, s])
    return sin.astype(F), cos.astype(F)


def rope(x: Array, sin: Array, cos: Array) -> Array:
    """Step 2.4 for one head, padded to a multiple of 16."""
    half = len(x) // 2
    first, second = x[:half], x[half:]
    out = np.zeros((len(x) + 15) // 16 * 16, F)
    out[:half] = first * cos - second * sin
    out[half : 2 * half] = second * cos + first * sin
    return out


def exp_sum(x: Array, largest: Any, n: int) -> tuple[Array, Any]:
    """The exponentials of the first n elements, +0 after them, and their sum16."""
    e = np.zeros(len(x), F)
    e[:n] = exp_float32(x[:n] - F(largest))
    return e, sum16(e)


def attention(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Step 2.5 for one head: the weights e, and the output."""
    scores = np.array([dot16(q, row) for row in k], F) * F(scale)
    padded = np.zeros((len(scores) + 15) // 16 * 16, F)
    padded[: len(scores)] = scores
    e, z = exp_sum(padded, scores.max(), len(scores))
    acc = np.zeros(len(q), F)
    for weight, row in zip(e, v, strict=False):
        acc = acc + weight * row
    return e[: len(k)], acc * (F(1.0) / z)


def store_f16(x: Array) -> Array:
    """A cache row in binary16, by NumPy's own conversion."""
    return x.astype(np.float16)


def store_int8(x: Array) -> tuple[Array, Any]:
    """A cache row as codes, and its scale."""
    amax = max(np.abs(x).max(), F(1e-5))
    codes = _rne(x * (F(127.0) / amax))
    assert np.abs(codes).max() <= 127
    return codes.astype(np.int8), amax / F(127.0)


def attention_f16(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Step 2.5 over a cache in binary16."""
    return attention(q, k.astype(F), v.astype(F), scale)


def integers(x: Array, least: float) -> tuple[Array, Any]:
    """15-bit integers of a row as int64, and what one of them is worth."""
    amax = max(np.abs(x).max(), F(least))
    codes = _rne(x * (F(16256.0) / amax))
    assert np.abs(codes).max() <= 16256
    return codes.astype(np.int64), amax / F(16256.0)


def attention_int8(
    q: Array, k: tuple[Array, Array], v: tuple[Array, Array], scale: float
) -> tuple[Array, Array]:
    """Step 2.5 over a cache in int8: (codes: int8[n, dim], scales: float32[n]) each.

    Returns the weights e[t], and the output.
    """
    query, unit = integers(q, 1e-5)
    sums = (k[0].astype(np.int64) @ query).astype(F)
    scores = sums * (unit * F(scale)) * k[1]
    count = len(scores)
    padded = np.zeros((count + 15) // 16 * 16, F)
    padded[:count] = scores
    e, z = exp_sum(padded, scores.max(), count)
    acc = np.zeros(len(q), F)
    for begin in range(0, count, 128):
        block = slice(begin, min(begin + 128, count))
        weights, worth = integers(e[block] * v[1][block], 1e-30)
        acc = acc + (weights @ v[0][block].astype(np.int64)).astype(F) * worth
    return e[:count], acc * (F(1.0) / z)


def _blocks(rows: Array, size: int, spare: Any) -> Array:
    """Rows [n, dim] as [ceil(n / size)][size][dim], `spare` after the last."""
    count, dim = rows.shape
    padded = np.full(((count + size - 1) // size * size, dim), spare, rows.dtype)
    padded[:count] = rows
    return padded.reshape(-1, size, dim)


def key_blocks(k: Array, spare: Any) -> Array:
    """Keys [n, dim] as a cache of floats keeps them: [ceil(n / 16)][16 lanes][dim / 16][16]."""
    blocks = _blocks(k, 16, spare)
    return np.ascontiguousarray(blocks.reshape(len(blocks), 16, -1, 16).transpose(0, 3, 2, 1))


def value_blocks(v: Array, spare: Any) -> Array:
    """Values [n, dim] as a cache of floats keeps them: [ceil(n / 32)][dim / 16][32][16]."""
    blocks = _blocks(v, 32, spare)
    return np.ascontiguousarray(blocks.reshape(len(blocks), 32, -1, 16).swapaxes(1, 2))


def key_codes(k: Array, spare: Any) -> Array:
    """Keys [n, dim] as an int8 cache keeps them: [ceil(n / 16)][dim / 4][16][4]."""
    blocks = _blocks(k, 16, spare)
    return np.ascontiguousarray(blocks.reshape(len(blocks), 16, -1, 4).swapaxes(1, 2))


def value_codes(v: Array, spare: Any) -> Array:
    """Values [n, dim] as an int8 cache keeps them: [ceil(n / 128)][dim / 16][32][16][4]."""
    blocks = _blocks(v, 128, spare)
    parts = blocks.reshape(len(blocks), 32, 4, -1, 16)
    return np.ascontiguousarray(parts.transpose(0, 3, 1, 4, 2))
