"""The signed container: a statement, and signatures of several people over exactly its bytes.

Source: docs/formats/release.md, Signed container.
"""

import re
from dataclasses import dataclass, replace
from typing import Final, Self

from bitnet.errors import FormatError, SignatureError, UsageError
from bitnet.release.keys import (
    ED25519_SIGNATURE_BYTES,
    ML_DSA_SIGNATURE_BYTES,
    PrivateKey,
    Signature,
)
from bitnet.release.text import (
    DIGEST,
    NUMBER,
    LineReader,
    check_canonical,
    decode_base64,
    encode_base64,
)

__all__ = [
    "CONTAINER_BYTES_MAX",
    "SIGNATURE_COUNT_MAX",
    "STATEMENT_BYTES_MAX",
    "Container",
    "parse_container",
]

SIGNATURE_COUNT_MAX: Final = 64
STATEMENT_BYTES_MAX: Final = 1 << 20
_SIGNATURE_BYTES: Final = 6400
CONTAINER_BYTES_MAX: Final = STATEMENT_BYTES_MAX + SIGNATURE_COUNT_MAX * _SIGNATURE_BYTES + 64

_HEAD: Final = re.compile(rb"bitnet-signatures v1\nstatement-bytes " + NUMBER.encode() + rb"\n")


@dataclass(frozen=True)
class Container:
    """A statement with the signatures gathered so far, in increasing order of key id."""

    statement: bytes
    signatures: tuple[Signature, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.statement) <= STATEMENT_BYTES_MAX or self.statement[-1:] != b"\n":
            raise UsageError("statement is empty, too long, or does not end with a line break")
        ids = [signature.key_id for signature in self.signatures]
        if ids != sorted(set(ids)) or len(ids) > SIGNATURE_COUNT_MAX:
            raise UsageError("signatures are too many, out of order, or of one key twice")

    def emit(self) -> bytes:
        """Returns the file."""
        head = f"bitnet-signatures v1\nstatement-bytes {len(self.statement)}\n".encode("ascii")
        lines = [
            f"signature {signature.key_id}\n"
            f"ed25519 {encode_base64(signature.ed25519)}\n"
            f"ml-dsa-87 {encode_base64(signature.ml_dsa_87)}\n"
            for signature in self.signatures
        ]
        return head + self.statement + "".join(lines).encode("ascii")

    def signed_by(self, key: PrivateKey) -> Self:
        """Returns the container with one more signature.

        Raises:
            SignatureError: The key has signed already, or there is no room.
        """
        return self.with_signature(key.sign(self.statement), key.name)

    def with_signature(self, signature: Signature, name: str) -> Self:
        """Returns the container with a signature that was made elsewhere; it is not verified.

        Raises:
            SignatureError: The key has signed already, or there is no room.
        """
        if any(present.key_id == signature.key_id for present in self.signatures):
            raise SignatureError(
                f"key has signed already: `{name}`", where=f"key id  {signature.key_id}"
            )
        if len(self.signatures) == SIGNATURE_COUNT_MAX:
            raise SignatureError(
                "no room for a further signature", where=f"limit {SIGNATURE_COUNT_MAX}"
            )
        both = sorted((*self.signatures, signature), key=lambda each: each.key_id)
        return replace(self, signatures=tuple(both))


def parse_container(data: bytes, what: str = "signature file") -> Container:
    """Returns what a container file holds; nothing is verified.

    Raises:
        FormatError: The file does not keep to its format.
    """
    if len(data) > CONTAINER_BYTES_MAX:
        raise FormatError(
            f"{what} is too long",
            where=f"found {len(data)} bytes, limit {CONTAINER_BYTES_MAX} bytes",
        )
    head = _HEAD.match(data)
    if head is None:
        raise FormatError(
            f"{what} is malformed: line 1",
            where="expected  `bitnet-signatures v1` and `statement-bytes N`",
        )
    size, start = int(head[1]), head.end()
    if not 1 <= size <= min(STATEMENT_BYTES_MAX, len(data) - start):
        raise FormatError(
            f"{what} is malformed: line 2",
            where=f"statement of {size} bytes, {len(data) - start} follow",
        )
    statement, rest = data[start : start + size], data[start + size :]
    if not statement.endswith(b"\n"):
        raise FormatError(
            f"statement does not end with a line break: {what}", where=f"offset {start + size}"
        )
    container = Container(statement, _parse_signatures(rest, what) if rest else ())
    check_canonical(data, container.emit(), what)
    return container


def _parse_signatures(data: bytes, what: str) -> tuple[Signature, ...]:
    reader = LineReader(data, f"signatures of the {what}", CONTAINER_BYTES_MAX)
    signatures: list[Signature] = []
    while (found := reader.take_if(f"signature {DIGEST}")) is not None:
        if signatures and found[0] <= signatures[-1].key_id:
            raise reader.refusal("key ids must increase, each once")
        if len(signatures) == SIGNATURE_COUNT_MAX:
            raise reader.refusal(f"more than {SIGNATURE_COUNT_MAX} signatures")
        halves = []
        for name, size in (
            ("ed25519", ED25519_SIGNATURE_BYTES),
            ("ml-dsa-87", ML_DSA_SIGNATURE_BYTES),
        ):
            form = f"{name} base64 of {size} bytes"
            (text,) = reader.take(f"{name} ([A-Za-z0-9+/=]+)", form)
            half = decode_base64(text, size)
            if half is None:
                raise reader.refusal(f"expected  {form}")
            halves.append(half)
        signatures.append(Signature(found[0], *halves))
    reader.finish()
    return tuple(signatures)
