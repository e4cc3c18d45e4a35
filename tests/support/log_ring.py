"""The log ring read by a program of its own, from docs/formats/log.md: the oracle of bitnet-log."""

import functools
import hashlib
import re
import struct
from dataclasses import dataclass

from tests.support.engine import REPOSITORY

__all__ = ["CAPACITY", "HEADER_BYTES", "RING_BYTES", "Record", "event_rows", "read_ring"]

HEADER_BYTES = 4096
RECORD_BYTES = 128
CAPACITY = 4096
RING_BYTES = HEADER_BYTES + CAPACITY * RECORD_BYTES


@dataclass(frozen=True)
class Record:
    """One record of a ring."""

    sequence: int
    monotonic_ns: int
    event: int
    numbers: tuple[int, int, int]
    data: bytes
    chain: bytes


@dataclass(frozen=True)
class EventRow:
    """One line of engine/runtime/events.def."""

    name: str
    number: int
    word: str
    labels: tuple[str, str, str]
    data: str


@functools.cache
def event_rows() -> dict[int, EventRow]:
    """Returns the table of events by number."""
    text = (REPOSITORY / "engine/runtime/events.def").read_text(encoding="utf-8")
    row = re.compile(
        r'^BITNET_EVENT\((\w+), (\d+), "(\w+)", "(\w*)", "(\w*)", "(\w*)", (none|hex|text)\)$',
        re.MULTILINE,
    )
    found = row.findall(text)
    assert len(found) == text.count("\nBITNET_EVENT(")
    return {int(each[1]): EventRow(each[0], int(each[1]), each[2], each[3:6], each[6])
            for each in found}  # fmt: skip


def _digest(domain: int, *parts: bytes) -> bytes:
    return hashlib.sha3_384(bytes([domain]) + b"".join(parts)).digest()[:32]


def read_ring(ring: bytes) -> list[Record]:
    """Returns the records of a ring that nobody writes to; asserts that the chain holds."""
    assert len(ring) == RING_BYTES
    assert struct.unpack_from("<8sIIQ", ring) == (b"BNAGRING", 0, RECORD_BYTES, CAPACITY)
    assert not any(ring[32:64] + ring[72:HEADER_BYTES])
    (head,) = struct.unpack_from("<Q", ring, 64)
    first = 0 if head < CAPACITY else head - CAPACITY + 2
    chain = _digest(2, ring[:64])
    if first:
        at = HEADER_BYTES + (first - 1) % CAPACITY * RECORD_BYTES
        chain = ring[at + 96 : at + 128]
    records = []
    for sequence in range(first, head):
        at = HEADER_BYTES + sequence % CAPACITY * RECORD_BYTES
        block = ring[at : at + RECORD_BYTES]
        found, monotonic_ns, event, data_bytes, *numbers = struct.unpack_from("<QQIIQQQ", block)
        chain = _digest(3, chain, block[:96])
        assert (found, chain) == (sequence, block[96:]), f"chain breaks at {sequence}"
        data = block[48 : 48 + data_bytes]
        a, b, c = numbers
        records.append(Record(sequence, monotonic_ns, event, (a, b, c), data, chain))
    return records
