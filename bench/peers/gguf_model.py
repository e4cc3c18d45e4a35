"""GGUF files of a geometry with random weights, as llama.cpp's quantiser would lay them out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from gguf.gguf_writer import TensorInfo

from bench.peers.blocks import BLOCK_BYTES, BLOCK_WEIGHTS, stream_blocks
from bitnet.checkpoint import ModelSpec, matrix_shape
from bitnet.errors import UsageError
from bitnet.files import new_file

__all__ = ["FORMATS", "Tensor", "plan_tensors", "token_bytes", "write_gguf"]

Progress = Callable[[str, int, int], None]

FORMATS: Final = ("q4_k_m", "tq2_0", "tq1_0", "q2_0")
# Types and file types that the package does not name yet. Source: ggml.h and llama.h of llama.cpp.
_TYPE_Q2_0: Final = 42
_FILE_TYPES: Final = {"q4_k_m": 15, "tq1_0": 36, "tq2_0": 37, "q2_0": 41}
_MATRICES: Final = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file: `kind` is a name in `BLOCK_BYTES`, or F32."""

    name: str
    rows: int
    cols: int
    kind: str

    @property
    def byte_count(self) -> int:
        """Its bytes in the file, without padding."""
        count = self.rows * self.cols
        if self.kind == "F32":
            return 4 * count
        return count // BLOCK_WEIGHTS[self.kind] * BLOCK_BYTES[self.kind]


def _more_bits(layer: int, count: int) -> bool:
    """Says whether Q4_K_M gives a layer's v and down six bits.

    Source: llama_tensor_get_type in src/llama-quant.cpp of llama.cpp.
    """
    return (
        layer < count // 8 or layer >= 7 * count // 8 or (layer - count // 8) % 3 == 2
    )  # fmt: skip


def _matrix_kind(form: str, role: str, layer: int, layer_count: int) -> str:
    if form != "q4_k_m":
        return form.upper()
    return "Q6_K" if role in ("v", "down") and _more_bits(layer, layer_count) else "Q4_K"


def plan_tensors(spec: ModelSpec, form: str) -> list[Tensor]:
    """Returns the tensors of a file in their order.

    The head, or the embedding that it is tied to, is Q6_K; an embedding of its own Q4_K.

    Raises:
        UsageError: A row is no whole number of blocks.
    """
    tensors = []
    table = (spec.vocab_size, spec.hidden_size)
    tensors.append(Tensor("token_embd.weight", *table, "Q6_K" if spec.tied_head else "Q4_K"))
    if not spec.tied_head:
        tensors.append(Tensor("output.weight", *table, "Q6_K"))
    tensors.append(Tensor("output_norm.weight", 1, spec.hidden_size, "F32"))
    norms = {"attn_norm": spec.hidden_size, "ffn_norm": spec.hidden_size}
    if spec.attn_sub_norm:
        norms["attn_sub_norm"] = matrix_shape(spec, "o")[1]
    if spec.ffn_sub_norm:
        norms["ffn_sub_norm"] = spec.intermediate_size
    for layer in range(spec.layer_count):
        for name, length in norms.items():
            tensors.append(Tensor(f"blk.{layer}.{name}.weight", 1, length, "F32"))
        for role, name in _MATRICES.items():
            kind = _matrix_kind(form, role, layer, spec.layer_count)
            tensors.append(Tensor(f"blk.{layer}.{name}.weight", *matrix_shape(spec, role), kind))
    for tensor in tensors:
        if tensor.kind != "F32" and tensor.cols % BLOCK_WEIGHTS[tensor.kind] != 0:
            raise UsageError(
                f"row is no whole number of blocks: `{tensor.name}`",
                where=f"{tensor.cols} columns, blocks of {BLOCK_WEIGHTS[tensor.kind]}",
            )
    return tensors


def token_bytes(spec: ModelSpec, form: str, position: float) -> float:
    """Returns the bytes that decoding a token at a position must read; keys and values in f16."""
    kv_bytes = 2 * 2 * spec.layer_count * spec.kv_head_count * spec.head_dim
    total = position * kv_bytes
    for tensor in plan_tensors(spec, form):
        rows = 1 if tensor.name == "token_embd.weight" and not spec.tied_head else tensor.rows
        total += tensor.byte_count // tensor.rows * rows
    return total


def _tensor_data(tensor: Tensor, generator: np.random.Generator) -> Iterator[np.ndarray]:
    if tensor.kind == "F32":
        yield np.ones(tensor.cols, np.float32)
        return
    count = tensor.rows * tensor.cols // BLOCK_WEIGHTS[tensor.kind]
    yield from stream_blocks(tensor.kind, count, generator)


def _writer(spec: ModelSpec, form: str) -> gguf.GGUFWriter:
    arch = "bitnet" if spec.attn_sub_norm else "llama"
    writer = gguf.GGUFWriter(None, arch)
    writer.add_context_length(spec.context_max)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_block_count(spec.layer_count)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.head_count)
    writer.add_head_count_kv(spec.kv_head_count)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(spec.rope_theta)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_file_type(_FILE_TYPES[form])
    writer.add_tokenizer_model("no_vocab")
    return writer


def _add_tensor(writer: gguf.GGUFWriter, tensor: Tensor) -> None:
    shape = (tensor.cols,) if tensor.kind == "F32" else (tensor.rows, tensor.cols)
    known = getattr(gguf.GGMLQuantizationType, tensor.kind, _TYPE_Q2_0)
    writer.tensors[-1][tensor.name] = TensorInfo(shape, known, tensor.byte_count)


def write_gguf(
    spec: ModelSpec, form: str, path: Path, seed: int, progress: Progress | None = None
) -> None:
    """Writes a file in one of `FORMATS`; the same arguments give the same bytes.

    Memory stays at some tens of megabytes.
    """
    tensors = plan_tensors(spec, form)
    total = sum(tensor.byte_count for tensor in tensors)
    generator = np.random.Generator(np.random.SFC64(seed))
    writer = _writer(spec, form)
    for tensor in tensors:
        _add_tensor(writer, tensor)
    with new_file(path, mode=0o644) as output:
        writer.write_header_to_file(output.path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (file,) = writer.fout
        done = 0
        for tensor in tensors:
            file.write(bytes(-file.tell() % writer.data_alignment))
            for piece in _tensor_data(tensor, generator):
                piece.tofile(file)
                done += piece.nbytes
                if progress is not None:
                    progress(tensor.name, done, total)
        file.write(bytes(-file.tell() % writer.data_alignment))
        writer.close()
