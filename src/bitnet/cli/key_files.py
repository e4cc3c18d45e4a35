"""Files of the release commands: keys, passphrases, containers; read with limits."""

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bitnet.cli import render
from bitnet.errors import FormatError, UsageError
from bitnet.files import read_bounded
from bitnet.release.container import CONTAINER_BYTES_MAX, Container, parse_container
from bitnet.release.keys import PrivateKey, PublicKey, parse_public_key
from bitnet.release.sealed_key import open_key
from bitnet.release.words import group_hex, to_words

__all__ = [
    "ask_passphrase",
    "digest_facts",
    "load_container",
    "load_private_key",
    "load_public_key",
]

_KEY_FILE_BYTES_MAX: Final = 8192
_PASSPHRASE_BYTES_MAX: Final = 1024


def load_public_key(path: Path) -> PublicKey:
    """Returns the key of a public key file.

    Raises:
        FormatError: It cannot be read or does not keep to its format.
    """
    data = read_bounded(path, "public key", _KEY_FILE_BYTES_MAX)
    if data.startswith(b"bitnet-private-key v1\n"):
        raise FormatError(
            f"file is a private key: `{path}`", hint="pass the `.pub` file that stands beside it"
        )
    return parse_public_key(data)


def load_container(path: Path, what: str = "signature file") -> Container:
    """Returns a container; nothing is verified.

    Raises:
        FormatError: It cannot be read or does not keep to its format.
    """
    return parse_container(read_bounded(path, what, CONTAINER_BYTES_MAX), what)


def ask_passphrase(path: Path | None, *, what: str, twice: bool = False) -> str:
    """Returns a passphrase: the first line of a file, or typed at the terminal without echo.

    Raises:
        FormatError: The file cannot be read, is too long or is not UTF-8.
        UsageError: There is no terminal, or what was typed twice differs.
    """
    if path is not None:
        data = read_bounded(path, "passphrase file", _PASSPHRASE_BYTES_MAX)
        try:
            return data.split(b"\n")[0].removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"passphrase file is not UTF-8: `{path}`") from None
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "passphrase cannot be asked for: standard input is no terminal",
            hint="pass `--passphrase-file` with a file that only you can read",
        )
    passphrase = getpass.getpass(f"passphrase of {render.escape_text(what)}: ")
    if twice and getpass.getpass("the same again: ") != passphrase:
        raise UsageError("the two passphrases differ")
    return passphrase


def load_private_key(path: Path, passphrase_file: Path | None) -> PrivateKey:
    """Returns an opened private key.

    Raises:
        FormatError: It cannot be read or does not keep to its format.
        IntegrityError: The passphrase is wrong or the file was changed.
    """
    data = read_bounded(path, "private key", _KEY_FILE_BYTES_MAX)
    return open_key(data, ask_passphrase(passphrase_file, what=path.name))


def digest_facts(name: str, digest: str) -> list[tuple[str, str]]:
    """Returns the lines that show a SHA-384 for people: hex in groups, then words, numbered."""
    groups = group_hex(digest)
    words = to_words(bytes.fromhex(digest))
    facts = [
        (name if at == 0 else "", " ".join(groups[at : at + 6])) for at in range(0, len(groups), 6)
    ]
    return facts + _word_facts(words)


def _word_facts(words: Sequence[str]) -> list[tuple[str, str]]:
    return [
        (f"  words {at + 1}-{at + 8}", " ".join(words[at : at + 8]))
        for at in range(0, len(words), 8)
    ]
