"""MANIFEST: what a release holds; a valid `sha384sum` file with metadata in its `#` lines.

Source: docs/formats/release.md, Manifest.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from bitnet.errors import UsageError
from bitnet.release.text import (
    DIGEST,
    NAME,
    NUMBER,
    NUMBER_LIMIT,
    LineReader,
    check_canonical,
    check_name,
    check_number,
)

__all__ = ["FILE_COUNT_MAX", "MANIFEST_BYTES_MAX", "FileEntry", "Manifest", "parse_manifest"]

FILE_COUNT_MAX: Final = 64
MANIFEST_BYTES_MAX: Final = 65536
ARCHITECTURES: Final = ("x86_64", "aarch64")
_MODES: Final = (0o644, 0o755)
_NEVER_LISTED: Final = ("MANIFEST", "update.sig")
_VERSION: Final = rf"({NUMBER}\.{NUMBER}\.{NUMBER})"


@dataclass(frozen=True)
class FileEntry:
    """One file of a release: its name, permissions, size and SHA-384 in hex."""

    name: str
    mode: int
    size: int
    digest: str

    def __post_init__(self) -> None:
        check_name(self.name, "file name")
        check_number(self.size, f"size of `{self.name}`")
        if self.name in _NEVER_LISTED:
            raise UsageError(f"file cannot be part of a manifest: `{self.name}`")
        if self.mode not in _MODES or re.fullmatch(DIGEST, self.digest) is None:
            raise UsageError(f"mode or digest cannot be written: `{self.name}`")


@dataclass(frozen=True)
class Manifest:
    """The metadata of a release and its files, increasing by name.

    Attributes:
        product: Name of what is installed.
        version: X.Y.Z, for people.
        counter: Increases with every release; what machines compare.
        minimum_counter: The floor that installing this release sets; at most `counter`.
        architecture: Processor of the programs.
        selftest_seed: Seed of the known-answer self-test.
        files: At most 64.
    """

    product: str
    version: str
    counter: int
    minimum_counter: int
    architecture: str
    selftest_seed: int
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        check_name(self.product, "product")
        version = re.fullmatch(_VERSION, self.version, re.ASCII)
        if version is None or any(int(part) >= NUMBER_LIMIT for part in version.groups()[1:]):
            raise UsageError(
                f"version is not of the form X.Y.Z: `{self.version}`",
                hint="use three numbers without leading zeros, such as 2.1.0",
            )
        for name in ("counter", "minimum_counter", "selftest_seed"):
            check_number(getattr(self, name), name.replace("_", "-"))
        if self.minimum_counter > self.counter:
            raise UsageError(
                f"minimum counter is above the counter: `{self.minimum_counter}`",
                where=f"counter {self.counter}",
            )
        if self.architecture not in ARCHITECTURES:
            raise UsageError(f"architecture is not supported: `{self.architecture}`")
        names = [entry.name for entry in self.files]
        if names != sorted(set(names)) or not 1 <= len(names) <= FILE_COUNT_MAX:
            raise UsageError("files are none, too many, out of order, or named twice")
        check_number(sum(entry.size for entry in self.files), "size of all files")

    @property
    def digest(self) -> str:
        """SHA-384 of the text, in hex."""
        return hashlib.sha384(self.emit()).hexdigest()

    def find(self, name: str) -> FileEntry | None:
        """Returns the entry of a name, or None."""
        return next((entry for entry in self.files if entry.name == name), None)

    def emit(self) -> bytes:
        """Returns the text."""
        lines = [
            "# bitnet-manifest v1",
            f"# product {self.product}",
            f"# version {self.version}",
            f"# counter {self.counter}",
            f"# minimum-counter {self.minimum_counter}",
            f"# architecture {self.architecture}",
            f"# selftest-seed {self.selftest_seed}",
        ]
        lines += [f"# file {each.mode:04o} {each.size} {each.name}" for each in self.files]
        lines += [f"{each.digest}  {each.name}" for each in self.files]
        return ("\n".join(lines) + "\n").encode("ascii")


def parse_manifest(data: bytes) -> Manifest:
    """Returns what a MANIFEST says; no file is looked at.

    Raises:
        FormatError: The text does not keep to its format.
    """
    reader = LineReader(data, "manifest", MANIFEST_BYTES_MAX)
    reader.take("# bitnet-manifest v1", "# bitnet-manifest v1")
    (product,) = reader.take(f"# product {NAME}", "# product NAME")
    version = reader.take(f"# version {_VERSION}", "# version X.Y.Z")
    for part in version[1:]:
        reader.number(part)
    counter = _take_number(reader, "counter")
    minimum = _take_number(reader, "minimum-counter")
    if minimum > counter:
        raise reader.refusal(f"minimum-counter {minimum} is above counter {counter}")
    (arch,) = reader.take(f"# architecture ({'|'.join(ARCHITECTURES)})", "# architecture x86_64")
    seed = _take_number(reader, "selftest-seed")
    files = _take_files(reader)
    reader.finish()
    manifest = Manifest(product, version[0], counter, minimum, arch, seed, files)
    check_canonical(data, manifest.emit(), "manifest")
    return manifest


def _take_number(reader: LineReader, name: str) -> int:
    (digits,) = reader.take(f"# {name} {NUMBER}", f"# {name} N")
    return reader.number(digits)


def _take_files(reader: LineReader) -> tuple[FileEntry, ...]:
    form = "# file MODE BYTES NAME"
    pattern = rf"# file (0644|0755) {NUMBER} {NAME}"
    listed: list[tuple[int, int, str]] = []
    total = 0
    found: tuple[str, ...] | None = reader.take(pattern, form)
    while found is not None:
        mode, size, name = int(found[0], 8), reader.number(found[1]), found[2]
        total += size
        if listed and name <= listed[-1][2]:
            raise reader.refusal("names must increase, each once")
        if name in _NEVER_LISTED:
            raise reader.refusal(f"{name} is never listed")
        if len(listed) == FILE_COUNT_MAX or total >= NUMBER_LIMIT:
            raise reader.refusal("too many files, or too many bytes in all")
        listed.append((mode, size, name))
        found = reader.take_if(pattern)
    files = []
    for mode, size, name in listed:
        (digest,) = reader.take(rf"{DIGEST}  {re.escape(name)}", f"digest  {name}")
        files.append(FileEntry(name, mode, size, digest))
    return tuple(files)
