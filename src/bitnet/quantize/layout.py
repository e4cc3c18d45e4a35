"""Where everything lies in model.bin, as data: docs/formats/model.md in Python.

The tables here are compared with the tables of that page by a test.
"""

import dataclasses
import math
import struct
from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np

from bitnet.checkpoint import ModelSpec, matrix_shape, vector_length
from bitnet.limits import TILE_ROWS, pad_lanes

__all__ = [
    "ABSENT",
    "HEADER_FIELDS",
    "KIND_F32",
    "KIND_INT8",
    "KIND_NAMES",
    "KIND_TERNARY",
    "LEAF_BYTES",
    "MAGIC",
    "PAGE_BYTES",
    "ROLES",
    "TENSOR_ENTRY_BYTES",
    "TENSOR_FIELDS",
    "TENSOR_TABLE_OFFSET",
    "VERSION",
    "Field",
    "Layout",
    "TensorPlace",
    "attention_scale",
    "low_row_bytes",
    "pack_fields",
    "plan_layout",
    "tensor_bytes",
    "unpack_fields",
]

MAGIC: Final = b"BNAGMODL"
VERSION: Final = 1
PAGE_BYTES: Final = 4096
LEAF_BYTES: Final = 65536
DIGEST_BYTES: Final = 48
ABSENT: Final = 0xFFFFFFFF

TENSOR_TABLE_OFFSET: Final = 512
TENSOR_ENTRY_BYTES: Final = 64

KIND_TERNARY: Final = 1
KIND_INT8: Final = 3
KIND_F32: Final = 4
KIND_NAMES: Final = {KIND_TERNARY: "ternary", KIND_INT8: "int8 rows", KIND_F32: "f32 rows"}

ACTIVATIONS: Final[dict[str, int]] = {"relu2": 1, "silu": 2}

FLAG_TIED_HEAD: Final = 1
FLAG_ATTN_SUB_NORM: Final = 2
FLAG_FFN_SUB_NORM: Final = 4

ROLES: Final[dict[str, int]] = {
    "embedding": 1,
    "rope_inv_freq": 2,
    "input_norm": 3,
    "q": 4,
    "k": 5,
    "v": 6,
    "attn_sub_norm": 7,
    "o": 8,
    "post_attention_norm": 9,
    "gate": 10,
    "up": 11,
    "ffn_sub_norm": 12,
    "down": 13,
    "final_norm": 14,
    "head": 15,
}
_MATRICES: Final = frozenset({"q", "k", "v", "o", "gate", "up", "down"})
_TABLES: Final = frozenset({"embedding", "head"})

FieldType = Literal["u32", "u64", "f32", "bytes", "u32[8]"]


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of a structure; `offset` and `byte_count` as in the document."""

    offset: int
    byte_count: int
    type: FieldType
    name: str


HEADER_FIELDS: Final = (
    Field(0, 8, "bytes", "magic"),
    Field(8, 4, "u32", "version"),
    Field(12, 4, "u32", "header_bytes"),
    Field(16, 8, "u64", "file_bytes"),
    Field(24, 4, "u32", "hidden_size"),
    Field(28, 4, "u32", "intermediate_size"),
    Field(32, 4, "u32", "layer_count"),
    Field(36, 4, "u32", "head_count"),
    Field(40, 4, "u32", "kv_head_count"),
    Field(44, 4, "u32", "head_dim"),
    Field(48, 4, "u32", "vocab_size"),
    Field(52, 4, "u32", "context_max"),
    Field(56, 4, "u32", "activation"),
    Field(60, 4, "u32", "flags"),
    Field(64, 4, "f32", "norm_eps"),
    Field(68, 4, "f32", "attention_scale"),
    Field(72, 4, "u32", "embedding_kind"),
    Field(76, 4, "u32", "head_kind"),
    Field(80, 4, "u32", "bos_id"),
    Field(84, 4, "u32", "eos_count"),
    Field(88, 32, "u32[8]", "eos_ids"),
    Field(120, 4, "u32", "tensor_count"),
    Field(124, 4, "u32", "leaf_bytes"),
    Field(128, 8, "u64", "data_offset"),
    Field(136, 8, "u64", "data_bytes"),
    Field(144, 8, "u64", "leaves_offset"),
    Field(152, 8, "u64", "leaf_count"),
    Field(160, 8, "bytes", "reserved"),
    Field(168, 48, "bytes", "tokenizer_sha384"),
    Field(216, 48, "bytes", "root"),
    Field(264, 248, "bytes", "reserved"),
)

TENSOR_FIELDS: Final = (
    Field(0, 4, "u32", "role"),
    Field(4, 4, "u32", "layer"),
    Field(8, 4, "u32", "kind"),
    Field(12, 4, "u32", "rows"),
    Field(16, 4, "u32", "cols"),
    Field(20, 4, "f32", "scale"),
    Field(24, 8, "u64", "offset"),
    Field(32, 8, "u64", "bytes"),
    Field(40, 24, "bytes", "reserved"),
)

_STRUCT_CODES: Final = {"u32": "<I", "u64": "<Q", "f32": "<f", "u32[8]": "<8I"}


def header_field(name: str) -> Field:
    """Returns a field of the header by its name (not `reserved`, which stands twice)."""
    return next(field for field in HEADER_FIELDS if field.name == name)


def pack_fields(fields: tuple[Field, ...], values: dict[str, Any]) -> bytes:
    """Returns the bytes of a structure; fields named `reserved` are zeros."""
    last = fields[-1]
    result = bytearray(last.offset + last.byte_count)
    for field in fields:
        if field.name == "reserved":
            continue
        value = values[field.name]
        if field.type == "bytes":
            assert len(value) == field.byte_count
            result[field.offset : field.offset + field.byte_count] = value
        elif field.type == "u32[8]":
            struct.pack_into(_STRUCT_CODES[field.type], result, field.offset, *value)
        else:
            struct.pack_into(_STRUCT_CODES[field.type], result, field.offset, value)
    return bytes(result)


def unpack_fields(fields: tuple[Field, ...], data: bytes) -> dict[str, Any]:
    """Returns the values of a structure by name; those named `reserved` are left out."""
    values: dict[str, Any] = {}
    for field in fields:
        if field.name == "reserved":
            continue
        if field.type == "bytes":
            values[field.name] = data[field.offset : field.offset + field.byte_count]
            continue
        found = struct.unpack_from(_STRUCT_CODES[field.type], data, field.offset)
        values[field.name] = found if field.type == "u32[8]" else found[0]
    return values


def attention_scale(head_dim: int) -> np.float32:
    """Returns 1 / sqrt(head_dim), rounded to binary64 twice and to binary32 once."""
    return np.float32(1.0 / math.sqrt(head_dim))


def low_row_bytes(cols: int) -> int:
    """Returns the bytes of one row of the low plane of int8 rows: whole blocks of 128 columns."""
    return -(-cols // 128) * 64


def tensor_bytes(kind: int, rows: int, cols: int) -> int:
    """Returns how many bytes a tensor takes, without the gap after it."""
    rows_padded = -(-rows // TILE_ROWS) * TILE_ROWS
    cols_padded = pad_lanes(cols)
    if kind == KIND_TERNARY:
        return rows_padded * cols_padded // 4
    if kind == KIND_INT8:
        return rows_padded * (cols_padded // 2 + low_row_bytes(cols) + 8)
    assert kind == KIND_F32
    return 4 * rows * cols_padded


def align_page(offset: int) -> int:
    """Returns the first multiple of PAGE_BYTES at or after `offset`."""
    return -(-offset // PAGE_BYTES) * PAGE_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor as the geometry gives it; `layer` is None outside the layers."""

    role: str
    layer: int | None
    kind: int
    rows: int
    cols: int
    offset: int
    byte_count: int

    @property
    def name(self) -> str:
        """`layers.3.q`, `embedding`: for people."""
        return self.role if self.layer is None else f"layers.{self.layer}.{self.role}"


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Sizes and offsets of a whole file."""

    tensors: tuple[TensorPlace, ...]
    header_bytes: int
    data_bytes: int

    @property
    def leaves_offset(self) -> int:
        """Where the leaf digests begin."""
        return self.header_bytes + self.data_bytes

    @property
    def leaf_count(self) -> int:
        """How many leaves the data has."""
        return -(-self.data_bytes // LEAF_BYTES)

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return self.leaves_offset + DIGEST_BYTES * self.leaf_count


def _roles(spec: ModelSpec) -> Iterator[tuple[str, int | None]]:
    """Yields (role, layer) of every tensor in the order of the file."""
    yield "embedding", None
    yield "rope_inv_freq", None
    absent = set()
    if not spec.attn_sub_norm:
        absent.add("attn_sub_norm")
    if not spec.ffn_sub_norm:
        absent.add("ffn_sub_norm")
    in_layer = [role for role, number in ROLES.items() if 3 <= number <= 13]
    for layer in range(spec.layer_count):
        for role in in_layer:
            if role not in absent:
                yield role, layer
    yield "final_norm", None
    if not spec.tied_head:
        yield "head", None


def plan_layout(spec: ModelSpec, embedding_kind: int, head_kind: int) -> Layout:
    """Returns the place of every tensor; the geometry is within `limits`."""
    shapes: list[tuple[str, int | None, int, int, int]] = []
    for role, layer in _roles(spec):
        if role in _MATRICES:
            shapes.append((role, layer, KIND_TERNARY, *matrix_shape(spec, role)))
        elif role in _TABLES:
            kind = embedding_kind if role == "embedding" else head_kind
            shapes.append((role, layer, kind, spec.vocab_size, spec.hidden_size))
        else:
            shapes.append((role, layer, KIND_F32, 1, vector_length(spec, role)))
    header_bytes = align_page(TENSOR_TABLE_OFFSET + TENSOR_ENTRY_BYTES * len(shapes))
    tensors = []
    offset = header_bytes
    for role, layer, kind, rows, cols in shapes:
        byte_count = tensor_bytes(kind, rows, cols)
        tensors.append(TensorPlace(role, layer, kind, rows, cols, offset, byte_count))
        offset = align_page(offset + byte_count)
    return Layout(tuple(tensors), header_bytes, offset - header_bytes)
