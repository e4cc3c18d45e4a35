"""The Merkle tree of model.bin: SHA3-384 leaves over the data, one root over header and leaves."""

import hashlib
import struct

from bitnet.quantize.layout import DIGEST_BYTES, LEAF_BYTES, header_field

__all__ = ["LeafHasher", "leaf_digest", "root_digest"]


def leaf_digest(index: int, data: bytes | memoryview) -> bytes:
    """Returns the digest of one leaf; its index and length are bound into it."""
    digest = hashlib.sha3_384(b"\x00" + struct.pack("<QQ", index, len(data)))
    digest.update(data)
    return digest.digest()


def root_digest(header: bytes, leaves: bytes) -> bytes:
    """Returns the root over the header, its root field taken as zeros, and all leaf digests."""
    field = header_field("root")
    digest = hashlib.sha3_384(b"\x01")
    digest.update(header[: field.offset])
    digest.update(bytes(field.byte_count))
    digest.update(header[field.offset + field.byte_count :])
    digest.update(leaves)
    return digest.digest()


class LeafHasher:
    """Leaf digests of data that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._digests = bytearray()

    def update(self, data: bytes | memoryview) -> None:
        """Takes the next piece into account."""
        view = memoryview(data).cast("B")
        position = 0
        if self._pending:
            position = min(LEAF_BYTES - len(self._pending), len(view))
            self._pending += view[:position]
            if len(self._pending) < LEAF_BYTES:
                return
            self._add(memoryview(bytes(self._pending)))
            self._pending.clear()
        while len(view) - position >= LEAF_BYTES:
            self._add(view[position : position + LEAF_BYTES])
            position += LEAF_BYTES
        self._pending += view[position:]

    def finish(self) -> bytes:
        """Returns all digests, one after the other; the last leaf may be shorter."""
        if self._pending:
            self._add(memoryview(bytes(self._pending)))
            self._pending.clear()
        return bytes(self._digests)

    def _add(self, leaf: memoryview) -> None:
        self._digests += leaf_digest(len(self._digests) // DIGEST_BYTES, leaf)
