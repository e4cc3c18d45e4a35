"""The forward pass in NumPy, written to be read: the oracle of our own arithmetic."""

from bitnet.reference.forward import QuantizeTap, Reference

__all__ = ["QuantizeTap", "Reference"]
