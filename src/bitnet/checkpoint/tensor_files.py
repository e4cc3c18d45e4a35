"""safetensors files, single or sharded: a strict reader of the header, and bounded reads of rows.

The layout is the published one: u64 header length, that many bytes of JSON, then the tensors.
Everything that the header says is checked against the file before a byte of a tensor is read. Rows
are read with `pread`, not mapped: the process holds no more than it asked for, and a file that
shrinks while it is read is an error, not a signal.
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bitnet.checkpoint.directory import has_file, open_file
from bitnet.checkpoint.json_text import load_json_object, parse_json_object
from bitnet.errors import CheckpointError

__all__ = ["FLOAT_DTYPES", "INDEX_NAME", "SINGLE_NAME", "TensorInfo", "TensorStore"]

SINGLE_NAME: Final = "model.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"

HEADER_BYTES_MAX: Final = 16 << 20
INDEX_BYTES_MAX: Final = 16 << 20
TENSOR_COUNT_MAX: Final = 65536
DIMENSION_COUNT_MAX: Final = 8
SHARD_COUNT_MAX: Final = 4096

# Bytes of one element. Types without a NumPy type here may stand in a header but are never read.
_ITEM_BYTES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

FLOAT_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


@dataclasses.dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: where it lies and what its header entry says.

    `offset` counts bytes from the start of `file`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    byte_count: int

    def where(self) -> tuple[str, str]:
        """Facts for an error about this tensor."""
        return (
            f"file {self.file}, offset {self.offset}",
            f"tensor {self.name}, {self.dtype}{list(self.shape)}",
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _parse_entry(name: str, entry: Any, file: Path, data_offset: int) -> TensorInfo:
    """Returns one header entry with its sizes checked against each other."""

    def refuse(reason: str, *facts: str) -> CheckpointError:
        return CheckpointError(
            f"safetensors header entry is malformed: `{name}`",
            where=(f"file {file}", reason, *facts),
        )

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("an entry has exactly the keys dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise refuse(f"dtype {str(dtype)[:32]!a} is unknown")
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        raise refuse("shape is not a list of sizes")
    if len(shape) > DIMENSION_COUNT_MAX:
        raise refuse(f"{len(shape)} dimensions, limit {DIMENSION_COUNT_MAX}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise refuse("data_offsets is not a pair of offsets")
    begin, end = offsets
    byte_count = math.prod(shape) * _ITEM_BYTES[dtype]
    if end < begin or end - begin != byte_count:
        raise refuse(
            f"data_offsets [{begin}, {end}] do not span the tensor",
            f"{dtype}{shape} takes {byte_count} bytes",
        )
    return TensorInfo(name, dtype, tuple(shape), file, data_offset + begin, byte_count)


def _check_metadata(metadata: Any, file: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(
            "safetensors header entry is malformed: `__metadata__`",
            where=(f"file {file}", "it maps names to texts"),
        )


def _check_contiguous(tensors: list[TensorInfo], file: Path, begin: int, end: int) -> None:
    """Checks that the tensors cover [begin, end) of the file with neither gap nor overlap."""
    position = begin
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.byte_count)):
        if tensor.offset != position:
            kind = "overlap" if tensor.offset < position else "leave a gap"
            raise CheckpointError(
                f"safetensors tensors {kind}: `{tensor.name}`",
                where=(f"file {file}", f"offset {tensor.offset}, expected {position}"),
            )
        position += tensor.byte_count
    if position != end:
        kind = "is truncated" if position > end else "has bytes after its last tensor"
        raise CheckpointError(
            f"safetensors file {kind}: `{file.name}`",
            where=(f"file {file}", f"{end} bytes, the header describes {position}"),
            hint="copy the file again and compare its digest with the publisher's",
        )


def _parse_header(fd: int, file: Path) -> list[TensorInfo]:
    """Returns the tensors of one safetensors file, every size and offset checked."""
    file_bytes = os.fstat(fd).st_size
    prefix = os.pread(fd, 8, 0)
    if len(prefix) < 8:
        raise CheckpointError(
            f"not a safetensors file: `{file.name}`",
            where=(f"file {file}", f"{file_bytes} bytes, the header length alone takes 8"),
        )
    header_bytes = int.from_bytes(prefix, "little")
    limit = min(HEADER_BYTES_MAX, file_bytes - 8)
    if not 2 <= header_bytes <= limit:
        raise CheckpointError(
            f"safetensors header length is out of range: `{file.name}`",
            where=(f"file {file}, offset 0", f"value {header_bytes}, limit {limit}"),
        )
    text = os.pread(fd, header_bytes, 8)
    if len(text) != header_bytes or not text.startswith(b"{"):
        raise CheckpointError(
            f"safetensors header does not start with an object: `{file.name}`",
            where=f"file {file}, offset 8",
        )
    header = parse_json_object(text, file=file, what="safetensors header")
    if "__metadata__" in header:
        _check_metadata(header.pop("__metadata__"), file)
    if len(header) > TENSOR_COUNT_MAX:
        raise CheckpointError(
            f"safetensors file has too many tensors: `{file.name}`",
            where=(f"file {file}", f"value {len(header)}, limit {TENSOR_COUNT_MAX}"),
        )
    data_offset = 8 + header_bytes
    tensors = [_parse_entry(name, entry, file, data_offset) for name, entry in header.items()]
    _check_contiguous(tensors, file, data_offset, file_bytes)
    return tensors


def _is_plain_name(name: Any) -> bool:
    """True for a safetensors file name that can only mean a file of the same directory."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and len(name) <= 255
        and name.isascii()
        and name.isprintable()
        and not name.startswith(".")
        and "/" not in name
        and "\\" not in name
    )


def _load_index(directory: Path) -> dict[str, str]:
    """Returns tensor name → shard name of a sharded checkpoint."""
    file = directory / INDEX_NAME
    index = load_json_object(directory, INDEX_NAME, bytes_max=INDEX_BYTES_MAX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("index has no `weight_map`", where=f"file {file}")
    if unknown := sorted(set(index) - {"metadata", "weight_map"}):
        raise CheckpointError(f"index has an unknown key: `{unknown[0]}`", where=f"file {file}")
    for tensor, shard in weight_map.items():
        if not _is_plain_name(shard):
            raise CheckpointError(
                f"index names a shard that is not a plain file name: `{str(shard)[:256]}`",
                where=(f"file {file}", f"tensor {tensor}"),
            )
    if len(set(weight_map.values())) > SHARD_COUNT_MAX:
        raise CheckpointError(
            "index names too many shards", where=(f"file {file}", f"limit {SHARD_COUNT_MAX}")
        )
    return weight_map


def _check_shard(
    tensors: list[TensorInfo], shard: str, weight_map: dict[str, str], file: Path
) -> None:
    """Checks that a shard holds exactly the tensors which the index places in it."""
    found = {tensor.name for tensor in tensors}
    expected = {name for name, place in weight_map.items() if place == shard}
    if missing := sorted(expected - found):
        raise CheckpointError(
            f"shard lacks a tensor of the index: `{missing[0]}`", where=f"file {file}"
        )
    if extra := sorted(found - expected):
        raise CheckpointError(
            f"shard holds a tensor that the index does not place in it: `{extra[0]}`",
            where=f"file {file}",
        )


class TensorStore:
    """The tensors of a checkpoint directory by name; holds its files open until `close`.

    Raises:
        CheckpointError: No weights, both forms of weights, or a malformed header or index.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptors: dict[Path, int] = {}
        self.tensors: dict[str, TensorInfo] = {}
        try:
            self._open(directory)
        except BaseException:
            self.close()
            raise

    def _open(self, directory: Path) -> None:
        single = has_file(directory, SINGLE_NAME)
        sharded = has_file(directory, INDEX_NAME)
        if single and sharded:
            raise CheckpointError(
                f"checkpoint holds both `{SINGLE_NAME}` and `{INDEX_NAME}`",
                where=f"directory {directory}",
                hint="remove the one that is not meant",
            )
        if not single and not sharded:
            raise CheckpointError(
                f"checkpoint has no weights: `{directory}`",
                where=f"neither {SINGLE_NAME} nor {INDEX_NAME} is there",
                hint="name the directory that holds config.json and the safetensors files",
            )
        if single:
            self._add_file(directory, SINGLE_NAME, None)
            return
        weight_map = _load_index(directory)
        for shard in sorted(set(weight_map.values())):
            self._add_file(directory, shard, weight_map)

    def _add_file(self, directory: Path, name: str, weight_map: dict[str, str] | None) -> None:
        descriptor, file = open_file(directory, name), directory / name
        self._descriptors[file] = descriptor
        tensors = _parse_header(descriptor, file)
        if weight_map is not None:
            _check_shard(tensors, name, weight_map, file)
        self.tensors.update({tensor.name: tensor for tensor in tensors})

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the checkpoint that hold tensors."""
        return tuple(self._descriptors)

    def close(self) -> None:
        """Closes the files. Reading afterwards is a bug."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read_bytes(self, tensor: TensorInfo, begin: int, end: int) -> bytearray:
        """Returns bytes [begin, end) of a tensor.

        Raises:
            CheckpointError: The file has become shorter, or cannot be read.
        """
        assert 0 <= begin <= end <= tensor.byte_count
        result = bytearray(end - begin)
        view = memoryview(result)
        position = 0
        while position < len(result):
            try:
                count = os.preadv(
                    self._descriptors[tensor.file],
                    [view[position:]],
                    tensor.offset + begin + position,
                )
            except OSError as error:
                raise CheckpointError(
                    f"cannot read `{tensor.file.name}`",
                    where=(*tensor.where(), error.strerror or str(error)),
                ) from None
            if count == 0:
                raise CheckpointError(
                    f"file became shorter while it was read: `{tensor.file.name}`",
                    where=tensor.where(),
                )
            position += count
        return result

    def float_rows(self, tensor: TensorInfo, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Returns float32[rows, cols]: rows [begin, end) of a float tensor.

        A vector is one row. F64 is rounded to nearest; the other types convert exactly.

        Raises:
            CheckpointError: A value is not finite, or the file cannot be read.
        """
        dtype = FLOAT_DTYPES[tensor.dtype]
        cols = tensor.shape[-1] if tensor.shape else 1
        row_bytes = cols * dtype.itemsize
        data = self.read_bytes(tensor, begin * row_bytes, end * row_bytes)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values = np.frombuffer(data, dtype).astype(np.float32, copy=False)
        finite = np.isfinite(values)
        if not finite.all():
            place = int(np.argmin(finite))
            raise CheckpointError(
                f"tensor holds a value that is not finite: `{tensor.name}`",
                where=(*tensor.where(), f"row {begin + place // cols}, column {place % cols}"),
            )
        return values.reshape(end - begin, cols)
