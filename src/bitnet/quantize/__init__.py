"""Checkpoint to model.bin, and the reader of model.bin."""

from bitnet.quantize.reader import ModelFile, open_model
from bitnet.quantize.writer import (
    ModelSummary,
    Progress,
    WeightRows,
    write_model,
    write_weights,
)

__all__ = [
    "ModelFile",
    "ModelSummary",
    "Progress",
    "WeightRows",
    "open_model",
    "write_model",
    "write_weights",
]
