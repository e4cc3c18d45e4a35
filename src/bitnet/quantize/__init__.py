"""Checkpoint to model.bin, and the reader of model.bin."""
