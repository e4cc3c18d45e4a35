"""Published checkpoints of several forms behind one view: a ModelSpec and weights by role."""

from bitnet.checkpoint.checkpoint import Checkpoint, matrix_shape, open_checkpoint, vector_length
from bitnet.checkpoint.config import WeightForm
from bitnet.checkpoint.directory import find_file
from bitnet.checkpoint.spec import F32Rows, Int8Rows, ModelSpec, TernaryMatrix, Weights

__all__ = [
    "Checkpoint",
    "F32Rows",
    "Int8Rows",
    "ModelSpec",
    "TernaryMatrix",
    "WeightForm",
    "Weights",
    "find_file",
    "matrix_shape",
    "open_checkpoint",
    "vector_length",
]
