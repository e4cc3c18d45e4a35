"""A bundle as a folder of files, on the builder's side: for rebuilding and comparing."""

import shutil
from pathlib import Path
from typing import BinaryIO

from bitnet.errors import BundleError, ToolchainError
from bitnet.files import open_regular
from bitnet.release.archive import BundleDigest, Progress, check_bundle
from bitnet.release.manifest import FileEntry, Manifest

__all__ = ["first_difference", "unpack_bundle"]

_CHUNK_BYTES = 1 << 20


class _FolderSink:
    """Writes each file into one folder; names are names of the format, so never paths."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None

    def expect(self, manifest: Manifest) -> None:
        needed = sum(entry.size for entry in manifest.files)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise ToolchainError(
                f"not enough room to unpack into: `{self._folder}`",
                where=(f"needed  {needed} bytes", f"free    {free} bytes"),
                hint="make room, or name another folder with `--work`",
            )

    def begin(self, entry: FileEntry) -> None:
        self.close()
        self._file = (self._folder / entry.name).open("xb")

    def write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def unpack_bundle(
    bundle: Path, folder: Path, progress: Progress = lambda *_: None
) -> tuple[Manifest, BundleDigest]:
    """Writes the files of a bundle into an empty folder; every byte is checked.

    Permissions are not set. On an error files stay in the folder: do not use them.

    Raises:
        BundleError: The bundle is malformed or cannot be read.
        ToolchainError: The folder has no room for what the bundle says that it holds.
        FormatError, IntegrityError: As `check_bundle`.
    """
    sink = _FolderSink(folder)
    try:
        with open_regular(bundle) as file:
            size = bundle.stat().st_size
            return check_bundle(file, bundle.name, size, sink=sink, progress=progress)
    except OSError as error:
        raise BundleError(
            f"bundle cannot be unpacked: `{bundle}`", where=error.strerror or str(error)
        ) from None
    finally:
        sink.close()


def first_difference(left: Path, right: Path) -> int | None:
    """Returns the offset of the first byte that differs (the shorter file's end counts), or None.

    Raises:
        OSError: A file cannot be read.
    """
    offset = 0
    with left.open("rb") as one, right.open("rb") as other:
        while True:
            a, b = one.read(_CHUNK_BYTES), other.read(_CHUNK_BYTES)
            if a != b:
                short = min(len(a), len(b))
                return offset + next((i for i in range(short) if a[i] != b[i]), short)
            if not a:
                return None
            offset += len(a)
