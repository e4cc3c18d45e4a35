"""The header of model.bin: every field checked, in the order of docs/formats/model.md."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitnet import limits
from bitnet.checkpoint import ModelSpec
from bitnet.errors import FormatError
from bitnet.quantize.layout import (
    ABSENT,
    ACTIVATIONS,
    FLAG_ATTN_SUB_NORM,
    FLAG_FFN_SUB_NORM,
    FLAG_TIED_HEAD,
    HEADER_FIELDS,
    KIND_F32,
    KIND_INT8,
    KIND_TERNARY,
    LEAF_BYTES,
    MAGIC,
    ROLES,
    TENSOR_ENTRY_BYTES,
    TENSOR_FIELDS,
    TENSOR_TABLE_OFFSET,
    VERSION,
    Field,
    Layout,
    TensorPlace,
    attention_scale,
    header_field,
    plan_layout,
    unpack_fields,
)

__all__ = ["Header", "parse_header"]

_ROW_KINDS: Final = (KIND_INT8, KIND_F32)
_ACTIVATION_NAMES: Final = {number: name for name, number in ACTIVATIONS.items()}
_FLAGS_ALL: Final = FLAG_TIED_HEAD | FLAG_ATTN_SUB_NORM | FLAG_FFN_SUB_NORM


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a checked header says; `scales` holds the multiplier of each tensor, or 0."""

    spec: ModelSpec
    attention_scale: np.float32
    embedding_kind: int
    head_kind: int
    layout: Layout
    scales: dict[TensorPlace, np.float32]
    tokenizer_sha384: bytes | None
    root: bytes


class _Checker:
    """Checks of single fields; every refusal names field, offset, value and limit."""

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self.file = file
        self.values = values

    def refuse(self, field: Field, value: Any, expected: str) -> FormatError:
        return FormatError(
            f"model.bin header field is out of range: `{field.name}`",
            where=(
                f"file {self.file}, offset {field.offset}",
                f"value {value}, expected {expected}",
            ),
        )

    def between(self, name: str, least: int, limit: int) -> int:
        value = int(self.values[name])
        if not least <= value <= limit:
            raise self.refuse(header_field(name), value, f"{least} to {limit}")
        return value

    def equal(self, name: str, expected: int) -> None:
        if self.values[name] != expected:
            raise self.refuse(header_field(name), self.values[name], str(expected))

    def one_of(self, name: str, allowed: tuple[int, ...]) -> int:
        value = int(self.values[name])
        if value not in allowed:
            raise self.refuse(header_field(name), value, " or ".join(map(str, allowed)))
        return value

    def fraction(self, name: str) -> float:
        value = float(self.values[name])
        if not 0 < value <= 1:  # false for NaN too
            raise self.refuse(header_field(name), value, "above 0 and at most 1")
        return value


def _check_attention_scale(check: _Checker, head_dim: int) -> np.float32:
    expected = attention_scale(head_dim)
    if check.values["attention_scale"] != expected:  # true for NaN too
        value = check.values["attention_scale"]
        field = header_field("attention_scale")
        raise check.refuse(field, value, f"1 / sqrt(head_dim) = {expected}")
    return expected


def _check_heads(check: _Checker) -> tuple[int, int, int]:
    """Returns head_count, kv_head_count, head_dim, which fit each other."""
    head_count = check.between("head_count", 1, limits.HEAD_COUNT_MAX)
    kv_head_count = check.between("kv_head_count", 1, head_count)
    if head_count % kv_head_count:
        field = header_field("kv_head_count")
        raise check.refuse(field, kv_head_count, f"a divisor of head_count {head_count}")
    head_dim = check.between("head_dim", 2, limits.HEAD_DIM_MAX)
    if head_dim % 2 or head_count * head_dim > limits.COLS_MAX:
        expected = f"even, head_count times head_dim at most {limits.COLS_MAX}"
        raise check.refuse(header_field("head_dim"), head_dim, expected)
    return head_count, kv_head_count, head_dim


def _check_tokens(check: _Checker, vocab_size: int) -> tuple[int | None, tuple[int, ...]]:
    """Returns bos_id and eos_ids."""
    bos_id = check.values["bos_id"]
    if bos_id != ABSENT:
        check.between("bos_id", 0, vocab_size - 1)
    eos_count = check.between("eos_count", 0, limits.EOS_COUNT_MAX)
    field = header_field("eos_ids")
    ids = check.values["eos_ids"]
    for token in ids[:eos_count]:
        if token >= vocab_size:
            raise check.refuse(field, token, f"below vocab_size {vocab_size}")
    for token in ids[eos_count:]:
        if token != ABSENT:
            raise check.refuse(field, token, f"{ABSENT:#x} after the first {eos_count}")
    return None if bos_id == ABSENT else bos_id, tuple(ids[:eos_count])


def _check_spec(check: _Checker) -> ModelSpec:
    hidden_size = check.between("hidden_size", 1, limits.HIDDEN_SIZE_MAX)
    intermediate_size = check.between("intermediate_size", 1, limits.COLS_MAX)
    layer_count = check.between("layer_count", 1, limits.LAYER_COUNT_MAX)
    head_count, kv_head_count, head_dim = _check_heads(check)
    vocab_size = check.between("vocab_size", 1, limits.VOCAB_SIZE_MAX)
    context_max = check.between("context_max", 1, limits.CONTEXT_MAX)
    activation = check.one_of("activation", tuple(_ACTIVATION_NAMES))
    flags = check.between("flags", 0, _FLAGS_ALL)
    norm_eps = check.fraction("norm_eps")
    bos_id, eos_ids = _check_tokens(check, vocab_size)
    return ModelSpec(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        layer_count=layer_count,
        head_count=head_count,
        kv_head_count=kv_head_count,
        head_dim=head_dim,
        vocab_size=vocab_size,
        context_max=context_max,
        activation="relu2" if _ACTIVATION_NAMES[activation] == "relu2" else "silu",
        norm_eps=norm_eps,
        rope_theta=math.nan,  # the file holds the frequencies themselves
        attn_sub_norm=bool(flags & FLAG_ATTN_SUB_NORM),
        ffn_sub_norm=bool(flags & FLAG_FFN_SUB_NORM),
        tied_head=bool(flags & FLAG_TIED_HEAD),
        bos_id=bos_id,
        eos_ids=eos_ids,
    )


def _check_layout(check: _Checker, layout: Layout, file_bytes: int) -> None:
    """Checks every size and offset of the header against the geometry, then against the file."""
    check.equal("tensor_count", len(layout.tensors))
    check.equal("header_bytes", layout.header_bytes)
    check.equal("leaf_bytes", LEAF_BYTES)
    check.equal("data_offset", layout.header_bytes)
    check.equal("data_bytes", layout.data_bytes)
    check.equal("leaves_offset", layout.leaves_offset)
    check.equal("leaf_count", layout.leaf_count)
    check.equal("file_bytes", layout.file_bytes)
    if file_bytes != layout.file_bytes:
        kind = "shorter" if file_bytes < layout.file_bytes else "longer"
        raise FormatError(
            f"model.bin is {kind} than it says: `{check.file}`",
            where=f"{file_bytes} bytes, expected {layout.file_bytes}",
            hint="copy the file again and compare its digest",
        )


def _check_zeros(file: Path, data: bytes, offset: int) -> None:
    if data.count(0) != len(data):
        first = next(index for index, byte in enumerate(data) if byte)
        raise FormatError(
            f"model.bin reserved bytes are not zero: `{file}`",
            where=f"offset {offset + first}, value {data[first]}",
        )


def _check_entry(file: Path, place: TensorPlace, entry: dict[str, Any], offset: int) -> np.float32:
    """Checks one entry of the tensor table and returns its scale."""
    expected = {
        "role": ROLES[place.role],
        "layer": ABSENT if place.layer is None else place.layer,
        "kind": place.kind,
        "rows": place.rows,
        "cols": place.cols,
        "offset": place.offset,
        "bytes": place.byte_count,
    }
    for field in TENSOR_FIELDS:
        if field.name in expected and entry[field.name] != expected[field.name]:
            raise FormatError(
                f"model.bin tensor is not what the geometry gives: `{place.name}`",
                where=(
                    f"file {file}, offset {offset + field.offset}",
                    f"{field.name} {entry[field.name]}, expected {expected[field.name]}",
                ),
            )
    scale = np.float32(entry["scale"])
    usable = np.isfinite(scale) and scale > 0
    if not (usable if place.kind == KIND_TERNARY else scale.tobytes() == bytes(4)):
        wanted = "finite and above 0" if place.kind == KIND_TERNARY else "0"
        raise FormatError(
            f"model.bin tensor scale is not usable: `{place.name}`",
            where=(f"file {file}, offset {offset + 20}", f"value {scale}, expected {wanted}"),
        )
    return scale


def _check_table(file: Path, header: bytes, layout: Layout) -> dict[TensorPlace, np.float32]:
    scales = {}
    for index, place in enumerate(layout.tensors):
        offset = TENSOR_TABLE_OFFSET + TENSOR_ENTRY_BYTES * index
        data = header[offset : offset + TENSOR_ENTRY_BYTES]
        scales[place] = _check_entry(file, place, unpack_fields(TENSOR_FIELDS, data), offset)
        _check_reserved(file, TENSOR_FIELDS, data, offset)
    end = TENSOR_TABLE_OFFSET + TENSOR_ENTRY_BYTES * len(layout.tensors)
    _check_zeros(file, header[end:], end)
    return scales


def _check_reserved(file: Path, fields: tuple[Field, ...], data: bytes, offset: int) -> None:
    for field in fields:
        if field.name == "reserved":
            part = data[field.offset : field.offset + field.byte_count]
            _check_zeros(file, part, offset + field.offset)


def parse_header(data: memoryview, file: Path) -> Header:
    """Returns the header of the file that `data` maps, every field checked; digests are not.

    Raises:
        FormatError: The file is too short, is no model.bin, or a field is not what it must be.
    """
    if len(data) < TENSOR_TABLE_OFFSET:
        raise FormatError(
            f"model.bin is shorter than its header: `{file}`",
            where=f"{len(data)} bytes, expected at least {TENSOR_TABLE_OFFSET}",
        )
    fixed = bytes(data[:TENSOR_TABLE_OFFSET])
    values = unpack_fields(HEADER_FIELDS, fixed)
    if values["magic"] != MAGIC:
        raise FormatError(
            f"not a model.bin file: `{file}`",
            where=f"offset 0, expected {MAGIC.decode()}",
            hint="write one with `bitnet.quantize`",
        )
    check = _Checker(file, values)
    if values["version"] != VERSION:
        raise FormatError(
            f"model.bin version is not supported: `{file}`",
            where=f"offset 8, value {values['version']}, expected {VERSION}",
            hint="quantise the checkpoint again with this version of `bitnet.quantize`",
        )
    spec = _check_spec(check)
    scale = _check_attention_scale(check, spec.head_dim)
    embedding_kind = check.one_of("embedding_kind", _ROW_KINDS)
    head_kind = check.one_of("head_kind", (embedding_kind,) if spec.tied_head else _ROW_KINDS)
    layout = plan_layout(spec, embedding_kind, head_kind)
    _check_layout(check, layout, len(data))
    _check_reserved(file, HEADER_FIELDS, fixed, 0)
    scales = _check_table(file, bytes(data[: layout.header_bytes]), layout)
    tokenizer = values["tokenizer_sha384"]
    return Header(
        spec=spec,
        attention_scale=scale,
        embedding_kind=embedding_kind,
        head_kind=head_kind,
        layout=layout,
        scales=scales,
        tokenizer_sha384=tokenizer if any(tokenizer) else None,
        root=values["root"],
    )
