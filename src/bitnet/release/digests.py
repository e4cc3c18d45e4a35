"""SHA-384 of files that are too large to hold."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bitnet.errors import BundleError
from bitnet.files import open_regular
from bitnet.release.archive import BundleDigest

__all__ = ["digest_file"]

_CHUNK_BYTES: Final = 1 << 20


def digest_file(
    path: Path, progress: Callable[[str, int, int], None] = lambda *_: None
) -> BundleDigest:
    """Returns digest and size of a file, reading it once.

    Raises:
        BundleError: It cannot be read.
    """
    digest, size = hashlib.sha384(), 0
    try:
        with open_regular(path) as file:
            total = path.stat().st_size
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                progress(path.name, size, total)
    except OSError as error:
        raise BundleError(
            f"file cannot be read: `{path}`", where=error.strerror or str(error)
        ) from None
    return BundleDigest(digest.hexdigest(), size)
