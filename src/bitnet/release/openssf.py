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


def write_openssf(subject: Path, key: Path, output: Path) -> None:
    """Writes a signature of a file or folder that `model_signing verify key` accepts.

    Args:
        subject: What is signed.
        key: P-384 private key, PEM without a passphrase.
        output: The signature file.

    Raises:
        FormatError: The key cannot be read or is no P-384 key.
        ToolchainError: The library is not installed, or fails.
    """
    _check_key(key)
    try:
        signing = importlib.import_module("model_signing.signing")
    except ImportError as error:
        raise ToolchainError(
            "library for OpenSSF signatures is not installed: `model-signing`",
            where=str(error),
            hint="run `python -m pip install 'bitnet-airgap[openssf]'`",
        ) from None
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key)
        signer.sign(subject, output)
    except (OSError, ValueError) as error:
        raise ToolchainError(
            f"OpenSSF signature cannot be written: `{output}`", where=str(error)
        ) from error


def _check_key(path: Path) -> None:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise FormatError(
            f"OpenSSF key cannot be read: `{path}`",
            where=getattr(error, "strerror", None) or str(error)[:200],
            hint="make one with `openssl ecparam -name secp384r1 -genkey -noout -out KEY.pem`",
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise FormatError(f"OpenSSF key is no P-384 key: `{path}`")
