"""Opening the files of a checkpoint directory: only regular files, and only those inside it."""

import os
import stat
from pathlib import Path
from typing import Final

from bitnet.errors import CheckpointError

__all__ = ["TOKENIZER_BYTES_MAX", "find_file", "has_file", "open_file", "read_file"]

# For whoever reads or digests a tokenizer.json. Vocabularies of 250,000 entries with pretty-printed
# merges stay below 40 MB.
TOKENIZER_BYTES_MAX: Final = 128 << 20


def has_file(directory: Path, name: str) -> bool:
    """Returns whether the directory has an entry of that name, be it a dangling link."""
    return os.path.lexists(directory / name)


def find_file(directory: Path, name: str) -> Path | None:
    """Returns the path of a file of the directory that need not be there; None if it is not.

    Raises:
        CheckpointError: There is such an entry, and `open_file` refuses it.
    """
    if not has_file(directory, name):
        return None
    os.close(open_file(directory, name))
    return directory / name


def open_file(directory: Path, name: str) -> int:
    """Returns a descriptor for reading a regular file of the directory; the caller closes it.

    `name` is a plain file name. A link is followed only to a file inside the directory. Opening
    never waits, so a named pipe is refused rather than read.

    Raises:
        CheckpointError: The file is not there, cannot be read, is not regular, or lies outside.
    """
    file = directory / name
    try:
        target = file.resolve(strict=True)
        if not target.is_relative_to(directory.resolve(strict=True)):
            raise CheckpointError(
                f"checkpoint file leads out of its directory: `{name}`",
                where=f"file {file}, a link to {target}",
                hint="copy the checkpoint with `cp -rL` so that it holds its files itself",
            )
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise CheckpointError(
            f"cannot open `{name}`",
            where=(f"file {file}", getattr(error, "strerror", None) or str(error)),
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"not a regular file: `{name}`", where=f"file {file}")
    return descriptor


def read_file(directory: Path, name: str, bytes_max: int) -> bytes:
    """Returns the bytes of a regular file of the directory that is not longer than `bytes_max`.

    Raises:
        CheckpointError: As `open_file`, or the file cannot be read or is longer.
    """
    file = directory / name
    try:
        with os.fdopen(open_file(directory, name), "rb") as stream:
            data = stream.read(bytes_max + 1)
    except OSError as error:
        raise CheckpointError(
            f"cannot read `{name}`", where=(f"file {file}", error.strerror or str(error))
        ) from None
    if len(data) > bytes_max:
        raise CheckpointError(
            f"`{name}` is too large", where=(f"file {file}", f"limit {bytes_max} bytes")
        )
    return data
