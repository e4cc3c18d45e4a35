"""A new file that gets its name only when it is whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bitnet.errors import ToolchainError

__all__ = ["NewFile", "new_file"]


@dataclass(frozen=True)
class NewFile:
    """The file under its temporary name, open for writing."""

    path: Path
    file: BinaryIO


@contextmanager
def new_file(output: Path, *, mode: int) -> Iterator[NewFile]:
    """Gives a file in the folder of `output`; at the end it is on the disk and has that name.

    Args:
        output: The final name; what stands there is replaced.
        mode: Permissions of the file, independent of the umask.

    Raises:
        ToolchainError: The folder cannot be written. Whatever is raised, no partial file stays.
    """
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{output.name}-", dir=output.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            os.fchmod(file.fileno(), mode)
            yield NewFile(temporary, file)
            os.fsync(file.fileno())
        temporary.replace(output)
        temporary = None
        _sync_directory(output.parent)
    except OSError as error:
        raise ToolchainError(
            f"file cannot be written: `{output}`", where=error.strerror or str(error)
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
