"""The bundle: tar and zstd as other programs read and write them."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import zstandard

from bitnet.errors import BundleError, IntegrityError, ToolchainError
from bitnet.release.archive import (
    BundleDigest,
    bundle_name,
    check_bundle,
    tar_bytes,
    tar_header,
    write_bundle,
)
from bitnet.release.manifest import FileEntry, Manifest
from bitnet.release.unpack import first_difference, unpack_bundle
from tests.support.release import SMALL_FILES, make_bundle, make_manifest, write_files


def gnu_tar(folder: Path, names: list[str]) -> bytes:
    """Returns what GNU tar makes of the files, in this order."""
    command = [
        *("tar", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"),
        *("-C", str(folder), "-cf", "-", *names),
    ]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_bundle_decompressed_is_what_gnu_tar_writes(tmp_path: Path) -> None:
    """Whoever has only coreutils, tar and zstd must be able to make and to read a bundle."""
    bundle, statement = make_bundle(tmp_path)
    (tmp_path / "files" / "MANIFEST").write_bytes(statement.manifest.emit())
    (tmp_path / "files" / "MANIFEST").chmod(0o644)
    expected = gnu_tar(tmp_path / "files", ["MANIFEST", *sorted(SMALL_FILES)])
    stream = subprocess.run(["zstd", "-dcq", bundle], capture_output=True, check=True).stdout
    assert stream == expected
    assert len(stream) == tar_bytes(statement.manifest)


def test_bundle_has_the_digest_that_is_signed(tmp_path: Path) -> None:
    """The statement names the file itself."""
    bundle, statement = make_bundle(tmp_path)
    assert bundle.name == "bitnet-v2.1.0.tar.zst"
    assert statement.bundle_digest == hashlib.sha384(bundle.read_bytes()).hexdigest()
    assert statement.bundle_bytes == bundle.stat().st_size


@pytest.mark.parametrize("size", [0, 1, 511, (8 << 30) - 1, 8 << 30, 5 << 40])
@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_tar_header_any_size_is_that_of_tarfile(size: int, mode: int) -> None:
    """From 8 GiB on the size has another form."""
    info = tarfile.TarInfo("bitnet-infer")
    info.size, info.mode = size, mode
    assert tar_header("bitnet-infer", mode, size) == info.tobuf(tarfile.GNU_FORMAT)


def big_files(megabytes: int) -> Mapping[str, tuple[int, bytes]]:
    piece = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(1 << 14))
    return {"model.bin": (0o644, (piece + bytes(1 << 19)) * megabytes)}


def test_bundle_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    """A builder with more cores must not make another bundle."""
    files = big_files(40)
    manifest = make_manifest(files)
    paths = write_files(tmp_path, files)
    made = []
    for workers in (1, 2, 3):
        output = io.BytesIO()
        write_bundle(manifest, paths, output, workers=workers)
        made.append(output.getvalue())
    assert made[0] == made[1] == made[2]


def test_bundle_frame_keeps_to_the_window_and_has_size_and_checksum(tmp_path: Path) -> None:
    """The reader in the gap takes 8 MiB, is quicker with 2, and must know the size at once."""
    files = big_files(20)
    manifest = make_manifest(files)
    output = io.BytesIO()
    write_bundle(manifest, write_files(tmp_path, files), output)
    frame = zstandard.get_frame_parameters(output.getvalue())
    assert frame.window_size == 2 << 20
    assert frame.content_size == tar_bytes(manifest)
    assert frame.has_checksum and frame.dict_id == 0


MEMORY_SCRIPT = """
import sys
from pathlib import Path
from bitnet.release.archive import check_bundle, write_bundle
from bitnet.release.digests import digest_file
from bitnet.release.manifest import FileEntry
from tests.support.release import make_manifest
import dataclasses
folder = Path(sys.argv[1])
entry = digest_file(folder / "model.bin")
manifest = dataclasses.replace(
    make_manifest(), files=(FileEntry("model.bin", 0o644, entry.size, entry.digest),)
)

def peak_kib():
    # VmHWM belongs to this program alone; ru_maxrss would start at the size of the parent.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

start = peak_kib()
with (folder / "bundle").open("wb") as out:
    write_bundle(manifest, {"model.bin": folder / "model.bin"}, out, workers=1)
with (folder / "bundle").open("rb") as file:
    check_bundle(file, "bundle", 0)
print(peak_kib() - start)
"""


@pytest.mark.parametrize(
    ("hole_mib", "random_mib", "limit_mib"),
    # A hole is as dense as a frame gets: 4 KiB of it make 128 MiB, which are there twice for a
    # moment. For anything else the compressor takes most: jobs of 16 MiB, each with its result.
    [pytest.param(600, 1, 400, id="dense"), pytest.param(0, 400, 300, id="random")],
)
def test_bundle_of_a_large_file_is_streamed(
    tmp_path: Path, hole_mib: int, random_mib: int, limit_mib: int
) -> None:
    """A model of several GB must not have to fit into memory."""
    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(hole_mib << 20)
        file.seek(hole_mib << 20)
        for _ in range(random_mib):
            file.write(os.urandom(1 << 20))
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, check=True, cwd=root)
    assert 0 < int(result.stdout) < limit_mib << 10  # KiB


def test_bundle_of_ternary_weights_holds_them_in_raw_blocks(tmp_path: Path) -> None:
    """The decoder in the gap is slow on entropy-coded weights: an update would take minutes."""
    codes = hashlib.shake_256(b"weights").digest(4 << 20)
    data = bytes((byte & 0x55) ^ 0x55 for byte in codes)  # 2-bit codes of two values
    files = {"model.bin": (0o644, data)}
    output = io.BytesIO()
    write_bundle(make_manifest(files), write_files(tmp_path, files), output)
    assert len(output.getvalue()) > len(data)


def test_bundle_read_back_gives_the_files(tmp_path: Path) -> None:
    """The oracle that the reader in the gap is compared with must itself be right."""
    bundle, statement = make_bundle(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    manifest, digest = unpack_bundle(bundle, folder)
    assert manifest == statement.manifest
    assert digest == BundleDigest(statement.bundle_digest or "", statement.bundle_bytes)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: data for name, (_, data) in SMALL_FILES.items()
    }


def test_bundle_of_a_file_that_changes_meanwhile_is_not_written(tmp_path: Path) -> None:
    """Else the manifest would promise what the bundle does not hold."""
    manifest = make_manifest()
    paths = write_files(tmp_path)
    paths["config.yaml"].write_bytes(b"model: hacked\n")
    with pytest.raises(IntegrityError, match="file changed while it was bundled"):
        write_bundle(manifest, paths, io.BytesIO())
    paths["config.yaml"].unlink()
    with pytest.raises(BundleError, match="file cannot be read"):
        write_bundle(manifest, paths, io.BytesIO())


def compress(stream: bytes, **options: bool) -> bytes:
    parameters = {"write_checksum": True, "write_content_size": True} | options
    return zstandard.ZstdCompressor(**parameters).compress(stream)


def tar_of(tmp_path: Path) -> bytes:
    bundle, _ = make_bundle(tmp_path)
    return zstandard.ZstdDecompressor().decompress(bundle.read_bytes())


def check(data: bytes) -> None:
    check_bundle(io.BytesIO(data), "bundle", len(data))


def replace_at(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tar: tar[:-512], "is not as long as its manifest says"),
        (lambda tar: tar + bytes(512), "is not as long as its manifest says"),
        (lambda tar: replace_at(tar, 0, b"X"), "does not begin with MANIFEST"),
        (lambda tar: replace_at(tar, 108, b"1"), "does not begin with MANIFEST"),
        (lambda tar: replace_at(tar, 124, b"\x80"), "does not begin with MANIFEST"),
        (lambda tar: replace_at(tar, 124, b"8"), "does not begin with MANIFEST"),
        (lambda tar: replace_at(tar, 134, b"9"), "does not begin with MANIFEST"),
        (lambda tar: replace_at(tar, 134, b" "), "does not begin with MANIFEST"),
        (lambda tar: replace_at(tar, 1500, b"\1"), "is not as long as its manifest says"),
        (lambda tar: replace_at(tar, 1536, b"/"), "header is not the one of the manifest"),
        (lambda tar: replace_at(tar, 1536 + 156, b"2"), "header is not the one of the manifest"),
        (lambda tar: replace_at(tar, 1536 + 100, b"0004755"), "header is not the one"),
        (lambda tar: replace_at(tar, 1536 + 257, b"ustar\00000"), "header is not the one"),
        (lambda tar: replace_at(tar, len(tar) - 1, b"\1"), "end of the archive is not zero"),
        (lambda tar: tar[:600], "archive ends too early"),
        (lambda _tar: b"", "archive ends too early"),
    ],
)
def test_bundle_with_another_tar_is_refused(tmp_path: Path, change: object, reason: str) -> None:
    """One byte that does not follow from the manifest is one that nobody signed for."""
    changed = change(tar_of(tmp_path))  # type: ignore[operator]
    with pytest.raises(BundleError) as caught:
        check(compress(changed))
    assert reason in caught.value.where[0]


def test_bundle_with_a_changed_file_is_refused(tmp_path: Path) -> None:
    """The digests of the manifest are those of the files."""
    tar = tar_of(tmp_path)
    at = tar.index(b"\x7fELF verify")
    with pytest.raises(IntegrityError, match="file has another digest: `bitnet-verify`"):
        check(compress(replace_at(tar, at, b"\x7eELF")))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"write_checksum": False}, "frame without content size or checksum"),
        ({"write_content_size": False}, "frame without content size or checksum"),
    ],
)
def test_bundle_with_another_frame_is_refused(
    tmp_path: Path, options: dict[str, bool], reason: str
) -> None:
    """The reader sizes its work by the frame's header."""
    with pytest.raises(BundleError) as caught:
        check(compress(tar_of(tmp_path), **options))
    assert reason in caught.value.where[0]


def test_bundle_with_a_large_window_is_refused() -> None:
    """A window of a gigabyte would be a gigabyte of memory in the gap."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=24, write_checksum=True, write_content_size=True
    )
    data = zstandard.ZstdCompressor(compression_params=parameters).compress(os.urandom(20 << 20))
    with pytest.raises(BundleError) as caught:
        check(data)
    assert caught.value.where == ("window of 16777216 bytes, limit 8388608",)


@pytest.mark.parametrize("rest", [b"x", b"\x28\xb5\x2f\xfd", bytes(5000)])
def test_bundle_with_something_behind_it_is_refused(tmp_path: Path, rest: bytes) -> None:
    """A second frame would be invisible to whoever looks at the first."""
    bundle, _ = make_bundle(tmp_path)
    with pytest.raises(BundleError):
        check(bundle.read_bytes() + rest)


def test_bundle_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Media that end early must not pass."""
    data = make_bundle(tmp_path)[0].read_bytes()
    for size in range(0, len(data), 7):
        with pytest.raises(BundleError):
            check(data[:size])


def test_bundle_with_any_byte_changed_is_refused_or_has_another_digest(tmp_path: Path) -> None:
    """The signature is over the file's digest; the reader alone must not be fooled either."""
    bundle, statement = make_bundle(tmp_path)
    data = bundle.read_bytes()
    for offset in range(0, len(data), 3):
        changed = replace_at(data, offset, bytes([data[offset] ^ 0x10]))
        try:
            manifest, digest = check_bundle(io.BytesIO(changed), "bundle", len(data))
        except (BundleError, IntegrityError):
            continue
        assert manifest == statement.manifest
        assert digest.digest != statement.bundle_digest


BOMB_BYTES = 1 << 30
# Prints what the reader says of standard input, and by how much its memory grew at most.
BOMB_SCRIPT = """
import io, sys
from pathlib import Path
from bitnet.errors import BundleError, IntegrityError
from bitnet.release.archive import check_bundle

def peak_bytes():
    # VmHWM belongs to this program alone; ru_maxrss would start at the size of the parent.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

data = sys.stdin.buffer.read()
before = peak_bytes()
try:
    check_bundle(io.BytesIO(data), "bomb", len(data))
except BundleError as error:
    print(error.where[0])
except IntegrityError as error:
    print(error.message)
print(peak_bytes() - before)
"""


def bomb_of(manifest: Manifest, entry: FileEntry, total: int) -> bytes:
    """Returns a frame that keeps to every rule: MANIFEST, a header, then zeros up to `total`."""
    text = manifest.emit()
    head = tar_header("MANIFEST", 0o644, len(text)) + text + bytes(-len(text) % 512)
    head += tar_header(entry.name, entry.mode, entry.size)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=21, write_checksum=True, write_content_size=True
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    stream = compressor.compressobj(size=total)
    frame, block = stream.compress(head), bytes(1 << 20)
    for at in range(len(head), total, len(block)):
        frame += stream.compress(block[: total - at])
    return frame + stream.flush()


@pytest.mark.parametrize(
    ("further", "told"),
    [
        (BOMB_BYTES, "is not as long as its manifest says"),
        (0, "file has another digest: `model.bin`"),
    ],
)
def test_zip_bomb_is_refused_without_its_memory(further: int, told: str) -> None:
    """A few bytes of media must not become gigabytes before anybody has signed for them."""
    entry = FileEntry("model.bin", 0o644, BOMB_BYTES, "0" * 96)
    manifest = Manifest("bitnet", "2.1.0", 7, 3, "x86_64", 42, (entry,))
    bomb = bomb_of(manifest, entry, tar_bytes(manifest) + further)
    assert len(bomb) < BOMB_BYTES // 1000
    result = subprocess.run(
        [sys.executable, "-c", BOMB_SCRIPT], input=bomb, capture_output=True, check=True
    )
    reason, grown = result.stdout.decode().splitlines()
    assert reason == told
    assert int(grown) < BOMB_BYTES // 2


def test_bundle_that_the_disk_cannot_hold_is_refused_before_a_file_is_written(
    tmp_path: Path,
) -> None:
    """Nobody has signed what is rebuilt: zeros of a few kilobytes would fill the disk."""
    free = shutil.disk_usage(tmp_path).free
    size = free + (1 << 40)
    entry = FileEntry("model.bin", 0o644, size, "0" * 96)
    manifest = Manifest("bitnet", "2.1.0", 7, 3, "x86_64", 42, (entry,))
    text = manifest.emit()
    head = tar_header("MANIFEST", 0o644, len(text)) + text + bytes(-len(text) % 512)
    bundle, folder = tmp_path / "bundle", tmp_path / "folder"
    folder.mkdir()
    # The frame says how long it is, and ends where the reader has no need to look any more.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=21, write_checksum=True, write_content_size=True
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj(
        size=tar_bytes(manifest)
    )
    data = stream.compress(head) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    bundle.write_bytes(data)
    with pytest.raises(ToolchainError, match="not enough room to unpack into") as caught:
        unpack_bundle(bundle, folder)
    assert caught.value.where[0] == f"needed  {size} bytes"
    assert list(folder.iterdir()) == []


def test_difference_of_files_is_found_where_it_is(tmp_path: Path) -> None:
    """A rebuild that differs is explained by the offset."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(bytes(3 << 20))
    other.write_bytes(bytes(3 << 20))
    assert first_difference(one, other) is None
    other.write_bytes(bytes((2 << 20) + 5) + b"x" + bytes(10))
    assert first_difference(one, other) == (2 << 20) + 5
    other.write_bytes(bytes(1000))
    assert first_difference(one, other) == 1000


def test_bundle_name_is_that_of_the_page() -> None:
    """Operators and scripts know a release by its file name."""
    entry = FileEntry("model.bin", 0o644, 0, "0" * 96)
    manifest = make_manifest({entry.name: (0o644, b"")}, version="10.0.3")
    assert bundle_name(manifest) == "bitnet-v10.0.3.tar.zst"
