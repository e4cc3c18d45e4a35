"""docs/numerics.md once more, one number at a time in plain Python.

A Python float is binary64. The sum, difference, product, quotient or root of two binary32 numbers
taken in binary64 and rounded once more to binary32 is the correctly rounded one, because
53 >= 2 * 24 + 2 (Figueroa, "When is double rounding innocuous?", 1995); so `f32(a op b)` is the
binary32 operation, and no operation can be fused with another.
"""

import math
import struct
from collections.abc import Sequence

from bitnet.checkpoint.spec import Int8Rows, Weights

Vector = list[float]
Row = tuple[Vector, float | None]


def f32(value: float) -> float:
    """Returns `value` rounded to binary32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def bits(value: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def from_bits(pattern: int) -> float:
    return float(struct.unpack("<f", struct.pack("<i", pattern))[0])


def padded(x: Vector) -> Vector:
    return x + [0.0] * (-len(x) % 16)


def sum16(x: Vector) -> float:
    x = padded(x)
    acc = [0.0] * 16
    for b in range(len(x) // 16):
        for lane in range(16):
            acc[lane] = f32(acc[lane] + x[16 * b + lane])
    for step in (8, 4, 2, 1):
        for lane in range(step):
            acc[lane] = f32(acc[lane] + acc[lane + step])
    return acc[0]


def dot16(x: Vector, y: Vector) -> float:
    return sum16([f32(a * b) for a, b in zip(padded(x), padded(y), strict=True)])


def rne(v: float) -> int:
    return bits(f32(v + 12582912.0)) - bits(12582912.0)


def exp(x: float) -> float:
    if x < -86:
        return 0.0
    x = min(x, 88.0)
    n = f32(f32(f32(x * f32(1.44269502)) + 12582912.0) - 12582912.0)
    r = f32(x - f32(n * 0.693359375))
    r = f32(r - f32(n * f32(-2.12194440e-4)))
    p = f32(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = f32(f32(p * r) + f32(c))
    y = f32(f32(f32(p * f32(r * r)) + r) + 1.0)
    return from_bits(bits(y) + (int(n) << 23))


def sincos(angle: float) -> tuple[float, float]:
    """Returns (sin, cos), rounded from the C library's binary64 functions.

    Their last bit only matters within 2^-29 ulp of a tie; the tests' angles have none there.
    """
    return f32(math.sin(angle)), f32(math.cos(angle))


def rms_norm(x: Vector, w: Vector, eps: float) -> Vector:
    mean = f32(dot16(x, x) / len(x))
    r = f32(1.0 / f32(math.sqrt(f32(mean + eps))))
    return [f32(f32(a * r) * b) for a, b in zip(x, w, strict=True)]


def quantize(x: Vector) -> tuple[list[int], float]:
    s = f32(127.0 / max(*(abs(a) for a in x), f32(1e-05)))
    return [rne(f32(a * s)) for a in x], s


def kept_row(x: Vector, kind: str) -> tuple[Vector, float | None]:
    """What a cache of that kind gives back for a row: its elements, and the scale of int8."""
    if kind == "f16":  # CPython rounds its own binary16, ties to even
        return [float(struct.unpack("<e", struct.pack("<e", a))[0]) for a in x], None
    if kind == "int8":
        codes, _ = quantize(x)
        return [float(code) for code in codes], f32(max(*(abs(a) for a in x), f32(1e-5)) / 127.0)
    return x, None


def integers(x: Vector, least: float) -> tuple[list[int], float]:
    """15-bit integers of a finite row, and what one of them is worth."""
    amax = max(*(abs(a) for a in x), f32(least))
    s = f32(16256.0 / amax)
    return [rne(f32(a * s)) for a in x], f32(amax / 16256.0)


def codes_dot(integer: Sequence[int], codes: Sequence[float]) -> float:
    return f32(float(sum(a * int(b) for a, b in zip(integer, codes, strict=True))))


def silu(g: float) -> float:
    return f32(g / f32(1.0 + exp(-g)))


def weigh_codes(e: Vector, rows: list[Row]) -> Vector:
    out = [0.0] * len(rows[0][0])
    scaled = [f32(a * scale) for a, (_, scale) in zip(e, rows, strict=True) if scale is not None]
    for begin in range(0, len(rows), 128):
        integer, unit = integers(scaled[begin : begin + 128], 1e-30)
        for i in range(len(out)):
            codes = [v[i] for v, _ in rows[begin : begin + 128]]
            out[i] = f32(out[i] + f32(codes_dot(integer, codes) * unit))
    return out


def weigh_floats(e: Vector, rows: list[Row]) -> Vector:
    out = [0.0] * len(rows[0][0])
    for weight, (v, _) in zip(e, rows, strict=True):
        out = [f32(acc + f32(weight * a)) for acc, a in zip(out, v, strict=True)]
    return out


class ScalarPass:
    """A model that is given one token after the other and keeps k and v of those before."""

    def __init__(self, weights: Weights, kv_cache: str = "f32") -> None:
        self.kv_cache = kv_cache
        self.weights = weights
        self.spec = weights.spec
        self.cache: dict[tuple[int, int], list[tuple[Row, Row]]] = {}
        self.position = 0

    def vector(self, role: str, layer: int | None) -> Vector:
        return [float(a) for a in self.weights.vector(role, layer)]

    def norm(self, x: Vector, role: str, layer: int | None) -> Vector:
        return rms_norm(x, self.vector(role, layer), f32(self.spec.norm_eps))

    def bitlinear(self, role: str, layer: int, codes: Sequence[int], s: float) -> Vector:
        matrix = self.weights.matrix(role, layer)
        sums = [
            sum(w * c for w, c in zip(row, codes, strict=True)) for row in matrix.weights.tolist()
        ]
        multiplier = f32(float(matrix.scale) / s)
        return [f32(f32(total) * multiplier) for total in sums]

    def heads(self, x: Vector) -> list[Vector]:
        size = self.spec.head_dim
        return [x[i : i + size] for i in range(0, len(x), size)]

    def rope(self, x: Vector) -> Vector:
        half = self.spec.head_dim // 2
        out = list(x)
        for i, frequency in enumerate(self.vector("rope_inv_freq", None)):
            sn, cs = sincos(f32(float(self.position) * frequency))
            out[i] = f32(f32(x[i] * cs) - f32(x[i + half] * sn))
            out[i + half] = f32(f32(x[i + half] * cs) + f32(x[i] * sn))
        return out

    def attend(self, q: Vector, seen: list[tuple[Row, Row]]) -> Vector:
        scale = f32(1.0 / math.sqrt(self.spec.head_dim))
        if self.kv_cache == "int8":
            integer, unit = integers(q, 1e-5)
            factor = f32(unit * scale)
            scores = [
                f32(f32(codes_dot(integer, k) * factor) * k_scale)
                for (k, k_scale), _ in seen
                if k_scale is not None
            ]
        else:
            scores = [f32(dot16(q, k) * scale) for (k, _), _ in seen]
        e = [exp(f32(score - max(scores))) for score in scores]
        share = f32(1.0 / sum16(e))
        weigh = weigh_codes if self.kv_cache == "int8" else weigh_floats
        return [f32(acc * share) for acc in weigh(e, [value for _, value in seen])]

    def attention(self, x: Vector, layer: int) -> Vector:
        spec = self.spec
        codes, s = quantize(self.norm(x, "input_norm", layer))
        q, k, v = (self.heads(self.bitlinear(role, layer, codes, s)) for role in ("q", "k", "v"))
        for j in range(spec.kv_head_count):
            rows = kept_row(self.rope(k[j]), self.kv_cache), kept_row(v[j], self.kv_cache)
            self.cache.setdefault((layer, j), []).append(rows)
        group = spec.head_count // spec.kv_head_count
        out: Vector = []
        for j in range(spec.head_count):
            out += self.attend(self.rope(q[j]), self.cache[layer, j // group])
        if spec.attn_sub_norm:
            out = self.norm(out, "attn_sub_norm", layer)
        return self.bitlinear("o", layer, *quantize(out))

    def ffn(self, x: Vector, layer: int) -> Vector:
        codes, s = quantize(self.norm(x, "post_attention_norm", layer))
        gate, up = (self.bitlinear(role, layer, codes, s) for role in ("gate", "up"))
        if self.spec.activation == "relu2":
            active = [f32(t * t) for t in (g if g > 0 else 0.0 for g in gate)]
        else:
            active = [silu(g) for g in gate]
        h = [f32(a * b) for a, b in zip(active, up, strict=True)]
        if self.spec.ffn_sub_norm:
            h = self.norm(h, "ffn_sub_norm", layer)
        return self.bitlinear("down", layer, *quantize(h))

    def embed(self, token: int) -> Vector:
        table = self.weights.table("embedding")
        if isinstance(table, Int8Rows):
            scale = float(table.scales[token])
            return [f32(code * scale) for code in table.codes[token].tolist()]
        return [float(a) for a in table.values[token]]

    def head(self, f: Vector) -> Vector:
        table = self.weights.table("head")
        if not isinstance(table, Int8Rows):
            return [dot16(row, f) for row in table.values.tolist()]
        amax = max(*(abs(a) for a in f), f32(1e-05))
        s = f32(16256.0 / amax)
        q = [rne(f32(a * s)) for a in f]
        hi = [(a + 64) >> 7 for a in q]
        lo = [a - 128 * b for a, b in zip(q, hi, strict=True)]
        logits = []
        for row, scale in zip(table.codes.tolist(), table.scales.tolist(), strict=True):
            high = f32(sum(a * b for a, b in zip(row, hi, strict=True)))
            low = f32(sum(a * b for a, b in zip(row, lo, strict=True)))
            factor = f32(scale * f32(amax / 16256.0))
            logits.append(f32(f32(f32(high * 128.0) + low) * factor))
        return logits

    def step(self, token: int) -> Vector:
        """Returns the logits after `token`."""
        x = self.embed(token)
        for layer in range(self.spec.layer_count):
            x = [f32(a + b) for a, b in zip(x, self.attention(x, layer), strict=True)]
            x = [f32(a + b) for a, b in zip(x, self.ffn(x, layer), strict=True)]
        self.position += 1
        return self.head(self.norm(x, "final_norm", None))
