"""The C++ engine from Python: a shared library of the sources that run inside the gap."""

from bitnet.engine.engine import Engine, Generation

__all__ = ["Engine", "Generation"]
