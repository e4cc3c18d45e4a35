"""Keys of signers: an Ed25519 half and an ML-DSA-87 half, both always needed.

Ed25519 is that of RFC 8032 and FIPS 186-5; ML-DSA-87 is pure, with an empty context (FIPS 204).
Both sign the same bytes. The public file and the key id are described in docs/formats/release.md.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey, MLDSA87PublicKey

from bitnet.errors import FormatError, SignatureError, UsageError
from bitnet.release.text import (
    NAME,
    LineReader,
    check_canonical,
    check_name,
    decode_base64,
    encode_base64,
)

__all__ = [
    "ED25519_PUBLIC_BYTES",
    "ED25519_SIGNATURE_BYTES",
    "ML_DSA_PUBLIC_BYTES",
    "ML_DSA_SIGNATURE_BYTES",
    "SEED_BYTES",
    "PrivateKey",
    "PublicKey",
    "Signature",
    "parse_public_key",
]

SEED_BYTES: Final = 32
ED25519_PUBLIC_BYTES: Final = 32
ED25519_SIGNATURE_BYTES: Final = 64
ML_DSA_PUBLIC_BYTES: Final = 2592
ML_DSA_SIGNATURE_BYTES: Final = 4627

_FILE_BYTES_MAX: Final = 8192
_KEY_ID_DOMAIN: Final = b"bitnet-key-id v1\n"
_PROBE: Final = b"bitnet-key-check v1\n"


@dataclass(frozen=True)
class Signature:
    """Both halves of one signer's signature over a statement."""

    key_id: str
    ed25519: bytes
    ml_dsa_87: bytes


@dataclass(frozen=True)
class PublicKey:
    """What others need of a signer.

    Attributes:
        name: Name of the key.
        custodian: The person who keeps it; counts once for a threshold, with however many keys.
        ed25519: 32 bytes.
        ml_dsa_87: 2592 bytes.
    """

    name: str
    custodian: str
    ed25519: bytes
    ml_dsa_87: bytes

    def __post_init__(self) -> None:
        check_name(self.name, "name of the key")
        check_name(self.custodian, "custodian")
        if len(self.ed25519) != ED25519_PUBLIC_BYTES or len(self.ml_dsa_87) != ML_DSA_PUBLIC_BYTES:
            raise UsageError(f"key has a wrong size: `{self.name}`")

    @property
    def key_id(self) -> str:
        """SHA-384 over both halves, in hex; name and custodian do not enter."""
        return hashlib.sha384(_KEY_ID_DOMAIN + self.ed25519 + self.ml_dsa_87).hexdigest()

    def emit(self) -> bytes:
        """Returns the public key file."""
        return (
            "bitnet-public-key v1\n"
            f"name {self.name}\n"
            f"custodian {self.custodian}\n"
            f"ed25519 {self.ed25519.hex()}\n"
            f"ml-dsa-87 {encode_base64(self.ml_dsa_87)}\n"
        ).encode("ascii")

    def accepts(self, statement: bytes, signature: Signature) -> bool:
        """Returns whether both halves of a signature are those of this key over the statement."""
        try:
            edwards = Ed25519PublicKey.from_public_bytes(self.ed25519)
            lattice = MLDSA87PublicKey.from_public_bytes(self.ml_dsa_87)
            edwards.verify(signature.ed25519, statement)
            lattice.verify(signature.ml_dsa_87, statement)
        except (InvalidSignature, ValueError):
            return False
        return True


def parse_public_key(data: bytes) -> PublicKey:
    """Returns the key of a public key file.

    Raises:
        FormatError: The file does not keep to its format.
    """
    reader = LineReader(data, "public key", _FILE_BYTES_MAX)
    reader.take("bitnet-public-key v1", "bitnet-public-key v1")
    (name,) = reader.take(f"name {NAME}", "name NAME")
    (custodian,) = reader.take(f"custodian {NAME}", "custodian CUSTODIAN")
    (edwards,) = reader.take("ed25519 ([0-9a-f]{64})", "ed25519 64 hex digits")
    (lattice,) = reader.take("ml-dsa-87 ([A-Za-z0-9+/=]+)", "ml-dsa-87 base64 of 2592 bytes")
    ml_dsa_87 = decode_base64(lattice, ML_DSA_PUBLIC_BYTES)
    if ml_dsa_87 is None:
        raise reader.refusal("not the base64 of 2592 bytes")
    reader.finish()
    key = PublicKey(name, custodian, bytes.fromhex(edwards), ml_dsa_87)
    check_canonical(data, key.emit(), "public key")
    return key


@dataclass(frozen=True)
class PrivateKey:
    """A signer's key; exists on the builder's side only, and in memory only.

    Attributes:
        name: Name of the key.
        custodian: The person who keeps it.
        ed25519_seed: 32 bytes, the private key of RFC 8032.
        ml_dsa_87_seed: 32 bytes, the seed ξ of FIPS 204.
    """

    name: str
    custodian: str
    ed25519_seed: bytes = field(repr=False)
    ml_dsa_87_seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_name(self.name, "name of the key")
        check_name(self.custodian, "custodian")
        if len(self.ed25519_seed) != SEED_BYTES or len(self.ml_dsa_87_seed) != SEED_BYTES:
            raise UsageError(f"key has a wrong size: `{self.name}`")

    @property
    def public(self) -> PublicKey:
        """The public half."""
        edwards = Ed25519PrivateKey.from_private_bytes(self.ed25519_seed).public_key()
        lattice = MLDSA87PrivateKey.from_seed_bytes(self.ml_dsa_87_seed).public_key()
        return PublicKey(
            self.name, self.custodian, edwards.public_bytes_raw(), lattice.public_bytes_raw()
        )

    def sign(self, statement: bytes) -> Signature:
        """Returns both signatures over a statement.

        ML-DSA signs in its hedged form: the library draws fresh randomness, so that two signatures
        of one statement differ. A signature that does not verify is never given out.

        Raises:
            SignatureError: The signature made does not verify: memory or processor are at fault.
        """
        public = self.public
        signature = Signature(
            public.key_id,
            Ed25519PrivateKey.from_private_bytes(self.ed25519_seed).sign(statement),
            MLDSA87PrivateKey.from_seed_bytes(self.ml_dsa_87_seed).sign(statement),
        )
        if not public.accepts(statement, signature):
            raise SignatureError(
                f"signature made does not verify: `{self.name}`",
                hint="do not use this machine for signing; check its memory",
            )
        return signature

    def check(self) -> Self:
        """Returns itself after a signature over a probe was made and verified.

        Raises:
            SignatureError: It does not verify.
            FormatError: The two halves carry the same secret.
        """
        if self.ed25519_seed == self.ml_dsa_87_seed:
            raise FormatError(f"both halves of the key have one secret: `{self.name}`")
        self.sign(_PROBE)
        return self
