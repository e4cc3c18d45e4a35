"""The C++ engine from Python: a shared-library build of the sources that run inside the gap, through ctypes."""

from bitnet.engine.engine import Engine, Generation

__all__ = ["Engine", "Generation"]
