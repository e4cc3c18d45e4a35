"""Cases of every kernel with the outputs that the NumPy transcription expects."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tests.support import kernel_oracle as oracle
from tests.support.kernel_driver import Case

__all__ = ["golden_cases"]

Array = np.ndarray[Any, Any]
F: Final = np.float32


def floats(rng: np.random.Generator, count: int, kind: int) -> Array:
    """Float32 values of one kind: plain, wide exponents, zeros and subnormals, large, int8 ties."""
    unit = rng.uniform(-1, 1, count)
    values = {
        0: unit,
        1: unit * np.exp2(rng.integers(-40, 12, count)),
        2: np.where(rng.random(count) < 0.3, -0.0, unit * 1e-39),
        3: unit * 1e16,
        4: rng.integers(-254, 255, count) * 0.5,
    }[kind].astype(F)
    if kind == 4:
        values[rng.integers(count)] = 127.0
    return values


def pad(n: int) -> int:
    """The next multiple of 16."""
    return (n + 15) // 16 * 16


def padded(values: Array, n: int) -> Array:
    """`values` with +0 at and after n."""
    out = np.zeros(pad(n), F)
    out[:n] = values[:n]
    return out


def prefilled(count: int) -> Array:
    """What the driver puts in an output before the call."""
    return np.frombuffer(b"\xa5" * (4 * count), F).copy()


def tokens(
    rng: np.random.Generator, count: int, cols: int, stride: int, low: int, high: int
) -> Array:
    """int8[count, stride]; what lies after the columns is not zero: kernels must not read it."""
    codes = rng.integers(low, high + 1, (count, stride), np.int8)
    codes[:, cols - rng.integers(0, 16) : cols] = 0
    return codes


def flat(codes: Array, cols: int) -> Array:
    """The tokens as one buffer that ends with the last column of the last token."""
    return codes.reshape(-1)[: (len(codes) - 1) * codes.shape[1] + cols]


def sums(codes: Array, cols: int) -> Array:
    """int32[tokens], as the quantiser hands them over."""
    return codes[:, :cols].sum(axis=1, dtype=np.int32)


def matmul_output(values: Array, first_row: int, y_stride: int) -> Array:
    """`values: float32[tokens, rows]` from row `first_row` on, in a strided pre-filled output."""
    count, rows = values.shape
    out = prefilled((count - 1) * y_stride + first_row + rows)
    for token, row in enumerate(values):
        begin = token * y_stride + first_row
        out[begin : begin + rows] = row
    return out


MATMUL_SHAPES = [  # cols, tile_begin, tile_end, tokens, stride, y_stride
    (16, 0, 1, 1, 64, 16),
    (48, 1, 2, 2, 64, 32),
    (272, 0, 2, 3, 320, 37),
    (64, 1, 4, 5, 128, 64),
    (528, 0, 1, 8, 576, 24),
    (32, 2, 3, 9, 64, 48),
    (1040, 0, 1, 64, 1088, 16),
]


def ternary_cases(rng: np.random.Generator) -> list[Case]:
    """Every shape with random weights, and one with the largest sums."""
    cases = []
    for index, (cols, begin, end, count, stride, y_stride) in enumerate(MATMUL_SHAPES):
        weights = rng.integers(-1, 2, (end * 16, cols))
        codes = tokens(rng, count, cols, stride, -127, 127)
        if index == 4:
            weights[:] = 1
            codes[:] = 127
        multipliers = rng.uniform(1e-5, 1e-1, count).astype(F)
        y = oracle.ternary_matmul(weights[begin * 16 :], codes[:, :cols], multipliers)
        inputs = [
            oracle.pack_ternary(weights),
            flat(codes, cols),
            sums(codes, cols),
            multipliers,
        ]
        size = [cols, begin, end, count, stride, y_stride]
        expected = [matmul_output(y, begin * 16, y_stride)]
        cases.append(Case("ternary_matmul", size, inputs, expected=expected))
    return cases


def int8_cases(rng: np.random.Generator) -> list[Case]:
    """Every shape with random weights, and one with the largest sums."""
    cases = []
    for index, (cols, begin, end, *_) in enumerate(MATMUL_SHAPES):
        weights = rng.integers(-127, 128, (end * 16, cols))
        hi = rng.integers(-127, 128, cols, np.int8)
        lo = rng.integers(-64, 64, cols, np.int8)
        if index == 4:
            weights[:] = -127
            hi[:] = 127
        first = begin * 16
        parts = [np.pad(part, (0, -cols % 128)) for part in (hi, lo)]
        high, low = oracle.pack_int8(weights)
        high_sums = [each[first:] for each in oracle.int8_high(weights, hi, lo)]
        cases.append(Case("int8_high", [cols, begin, end], [high, *parts], expected=high_sums))
        # Some rows, some blocks of their columns, in another order than they stand.
        rows = rng.permutation(end * 16 - first)[: rng.integers(1, end * 16 - first + 1)]
        blocks = -(-cols // 128)
        block = int(rng.integers(blocks))
        some = slice(128 * block, cols)
        added = oracle.int8_low(weights[first:][rows, some], hi[some], lo[some])
        expected = [each.copy() for each in high_sums]
        for each, addend in zip(expected, added, strict=True):
            each[rows] += addend
        step = 3 if (blocks - block) % 3 else 1
        inputs = [low, *parts, rows.astype(np.uint32), *high_sums]
        size = [cols, begin, end, block, blocks, step]
        cases.append(Case("int8_low", size, inputs, expected=expected))
    return cases


def f32_cases(rng: np.random.Generator) -> list[Case]:
    """Row ranges that are no multiple of anything."""
    cases = []
    for cols, begin, end, kind in [(16, 0, 1, 0), (272, 3, 14, 1), (48, 5, 5, 0), (64, 0, 9, 3)]:
        weights = floats(rng, end * cols, kind).reshape(end, cols)
        x = floats(rng, cols, kind)
        y = prefilled(end)
        y[begin:] = [oracle.dot16(row, x) for row in weights[begin:]]
        cases.append(Case("f32_matmul", [cols, begin, end], [weights, x], expected=[y]))
    return cases


def vector_cases(rng: np.random.Generator) -> list[Case]:
    """Norm, quantisers, gates and sum, for lengths around the lanes and every kind of value."""
    cases = []
    for n, kind in [
        (1, 0),
        (15, 1),
        (16, 2),
        (17, 3),
        (100, 4),
        (2560, 0),
        (2561, 1),
        (64, 2),
    ]:
        x, y = padded(floats(rng, pad(n), kind), n), padded(floats(rng, pad(n), 0), n)
        length = len(x)
        norm = oracle.rms_norm(x, y, n, 1e-5)
        for in_place in (0, 1):
            cases.append(Case("rms_norm", [n, length, in_place], [x, y], 1e-5, [norm]))
            for name, gate in (
                ("relu2_gate", oracle.relu2_gate),
                ("silu_gate", oracle.silu_gate),
            ):
                cases.append(Case(name, [length, in_place], [x, y], expected=[gate(x, y)]))
        cases.append(Case("add_in_place", [length], [x, y], expected=[x + y]))
        codes, total, s = oracle.quantize_int8(x)
        scalars = np.array([np.int32(total).view(F), s], F)
        cases.append(Case("quantize_int8", [length], [x], expected=[codes, scalars]))
        hi, lo, hi_sum, lo_sum, scale = oracle.quantize_split(x)
        scalars = np.array([np.int32(hi_sum).view(F), np.int32(lo_sum).view(F), scale], F)
        cases.append(Case("quantize_split", [length], [x], expected=[hi, lo, scalars]))
    return cases


def rope_cases(rng: np.random.Generator) -> list[Case]:
    """Heads and angle tables of odd lengths; positions up to the longest context."""
    cases = []
    for half, position in [
        (1, 0),
        (5, 1),
        (16, 3),
        (50, 1000),
        (64, 4095),
        (128, (1 << 20) - 1),
    ]:
        inv_freq = (10000.0 ** (-np.arange(half) / half)).astype(F)
        inv_freq[0] = np.nextafter(F(1), F(0))
        padded = np.pad(inv_freq, (0, -half % 16))
        angles = oracle.sincos(F(position) * padded)
        cases.append(Case("rope_angles", [position, len(padded)], [padded], expected=list(angles)))
        sin, cos = (part[:half] for part in angles)
        x = floats(rng, 2 * half, half % 4)
        cases.append(Case("rope", [2 * half], [x, sin, cos], expected=[oracle.rope(x, sin, cos)]))
    return cases


SCALE: Final = 0.088388346
ATTENTION_SHAPES = [  # head_count, token_count, position_count, dim, kind of floats
    (1, 1, 1, 16, 0),
    (1, 1, 2, 48, 1),
    (4, 1, 16, 64, 0),
    (2, 3, 15, 80, 2),
    (5, 3, 31, 32, 0),
    (4, 4, 133, 128, 0),
    (3, 1, 37, 144, 3),
    (8, 2, 16, 16, 1),
    (16, 1, 49, 96, 0),
    (1, 16, 1, 32, 0),
    (7, 2, 32, 48, 0),
    (2, 2, 128, 32, 0),
    (4, 3, 255, 64, 1),
    (1, 2, 700, 128, 2),
]

Attend = Callable[[Array, Any, Any, float], tuple[Array, Array]]


def attention_case(
    name: str, shape: tuple[int, int, int, int], q: Array, kept: list[Any], attend: Attend
) -> Case:
    """A call for `q: float32[tokens, stride]` with the outputs of `attend`, row by row.

    `kept` is keys and values, each float32 or float16 [n, dim], or a pair (codes, scales).
    """
    heads, tokens, count, dim = shape
    last = count + tokens - 1
    score_stride = pad(last) + 16
    scores = prefilled(heads * tokens * score_stride).reshape(-1, score_stride)
    scores[:, : pad(last)] = 0
    out = np.zeros((heads * tokens, dim), F)
    for row in range(heads * tokens):
        token, head = divmod(row, heads)
        n = count + token
        k, v = (
            [each[:n] for each in part] if isinstance(part, tuple) else part[:n] for part in kept
        )
        query = q[token, head * dim : (head + 1) * dim]
        scores[row, :n], out[row] = attend(query, k, v, SCALE)
    inputs = [q.reshape(-1)[: (tokens - 1) * q.shape[1] + heads * dim]]
    if isinstance(kept[0], tuple):
        for (codes, scales), arrange in zip(
            kept, (oracle.key_codes, oracle.value_codes), strict=True
        ):
            row_scales = np.full(pad(last), np.nan, F)
            row_scales[:last] = scales
            inputs += [arrange(codes, -128), row_scales]
    else:
        inputs += [oracle.key_blocks(kept[0], np.nan), oracle.value_blocks(kept[1], np.nan)]
    size = [count, dim, heads, tokens, q.shape[1], score_stride]
    return Case(name, size, inputs, SCALE, [scores, out])


def attention_cases(rng: np.random.Generator) -> list[Case]:
    """Groups and blocks of tokens of many sizes, positions around the blocks of keys."""
    cases = []
    for heads, tokens, count, dim, kind in ATTENTION_SHAPES:
        n = count + tokens - 1
        shape = heads, tokens, count, dim
        stride = (heads + tokens % 3) * dim
        q = floats(rng, tokens * stride, kind).reshape(tokens, stride)
        k, v = (floats(rng, dim * n, kind).reshape(n, dim) for _ in range(2))
        cases.append(attention_case("attention", shape, q, [k, v], oracle.attention))
        if kind == 3:
            continue  # too large for binary16
        halves = [oracle.store_f16(part) for part in (k, v)]
        cases.append(attention_case("attention_f16", shape, q, halves, oracle.attention_f16))
        rows = []
        for part in (k, v):
            stored = [oracle.store_int8(row) for row in part]
            codes = np.stack([each for each, _ in stored])
            rows.append((codes, np.array([each for _, each in stored], F)))
        cases.append(attention_case("attention_int8", shape, q, rows, oracle.attention_int8))
    return cases


def exp_sum_cases(rng: np.random.Generator) -> list[Case]:
    """Lengths around the lanes; what follows the last element is not a number."""
    cases = []
    for n in (1, 16, 33, 1000):
        x = (floats(rng, pad(n), 0) * F(120)).astype(F)
        x[n:] = np.nan
        e, total = oracle.exp_sum(x, x[:n].max(), n)
        for in_place in (0, 1):
            size = [n, len(x), in_place]
            cases.append(Case("exp_sum", size, [x], float(x[:n].max()), [e, np.array([total], F)]))
    return cases


def cache_cases(rng: np.random.Generator) -> list[Case]:
    """Rows as the cache stores them."""
    cases = []
    for n, kind in [(16, 0), (48, 1), (128, 2), (64, 3), (80, 4), (2560, 0)]:
        x = floats(rng, n, kind)
        cases.append(Case("store_f16", [n], [x], expected=[oracle.store_f16(x)]))
        codes, row_scale = oracle.store_int8(x)
        expected = [codes, np.array([row_scale], F)]
        cases.append(Case("store_int8", [n], [x], expected=expected))
    return cases


_MAKERS: Final[list[Callable[[np.random.Generator], list[Case]]]] = [
    ternary_cases,
    int8_cases,
    f32_cases,
    vector_cases,
    rope_cases,
    attention_cases,
    exp_sum_cases,
    cache_cases,
]


def golden_cases(rng: np.random.Generator) -> list[Case]:
    """Returns cases of every operation, each with its expected outputs."""
    with np.errstate(under="ignore", over="ignore"):
        return [case for maker in _MAKERS for case in maker(rng)]
