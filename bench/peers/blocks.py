"""Random but valid blocks of the quantised formats that peers read.

Speed does not depend on the values; what matters is that they are finite and of the size that
trained weights have, so that neither infinities nor denormals are timed.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK_BYTES", "BLOCK_WEIGHTS", "DEVIATION", "random_blocks", "stream_blocks"]

U8 = npt.NDArray[np.uint8]

DEVIATION: Final = 0.02  # of the weights, as in trained models
# Source: ggml/src/ggml-common.h of llama.cpp, the structs block_q4_K and so on.
BLOCK_WEIGHTS: Final = {"Q4_K": 256, "Q6_K": 256, "TQ1_0": 256, "TQ2_0": 256, "Q2_0": 64}
BLOCK_BYTES: Final = {"Q4_K": 144, "Q6_K": 210, "TQ1_0": 54, "TQ2_0": 66, "Q2_0": 18}

_STREAM_BLOCKS: Final = 1 << 17
_MEAN_SQUARE_TRIT: Final = 2 / 3


def _trit_bytes(encode: Callable[[int], int], values: int) -> U8:
    """Returns a byte for each random word of 16 bits, so that every value is equally likely."""
    by_value = np.array([encode(value) for value in range(values)], np.uint8)
    return by_value[np.arange(1 << 16) * values >> 16]


# Four trits of two bits each, codes 0, 1, 2; five and four trits as the leading digits of a
# fraction in 256ths.
_FOUR_CODES: Final = _trit_bytes(lambda n: sum((n // 3**i % 3) << 2 * i for i in range(4)), 81)
_FIVE_TRITS: Final = _trit_bytes(lambda n: -(-n * 256 // 243), 243)
_FOUR_TRITS: Final = _trit_bytes(lambda n: -(-n * 768 // 243), 81)


def _random_bytes(shape: tuple[int, ...], generator: np.random.Generator) -> U8:
    return np.frombuffer(generator.bytes(math.prod(shape)), np.uint8).reshape(shape)


def _put_half(blocks: U8, offset: int, value: float) -> None:
    blocks[:, offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def _put_trits(part: U8, table: U8, generator: np.random.Generator) -> None:
    words = np.frombuffer(generator.bytes(2 * part.size), "<u2")
    part[:] = table[words].reshape(part.shape)


def _fill_q4_k(blocks: U8, generator: np.random.Generator) -> None:
    """d * scale * q - dmin * min with six-bit scale and min and q of four bits; mean 0."""
    blocks[:] = _random_bytes(blocks.shape, generator)
    d = DEVIATION / 258.2
    _put_half(blocks, 0, d)
    _put_half(blocks, 2, 7.5 * d)


def _fill_q6_k(blocks: U8, generator: np.random.Generator) -> None:
    """d * scale * (q - 32) with scale int8 and q of six bits."""
    blocks[:] = _random_bytes(blocks.shape, generator)
    _put_half(blocks, 208, DEVIATION / (73.9 * 18.5))


def _fill_tq1_0(blocks: U8, generator: np.random.Generator) -> None:
    _put_trits(blocks[:, :48], _FIVE_TRITS, generator)
    _put_trits(blocks[:, 48:52], _FOUR_TRITS, generator)
    _put_half(blocks, 52, DEVIATION / _MEAN_SQUARE_TRIT**0.5)


def _fill_tq2_0(blocks: U8, generator: np.random.Generator) -> None:
    _put_trits(blocks[:, :64], _FOUR_CODES, generator)
    _put_half(blocks, 64, DEVIATION / _MEAN_SQUARE_TRIT**0.5)


def _fill_q2_0(blocks: U8, generator: np.random.Generator) -> None:
    _put_trits(blocks[:, 2:], _FOUR_CODES, generator)
    _put_half(blocks, 0, DEVIATION / _MEAN_SQUARE_TRIT**0.5)


_FILLERS: Final[dict[str, Callable[[U8, np.random.Generator], None]]] = {
    "Q4_K": _fill_q4_k,
    "Q6_K": _fill_q6_k,
    "TQ1_0": _fill_tq1_0,
    "TQ2_0": _fill_tq2_0,
    "Q2_0": _fill_q2_0,
}


def random_blocks(kind: str, count: int, generator: np.random.Generator) -> U8:
    """Returns uint8[count, bytes of a block]."""
    blocks = np.empty((count, BLOCK_BYTES[kind]), np.uint8)
    _FILLERS[kind](blocks, generator)
    return blocks


def stream_blocks(kind: str, count: int, generator: np.random.Generator) -> Iterator[U8]:
    """Yields `count` blocks in pieces of some megabytes."""
    for done in range(0, count, _STREAM_BLOCKS):
        yield random_blocks(kind, min(_STREAM_BLOCKS, count - done), generator)
