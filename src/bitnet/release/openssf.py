"""An OpenSSF Model Signing file beside our own signature, for auditors who use that tool.

It carries SHA-256 and one ECDSA key, no thresholds and no counters, so nothing in the gap relies
on it. The library itself writes it; it is an optional dependency.

Source: OpenSSF Model Signing specification v1.0.
"""

import importlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bitnet.errors import FormatError, ToolchainError

__all__ = ["write_openssf"]


def write_openssf(subject: Path, key: Path, output: Path, *, passphrase: str) -> None:
    """Writes a signature of a file or folder that `model_signing verify key` accepts.

    Args:
        subject: What is signed.
        key: P-384 private key, PEM, encrypted: no private key lies open on a disk.
        output: The signature file.
        passphrase: What opens the key.

    Raises:
        FormatError: The key cannot be read, is not encrypted, or is no P-384 key; or the passphrase
            is wrong.
        ToolchainError: The library is not installed, or fails.
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
        signer.sign(subject, output)
    except (OSError, ValueError) as error:
        raise ToolchainError(
            f"OpenSSF signature cannot be written: `{output}`", where=str(error)
        ) from error


def _check_key(path: Path, passphrase: str) -> None:
    if not passphrase:
        raise FormatError(f"OpenSSF key cannot be read: `{path}`", where="passphrase is empty")
    try:
        data = path.read_bytes()
        key = load_pem_private_key(data, passphrase.encode())
    except TypeError:  # a passphrase for a key without one
        raise FormatError(
            f"OpenSSF key is not encrypted: `{path}`",
            hint="encrypt it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY.pem -out NEW.pem`",
        ) from None
    except (OSError, ValueError) as error:
        raise FormatError(
            f"OpenSSF key cannot be read: `{path}`",
            where=getattr(error, "strerror", None) or str(error)[:200],
            hint="check the passphrase; a key is made with `openssl genpkey -algorithm EC -pkeyopt "
            "ec_paramgen_curve:P-384 -aes-256-cbc -out KEY.pem`",
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise FormatError(f"OpenSSF key is no P-384 key: `{path}`")
