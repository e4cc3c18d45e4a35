"""Every limit of the builder side; `engine/base/limits.h` holds the same, and a test compares."""

from typing import Final

__all__ = [
    "COLS_MAX",
    "CONTEXT_MAX",
    "EOS_COUNT_MAX",
    "HEAD_COUNT_MAX",
    "HEAD_DIM_MAX",
    "HIDDEN_SIZE_MAX",
    "LANES",
    "LAYER_COUNT_MAX",
    "THREAD_COUNT_MAX",
    "TILE_ROWS",
    "VOCAB_SIZE_MAX",
    "pad_lanes",
]

TILE_ROWS: Final = 16
LANES: Final = 16
HIDDEN_SIZE_MAX: Final = 65536
COLS_MAX: Final = 131072
LAYER_COUNT_MAX: Final = 1024
HEAD_COUNT_MAX: Final = 1024
HEAD_DIM_MAX: Final = 1024
VOCAB_SIZE_MAX: Final = 1 << 20
CONTEXT_MAX: Final = 1 << 20
EOS_COUNT_MAX: Final = 8
THREAD_COUNT_MAX: Final = 64

# Integer sums of int8 activations times ternary weights convert to binary32 without rounding.
assert 127 * COLS_MAX < 1 << 24
# Biased int8 codes times the high part of a 15-bit activation stay in int32.
assert 255 * 127 * HIDDEN_SIZE_MAX < 1 << 31


def pad_lanes(count: int) -> int:
    """Returns `count` rounded up to a multiple of LANES."""
    return -(-count // LANES) * LANES
