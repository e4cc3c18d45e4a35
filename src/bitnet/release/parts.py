"""A bundle in numbered parts for write-once media; each part can be checked alone.

Source: docs/formats/release.md, Bundle.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from bitnet.errors import BundleError, IntegrityError, UsageError
from bitnet.files import new_file, open_regular
from bitnet.release.archive import BundleDigest, Progress
from bitnet.release.text import DIGEST, NUMBER, LineReader

__all__ = [
    "PART_COUNT_MAX",
    "PART_HEADER_BYTES",
    "Part",
    "join_parts",
    "parse_part",
    "parse_size",
    "part_name",
    "plan_parts",
    "read_part",
    "write_parts",
]

PART_HEADER_BYTES: Final = 512
PART_COUNT_MAX: Final = 999
_CHUNK_BYTES: Final = 1 << 20
_PART_NAME_BYTES_MAX: Final = 64


@dataclass(frozen=True)
class Part:
    """The header of one part: which piece of which bundle, and the SHA-384 of its data."""

    bundle: BundleDigest
    index: int
    count: int
    offset: int
    size: int
    digest: str

    def emit(self) -> bytes:
        """Returns the 512 bytes in front of the data."""
        text = (
            "bitnet-part v1\n"
            f"bundle {self.bundle.digest} {self.bundle.size}\n"
            f"part {self.index} {self.count} {self.offset} {self.size}\n"
            f"data {self.digest}\n"
        )
        return text.encode("ascii").ljust(PART_HEADER_BYTES, b"\n")


def part_name(bundle: str, index: int, count: int) -> str:
    """Returns the file name of a part, counted from 1.

    Raises:
        UsageError: It is longer than `bitnet-update` looks for in a folder.
    """
    name = f"{bundle}.part-{index:03}-of-{count:03}"
    if len(os.fsencode(name)) > _PART_NAME_BYTES_MAX:
        raise UsageError(
            f"name of a part is too long: `{name}`",
            where=f"limit {_PART_NAME_BYTES_MAX} bytes",
            hint="give the bundle a shorter name: it is known by its content",
        )
    return name


def plan_parts(bundle_bytes: int, split_bytes: int) -> list[tuple[int, int]]:
    """Returns offset and size of each part's data.

    Args:
        bundle_bytes: Size of the bundle.
        split_bytes: No part file, header included, is larger than this less 512 bytes.

    Raises:
        UsageError: The size is too small for a part, or would make more than 999.
    """
    size = split_bytes - 2 * PART_HEADER_BYTES
    if size < 1:
        raise UsageError(f"size of a part is too small: `{split_bytes}`", where="least 1025 bytes")
    count = -(-bundle_bytes // size)
    if count > PART_COUNT_MAX:
        raise UsageError(
            f"size of a part is too small: `{split_bytes}`",
            where=f"{count} parts, limit {PART_COUNT_MAX}",
        )
    return [(at, min(size, bundle_bytes - at)) for at in range(0, bundle_bytes, size)]


def write_parts(
    bundle: Path,
    digest: BundleDigest,
    plan: list[tuple[int, int]],
    output: Path,
    progress: Progress = lambda *_: None,
) -> list[Path]:
    """Writes the parts of a bundle beside each other and returns their paths.

    Raises:
        BundleError: The bundle cannot be read, or is not what the digest says.
        ToolchainError: A part cannot be written.
    """
    whole = hashlib.sha384()
    paths = []
    with open_regular(bundle) as file:
        for index, (offset, size) in enumerate(plan, 1):
            name = part_name(bundle.name, index, len(plan))
            progress(name, offset, digest.size)
            with new_file(output / name, mode=0o644) as new:
                piece = _copy_piece(file, size, whole, new.file)
                new.file.seek(0)
                header = Part(digest, index, len(plan), offset, size, piece).emit()
                new.file.write(header)
            paths.append(output / name)
    if whole.hexdigest() != digest.digest:
        raise BundleError(f"bundle changed while it was split: `{bundle}`")
    return paths


def _copy_piece(source: BinaryIO, size: int, whole: "hashlib._Hash", out: BinaryIO) -> str:
    """Copies `size` bytes behind the place of a header and returns their digest in hex."""
    digest = hashlib.sha384()
    out.seek(PART_HEADER_BYTES)
    while size:
        data = source.read(min(size, _CHUNK_BYTES))
        if not data:
            raise BundleError("bundle changed while it was split")
        digest.update(data)
        whole.update(data)
        size -= len(data)
        out.write(data)
    return digest.hexdigest()


def parse_part(header: bytes) -> Part:
    """Returns what the header of a part says; the data is not looked at.

    Raises:
        BundleError: It does not keep to its format.
    """
    if len(header) != PART_HEADER_BYTES:
        raise BundleError("part is too short", where=f"found {len(header)} bytes")
    text = header.rstrip(b"\n") + b"\n"
    reader = LineReader(text, "part", PART_HEADER_BYTES + 1, BundleError)
    reader.take("bitnet-part v1", "bitnet-part v1")
    digest, digits = reader.take(f"bundle {DIGEST} {NUMBER}", "bundle DIGEST BYTES")
    total = reader.number(digits)
    numbers = reader.take(f"part {NUMBER} {NUMBER} {NUMBER} {NUMBER}", "part I COUNT OFFSET BYTES")
    index, count, offset, size = (reader.number(each) for each in numbers)
    if not (1 <= index <= count <= PART_COUNT_MAX and 1 <= size <= total - offset):
        raise reader.refusal("number, offset or size is out of range")
    (data,) = reader.take(f"data {DIGEST}", "data DIGEST")
    reader.finish()
    part = Part(BundleDigest(digest, total), index, count, offset, size, data)
    if part.emit() != header:
        raise BundleError("part is not in its one form")
    return part


def read_part(path: Path) -> Part:
    """Returns the header of a part whose data has been checked.

    Raises:
        BundleError: The file cannot be read, or is no part.
        IntegrityError: The data is shorter, longer, or another than the header says.
    """
    try:
        with open_regular(path) as file:
            part = parse_part(file.read(PART_HEADER_BYTES))
            digest, size = hashlib.sha384(), 0
            for chunk in _chunks(file):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise BundleError(
            f"part cannot be read: `{path}`", where=error.strerror or str(error)
        ) from error
    if size != part.size or digest.hexdigest() != part.digest:
        raise IntegrityError(
            f"part is damaged: `{path.name}`",
            where=f"part {part.index} of {part.count}, {size} bytes, expected {part.size}",
            hint="copy this part again",
        )
    return part


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def join_parts(paths: Iterable[Path], output: BinaryIO) -> BundleDigest:
    """Writes the bundle that parts given in any order make up, and returns its digest.

    Raises:
        BundleError: Parts are missing (which, is said), of different bundles, or do not fit.
        IntegrityError: A part is damaged, or the whole has another digest.
    """
    found: dict[int, tuple[Part, Path]] = {}
    for path in sorted(paths):
        part = read_part(path)
        first = next(iter(found.values()), (part, path))[0]
        if (part.bundle, part.count) != (first.bundle, first.count):
            raise BundleError(f"part is of another bundle: `{path.name}`")
        known = found.setdefault(part.index, (part, path))[0]
        if known != part:
            raise BundleError(f"two different parts have one number: `{path.name}`")
    if not found:
        raise BundleError("no part is given")
    first = next(iter(found.values()))[0]
    missing = [index for index in range(1, first.count + 1) if index not in found]
    if missing:
        raise BundleError(
            "parts are missing", where=tuple(f"part {each} of {first.count}" for each in missing)
        )
    digest, at = hashlib.sha384(), 0
    for index in range(1, first.count + 1):
        part, path = found[index]
        if part.offset != at:
            raise BundleError(f"part does not fit: `{path.name}`", where=f"offset {part.offset}")
        with path.open("rb") as file:
            file.seek(PART_HEADER_BYTES)
            for chunk in _chunks(file):
                digest.update(chunk)
                output.write(chunk)
        at += part.size
    if at != first.bundle.size or digest.hexdigest() != first.bundle.digest:
        raise IntegrityError("joined parts are not the bundle that they say")
    return first.bundle


_SIZE: Final = re.compile(r"([1-9][0-9]{0,17})(KiB|MiB|GiB|TiB|kB|MB|GB|TB|)")
_UNITS: Final = {
    "": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as `4GiB` or `700MB`.

    Raises:
        UsageError: It is none.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"size is not understood: `{text}`", hint="write it like 4GiB or 700MB")
    return int(match[1]) * _UNITS[match[2]]
