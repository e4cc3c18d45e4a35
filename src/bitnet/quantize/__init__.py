"""Checkpoint to model.bin, and the reader of model.bin."""

from bitnet.quantize.reader import ModelFile, open_model
from bitnet.quantize.writer import ModelSummary, Progress, write_model

__all__ = ["ModelFile", "ModelSummary", "Progress", "open_model", "write_model"]
