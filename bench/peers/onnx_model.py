"""An ONNX model of a geometry: every matrix as MatMulNBits of four bits, chained.

What a transformer computes between its matrices is left out, to the advantage of this peer: there
are norms (so that values stay finite), the gate and the residual additions, but neither attention
nor positions nor a cache. The output of q takes k and v by an addition, so that both are computed.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from bench.peers.blocks import DEVIATION
from bitnet.checkpoint import ModelSpec, matrix_shape
from bitnet.errors import UsageError
from bitnet.files import new_file

__all__ = ["BLOCK", "token_bytes", "write_onnx"]

Progress = Callable[[str, int, int], None]

BLOCK: Final = 32
_ROLES: Final = ("q", "k", "v", "o", "gate", "up", "down")
_SPREAD: Final = 21.25**0.5  # of the codes 0 … 15
_ALIGN: Final = 4096
_PIECE_BYTES: Final = 16 << 20
# Sums of products of int8: the fastest that the operator has on a processor.
_ACCURACY_INT8: Final = 4


def _matrices(spec: ModelSpec) -> Iterator[tuple[str, int, int]]:
    """Yields name, rows and columns of every matrix, the head last."""
    for layer in range(spec.layer_count):
        for role in _ROLES:
            rows, cols = matrix_shape(spec, role)
            yield f"{role}{layer}", rows, cols
    yield "head", spec.vocab_size, spec.hidden_size


def _matrix_bytes(rows: int, cols: int) -> tuple[int, int]:
    """Returns the bytes of codes and of scales."""
    if cols % BLOCK != 0:
        raise UsageError(f"row is no whole number of blocks: `{cols}`", where=f"blocks of {BLOCK}")
    return rows * cols // 2, rows * cols // BLOCK * 4


def token_bytes(spec: ModelSpec) -> float:
    """Returns the bytes that every token must read; there are no keys and values."""
    return sum(sum(_matrix_bytes(rows, cols)) for _, rows, cols in _matrices(spec))


class _DataFile:
    """The weights, one after the other, and the tensors that refer to them."""

    def __init__(
        self, file: BinaryIO, name: str, seed: int, total: int, progress: Progress | None
    ) -> None:
        self.file = file
        self.tensors: list[TensorProto] = []
        self._name = name
        self._generator = np.random.Generator(np.random.SFC64(seed))
        self._total = total
        self._progress = progress

    def _put(self, data: bytes) -> None:
        self.file.write(data)
        if self._progress is not None:
            done = min(self.file.tell(), self._total)
            self._progress(self.tensors[-1].name, done, self._total)

    def _begin(self, name: str, kind: int, shape: tuple[int, ...], size: int) -> None:
        self.file.write(bytes(-self.file.tell() % _ALIGN))
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        facts = {"location": self._name, "offset": self.file.tell(), "length": size}
        for key, value in facts.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)

    def add_matrix(self, name: str, rows: int, cols: int) -> None:
        """Writes codes and scales of a matrix."""
        code_bytes, scale_bytes = _matrix_bytes(rows, cols)
        blocks = cols // BLOCK
        self._begin(f"{name}.codes", TensorProto.UINT8, (rows, blocks, BLOCK // 2), code_bytes)
        for done in range(0, code_bytes, _PIECE_BYTES):
            self._put(self._generator.bytes(min(_PIECE_BYTES, code_bytes - done)))
        self._begin(f"{name}.scales", TensorProto.FLOAT, (rows, blocks), scale_bytes)
        self._put(np.full(scale_bytes // 4, DEVIATION / _SPREAD, "<f4").tobytes())


def _product(name: str, source: str, rows: int, cols: int) -> onnx.NodeProto:
    return helper.make_node(
        "MatMulNBits",
        [source, f"{name}.codes", f"{name}.scales"],
        [name],
        name=f"matmul.{name}",
        domain="com.microsoft",
        K=cols,
        N=rows,
        bits=4,
        block_size=BLOCK,
        accuracy_level=_ACCURACY_INT8,
    )


def _norm(name: str, source: str, eps: float) -> onnx.NodeProto:
    return helper.make_node(
        "SimplifiedLayerNormalization",
        [source, "ones"],
        [name],
        name=f"norm.{name}",
        axis=-1,
        epsilon=eps,
        stash_type=1,
    )


def _layer_nodes(spec: ModelSpec, layer: int, source: str) -> Iterator[onnx.NodeProto]:
    """Yields the nodes from the residual `source` to the one named `residual{layer}`."""

    def product(role: str, of: str) -> onnx.NodeProto:
        return _product(f"{role}{layer}", of, *matrix_shape(spec, role))

    def node(kind: str, inputs: list[str], output: str, **options: int) -> onnx.NodeProto:
        name = f"{output}{layer}"
        return helper.make_node(kind, inputs, [name], name=f"node.{name}", **options)

    yield _norm(f"attn_norm{layer}", source, spec.norm_eps)
    for role in ("q", "k", "v"):
        yield product(role, f"attn_norm{layer}")
    yield node("Add", [f"k{layer}", f"v{layer}"], "kv")
    group = spec.head_count // spec.kv_head_count
    yield node("Concat", [f"kv{layer}"] * group, "heads", axis=-1)
    yield node("Add", [f"q{layer}", f"heads{layer}"], "mixed")
    yield product("o", f"mixed{layer}")
    yield node("Add", [source, f"o{layer}"], "middle")
    yield _norm(f"ffn_norm{layer}", f"middle{layer}", spec.norm_eps)
    yield product("gate", f"ffn_norm{layer}")
    yield product("up", f"ffn_norm{layer}")
    yield node("Relu", [f"gate{layer}"], "active")
    yield node("Mul", [f"active{layer}", f"up{layer}"], "gated")
    yield product("down", f"gated{layer}")
    yield node("Add", [f"middle{layer}", f"down{layer}"], "residual")


def _graph(spec: ModelSpec, tensors: list[TensorProto]) -> onnx.GraphProto:
    hidden = helper.make_tensor_value_info(
        "hidden", TensorProto.FLOAT, [1, "tokens", spec.hidden_size]
    )
    logits = helper.make_tensor_value_info("head", TensorProto.FLOAT, [1, 1, spec.vocab_size])
    nodes: list[onnx.NodeProto] = []
    source = "hidden"
    for layer in range(spec.layer_count):
        nodes += _layer_nodes(spec, layer, source)
        source = f"residual{layer}"
    nodes.append(helper.make_node("Gather", [source, "last_index"], ["last"], axis=1))
    nodes.append(_norm("final_norm", "last", spec.norm_eps))
    nodes.append(_product("head", "final_norm", spec.vocab_size, spec.hidden_size))
    ones = helper.make_tensor(
        "ones", TensorProto.FLOAT, [spec.hidden_size], [1.0] * spec.hidden_size
    )
    last = helper.make_tensor("last_index", TensorProto.INT64, [1], [-1])
    return helper.make_graph(nodes, "chain", [hidden], [logits], [*tensors, ones, last])


def write_onnx(spec: ModelSpec, path: Path, seed: int, progress: Progress | None = None) -> None:
    """Writes the model and, beside it with `.data` added to its name, the weights.

    The model appears last, and only when both are complete.
    """
    if sys.byteorder != "little":
        raise UsageError("model cannot be written on a big-endian machine")
    data_path = path.with_name(f"{path.name}.data")
    with new_file(data_path, mode=0o644) as output:
        data = _DataFile(output.file, data_path.name, seed, int(token_bytes(spec)), progress)
        for name, rows, cols in _matrices(spec):
            data.add_matrix(name, rows, cols)
    model = helper.make_model(
        _graph(spec, data.tensors),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    with new_file(path, mode=0o644) as output:
        output.file.write(model.SerializeToString(deterministic=True))
