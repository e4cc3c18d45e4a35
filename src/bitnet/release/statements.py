"""What is signed of a release: the update statement and the rollback order.

Source: docs/formats/release.md, Update statement and Rollback order.
"""

import re
from dataclasses import dataclass
from typing import Final

from bitnet.errors import FormatError, UsageError
from bitnet.release.container import STATEMENT_BYTES_MAX
from bitnet.release.manifest import Manifest, parse_manifest
from bitnet.release.text import (
    DIGEST,
    NAME,
    NUMBER,
    LineReader,
    check_canonical,
    check_name,
    check_number,
)

__all__ = ["RollbackOrder", "UpdateStatement", "parse_rollback_order", "parse_update_statement"]

_HEAD_BYTES_MAX: Final = 256


@dataclass(frozen=True)
class UpdateStatement:
    """A manifest, bound to the bundle that carries its files.

    Attributes:
        manifest: What is released.
        bundle_digest: SHA-384 of the whole bundle file in hex; None where files are signed alone.
        bundle_bytes: Size of the bundle; 0 without one.
    """

    manifest: Manifest
    bundle_digest: str | None = None
    bundle_bytes: int = 0

    def __post_init__(self) -> None:
        check_number(self.bundle_bytes, "size of the bundle")
        if (self.bundle_digest is None) != (self.bundle_bytes == 0):
            raise UsageError("a bundle has both a digest and a size, or neither")
        if self.bundle_digest is not None and re.fullmatch(DIGEST, self.bundle_digest) is None:
            raise UsageError(f"digest cannot be written: `{self.bundle_digest}`")

    def emit(self) -> bytes:
        """Returns the statement's bytes."""
        bundle = f"{self.bundle_digest or '-'} {self.bundle_bytes}"
        return f"bitnet-update v1\nbundle {bundle}\n".encode("ascii") + self.manifest.emit()


def parse_update_statement(data: bytes) -> UpdateStatement:
    """Returns what an update statement says; nothing is verified.

    Raises:
        FormatError: The text does not keep to its format.
    """
    end = data.find(b"\n", data.find(b"\n") + 1) + 1
    if not 0 < end <= _HEAD_BYTES_MAX:
        raise FormatError("update statement is malformed: line 1", where="expected two lines")
    reader = LineReader(data[:end], "update statement", _HEAD_BYTES_MAX)
    reader.take("bitnet-update v1", "bitnet-update v1")
    digest, digits = reader.take(rf"bundle (?:-|{DIGEST}) {NUMBER}", "bundle DIGEST BYTES")
    size = reader.number(digits)
    if (digest == "") != (size == 0):
        raise reader.refusal("a bundle has both a digest and a size, or neither")
    reader.finish()
    statement = UpdateStatement(parse_manifest(data[end:]), digest or None, size)
    check_canonical(data, statement.emit(), "update statement")
    return statement


@dataclass(frozen=True)
class RollbackOrder:
    """Permits one step back below the floor: from one counter to one manifest, for a reason."""

    product: str
    from_counter: int
    to_counter: int
    digest: str
    reason: str

    def __post_init__(self) -> None:
        check_name(self.product, "product")
        check_name(self.reason, "reason")
        check_number(self.from_counter, "counter")
        check_number(self.to_counter, "counter")
        if self.to_counter >= self.from_counter:
            raise UsageError(
                f"order does not go back: `{self.to_counter}`", where=f"from {self.from_counter}"
            )
        if re.fullmatch(DIGEST, self.digest) is None:
            raise UsageError(f"digest cannot be written: `{self.digest}`")

    def emit(self) -> bytes:
        """Returns the statement's bytes."""
        return (
            "bitnet-rollback-order v1\n"
            f"product {self.product}\n"
            f"from {self.from_counter}\n"
            f"to {self.to_counter}\n"
            f"digest {self.digest}\n"
            f"reason {self.reason}\n"
        ).encode("ascii")


def parse_rollback_order(data: bytes) -> RollbackOrder:
    """Returns what a rollback order permits; nothing is verified.

    Raises:
        FormatError: The text does not keep to its format.
    """
    reader = LineReader(data, "rollback order", STATEMENT_BYTES_MAX)
    reader.take("bitnet-rollback-order v1", "bitnet-rollback-order v1")
    (product,) = reader.take(f"product {NAME}", "product NAME")
    (old,) = reader.take(f"from {NUMBER}", "from COUNTER")
    before = reader.number(old)
    (new,) = reader.take(f"to {NUMBER}", "to COUNTER")
    if reader.number(new) >= before:
        raise reader.refusal(f"not below {before}")
    (digest,) = reader.take(f"digest {DIGEST}", "digest SHA-384")
    (reason,) = reader.take(f"reason {NAME}", "reason NAME")
    reader.finish()
    order = RollbackOrder(product, before, int(new), digest, reason)
    check_canonical(data, order.emit(), "rollback order")
    return order
