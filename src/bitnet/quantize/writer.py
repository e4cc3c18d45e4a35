"""Writes model.bin from a checkpoint, tensor by tensor and block of rows by block of rows."""

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from bitnet.checkpoint import Checkpoint, ModelSpec, WeightForm
from bitnet.checkpoint.checkpoint import row_blocks
from bitnet.checkpoint.directory import TOKENIZER_BYTES_MAX
from bitnet.errors import QuantizationError, UsageError
from bitnet.files import check_output, new_file, open_regular
from bitnet.limits import EOS_COUNT_MAX, TILE_ROWS
from bitnet.quantize.digests import LeafHasher, root_digest
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
    PAGE_BYTES,
    ROLES,
    TENSOR_ENTRY_BYTES,
    TENSOR_FIELDS,
    TENSOR_TABLE_OFFSET,
    VERSION,
    Layout,
    TensorPlace,
    attention_scale,
    header_field,
    pack_fields,
    plan_layout,
)
from bitnet.quantize.tiles import (
    pack_f32,
    pack_int8,
    pack_ternary,
    quantize_rows,
    residual_norms,
)

__all__ = ["ModelSummary", "Progress", "WeightRows", "write_model", "write_weights"]

Progress = Callable[[str, int, int], None]
"""Called with the name of the tensor being written, the bytes written, and the bytes in all."""

EMBEDDING_KINDS: Final = {"int8": KIND_INT8, "f32": KIND_F32}
_COPY_BYTES: Final = 1 << 20


class WeightRows(Protocol):
    """Weights that are given in blocks of rows as the file needs them; `Checkpoint` is one.

    Roles as in docs/formats/model.md. Rows are asked for in ascending order, each once.
    """

    @property
    def spec(self) -> ModelSpec:
        """The geometry."""

    def matrix_rows(self, role: str, layer: int, begin: int, end: int) -> npt.NDArray[np.int8]:
        """Returns int8[end - begin, cols] of -1, 0, +1."""

    def matrix_scale(self, role: str, layer: int) -> np.float32:
        """Returns the multiplier of the matrix's integer sums, finite and above 0."""

    def table_rows(self, role: str, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Returns float32[end - begin, hidden] of the embedding or of the untied head."""

    def vector(self, role: str, layer: int | None) -> npt.NDArray[np.float32]:
        """Returns float32[length]; `rope_inv_freq` is one of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSummary:
    """What was written.

    `zero_count` of `ternary_count` ternary weights are zero; `root` is the Merkle root, and
    `tokenizer_sha384` the digest in the header, or None.
    """

    path: Path
    file_bytes: int
    tensor_count: int
    ternary_count: int
    zero_count: int
    root: bytes
    tokenizer_sha384: bytes | None


def _check_trained_ternary(checkpoint: Checkpoint, force: bool) -> None:
    """Refuses weights that nothing says were trained with 1 bit, unless the caller insists."""
    if checkpoint.form is not WeightForm.PLAIN_FLOAT or force:
        return
    raise QuantizationError(
        f"nothing in the checkpoint says 1-bit training: `{checkpoint.directory}`",
        where=(
            f"{checkpoint.architecture} with float weights and no `quantization_config`",
            "rounding ordinary weights to -1, 0, +1 gives a model that answers nonsense",
        ),
        hint="take a checkpoint that was trained so, or insist with `--force`",
    )


def _digest_tokenizer(tokenizer: Path | None) -> bytes | None:
    """Returns SHA-384 of the tokenizer file."""
    if tokenizer is None:
        return None
    try:
        with open_regular(tokenizer) as stream:
            if os.fstat(stream.fileno()).st_size > TOKENIZER_BYTES_MAX:
                raise UsageError(
                    f"tokenizer file is too large: `{tokenizer}`",
                    where=f"limit {TOKENIZER_BYTES_MAX} bytes",
                )
            return hashlib.file_digest(stream, "sha384").digest()
    except OSError as error:
        raise UsageError(
            f"cannot read tokenizer file: `{tokenizer}`", where=error.strerror or str(error)
        ) from None


class _DataWriter:
    """Appends the data part to the file, digests its leaves, and reports progress."""

    def __init__(self, descriptor: int, layout: Layout, progress: Progress | None) -> None:
        self._descriptor = descriptor
        self._layout = layout
        self._progress = progress
        self._hasher = LeafHasher()
        self._position = layout.header_bytes
        self.tensor_name = ""

    def append(self, data: npt.NDArray[np.uint8]) -> None:
        view = np.ascontiguousarray(data).data
        _write_all(self._descriptor, view, self._position)
        self._hasher.update(view)
        self._position += len(view)
        if self._progress is not None:
            done = self._position - self._layout.header_bytes
            self._progress(self.tensor_name, done, self._layout.data_bytes)

    def pad_page(self) -> None:
        self.append(np.zeros(-self._position % PAGE_BYTES, np.uint8))

    def finish(self) -> bytes:
        """Writes the leaf digests behind the data and returns them."""
        assert self._position == self._layout.leaves_offset
        leaves = self._hasher.finish()
        _write_all(self._descriptor, memoryview(leaves), self._position)
        return leaves


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while len(view):
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _write_ternary(out: _DataWriter, weights: WeightRows, place: TensorPlace) -> int:
    """Writes one matrix and returns how many of its weights are zero."""
    assert place.layer is not None
    zero_count = 0
    for begin, end in row_blocks(place.rows, place.cols):
        rows = weights.matrix_rows(place.role, place.layer, begin, end)
        zero_count += rows.size - int(np.count_nonzero(rows))
        out.append(pack_ternary(rows))
    return zero_count


def _write_f32_table(out: _DataWriter, weights: WeightRows, place: TensorPlace) -> None:
    for begin, end in row_blocks(place.rows, place.cols):
        out.append(pack_f32(weights.table_rows(place.role, begin, end)))


def _write_int8_table(
    out: _DataWriter, weights: WeightRows, place: TensorPlace, directory: Path
) -> None:
    """Writes both planes and the values of each row; the low plane waits in a nameless file."""
    of_rows = np.zeros((2, -(-place.rows // TILE_ROWS) * TILE_ROWS), "<f4")
    with tempfile.TemporaryFile(dir=directory) as low_plane:
        for begin, end in row_blocks(place.rows, place.cols):
            codes, of_rows[0, begin:end] = quantize_rows(weights.table_rows(place.role, begin, end))
            of_rows[1, begin:end] = residual_norms(codes)
            high, low = pack_int8(codes)
            out.append(high)
            low_plane.write(low.data)
        low_plane.seek(0)
        while block := low_plane.read(_COPY_BYTES):
            out.append(np.frombuffer(block, np.uint8))
    out.append(of_rows.view(np.uint8).reshape(-1))


def _header_values(
    spec: ModelSpec, layout: Layout, kind: int, tokenizer_sha384: bytes | None
) -> dict[str, object]:
    flags = FLAG_TIED_HEAD * spec.tied_head
    flags |= FLAG_ATTN_SUB_NORM * spec.attn_sub_norm
    flags |= FLAG_FFN_SUB_NORM * spec.ffn_sub_norm
    eos_ids = (*spec.eos_ids, *[ABSENT] * (EOS_COUNT_MAX - len(spec.eos_ids)))
    return {
        "magic": MAGIC,
        "version": VERSION,
        "header_bytes": layout.header_bytes,
        "file_bytes": layout.file_bytes,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "layer_count": spec.layer_count,
        "head_count": spec.head_count,
        "kv_head_count": spec.kv_head_count,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "context_max": spec.context_max,
        "activation": ACTIVATIONS[spec.activation],
        "flags": flags,
        "norm_eps": spec.norm_eps,
        "attention_scale": float(attention_scale(spec.head_dim)),
        "embedding_kind": kind,
        "head_kind": kind,
        "bos_id": ABSENT if spec.bos_id is None else spec.bos_id,
        "eos_count": len(spec.eos_ids),
        "eos_ids": eos_ids,
        "tensor_count": len(layout.tensors),
        "leaf_bytes": LEAF_BYTES,
        "data_offset": layout.header_bytes,
        "data_bytes": layout.data_bytes,
        "leaves_offset": layout.leaves_offset,
        "leaf_count": layout.leaf_count,
        "tokenizer_sha384": tokenizer_sha384 or bytes(48),
        "root": bytes(48),
    }


def _pack_header(
    values: dict[str, object], layout: Layout, scales: dict[str, np.float32], leaves: bytes
) -> tuple[bytes, bytes]:
    """Returns the header with its root, and the root."""
    header = bytearray(layout.header_bytes)
    header[:TENSOR_TABLE_OFFSET] = pack_fields(HEADER_FIELDS, values)
    for index, place in enumerate(layout.tensors):
        entry = {
            "role": ROLES[place.role],
            "layer": ABSENT if place.layer is None else place.layer,
            "kind": place.kind,
            "rows": place.rows,
            "cols": place.cols,
            "scale": float(scales.get(place.name, np.float32(0))),
            "offset": place.offset,
            "bytes": place.byte_count,
        }
        begin = TENSOR_TABLE_OFFSET + TENSOR_ENTRY_BYTES * index
        header[begin : begin + TENSOR_ENTRY_BYTES] = pack_fields(TENSOR_FIELDS, entry)
    root = root_digest(bytes(header), leaves)
    field = header_field("root")
    header[field.offset : field.offset + field.byte_count] = root
    return bytes(header), root


def _check_output(output: Path, checkpoint: Checkpoint, tokenizer: Path | None) -> None:
    """Keeps whatever lies in the directory of the checkpoint, but for an earlier model.bin."""
    check_output(output, (*checkpoint.files, *((tokenizer,) if tokenizer is not None else ())))
    if output.exists() and not _begins_as_model(output):
        check_output(output, checkpoint.directory.iterdir())


def _begins_as_model(path: Path) -> bool:
    with contextlib.suppress(OSError), open_regular(path) as file:
        return file.read(len(MAGIC)) == MAGIC
    return False


def write_model(
    checkpoint: Checkpoint,
    output: Path,
    *,
    embedding: Literal["int8", "f32"] = "int8",
    tokenizer: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ModelSummary:
    """Writes model.bin and returns what was written. The same input gives the same bytes.

    Memory stays at a few blocks of rows (a block is about a million values), whatever the size
    of the checkpoint. The output appears under its name only when it is complete and on disk.

    Args:
        checkpoint: What to convert.
        output: The file to write; an existing one is replaced.
        embedding: The kind of the embedding, and of the head where it is not tied.
        tokenizer: The checkpoint's tokenizer.json, whose SHA-384 goes into the header.
        force: Converts a checkpoint of which nothing says 1-bit training.
        progress: Called as bytes are written.

    Raises:
        QuantizationError: Nothing in the checkpoint says 1-bit training.
        CheckpointError: A value of the checkpoint is not usable.
        UsageError: `output` or `tokenizer` is not usable.
        ToolchainError: The output cannot be written (disk full, no permission).

    Source: docs/formats/model.md.
    """
    if embedding not in EMBEDDING_KINDS:
        raise UsageError(f"embedding kind is unknown: `{embedding}`", hint="choose int8 or f32")
    _check_trained_ternary(checkpoint, force)
    _check_output(output, checkpoint, tokenizer)
    tokenizer_sha384 = _digest_tokenizer(tokenizer)
    return write_weights(
        checkpoint,
        output,
        embedding=embedding,
        tokenizer_sha384=tokenizer_sha384,
        progress=progress,
    )


def write_weights(
    weights: WeightRows,
    output: Path,
    *,
    embedding: Literal["int8", "f32"] = "int8",
    tokenizer_sha384: bytes | None = None,
    progress: Progress | None = None,
) -> ModelSummary:
    """Writes model.bin from weights of any origin; `write_model` without its questions.

    Raises:
        ToolchainError: The output cannot be written (disk full, no permission).
    """
    spec, kind = weights.spec, EMBEDDING_KINDS[embedding]
    layout = plan_layout(spec, kind, kind)
    scales: dict[str, np.float32] = {}
    zero_count = 0
    with new_file(output, mode=0o644) as new:
        descriptor = new.file.fileno()
        out = _DataWriter(descriptor, layout, progress)
        for place in layout.tensors:
            out.tensor_name = place.name
            if place.kind == KIND_TERNARY:
                assert place.layer is not None
                scales[place.name] = weights.matrix_scale(place.role, place.layer)
                zero_count += _write_ternary(out, weights, place)
            elif place.kind == KIND_INT8:
                _write_int8_table(out, weights, place, output.parent)
            elif place.role in ("embedding", "head"):
                _write_f32_table(out, weights, place)
            else:
                out.append(pack_f32(weights.vector(place.role, place.layer)[None, :]))
            out.pad_page()
        leaves = out.finish()
        values = _header_values(spec, layout, kind, tokenizer_sha384)
        header, root = _pack_header(values, layout, scales, leaves)
        _write_all(descriptor, memoryview(header), 0)
    ternary = [place.rows * place.cols for place in layout.tensors if place.kind == KIND_TERNARY]
    return ModelSummary(
        path=output,
        file_bytes=layout.file_bytes,
        tensor_count=len(layout.tensors),
        ternary_count=sum(ternary),
        zero_count=zero_count,
        root=root,
        tokenizer_sha384=tokenizer_sha384,
    )
