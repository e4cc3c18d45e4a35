"""The bytes of the three kinds of tensor, and back: rows in tiles of 16 (docs/formats/model.md)."""

import numpy as np
import numpy.typing as npt

from bitnet.limits import TILE_ROWS, pad_lanes

__all__ = [
    "pack_f32",
    "pack_int8",
    "pack_ternary",
    "quantize_rows",
    "unpack_f32",
    "unpack_int8",
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


def pack_int8(codes: I8) -> U8:
    """Returns the tiles of int8[rows, cols]; byte 4r + b of block k is column 4k + b of row r."""
    stored = _pad_to_tiles(codes.view(np.uint8) ^ np.uint8(128), 128)
    blocks = stored.reshape(-1, TILE_ROWS, stored.shape[1] // 4, 4).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks).reshape(-1)


def unpack_int8(data: U8, cols_padded: int) -> U8:
    """Returns stored codes (code + 128) uint8[rows_padded, cols_padded] of whole tiles."""
    blocks = data.reshape(-1, cols_padded // 4, TILE_ROWS, 4).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(blocks).reshape(-1, cols_padded)


def pack_f32(values: F32) -> U8:
    """Returns row-major little-endian binary32 with the columns padded with +0."""
    gap = pad_lanes(values.shape[1]) - values.shape[1]
    padded = np.pad(values, ((0, 0), (0, gap))) if gap else values
    return np.ascontiguousarray(padded, dtype="<f4").view(np.uint8).reshape(-1)


def unpack_f32(data: U8, cols_padded: int) -> F32:
    """Returns float32[rows, cols_padded]."""
    return data.view("<f4").reshape(-1, cols_padded)
