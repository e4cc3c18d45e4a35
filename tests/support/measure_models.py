"""Geometries small enough to measure in a test, and the numbers of Philox from its definition."""

import dataclasses

from bitnet.measure.geometry import GEOMETRIES

__all__ = ["TINY_TIED", "TINY_UNTIED", "philox_words"]

# No size is a multiple of 16, so that padding takes part.
TINY_TIED = dataclasses.replace(
    GEOMETRIES["demo"],
    hidden_size=60,
    intermediate_size=84,
    layer_count=3,
    head_count=6,
    kv_head_count=2,
    head_dim=10,
    vocab_size=203,
    context_max=64,
)
TINY_UNTIED = dataclasses.replace(
    GEOMETRIES["falcon3-1b"],
    hidden_size=40,
    intermediate_size=52,
    layer_count=2,
    head_count=4,
    kv_head_count=2,
    head_dim=14,
    vocab_size=77,
    context_max=64,
)

_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def philox_words(key: tuple[int, int], counter: int) -> list[int]:
    """The sixteen 16-bit words, least significant first, of Philox 4x64-10 at one counter.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011), section 4.3.
    """
    state = [counter >> 64 * i & _MASK for i in range(4)]
    keys = list(key)
    for _ in range(10):
        left, right = _MULTIPLIERS[0] * state[0], _MULTIPLIERS[1] * state[2]
        state = [
            right >> 64 ^ state[1] ^ keys[0],
            right & _MASK,
            left >> 64 ^ state[3] ^ keys[1],
            left & _MASK,
        ]
        keys = [(each + step) & _MASK for each, step in zip(keys, _WEYL)]
    return [word >> 16 * i & 0xFFFF for word in state for i in range(4)]
