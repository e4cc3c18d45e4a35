"""A published checkpoint as a ModelSpec and weights by role, read in blocks of rows."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from bitnet.checkpoint.config import CheckpointConfig, WeightForm, load_config
from bitnet.checkpoint.rope import rope_inv_freq
from bitnet.checkpoint.spec import F32Rows, ModelSpec, TernaryMatrix
from bitnet.checkpoint.tensor_files import FLOAT_DTYPES, TensorInfo, TensorStore
from bitnet.checkpoint.ternary import (
    VALUES_PER_BYTE,
    MagnitudeSummary,
    absmean_scale,
    quantize_masters,
    unpack_stripe,
)
from bitnet.errors import CheckpointError

__all__ = ["MATRIX_ROLES", "Checkpoint", "matrix_shape", "open_checkpoint", "vector_length"]

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

MATRIX_ROLES: Final = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_LAYER_VECTORS: Final = {
    "input_norm": "input_layernorm",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
}
_EMBEDDING: Final = "model.embed_tokens.weight"
_HEAD: Final = "lm_head.weight"
_FINAL_NORM: Final = "model.norm.weight"

# Floats of one block of rows: bounds the memory of streaming, 4 bytes each and a few copies.
_BLOCK_VALUES: Final = 1 << 20


def matrix_shape(spec: ModelSpec, role: str) -> tuple[int, int]:
    """Returns (rows, cols) of a ternary matrix of a layer."""
    heads = spec.head_count * spec.head_dim
    kv_heads = spec.kv_head_count * spec.head_dim
    return {
        "q": (heads, spec.hidden_size),
        "k": (kv_heads, spec.hidden_size),
        "v": (kv_heads, spec.hidden_size),
        "o": (spec.hidden_size, heads),
        "gate": (spec.intermediate_size, spec.hidden_size),
        "up": (spec.intermediate_size, spec.hidden_size),
        "down": (spec.hidden_size, spec.intermediate_size),
    }[role]


def vector_length(spec: ModelSpec, role: str) -> int:
    """Returns the length of a vector by role."""
    return {
        "rope_inv_freq": spec.head_dim // 2,
        "input_norm": spec.hidden_size,
        "attn_sub_norm": spec.head_count * spec.head_dim,
        "post_attention_norm": spec.hidden_size,
        "ffn_sub_norm": spec.intermediate_size,
        "final_norm": spec.hidden_size,
    }[role]


def layer_vector_roles(spec: ModelSpec) -> list[str]:
    """Returns the roles of the vectors that every layer has."""
    absent = {"attn_sub_norm": not spec.attn_sub_norm, "ffn_sub_norm": not spec.ffn_sub_norm}
    return [role for role in _LAYER_VECTORS if not absent.get(role, False)]


def row_blocks(rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """Yields [begin, end) of blocks of rows, each a multiple of 16 rows but the last."""
    step = max(16, _BLOCK_VALUES // max(cols, 1) // 16 * 16)
    for begin in range(0, rows, step):
        yield begin, min(rows, begin + step)


class Checkpoint:
    """A checkpoint directory; implements `Weights` and gives rows of its tensors as asked.

    Every tensor's presence, type and shape is checked when it is opened; values are checked as
    they are read. Use it as a context manager, or call `close`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._config: CheckpointConfig = load_config(directory)
        self._store = TensorStore(directory)
        self._magnitude_cache: dict[tuple[str, int], tuple[np.float32, np.float32 | None]] = {}
        try:
            self._check_tensors()
        except BaseException:
            self.close()
            raise

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
        """Closes the files."""
        self._store.close()

    @property
    def spec(self) -> ModelSpec:
        """The geometry."""
        return self._config.spec

    @property
    def form(self) -> WeightForm:
        """How the matrices are stored."""
        return self._config.form

    @property
    def architecture(self) -> str:
        """The class name of the model: `BitNetForCausalLM`, `LlamaForCausalLM`."""
        return self._config.architecture

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return self._store.files

    @property
    def _packed(self) -> bool:
        return self.form in (WeightForm.PACKED_MULTIPLY, WeightForm.PACKED_DIVIDE)

    def _matrix_tensors(self, role: str, layer: int) -> tuple[str, str]:
        base = f"model.layers.{layer}.{MATRIX_ROLES[role]}"
        return f"{base}.weight", f"{base}.weight_scale"

    def _expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the name and shape of every float tensor and every matrix of the checkpoint."""
        spec = self.spec
        shapes: dict[str, tuple[int, ...]] = {
            _EMBEDDING: (spec.vocab_size, spec.hidden_size),
            _FINAL_NORM: (spec.hidden_size,),
        }
        if not spec.tied_head:
            shapes[_HEAD] = (spec.vocab_size, spec.hidden_size)
        for layer in range(spec.layer_count):
            for role in layer_vector_roles(spec):
                name = f"model.layers.{layer}.{_LAYER_VECTORS[role]}.weight"
                shapes[name] = (vector_length(spec, role),)
            for role in MATRIX_ROLES:
                weight, scale = self._matrix_tensors(role, layer)
                rows, cols = matrix_shape(spec, role)
                shapes[weight] = (rows // VALUES_PER_BYTE if self._packed else rows, cols)
                if self._packed:
                    shapes[scale] = (1,)
        return shapes

    def _check_tensors(self) -> None:
        """Checks that the tensors are exactly those which the configuration calls for."""
        if self._packed:
            self._check_packable()
        expected = self._expected_shapes()
        for name, shape in expected.items():
            self._check_tensor(name, shape)
        extra = sorted(set(self._store.tensors) - set(expected))
        if extra == [_HEAD] and self.spec.tied_head:
            self._check_tied_head()
        elif extra:
            raise CheckpointError(
                f"checkpoint holds an unexpected tensor: `{extra[0]}`",
                where=(
                    *self._store.tensors[extra[0]].where(),
                    f"{self.architecture} has no such tensor; it may change the arithmetic",
                ),
            )

    def _check_packable(self) -> None:
        for role in MATRIX_ROLES:
            rows, _ = matrix_shape(self.spec, role)
            if rows % VALUES_PER_BYTE:
                raise CheckpointError(
                    f"packed matrix `{role}` has {rows} rows, not a multiple of {VALUES_PER_BYTE}",
                    where=f"file {self.directory / 'config.json'}",
                )

    def _check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        tensor = self._store.tensors.get(name)
        if tensor is None:
            hint = None
            if name == _HEAD:
                hint = "a tied head needs `tie_word_embeddings: true` in config.json"
            raise CheckpointError(
                f"checkpoint lacks a tensor: `{name}`",
                where=f"directory {self.directory}, {self.architecture} needs it",
                hint=hint,
            )
        is_scale = name.endswith(".weight_scale")
        if tensor.shape != shape and not (is_scale and tensor.shape == ()):
            raise CheckpointError(
                f"tensor does not have the shape that the configuration gives: `{name}`",
                where=(*tensor.where(), f"expected {list(shape)}"),
            )
        is_matrix = len(shape) == 2 and name.startswith("model.layers.")
        packed = self._packed and is_matrix
        if not (tensor.dtype == "U8" if packed else tensor.dtype in FLOAT_DTYPES):
            expected = "U8 (packed ternary)" if packed else "a float type"
            raise CheckpointError(
                f"tensor is not of the type that the configuration gives: `{name}`",
                where=(*tensor.where(), f"expected {expected}", f"form: {self.form.value}"),
            )

    def _check_tied_head(self) -> None:
        """Checks that a head which a tied checkpoint stores all the same is the embedding."""
        head, embedding = self._store.tensors[_HEAD], self._store.tensors[_EMBEDDING]
        same = (head.shape, head.dtype) == (embedding.shape, embedding.dtype)
        step = 1 << 22
        for begin in range(0, head.byte_count if same else 0, step):
            end = min(head.byte_count, begin + step)
            pair = [self._store.read_bytes(tensor, begin, end) for tensor in (head, embedding)]
            same = same and pair[0] == pair[1]
        if not same:
            raise CheckpointError(
                f"head is tied to the embedding, but stored and different: `{_HEAD}`",
                where=head.where(),
                hint="set `tie_word_embeddings` in config.json to what the publisher trained",
            )

    def _tensor_for(self, role: str, layer: int | None) -> TensorInfo:
        if layer is None:
            name = {"embedding": _EMBEDDING, "final_norm": _FINAL_NORM, "head": _HEAD}[role]
            if role == "head" and self.spec.tied_head:
                name = _EMBEDDING
            return self._store.tensors[name]
        return self._store.tensors[f"model.layers.{layer}.{_LAYER_VECTORS[role]}.weight"]

    # Matrices.

    def matrix_rows(self, role: str, layer: int, begin: int, end: int) -> I8:
        """Returns int8[end - begin, cols], rows of a ternary matrix, values -1, 0, +1.

        Raises:
            CheckpointError: A packed code is 3, or a master is not finite.
        """
        weight = self._store.tensors[self._matrix_tensors(role, layer)[0]]
        if self._packed:
            return self._packed_rows(weight, begin, end)
        values = self._store.float_rows(weight, begin, end)
        magnitude = self._single_magnitude(role, layer)
        if magnitude is not None:
            return np.sign(values).astype(np.int8)
        return quantize_masters(values, self._absmean(role, layer))

    def matrix_scale(self, role: str, layer: int) -> np.float32:
        """Returns what the integer sums of a matrix are multiplied with, finite and above 0.

        Raises:
            CheckpointError: The stored scale is not so, or a master is not finite.
        """
        if not self._packed:
            magnitude = self._single_magnitude(role, layer)
            return (
                magnitude if magnitude is not None else np.float32(1) / self._absmean(role, layer)
            )
        tensor = self._store.tensors[self._matrix_tensors(role, layer)[1]]
        stored = self._store.float_rows(tensor, 0, 1)[0, 0]
        with np.errstate(divide="ignore", over="ignore"):
            divides = self.form is WeightForm.PACKED_DIVIDE
            scale = np.float32(1) / stored if divides else stored
        if not (stored > 0 and np.isfinite(scale) and scale > 0):
            raise CheckpointError(
                f"scale of a matrix is not usable: `{tensor.name}`",
                where=(*tensor.where(), f"value {stored}, multiplier {scale}"),
            )
        return np.float32(scale)

    def _packed_rows(self, weight: TensorInfo, begin: int, end: int) -> I8:
        stripe_rows, cols = weight.shape
        parts = []
        while begin < end:
            stripe, first = divmod(begin, stripe_rows)
            last = min(stripe_rows, first + end - begin)
            data = self._store.read_bytes(weight, first * cols, last * cols)
            packed = np.frombuffer(data, np.uint8).reshape(last - first, cols)
            try:
                parts.append(unpack_stripe(packed, stripe))
            except CheckpointError as error:
                raise CheckpointError(
                    f"packed weight code 3 does not exist: `{weight.name}`",
                    where=(*weight.where(), *error.where, f"counted from packed row {first}"),
                ) from None
            begin += last - first
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _magnitudes(self, role: str, layer: int) -> tuple[np.float32, np.float32 | None]:
        """Returns mean |W| and the single magnitude of a float matrix; one pass over it, once."""
        known = self._magnitude_cache.get((role, layer))
        if known is not None:
            return known
        weight = self._store.tensors[self._matrix_tensors(role, layer)[0]]
        summary = MagnitudeSummary()
        for begin, end in row_blocks(*matrix_shape(self.spec, role)):
            summary.add(self._store.float_rows(weight, begin, end))
        if summary.has_scales and self.form is not WeightForm.MASTERS:
            raise CheckpointError(
                f"matrix looks ternary with several scales: `{weight.name}`",
                where=(*weight.where(), "each row has one magnitude, or a tenth of it is zero"),
                hint="take a checkpoint with one scale a matrix; others cannot be written exactly",
            )
        result = summary.mean, summary.single_magnitude
        self._magnitude_cache[role, layer] = result
        return result

    def _absmean(self, role: str, layer: int) -> np.float32:
        return absmean_scale(self._magnitudes(role, layer)[0])

    def _single_magnitude(self, role: str, layer: int) -> np.float32 | None:
        """Returns a of a matrix of {-a, 0, +a} that was published as its own product.

        The absolute mean of such values is not their scale. For `online` masters transformers
        takes the absolute mean whatever the values are, so this does too.
        """
        if self.form is WeightForm.MASTERS:
            return None
        return self._magnitudes(role, layer)[1]

    # Tables and vectors.

    def table_rows(self, role: str, begin: int, end: int) -> F32:
        """Returns float32[end - begin, hidden], rows of the embedding or of the head."""
        return self._store.float_rows(self._tensor_for(role, None), begin, end)

    def vector(self, role: str, layer: int | None) -> F32:
        """Returns float32[length] by role; `rope_inv_freq` is computed."""
        if role == "rope_inv_freq":
            return rope_inv_freq(self.spec.rope_theta, self.spec.head_dim)
        row: F32 = self._store.float_rows(self._tensor_for(role, layer), 0, 1)[0]
        return row

    def matrix(self, role: str, layer: int) -> TernaryMatrix:
        """Returns a whole ternary matrix."""
        rows, _ = matrix_shape(self.spec, role)
        return TernaryMatrix(self.matrix_rows(role, layer, 0, rows), self.matrix_scale(role, layer))

    def table(self, role: str) -> F32Rows:
        """Returns the whole embedding, or the whole head (the embedding where it is tied)."""
        return F32Rows(self.table_rows(role, 0, self.spec.vocab_size))


def open_checkpoint(directory: Path) -> Checkpoint:
    """Returns the checkpoint in a directory, its configuration and headers checked in full.

    Args:
        directory: Holds config.json and model.safetensors, or an index and its shards.

    Raises:
        CheckpointError: See docs/formats/checkpoint.md for what is read and what is refused.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"checkpoint is not a directory: `{directory}`",
            hint="name the directory that holds config.json and the safetensors files",
        )
    return Checkpoint(directory)
