"""Opening files that others name, and writing files that appear only when they are whole."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final

from bitnet.errors import FormatError, ToolchainError, ToolkitError, UsageError

__all__ = [
    "NewFile",
    "check_output",
    "create_file",
    "new_file",
    "open_regular",
    "read_bounded",
    "replace_file",
    "sync_directory",
]

# What `link` says on a file system that has no hard links, such as FAT.
_NO_HARD_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file for reading; a named pipe is refused rather than waited for.

    Raises:
        OSError: It cannot be opened, or is no regular file. Its `strerror` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(descriptor, "rb")


def read_bounded(
    path: Path, what: str, bytes_max: int, *, error: type[ToolkitError] = FormatError
) -> bytes:
    """Returns the bytes of a regular file that is not longer than `bytes_max`.

    Args:
        path: The file.
        what: What it is, for errors: "public key".
        bytes_max: Not more than one byte beyond it is read.
        error: The class that the caller refuses with.

    Raises:
        ToolkitError: Of class `error`: it cannot be read, is no regular file, or is longer.
    """
    try:
        with open_regular(path) as file:
            data = file.read(bytes_max + 1)
    except OSError as problem:
        raise error(
            f"{what} cannot be read: `{path}`", where=problem.strerror or str(problem)
        ) from None
    if len(data) > bytes_max:
        raise error(f"{what} is too long: `{path}`", where=f"limit {bytes_max} bytes")
    return data


def check_output(output: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuses an output that cannot be written, or whose writing would destroy something.

    Args:
        output: What is to be written; an existing regular file is replaced.
        inputs: Files that are read, or to be kept; one that does not exist is no matter.

    Raises:
        UsageError: The folder does not exist, something else than a regular file has the name, or
            it is one of the inputs.
        ToolchainError: The file system does not say.
    """
    try:
        _check_folder(output)
        _check_replaceable(output)
        if output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
            raise UsageError(f"output is one of the inputs: `{output}`", hint="choose another name")
    except OSError as error:
        raise _write_error(output, error) from None


def _check_folder(output: Path) -> None:
    if not output.parent.is_dir():
        raise UsageError(
            f"folder of the output does not exist: `{output.parent}`",
            hint="make it first, or choose another name",
        )


def _check_replaceable(output: Path) -> None:
    if output.exists() and not output.is_file():
        raise UsageError(f"output is not a regular file: `{output}`", hint="choose another name")


@dataclass(frozen=True)
class NewFile:
    """The file under its temporary name, open for writing; `write` takes all of what it gets."""

    path: Path
    file: BinaryIO


@contextlib.contextmanager
def new_file(output: Path, *, mode: int) -> Iterator[NewFile]:
    """Gives a file in the folder of `output`; at the end it is on the disk and has that name.

    Args:
        output: The final name; a regular file that stands there is replaced.
        mode: Permissions of the file, independent of the umask.

    Raises:
        UsageError: The folder does not exist, or something else than a regular file has the name.
        ToolchainError: The folder cannot be written. Whatever is raised, no partial file stays.
    """
    temporary = None
    try:
        _check_folder(output)
        _check_replaceable(output)
        descriptor, name = tempfile.mkstemp(prefix=f".{output.name}-", dir=output.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield NewFile(temporary, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(output)
        temporary = None
        sync_directory(output.parent)
    except OSError as error:
        raise _write_error(output, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # the failure before it is the one to tell
                temporary.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file of mode 0644, whole or not at all; a file of that name is replaced.

    Raises:
        UsageError: The folder does not exist, or something else than a regular file has the name.
        ToolchainError: The folder cannot be written.
    """
    with new_file(path, mode=0o644) as new:
        new.file.write(data)


def create_file(path: Path, data: bytes, *, mode: int) -> None:
    """Writes a file that does not exist yet, whole or not at all; it is on the disk then.

    On a file system without hard links a cut of the power may leave a part of it.

    Raises:
        UsageError: The folder does not exist, or something has that name already; it is left
            alone.
        ToolchainError: The folder cannot be written.
    """
    temporary = None
    try:
        _check_folder(path)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        temporary = Path(name)
        _write_whole(descriptor, data, mode)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            _create_in_place(path, data, mode)
        try:
            temporary.unlink()
            temporary = None
            sync_directory(path.parent)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise UsageError(
            f"file exists already: `{path}`", hint="choose another name; nothing is overwritten"
        ) from None
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # the failure before it is the one to tell
                temporary.unlink(missing_ok=True)


def _create_in_place(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _write_whole(descriptor, data, mode)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write_whole(descriptor: int, data: bytes, mode: int) -> None:
    """Writes, syncs and closes."""
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _write_error(path: Path, error: OSError) -> ToolchainError:
    return ToolchainError(f"file cannot be written: `{path}`", where=error.strerror or str(error))


def sync_directory(directory: Path) -> None:
    """Puts the names of a folder onto the disk.

    Raises:
        OSError: The folder cannot be opened or synced.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
