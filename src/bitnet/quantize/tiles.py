"""The bytes of the three kinds of tensor, and back: rows in tiles of 16 (docs/formats/model.md)."""

import numpy as np
import numpy.typing as npt

from bitnet.limits import TILE_ROWS, pad_lanes

__all__ = [
    "pack_f32",
    "pack_int8",
    "pack_ternary",
    "quantize_rows",
    "residual_norms",
    "unpack_f32",
    "unpack_int8",
    "unpack_low",
    "unpack_ternary_codes",
]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F32 = npt.NDArray[np.float32]


def _pad_to_tiles(codes: U8, fill: int) -> U8:
    """Returns `codes` grown with `fill` to whole tiles and whole blocks."""
    rows, cols = codes.shape
    row_gap, col_gap = -rows % TILE_ROWS, pad_lanes(cols) - cols
    if not row_gap and not col_gap:
        return codes
    return np.pad(codes, ((0, row_gap), (0, col_gap)), constant_values=fill)


def pack_ternary(weights: I8) -> U8:
    """Returns the tiles of int8[rows, cols] of -1, 0, +1; rows may end within the last tile.

    Block k of a tile: byte 4r + b holds in bits 2p the code of row r, column 16k + 4p + b.
    """
    codes = _pad_to_tiles((weights + np.int8(1)).view(np.uint8), 1)
    blocks = codes.reshape(-1, TILE_ROWS, codes.shape[1] // 16, 4, 4)  # tile, r, k, p, b
    packed = blocks[:, :, :, 0] | (blocks[:, :, :, 1] << 2)
    packed |= blocks[:, :, :, 2] << 4
    packed |= blocks[:, :, :, 3] << 6
    return np.ascontiguousarray(packed.transpose(0, 2, 1, 3)).reshape(-1)


def unpack_ternary_codes(data: U8, cols_padded: int) -> U8:
    """Returns codes uint8[rows_padded, cols_padded] of whole tiles; undoes `pack_ternary`."""
    packed = data.reshape(-1, cols_padded // 16, TILE_ROWS, 4).transpose(0, 2, 1, 3)
    codes = np.stack([(packed >> np.uint8(2 * p)) & np.uint8(3) for p in range(4)], axis=3)
    return codes.reshape(-1, cols_padded)


def quantize_rows(values: F32) -> tuple[I8, F32]:
    """Returns codes int8[rows, cols] in -127..127 and scales float32[rows].

    scale = max|row| / 127 and code = round_half_even(value / scale), both in binary32. Where the
    scale comes out as 0 the codes are 0; the clamp acts only where the scale is subnormal.
    """
    with np.errstate(under="ignore"):
        scales = np.abs(values).max(axis=1, initial=0.0) / np.float32(127)
        divisors = np.where(scales > 0, scales, np.float32(np.inf))
        codes = np.clip(np.rint(values / divisors[:, None]), -127, 127)
    return codes.astype(np.int8), scales.astype(np.float32)


def pack_int8(codes: I8) -> tuple[U8, U8]:
    """Returns int8[rows, cols] in two planes: the high and the low halves of code + 128.

    High, in tiles: byte 4r + b of block k holds row r, columns 8k + b and, in its upper half,
    8k + 4 + b. Low, row by row: byte j of block k holds columns 128k + j and 128k + 64 + j.
    """
    stored = _pad_to_tiles(codes.view(np.uint8) ^ np.uint8(128), 128)
    nibbles = (stored >> np.uint8(4)).reshape(-1, TILE_ROWS, stored.shape[1] // 8, 2, 4)
    high = nibbles[:, :, :, 0] | (nibbles[:, :, :, 1] << np.uint8(4))
    low = np.pad(stored & np.uint8(15), ((0, 0), (0, -stored.shape[1] % 128)))
    pairs = low.reshape(len(low), -1, 2, 64)
    low = pairs[:, :, 0] | (pairs[:, :, 1] << np.uint8(4))
    return np.ascontiguousarray(high.transpose(0, 2, 1, 3)).reshape(-1), low.reshape(-1)


def unpack_int8(high: U8, low: U8, cols_padded: int) -> U8:
    """Returns stored codes (code + 128) uint8[rows_padded, cols_padded] of whole tiles."""
    tiles = high.reshape(-1, cols_padded // 8, TILE_ROWS, 4).transpose(0, 2, 1, 3)
    upper = np.stack((tiles & np.uint8(15), tiles >> np.uint8(4)), axis=3).reshape(-1, cols_padded)
    return (upper << np.uint8(4)) | unpack_low(low, cols_padded)[:, :cols_padded]


def unpack_low(low: U8, cols: int) -> U8:
    """Returns the low halves uint8[rows, cols rounded up to a multiple of 128]."""
    pairs = low.reshape(-1, -(-cols // 128), 64)
    lower = np.stack((pairs & np.uint8(15), pairs >> np.uint8(4)), axis=2)
    return lower.reshape(len(pairs), -1)


def residual_norms(codes: I8) -> F32:
    """Returns float32[rows] for int8[rows, cols]: what the screen of the head needs of each row.

    The Euclidean norm of what the low plane adds to the middle of its range, rounded up.
    """
    twice = 2 * (codes.astype(np.int32) & 15) - 15
    return _root_above(np.square(twice).sum(axis=1)) / np.float32(2)


def _root_above(squares: npt.NDArray[np.int64]) -> F32:
    """Returns the smallest binary32 numbers whose square is not below the integers."""
    exact = squares.astype(np.float64)
    root = np.sqrt(exact).astype(np.float32)
    root = np.where(np.square(root.astype(np.float64)) < exact, np.nextafter(root, np.inf), root)
    below = np.nextafter(root, np.float32(-np.inf))
    fits = (below >= 0) & (np.square(below.astype(np.float64)) >= exact)
    return np.where(fits, below, root).astype(np.float32)


def pack_f32(values: F32) -> U8:
    """Returns row-major little-endian binary32 with the columns padded with +0."""
    gap = pad_lanes(values.shape[1]) - values.shape[1]
    padded = np.pad(values, ((0, 0), (0, gap))) if gap else values
    return np.ascontiguousarray(padded, dtype="<f4").view(np.uint8).reshape(-1)


def unpack_f32(data: U8, cols_padded: int) -> F32:
    """Returns float32[rows, cols_padded]."""
    return data.view("<f4").reshape(-1, cols_padded)
