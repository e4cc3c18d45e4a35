"""engine/base/status.def as data, by a parser of its own, and the text of each status."""

import functools
import re
from dataclasses import dataclass

from tests.support.engine import REPOSITORY

__all__ = ["StatusRow", "status_rows", "told"]


@dataclass(frozen=True)
class StatusRow:
    """One way to refuse."""

    name: str
    number: int
    exit_code: int
    text: str
    where: str
    found: str
    limit: str
    hint: str


_STRING = r'"((?:[^"\\]|\\.)*)"'
_ROW = re.compile(
    r"^BITNET_STATUS\((\w+), (\d+), (\d+), " + ", ".join([_STRING] * 5) + r"\)$", re.MULTILINE
)


@functools.cache
def status_rows() -> dict[str, StatusRow]:
    """Returns the rows by name, in the order of the file."""
    text = (REPOSITORY / "engine/base/status.def").read_text(encoding="utf-8")
    matches = _ROW.findall(text)
    assert len(matches) == len(re.findall(r"^BITNET_STATUS\(", text, re.MULTILINE))
    return {row[0]: StatusRow(row[0], int(row[1]), int(row[2]), *row[3:]) for row in matches}


def told(name: str, subject: str = "", where: int = 0, found: int = 0, limit: int = 0) -> str:
    """Returns what a program prints for a status: error, facts, a blank line, a hint."""
    row = status_rows()[name]
    numbers = ((row.where, where), (row.found, found), (row.limit, limit))
    facts = ", ".join(f"{label} {number}" for label, number in numbers if label)
    lines = [f"error: {row.text}" + (f": `{subject}`" if subject else "")]
    lines += [f"  {facts}"] if facts else []
    lines += ["", f"hint: {row.hint}"] if row.hint else []
    return "\n".join(lines) + "\n"
