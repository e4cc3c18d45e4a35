"""Reads model.bin in place: the header and root are checked on opening, the rest by `verify`."""

import contextlib
import itertools
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from bitnet.checkpoint import F32Rows, Int8Rows, ModelSpec, TernaryMatrix
from bitnet.errors import FormatError, IntegrityError
from bitnet.files import open_regular
from bitnet.limits import TILE_ROWS, pad_lanes
from bitnet.quantize.digests import leaf_digest, root_digest
from bitnet.quantize.header import Header, parse_header
from bitnet.quantize.layout import (
    DIGEST_BYTES,
    KIND_INT8,
    KIND_TERNARY,
    LEAF_BYTES,
    TensorPlace,
    align_page,
    low_row_bytes,
)
from bitnet.quantize.tiles import (
    residual_norms,
    unpack_f32,
    unpack_int8,
    unpack_low,
    unpack_ternary_codes,
)
from bitnet.quantize.writer import Progress

__all__ = ["ModelFile", "open_model"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

# Bytes of packed tiles that the checks of values look at in one step.
_STEP_BYTES: Final = 1 << 20


# How many of the four codes of a packed byte are the code of zero.
_ZEROS_OF_BYTE: Final = np.array(
    [sum((byte >> 2 * p) & 3 == 1 for p in range(4)) for byte in range(256)]
)

# Whether one of the four codes of a packed byte is 3, which no weight has.
_HOLDS_THREE: Final = np.array(
    [any((byte >> 2 * p) & 3 == 3 for p in range(4)) for byte in range(256)]
)


class ModelFile:
    """An open model.bin; implements `Weights`. `spec.rope_theta` is NaN: the file does not hold it.

    The file is mapped, so it must not be changed while it is open. Arrays that are returned are
    copies and outlive it.
    """

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self.path = path
        self._map = data
        self._data: U8 = np.frombuffer(data, np.uint8)
        self.header: Header = parse_header(self._data.data, path)
        tensors = self.header.layout.tensors
        self._places = {(place.role, place.layer): place for place in tensors}
        self._check_root()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the file, or leaves that to the last array where an error still holds one."""
        self._data = np.empty(0, np.uint8)
        if isinstance(self._map, mmap.mmap):
            with contextlib.suppress(BufferError):
                self._map.close()

    @property
    def spec(self) -> ModelSpec:
        """The geometry."""
        return self.header.spec

    @property
    def root(self) -> bytes:
        """The Merkle root: it stands for every byte of the file."""
        return self.header.root

    def _leaf_digests(self) -> bytes:
        layout = self.header.layout
        return self._data[layout.leaves_offset : layout.file_bytes].tobytes()

    def _check_root(self) -> None:
        header = self._data[: self.header.layout.header_bytes].tobytes()
        found = root_digest(header, self._leaf_digests())
        if found != self.header.root:
            raise IntegrityError(
                f"model.bin root does not match its header and leaf digests: `{self.path}`",
                where=(f"header says {self.header.root.hex()}", f"computed    {found.hex()}"),
                hint="copy the file again from where it was written",
            )

    # Weights.

    def _place(self, role: str, layer: int | None) -> TensorPlace:
        return self._places[role, layer]

    def _tensor_data(self, place: TensorPlace) -> U8:
        return self._data[place.offset : place.offset + place.byte_count]

    def matrix(self, role: str, layer: int) -> TernaryMatrix:
        """Returns a ternary matrix, unpacked."""
        place = self._place(role, layer)
        codes = unpack_ternary_codes(self._tensor_data(place), pad_lanes(place.cols))
        weights = codes[: place.rows, : place.cols].astype(np.int8) - np.int8(1)
        return TernaryMatrix(weights, self.header.scales[place])

    def vector(self, role: str, layer: int | None) -> F32:
        """Returns float32[length] by role."""
        place = self._place(role, layer)
        values = unpack_f32(self._tensor_data(place), pad_lanes(place.cols))
        return values[0, : place.cols].astype(np.float32)

    def table(self, role: str) -> F32Rows | Int8Rows:
        """Returns the embedding, or the head (the embedding where it is tied)."""
        tied = role == "head" and self.spec.tied_head
        place = self._place("embedding" if tied else role, None)
        data = self._tensor_data(place)
        if place.kind != KIND_INT8:
            values = unpack_f32(data, pad_lanes(place.cols))
            return F32Rows(values[:, : place.cols].astype(np.float32))
        high, low, of_rows = _int8_parts(place, data)
        stored = unpack_int8(high, low, pad_lanes(place.cols))
        codes = (stored[: place.rows, : place.cols] ^ np.uint8(128)).view(np.int8)
        scales = of_rows[0, : place.rows].astype(np.float32)
        return Int8Rows(np.ascontiguousarray(codes), scales)

    def zero_count(self, place: TensorPlace) -> int:
        """Returns how many weights of a ternary tensor are zero."""
        assert place.kind == KIND_TERNARY
        data = self._tensor_data(place)
        counts = np.zeros(256, np.int64)
        for begin in range(0, len(data), _STEP_BYTES):
            counts += np.bincount(data[begin : begin + _STEP_BYTES], minlength=256)
        padding = 4 * place.byte_count - place.rows * place.cols
        return int(counts @ _ZEROS_OF_BYTE) - padding

    # Checks of everything behind the header.

    def verify(self, progress: Progress | None = None) -> None:
        """Recomputes every leaf digest, then checks every value and every byte of padding.

        Raises:
            IntegrityError: A leaf does not match; the first one is named.
            FormatError: The digests match, but the file does not keep to the format.
        """
        layout = self.header.layout
        digests = self._leaf_digests()
        for index in range(layout.leaf_count):
            begin = layout.header_bytes + index * LEAF_BYTES
            end = min(begin + LEAF_BYTES, layout.leaves_offset)
            expected = digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
            if leaf_digest(index, self._data[begin:end].data) != expected:
                raise IntegrityError(
                    f"model.bin leaf does not match its digest: `{self.path}`",
                    where=f"leaf {index}, offset {begin} to {end}",
                    hint="copy the file again from where it was written",
                )
            if progress is not None:
                progress("digests", end - layout.header_bytes, layout.data_bytes)
        for place in layout.tensors:
            self._check_values(place)
            if progress is not None:
                end = align_page(place.offset + place.byte_count)
                progress(place.name, end - layout.header_bytes, layout.data_bytes)

    def _refuse(self, place: TensorPlace, offset: int, reason: str) -> FormatError:
        return FormatError(
            f"model.bin tensor holds a value that cannot be: `{place.name}`",
            where=(f"file {self.path}, offset {offset}", reason),
        )

    def _check_values(self, place: TensorPlace) -> None:
        end = place.offset + place.byte_count
        gap = self._data[end : align_page(end)]
        if gap.any():
            first = end + int(np.argmax(gap != 0))
            raise self._refuse(place, first, "bytes between tensors must be 0")
        if place.kind == KIND_TERNARY:
            self._check_ternary(place)
        elif place.kind == KIND_INT8:
            self._check_int8(place)
        else:
            self._check_f32(place)

    def _check_ternary(self, place: TensorPlace) -> None:
        data, cols_padded = self._tensor_data(place), pad_lanes(place.cols)
        tile_bytes = TILE_ROWS * cols_padded // 4
        bounds = _steps(tile_bytes, place.byte_count)
        padded = place.rows % TILE_ROWS != 0 or place.cols != cols_padded
        for begin, end in itertools.pairwise(bounds):
            if not padded and not _HOLDS_THREE[data[begin:end]].any():
                continue  # the usual case, ten times as fast as looking at single codes
            codes = unpack_ternary_codes(data[begin:end], cols_padded)
            first_row = begin // tile_bytes * TILE_ROWS
            self._check_codes(place, codes, first_row, highest=2, zero=1, lowest=0)

    def _check_int8(self, place: TensorPlace) -> None:
        high, low, of_rows = _int8_parts(place, self._tensor_data(place))
        cols_padded = pad_lanes(place.cols)
        tile_bytes = TILE_ROWS * cols_padded // 2
        low_tile_bytes = TILE_ROWS * low_row_bytes(place.cols)
        for begin, end in itertools.pairwise(_steps(tile_bytes, len(high))):
            first, last = begin // tile_bytes, end // tile_bytes
            rows = low[first * low_tile_bytes : last * low_tile_bytes]
            codes = unpack_int8(high[begin:end], rows, cols_padded)
            first_row = first * TILE_ROWS
            self._check_codes(place, codes, first_row, highest=255, zero=128, lowest=1)
            if unpack_low(rows, place.cols)[:, cols_padded:].any():
                reason = f"from row {first_row} on: padding of the low plane must be 0"
                raise self._refuse(place, place.offset + len(high), reason)
            self._check_norms(place, codes, first_row, of_rows[1])
        scales = of_rows[0]
        good = np.isfinite(scales) & (scales >= 0)
        if not good.all():
            row = int(np.argmin(good))
            raise self._refuse(place, place.offset, f"row scale {row} is {scales[row]}")
        if of_rows[:, place.rows :].tobytes().strip(b"\0"):
            raise self._refuse(place, place.offset, "scales and norms of padding must be 0")

    def _check_norms(self, place: TensorPlace, codes: U8, first_row: int, found: F32) -> None:
        """Checks the residual norms of the rows [first_row, …) against the codes."""
        count = min(len(codes), place.rows - first_row)
        right = residual_norms((codes[:count, : place.cols] ^ np.uint8(128)).view(np.int8))
        norms = found[first_row : first_row + count]
        same = norms.view(np.uint32) == right.view(np.uint32)
        if not same.all():
            row = int(np.argmin(same))
            reason = f"residual norm {first_row + row} is {norms[row]}, of the codes {right[row]}"
            raise self._refuse(place, place.offset, reason)

    def _check_codes(
        self, place: TensorPlace, codes: U8, first_row: int, *, highest: int, zero: int, lowest: int
    ) -> None:
        """Checks rows [first_row, …): the range of codes, and that padding is the code of zero."""
        bad = (codes < lowest) | (codes > highest)
        bad[:, place.cols :] = codes[:, place.cols :] != zero
        rows_here = max(0, place.rows - first_row)
        bad[rows_here:] = codes[rows_here:] != zero
        if bad.any():
            row, col = np.unravel_index(int(np.argmax(bad)), bad.shape)
            reason = f"row {first_row + row}, column {col}: code {codes[row, col]}"
            raise self._refuse(place, place.offset, reason)

    def _check_f32(self, place: TensorPlace) -> None:
        data, row_bytes = self._tensor_data(place), 4 * pad_lanes(place.cols)
        bounds = _steps(row_bytes, place.byte_count)
        for begin, end in itertools.pairwise(bounds):
            values = unpack_f32(data[begin:end], pad_lanes(place.cols))
            finite = np.isfinite(values)
            if not finite.all():
                first = begin + 4 * int(np.argmin(finite))
                raise self._refuse(place, place.offset + first, "the value is not finite")
            if place.role == "rope_inv_freq" and not ((values >= 0) & (values <= 1)).all():
                raise self._refuse(place, place.offset, "a frequency is outside 0 to 1")
            padding = np.ascontiguousarray(values[:, place.cols :]).view(np.uint32)
            if padding.any():
                raise self._refuse(place, place.offset + begin, "padding must be +0")


def _steps(unit_bytes: int, byte_count: int) -> list[int]:
    """Returns the bounds of steps of about _STEP_BYTES, each a multiple of `unit_bytes`."""
    step = max(1, _STEP_BYTES // unit_bytes) * unit_bytes
    return [*range(0, byte_count, step), byte_count]


def _int8_parts(place: TensorPlace, data: U8) -> tuple[U8, U8, F32]:
    """Returns the high plane, the low plane, and float32[2, rows_padded]: row scales, norms."""
    rows_padded = -(-place.rows // TILE_ROWS) * TILE_ROWS
    high_bytes = rows_padded * pad_lanes(place.cols) // 2
    low_end = high_bytes + rows_padded * low_row_bytes(place.cols)
    of_rows = data[low_end:].view("<f4").reshape(2, rows_padded)
    return data[:high_bytes], data[high_bytes:low_end], of_rows


def open_model(path: Path) -> ModelFile:
    """Returns a mapped model.bin whose header, tensor table and Merkle root have been checked.

    The leaves behind the root are not read; `ModelFile.verify` does that.

    Raises:
        FormatError: The file cannot be read, or its header does not keep to the format.
        IntegrityError: The root does not match the header and the leaf digests.

    Source: docs/formats/model.md.
    """
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return ModelFile(path, b"")
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise FormatError(
            f"cannot open model file: `{path}`",
            where=getattr(error, "strerror", None) or str(error),
        ) from None
    return ModelFile(path, data)
