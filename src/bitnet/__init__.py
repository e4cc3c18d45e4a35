"""Seals natively trained 1-bit models into static executables for machines with no network."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitnet.engine import Engine, Generation

__all__ = ["Engine", "Generation"]


def __getattr__(name: str) -> Any:
    """Loads the engine on first use: most commands do not need it."""
    if name in __all__:
        return getattr(importlib.import_module("bitnet.engine"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
