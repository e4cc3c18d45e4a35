"""What every number depends on besides its case, and where the repository is."""

import datetime as dt
import itertools
from pathlib import Path

from bitnet.measure.machine import machine

__all__ = ["REPOSITORY", "RESULTS", "free_record", "machine", "today"]

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "bench" / "results"


def today() -> str:
    """Returns the date with which the names of records begin."""
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


def free_record(folder: Path, stem: str) -> Path:
    """Returns the first name of a record that is not there yet: pages cite records by name."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := folder / f"{name}.jsonl").exists())
