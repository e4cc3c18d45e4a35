"""The forward pass in binary64 for given activation codes: what both implementations round.

Once the int8 codes are fixed, what is left of a forward pass is smooth, so binary64 gives it to
some 1e-13. The distance of a binary32 implementation from it is its own rounding error.
Written from the published definition, with none of the code under test.
"""

import numpy as np
import numpy.typing as npt

from bitnet.checkpoint.spec import Int8Rows, Weights

__all__ = ["exact_pass"]

F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]


def _table(weights: Weights, role: str) -> F64:
    table = weights.table(role)
    if isinstance(table, Int8Rows):
        return table.codes.astype(np.float64) * table.scales.astype(np.float64)[:, None]
    return table.values.astype(np.float64)


class _ExactPass:
    def __init__(self, weights: Weights, codes: dict[tuple[str, int], I8]) -> None:
        self.weights = weights
        self.codes = codes
        self.values: dict[tuple[str, int], F64] = {}

    def norm(self, x: F64, role: str, layer: int | None) -> F64:
        weight = self.weights.vector(role, layer).astype(np.float64)
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean + self.weights.spec.norm_eps) * weight

    def linears(self, site: str, layer: int, x: F64, *roles: str) -> list[F64]:
        scale = 127 / np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-5)
        self.values[site, layer] = x * scale
        given = self.codes[site, layer].astype(np.float64)
        matrices = [self.weights.matrix(role, layer) for role in roles]
        return [given @ m.weights.astype(np.float64).T * (float(m.scale) / scale) for m in matrices]

    def rotated(self, x: F64) -> F64:
        """Rotates x: [tokens, heads, head_dim]; the angle is a binary32 product by definition."""
        frequencies = self.weights.vector("rope_inv_freq", None)
        angles = np.arange(len(x), dtype=np.float32)[:, None] * frequencies
        turn = np.exp(1j * angles.astype(np.float64))[:, None, :]
        half = x.shape[-1] // 2
        turned = (x[..., :half] + 1j * x[..., half:]) * turn
        return np.concatenate((turned.real, turned.imag), axis=-1)

    def attention(self, x: F64, layer: int) -> F64:
        spec = self.weights.spec
        q, k, v = (
            y.reshape(len(x), -1, spec.head_dim)
            for y in self.linears("qkv", layer, self.norm(x, "input_norm", layer), "q", "k", "v")
        )
        q, k = self.rotated(q), self.rotated(k)
        k, v = (np.repeat(y, spec.head_count // spec.kv_head_count, axis=1) for y in (k, v))
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(spec.head_dim)
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        out = np.einsum("hts,shd->thd", shares, v).reshape(len(x), -1)
        if spec.attn_sub_norm:
            out = self.norm(out, "attn_sub_norm", layer)
        return self.linears("o", layer, out, "o")[0]

    def ffn(self, x: F64, layer: int) -> F64:
        spec = self.weights.spec
        normed = self.norm(x, "post_attention_norm", layer)
        gate, up = self.linears("gate_up", layer, normed, "gate", "up")
        active = (
            np.maximum(gate, 0) ** 2 if spec.activation == "relu2" else gate / (1 + np.exp(-gate))
        )
        hidden = active * up
        if spec.ffn_sub_norm:
            hidden = self.norm(hidden, "ffn_sub_norm", layer)
        return self.linears("down", layer, hidden, "down")[0]


def exact_pass(
    weights: Weights, ids: list[int], codes: dict[tuple[str, int], I8]
) -> tuple[F64, dict[tuple[str, int], F64]]:
    """Returns (logits: float64[len(ids), vocab], values: float64[len(ids), n] by (site, layer)).

    `codes` are what each site is taken to have rounded its values to.
    """
    run = _ExactPass(weights, codes)
    x = _table(weights, "embedding")[np.asarray(ids)]
    for layer in range(weights.spec.layer_count):
        x = x + run.attention(x, layer)
        x = x + run.ffn(x, layer)
    return run.norm(x, "final_norm", None) @ _table(weights, "head").T, run.values
