"""An OpenSSF Model Signing file beside our own signature, for auditors who use that tool.

It carries SHA-256 and one ECDSA key, no thresholds and no counters, so nothing in the gap relies
on it. The library itself writes it; it is an optional dependency.

Source: OpenSSF Model Signing specification v1.0.
"""

import importlib
import tempfile
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bitnet.errors import FormatError, ToolchainError
from bitnet.files import create_file, read_bounded

__all__ = ["write_openssf"]

_KEY_BYTES_MAX: Final = 65536


def write_openssf(subject: Path, key: Path, output: Path, *, passphrase: str) -> None:
    """Writes a signature of a file or folder that `model_signing verify key` accepts.

    Args:
        subject: What is signed.
        key: P-384 private key, PEM, encrypted: no private key lies open on a disk.
        output: The signature file, which must not exist.
        passphrase: What opens the key.

    Raises:
        FormatError: The key cannot be read, is too long, is not encrypted, or is no P-384 key; or
            the passphrase is wrong.
        ToolchainError: The library is not installed, or fails, or the file cannot be written.
        UsageError: The file exists, or its folder does not.
    """
    _check_key(key, passphrase)
    try:
        signing = importlib.import_module("model_signing.signing")
    except ImportError as error:
        raise ToolchainError(
            "library for OpenSSF signatures is not installed: `model-signing`",
            where=str(error),
            hint="run `python -m pip install 'bitnet-airgap[openssf]'`",
        ) from None
    try:
        # Declared as str there, but handed on as it is to what takes bytes.
        password = passphrase.encode()
        signer = signing.Config().use_elliptic_key_signer(private_key=key, password=password)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "signature"
            signer.sign(subject, made)
            data = made.read_bytes()
    except (OSError, ValueError) as error:
        raise ToolchainError(
            f"OpenSSF signature cannot be made: `{subject}`", where=str(error)
        ) from error
    create_file(output, data, mode=0o644)


def _check_key(path: Path, passphrase: str) -> None:
    if not passphrase:
        raise FormatError(f"OpenSSF key cannot be read: `{path}`", where="passphrase is empty")
    data = read_bounded(path, "OpenSSF key", _KEY_BYTES_MAX)
    try:
        key = load_pem_private_key(data, passphrase.encode())
    except TypeError:  # a passphrase for a key without one
        raise FormatError(
            f"OpenSSF key is not encrypted: `{path}`",
            hint="encrypt it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY.pem -out NEW.pem`",
        ) from None
    except ValueError as error:
        raise FormatError(
            f"OpenSSF key cannot be read: `{path}`",
            where=str(error)[:200],
            hint="check the passphrase; a key is made with `openssl genpkey -algorithm EC -pkeyopt "
            "ec_paramgen_curve:P-384 -aes-256-cbc -out KEY.pem`",
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise FormatError(f"OpenSSF key is no P-384 key: `{path}`")
