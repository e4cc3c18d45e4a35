"""What every number depends on besides its case, and where the repository is."""

from pathlib import Path

from bitnet.measure.machine import machine

__all__ = ["REPOSITORY", "machine"]

REPOSITORY = Path(__file__).resolve().parents[1]
