"""The bundle as a stream: a tar whose every byte follows from the manifest, in one zstd frame.

Source: docs/formats/release.md, Bundle. Nothing larger than a block is held in memory.

Level -1, window 2 MiB (2^21), jobs of 16 MiB. A negative level writes weights as raw blocks: the
decoder in the gap copies those at more than 1 GB/s, while Huffman-coded ones, a fifth smaller, took
it sixty times as long (docs/lab_notes.md). With at least one worker the frame depends on the job
size and not on the number of workers, so any number of cores gives the same bytes. The bytes do
depend on the version of the zstd library, which provenance.json names.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import zstandard

from bitnet.errors import BundleError, IntegrityError
from bitnet.release.manifest import MANIFEST_BYTES_MAX, FileEntry, Manifest, parse_manifest

__all__ = [
    "WINDOW_LOG",
    "BundleDigest",
    "Progress",
    "Sink",
    "bundle_name",
    "check_bundle",
    "manifest_header",
    "tar_bytes",
    "tar_header",
    "write_bundle",
]

WINDOW_LOG: Final = 23
_WRITTEN_WINDOW_LOG: Final = 21
_LEVEL: Final = -1
_JOB_BYTES: Final = 16 << 20
_BLOCK: Final = 512
_RECORD: Final = 10240
_CHUNK_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 4096
_OCTAL_SIZE_LIMIT: Final = 8 << 30
_MANIFEST_NAME: Final = "MANIFEST"

Progress = Callable[[str, int, int], None]


class Sink(Protocol):
    """Where files of a bundle that is read go."""

    def expect(self, manifest: Manifest) -> None:
        """What will come, before the first file; nobody has vouched for it."""

    def begin(self, entry: FileEntry) -> None:
        """A file begins."""

    def write(self, data: bytes) -> None:
        """Bytes of the file that began last."""


@dataclass(frozen=True)
class BundleDigest:
    """SHA-384 in hex and size of a bundle file."""

    digest: str
    size: int


def bundle_name(manifest: Manifest) -> str:
    """Returns the file name of a release's bundle: `bitnet-v2.1.0.tar.zst`."""
    return f"{manifest.product}-v{manifest.version}.tar.zst"


def tar_header(name: str, mode: int, size: int) -> bytes:
    """Returns the 512 bytes in front of a file: USTAR with GNU magic, everything else fixed."""
    if size < _OCTAL_SIZE_LIMIT:
        size_field = f"{size:011o}\0".encode("ascii")
    else:
        size_field = b"\x80" + size.to_bytes(11, "big")
    before = b"".join((
        name.encode("ascii").ljust(100, b"\0"),
        f"{mode:07o}\0".encode("ascii"),
        b"0000000\0" * 2,
        size_field,
        b"00000000000\0",
    ))  # fmt: skip
    after = (b"0" + bytes(100) + b"ustar  \0").ljust(_BLOCK - len(before) - 8, b"\0")
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + f"{checksum:06o}\0 ".encode("ascii") + after


def manifest_header(manifest: Manifest) -> bytes:
    """Returns the header of MANIFEST itself."""
    return tar_header(_MANIFEST_NAME, 0o644, len(manifest.emit()))


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def tar_bytes(manifest: Manifest) -> int:
    """Returns the size of the tar stream."""
    sizes = [len(manifest.emit()), *(entry.size for entry in manifest.files)]
    total = sum(_BLOCK + size + len(_padding(size)) for size in sizes) + 2 * _BLOCK
    return total + -total % _RECORD


def _tar_stream(manifest: Manifest, files: dict[str, Path], progress: Progress) -> Iterator[bytes]:
    """Yields the tar stream; every file is checked against its digest while it passes."""
    text = manifest.emit()
    yield manifest_header(manifest) + text + _padding(len(text))
    written = _BLOCK + len(text) + len(_padding(len(text)))
    total = tar_bytes(manifest)
    for entry in manifest.files:
        yield tar_header(entry.name, entry.mode, entry.size)
        written += _BLOCK
        for chunk in _checked_chunks(entry, files[entry.name]):
            progress(entry.name, written, total)
            written += len(chunk)
            yield chunk
        yield _padding(entry.size)
        written += len(_padding(entry.size))
    progress("", total, total)
    yield bytes(total - written)


def _checked_chunks(entry: FileEntry, path: Path) -> Iterator[bytes]:
    digest = hashlib.sha384()
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                if size > entry.size:
                    break
                yield chunk
    except OSError as error:
        raise BundleError(
            f"file cannot be read: `{path}`", where=error.strerror or str(error)
        ) from error
    if size != entry.size or digest.hexdigest() != entry.digest:
        raise IntegrityError(f"file changed while it was bundled: `{path}`")


def write_bundle(
    manifest: Manifest,
    files: dict[str, Path],
    output: BinaryIO,
    *,
    workers: int = 1,
    progress: Progress = lambda *_: None,
) -> BundleDigest:
    """Writes a bundle and returns its digest.

    Args:
        manifest: What it holds.
        files: Where each file of the manifest is.
        output: Written from its start, in order.
        workers: Threads that compress, at least 1; changes speed, never a byte.
        progress: Called with file, bytes of the tar stream done, and their total.

    Raises:
        BundleError: A file cannot be read.
        IntegrityError: A file is not what the manifest says.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        window_log=_WRITTEN_WINDOW_LOG,
        job_size=_JOB_BYTES,
        threads=workers,
        write_checksum=True,
        write_content_size=True,
        write_dict_id=False,
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    stream = compressor.compressobj(size=tar_bytes(manifest))
    digest = hashlib.sha384()
    size = 0
    for chunk in _tar_stream(manifest, files, progress):
        data = stream.compress(chunk)
        digest.update(data)
        size += len(data)
        _write_all(output, data)
    data = stream.flush()
    digest.update(data)
    _write_all(output, data)
    return BundleDigest(digest.hexdigest(), size + len(data))


def _write_all(output: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[output.write(view) :]


class _TarReader:
    """Gives the bytes of the tar stream in wanted amounts, and the digest of the whole bundle.

    The frame is fed in pieces of 4 KiB: the densest frame makes 128 MiB of one, no more.
    """

    def __init__(self, source: BinaryIO, what: str, progress: Progress, total: int) -> None:
        self.digest = hashlib.sha384()
        self.size = 0
        self.item = _MANIFEST_NAME
        self.content_size = 0
        self._what = what
        self._source = source
        self._progress = progress
        self._total = total
        self._stream: zstandard.ZstdDecompressionObj | None = None
        self._fresh = memoryview(b"")
        self._rest = bytearray()

    def refusal(self, reason: str) -> BundleError:
        return BundleError(f"bundle is malformed: `{self._what}`", where=reason)

    def _more(self) -> bool:
        """Adds decompressed bytes to the rest; returns False at the end of the source."""
        if not self._fresh:
            data = self._source.read(_CHUNK_BYTES)
            if not data:
                return False
            self.digest.update(data)
            self.size += len(data)
            self._progress(self.item, self.size, self._total)
            self._fresh = memoryview(data)
        piece, self._fresh = self._fresh[:_PIECE_BYTES], self._fresh[_PIECE_BYTES:]
        try:
            if self._stream is None:
                self._stream = self._open_frame(bytes(piece))
            if self._stream.eof:
                raise self.refusal("bytes follow the frame")
            self._rest += self._stream.decompress(piece)
        except zstandard.ZstdError as error:
            raise self.refusal(str(error)) from None
        if self._stream.unused_data:
            raise self.refusal("bytes follow the frame")
        return True

    def _open_frame(self, head: bytes) -> "zstandard.ZstdDecompressionObj":
        frame = zstandard.get_frame_parameters(head)
        unknown = frame.content_size == zstandard.CONTENTSIZE_UNKNOWN
        if unknown or not frame.has_checksum or frame.dict_id:
            raise self.refusal("frame without content size or checksum, or with a dictionary")
        if frame.window_size > 1 << WINDOW_LOG:
            raise self.refusal(f"window of {frame.window_size} bytes, limit {1 << WINDOW_LOG}")
        self.content_size = frame.content_size
        return zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG).decompressobj()

    def take(self, size: int) -> bytes:
        """Returns exactly `size` bytes; at most a chunk is asked for at once."""
        while len(self._rest) < size:
            if not self._more():
                raise self.refusal("archive ends too early")
        data = bytes(memoryview(self._rest)[:size])
        del self._rest[:size]
        return data

    def finish(self) -> None:
        """Checks that nothing is left, in the archive or behind it."""
        while not self._rest and self._more():
            pass
        if self._rest or self._stream is None or not self._stream.eof:
            raise self.refusal("archive is longer than its manifest, or cut off")


def check_bundle(
    source: BinaryIO,
    what: str,
    total: int,
    *,
    sink: Sink | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[Manifest, BundleDigest]:
    """Reads a whole bundle and returns its manifest and digest; every byte is checked.

    Whether somebody signed it is not known then: use what `sink` got only afterwards.

    Args:
        source: The bundle.
        what: Its name, for errors.
        total: Its size, for `progress`.
        sink: Gets the files' bytes.
        progress: Called with file, bytes of the bundle read, and `total`.

    Raises:
        BundleError: Any byte is not the one that the manifest asks for.
        FormatError: MANIFEST does not keep to its format.
        IntegrityError: A file has another digest.
    """
    reader = _TarReader(source, what, progress, total)
    header = reader.take(_BLOCK)
    digits = header[124:135]
    size = int(digits, 8) if re.fullmatch(rb"[0-7]{11}", digits) else -1
    if not 0 < size <= MANIFEST_BYTES_MAX or header != tar_header(_MANIFEST_NAME, 0o644, size):
        raise reader.refusal("does not begin with MANIFEST")
    text = reader.take(size)
    manifest = parse_manifest(text)
    if any(reader.take(len(_padding(size)))) or reader.content_size != tar_bytes(manifest):
        raise reader.refusal("is not as long as its manifest says")
    done = _BLOCK + size + len(_padding(size))
    if sink is not None:
        sink.expect(manifest)
    for entry in manifest.files:
        reader.item = entry.name
        if reader.take(_BLOCK) != tar_header(entry.name, entry.mode, entry.size):
            raise reader.refusal(f"header is not the one of the manifest: {entry.name}")
        _read_file(reader, entry, sink)
        if any(reader.take(len(_padding(entry.size)))):
            raise reader.refusal(f"padding is not zero: {entry.name}")
        done += _BLOCK + entry.size + len(_padding(entry.size))
    if any(reader.take(tar_bytes(manifest) - done)):
        raise reader.refusal("end of the archive is not zero")
    reader.finish()
    return manifest, BundleDigest(reader.digest.hexdigest(), reader.size)


def _read_file(reader: _TarReader, entry: FileEntry, sink: Sink | None) -> None:
    if sink is not None:
        sink.begin(entry)
    digest = hashlib.sha384()
    left = entry.size
    while left:
        data = reader.take(min(left, _CHUNK_BYTES))
        left -= len(data)
        digest.update(data)
        if sink is not None:
            sink.write(data)
    if digest.hexdigest() != entry.digest:
        raise IntegrityError(
            f"file has another digest: `{entry.name}`",
            where=(f"found     {digest.hexdigest()}", f"expected  {entry.digest}"),
        )
