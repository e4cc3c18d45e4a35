"""The other side of the gap in memory: keys, roots, manifests, bundles, orders, and every mistake.

Written from docs/formats/release.md with `cryptography`, `hashlib` and `zstandard` alone, so that
what the gap accepts is held against a second reading of that page. Everything is a value that a
test may change before it is signed, or after.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = [
    "Release",
    "Signer",
    "container",
    "part_files",
    "rollback_order",
    "statement_of",
    "tar_header",
    "trust_root",
]

_RECORD = 10240


def _sha384(data: bytes) -> str:
    return hashlib.sha384(data).hexdigest()


@dataclass(frozen=True)
class Signer:
    """One person's key pair, derived from the name: the same in every run."""

    name: str
    custodian: str = ""

    @cached_property
    def _ed25519(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"e" + self._seed).digest())

    @cached_property
    def _mldsa(self) -> MLDSA87PrivateKey:
        return MLDSA87PrivateKey.from_seed_bytes(hashlib.sha256(b"m" + self._seed).digest())

    @property
    def _seed(self) -> bytes:
        return self.name.encode()

    @cached_property
    def publics(self) -> tuple[bytes, bytes]:
        raw = (Encoding.Raw, PublicFormat.Raw)
        return (
            self._ed25519.public_key().public_bytes(*raw),
            self._mldsa.public_key().public_bytes(*raw),
        )

    @cached_property
    def key_id(self) -> str:
        return _sha384(b"bitnet-key-id v1\n" + b"".join(self.publics))

    @property
    def key_line(self) -> str:
        ed25519, mldsa = self.publics
        encoded = base64.b64encode(mldsa).decode()
        person = self.custodian or self.name
        return f"key {self.key_id} {self.name} {person} {ed25519.hex()} {encoded}\n"

    def sign(self, statement: bytes) -> str:
        halves = [base64.b64encode(key.sign(statement)) for key in (self._ed25519, self._mldsa)]
        ed25519, mldsa = (half.decode() for half in halves)
        return f"signature {self.key_id}\ned25519 {ed25519}\nml-dsa-87 {mldsa}\n"


def container(statement: bytes, signers: Iterable[Signer]) -> bytes:
    """Returns the signed container of a statement, signatures by increasing key id."""
    head = f"bitnet-signatures v1\nstatement-bytes {len(statement)}\n".encode()
    ordered = sorted(signers, key=lambda signer: signer.key_id)
    return head + statement + "".join(signer.sign(statement) for signer in ordered).encode()


def statement_of(container: bytes) -> bytes:
    """Returns the statement of a signed container."""
    _, size, rest = container.split(b"\n", 2)
    return rest[: int(size.removeprefix(b"statement-bytes "))]


def trust_root(
    version: int,
    roles: Mapping[str, tuple[int, Sequence[Signer]]],
    revoked: Iterable[Signer] = (),
) -> bytes:
    """Returns the statement of a trust root; `roles` holds threshold and keys."""
    lines = ["bitnet-trust-root v1\n", f"version {version}\n"]
    keys: dict[str, Signer] = {}
    for role in ("root", "release", "site"):
        if role in roles:
            threshold, signers = roles[role]
            keys |= {signer.key_id: signer for signer in signers}
            ids = " ".join(sorted(signer.key_id for signer in signers))
            lines.append(f"role {role} {threshold} {ids}\n")
    lines += sorted(f"revoked {signer.key_id}\n" for signer in revoked)
    lines += [keys[key_id].key_line for key_id in sorted(keys)]
    return "".join(lines).encode()


def rollback_order(product: str, from_: int, to: int, digest: str, reason: str = "test") -> bytes:
    """Returns the statement of a rollback order."""
    return (
        f"bitnet-rollback-order v1\nproduct {product}\nfrom {from_}\nto {to}\n"
        f"digest {digest}\nreason {reason}\n"
    ).encode()


def tar_header(name: bytes, mode: int, size: int, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """Returns one header of 512 bytes; the defaults give what the page allows."""
    octal = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    parts = (
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, octal,
        b"%011o\0" % 0, b" " * 8, kind, link.ljust(100, b"\0"), b"ustar  \0",
    )  # fmt: skip
    header = b"".join(parts).ljust(512, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _padded(data: bytes, unit: int) -> bytes:
    return data + bytes(-len(data) % unit)


@dataclass
class Release:
    """A release before it is signed.

    Attributes:
        files: `{name: (mode, content)}`.
        tar: Replaces the archive, for those that are not what the manifest says.
        bundle: Replaces the compressed archive.
    """

    counter: int
    minimum_counter: int = 0
    product: str = "bitnet"
    version: str = "1.0.0"
    architecture: str = "x86_64"
    seed: int = 7
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    tar: bytes | None = None
    bundle: bytes | None = None
    with_bundle: bool = True

    @property
    def manifest(self) -> bytes:
        entries = sorted(self.files.items())
        lines = [
            "# bitnet-manifest v1\n",
            f"# product {self.product}\n",
            f"# version {self.version}\n",
            f"# counter {self.counter}\n",
            f"# minimum-counter {self.minimum_counter}\n",
            f"# architecture {self.architecture}\n",
            f"# selftest-seed {self.seed}\n",
            *(f"# file {mode:04o} {len(data)} {name}\n" for name, (mode, data) in entries),
            *(f"{_sha384(data)}  {name}\n" for name, (_, data) in entries),
        ]
        return "".join(lines).encode()

    @property
    def name(self) -> str:
        """Name of its folder once it is installed."""
        return f"{self.counter}-{_sha384(self.manifest)[:16]}"

    @property
    def manifest_digest(self) -> str:
        return _sha384(self.manifest)

    def entries(self) -> list[bytes]:
        """Returns the archive in pieces: one header with its content for each entry."""
        whole = [("MANIFEST", (0o644, self.manifest)), *sorted(self.files.items())]
        return [
            tar_header(name.encode(), mode, len(data)) + _padded(data, 512)
            for name, (mode, data) in whole
        ]

    @staticmethod
    def join(entries: Iterable[bytes]) -> bytes:
        """Returns entries as an archive with its end."""
        return _padded(b"".join(entries) + bytes(1024), _RECORD)

    def archive(self) -> bytes:
        return self.join(self.entries()) if self.tar is None else self.tar

    def compressed(self) -> bytes:
        """Returns the bundle: one frame with content size and checksum."""
        if self.bundle is not None:
            return self.bundle
        settings = zstandard.ZstdCompressionParameters.from_level(
            3, window_log=21, write_content_size=1, write_checksum=1
        )
        return zstandard.ZstdCompressor(compression_params=settings).compress(self.archive())

    @property
    def statement(self) -> bytes:
        """Returns what `update.sig` signs."""
        if not self.with_bundle:
            return b"bitnet-update v1\nbundle - 0\n" + self.manifest
        data = self.compressed()
        return f"bitnet-update v1\nbundle {_sha384(data)} {len(data)}\n".encode() + self.manifest


def part_files(bundle: bytes, sizes: Sequence[int]) -> dict[str, bytes]:
    """Returns the parts of a bundle, each with `sizes` bytes of data and the last with the rest."""
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + size)
    bounds.append(len(bundle))
    count = len(bounds) - 1
    parts = {}
    for index, (begin, end) in enumerate(pairwise(bounds), 1):
        data = bundle[begin:end]
        head = (
            f"bitnet-part v1\nbundle {_sha384(bundle)} {len(bundle)}\n"
            f"part {index} {count} {begin} {len(data)}\ndata {_sha384(data)}\n"
        ).encode()
        parts[f"bundle.part-{index:03d}-of-{count:03d}"] = head.ljust(512, b"\n") + data
    return parts
