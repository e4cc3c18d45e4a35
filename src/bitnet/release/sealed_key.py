"""Private keys at rest: text around the two seeds, encrypted under a passphrase.

    bitnet-private-key v1
    name NAME
    custodian CUSTODIAN
    key-id KEY-ID
    kdf scrypt 131072 8 1 SALT          (32 hex digits)
    cipher aes-256-gcm NONCE            (24 hex digits)
    secret base64 of 80 bytes           (Ed25519 seed, ML-DSA-87 seed, tag of 16 bytes)

The key of the cipher is scrypt (RFC 7914) of the passphrase's UTF-8 bytes; every line above
`secret` is authenticated with it. scrypt with these parameters takes 128 MiB and some tenths of a
second for each guess; they are fixed, so a file cannot ask for more. A wrong passphrase and a
changed file look the same: neither opens.
"""

import re
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from bitnet.errors import IntegrityError, UsageError
from bitnet.release.keys import SEED_BYTES, PrivateKey
from bitnet.release.text import DIGEST, NAME, LineReader, decode_base64, encode_base64

__all__ = ["NONCE_BYTES", "PASSPHRASE_CHARACTERS_MIN", "SALT_BYTES", "open_key", "seal_key"]

SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
PASSPHRASE_CHARACTERS_MIN: Final = 12
_TAG_BYTES: Final = 16
_SECRET_BYTES: Final = 2 * SEED_BYTES + _TAG_BYTES
_FILE_BYTES_MAX: Final = 4096
_COST: Final = 1 << 17
_BLOCK: Final = 8
_PARALLEL: Final = 1


def seal_key(key: PrivateKey, passphrase: str, *, salt: bytes, nonce: bytes) -> bytes:
    """Returns the private key file.

    Args:
        key: What is kept.
        passphrase: At least 12 characters.
        salt: 16 bytes, fresh and random.
        nonce: 12 bytes, fresh and random.

    Raises:
        UsageError: The passphrase is too short.
    """
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        raise UsageError(
            "passphrase is too short",
            where=f"found {len(passphrase)} characters, least {PASSPHRASE_CHARACTERS_MIN}",
            hint="use six or more random words",
        )
    assert len(salt) == SALT_BYTES
    assert len(nonce) == NONCE_BYTES
    head = (
        "bitnet-private-key v1\n"
        f"name {key.name}\n"
        f"custodian {key.custodian}\n"
        f"key-id {key.public.key_id}\n"
        f"kdf scrypt {_COST} {_BLOCK} {_PARALLEL} {salt.hex()}\n"
        f"cipher aes-256-gcm {nonce.hex()}\n"
    ).encode("ascii")
    cipher = AESGCM(_derive(passphrase, salt))
    secret = cipher.encrypt(nonce, key.ed25519_seed + key.ml_dsa_87_seed, head)
    return head + f"secret {encode_base64(secret)}\n".encode("ascii")


def open_key(data: bytes, passphrase: str) -> PrivateKey:
    """Returns the key that a private key file holds.

    Raises:
        FormatError: The file does not keep to its format.
        IntegrityError: The passphrase is wrong or the file was changed.
    """
    reader = LineReader(data, "private key", _FILE_BYTES_MAX)
    reader.take("bitnet-private-key v1", "bitnet-private-key v1")
    (name,) = reader.take(f"name {NAME}", "name NAME")
    (custodian,) = reader.take(f"custodian {NAME}", "custodian CUSTODIAN")
    (key_id,) = reader.take(f"key-id {DIGEST}", "key-id KEY-ID")
    kdf = f"kdf scrypt {_COST} {_BLOCK} {_PARALLEL}"
    (salt,) = reader.take(re.escape(kdf) + " ([0-9a-f]{32})", f"{kdf} SALT")
    (nonce,) = reader.take("cipher aes-256-gcm ([0-9a-f]{24})", "cipher aes-256-gcm NONCE")
    (text,) = reader.take("secret ([A-Za-z0-9+/=]+)", f"secret base64 of {_SECRET_BYTES} bytes")
    secret = decode_base64(text, _SECRET_BYTES)
    if secret is None:
        raise reader.refusal(f"not the base64 of {_SECRET_BYTES} bytes")
    reader.finish()
    head = data[: data.rindex(b"\nsecret ") + 1]
    try:
        cipher = AESGCM(_derive(passphrase, bytes.fromhex(salt)))
        seeds = cipher.decrypt(bytes.fromhex(nonce), secret, head)
    except InvalidTag:
        raise IntegrityError(
            f"private key does not open: `{name}`",
            where="the passphrase is wrong, or the file was changed",
        ) from None
    key = PrivateKey(name, custodian, seeds[:SEED_BYTES], seeds[SEED_BYTES:])
    if key.public.key_id != key_id:
        raise IntegrityError(f"private key is not that of its key id: `{name}`")
    return key


def _derive(passphrase: str, salt: bytes) -> bytes:
    kdf = Scrypt(salt=salt, length=32, n=_COST, r=_BLOCK, p=_PARALLEL)
    return kdf.derive(passphrase.encode("utf-8", "surrogateescape"))
