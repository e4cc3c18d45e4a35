"""Private keys at rest."""

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from bitnet.errors import FormatError, IntegrityError, ToolkitError, UsageError
from bitnet.release.keys import PrivateKey
from bitnet.release.sealed_key import open_key, seal_key
from tests.support.release import PASSPHRASE, make_key

KEY = make_key("alice")


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal_key(KEY, PASSPHRASE, salt=bytes(range(16)), nonce=bytes(range(12)))


def test_private_key_is_opened_with_its_passphrase(sealed: bytes) -> None:
    """A key that does not open again is lost."""
    assert open_key(sealed, PASSPHRASE) == KEY


def test_private_key_is_what_the_documented_steps_give(sealed: bytes) -> None:
    """Whoever has the passphrase and the page must be able to open it without this program."""
    head, text = sealed.split(b"secret ")
    key = Scrypt(salt=bytes(range(16)), length=32, n=131072, r=8, p=1).derive(PASSPHRASE.encode())
    opened = AESGCM(key).decrypt(bytes(range(12)), base64.b64decode(text), head)
    assert opened == KEY.ed25519_seed + KEY.ml_dsa_87_seed


def test_private_key_file_shows_no_secret(sealed: bytes) -> None:
    """Neither the file nor what a traceback prints may hold a seed."""
    for seed in (KEY.ed25519_seed, KEY.ml_dsa_87_seed):
        for form in (seed, seed.hex().encode(), base64.b64encode(seed)[:40]):
            assert form not in sealed
        assert seed.hex() not in repr(KEY)
        assert repr(seed) not in repr(KEY)


def test_private_key_with_a_wrong_passphrase_is_not_opened(sealed: bytes) -> None:
    """A near miss must look like any other."""
    with pytest.raises(IntegrityError, match="private key does not open: `alice`"):
        open_key(sealed, PASSPHRASE + " ")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"name alice", b"name alicf", IntegrityError),
        (b"custodian alice-person", b"custodian mallory", IntegrityError),
        (b"key-id ", b"key-id 0", FormatError),
        (b"scrypt 131072 8 1", b"scrypt 1024 8 1", FormatError),
        (b"scrypt 131072 8 1 00", b"scrypt 131072 8 1 01", IntegrityError),
        (b"aes-256-gcm 00", b"aes-256-gcm 01", IntegrityError),
        (b"bitnet-private-key v1", b"bitnet-private-key v2", FormatError),
        (b"secret ", b"secret A", FormatError),
        (b"\nsecret", b"\n\nsecret", FormatError),
    ],
)
def test_private_key_changed_anywhere_is_not_opened(
    sealed: bytes, old: bytes, new: bytes, error: type[ToolkitError]
) -> None:
    """Weaker parameters, another name or salt must not be slipped in."""
    assert sealed.count(old) == 1
    with pytest.raises(error):
        open_key(sealed.replace(old, new), PASSPHRASE)


def test_private_key_with_a_short_passphrase_is_not_written() -> None:
    """A file that can be guessed protects nothing."""
    with pytest.raises(UsageError, match="passphrase is too short"):
        seal_key(KEY, "eleven char", salt=bytes(16), nonce=bytes(12))


def test_private_key_with_twice_the_same_secret_is_refused() -> None:
    """Two algorithms over one secret are not independent."""
    with pytest.raises(FormatError, match="both halves of the key have one secret"):
        PrivateKey("x", "y", bytes(32), bytes(32)).check()
