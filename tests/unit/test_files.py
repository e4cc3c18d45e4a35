"""Files that others name, and files that are written: whole or not at all, and over nothing."""

import errno
import os
import stat
from pathlib import Path

import pytest

from bitnet import files
from bitnet.checkpoint import open_checkpoint
from bitnet.errors import FormatError, TokenizerError, ToolchainError, ToolkitError, UsageError
from bitnet.quantize import write_model
from bitnet.release.digests import digest_file
from bitnet.release.unpack import unpack_bundle
from bitnet.seal.elf import read_elf
from bitnet.seal.embed import read_model_head
from bitnet.tokenizer import compile_tokenizer
from tests.support.checkpoints import make_checkpoint
from tests.support.full_disk import file_limit

DATA = bytes(range(256)) * 1024


def test_new_file_beyond_the_room_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """Broken, a nearly full disk, which takes what fits, gives a short file and exit code 0."""
    (tmp_path / "old").write_bytes(b"old")
    with file_limit(8192):
        for name in ("old", "new"):
            with pytest.raises(ToolchainError, match="file cannot be written") as caught:
                files.replace_file(tmp_path / name, DATA)
            assert caught.value.where == (os.strerror(errno.EFBIG),)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_new_file_has_its_mode_and_all_bytes(tmp_path: Path) -> None:
    """Broken, what is written would depend on the umask, or lack its end."""
    before = os.umask(0o077)
    try:
        files.replace_file(tmp_path / "new", DATA)
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == DATA
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o644


@pytest.fixture(params=["pipe", "folder", "link to a device"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Something that has a name and is no regular file."""
    path = tmp_path / "special"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")
    return path


def test_new_file_over_no_regular_file_is_refused(special: Path) -> None:
    """Broken, `--output /dev/null` as root takes the device away from the whole machine."""
    kind = stat.S_IFMT(special.lstat().st_mode)
    with pytest.raises(UsageError, match="output is not a regular file"):
        files.replace_file(special, b"x")
    with pytest.raises(UsageError, match="output is not a regular file"):
        files.check_output(special)
    assert stat.S_IFMT(special.lstat().st_mode) == kind
    assert list(special.parent.iterdir()) == [special]


def test_check_output_over_an_input_by_any_name_is_refused(tmp_path: Path) -> None:
    """Broken, a command destroys what it reads."""
    (tmp_path / "input").write_bytes(b"x")
    (tmp_path / "link").symlink_to("input")
    (tmp_path / "second").hardlink_to(tmp_path / "input")
    inputs = (tmp_path / "absent", tmp_path / "input")
    for name in ("input", "link", "second"):
        with pytest.raises(UsageError, match="output is one of the inputs"):
            files.check_output(tmp_path / name, inputs)
    (tmp_path / "other").write_bytes(b"x")
    files.check_output(tmp_path / "other", inputs)
    files.check_output(tmp_path / "new", inputs)
    with pytest.raises(UsageError, match="folder of the output does not exist"):
        files.check_output(tmp_path / "none" / "new")
    with pytest.raises(ToolchainError, match="file cannot be written"):
        files.check_output(tmp_path / ("x" * 300))


def quantize(tokenizer: Path) -> None:
    checkpoint = make_checkpoint(layers=1, hidden=8, heads=2, intermediate=8)
    with open_checkpoint(checkpoint.write(tokenizer.parent / "c")) as opened:
        write_model(opened, tokenizer.parent / "m.bin", tokenizer=tokenizer)


READERS = {
    "open": (files.open_regular, OSError),
    "bounded": (lambda path: files.read_bounded(path, "file", 9), FormatError),
    "tokenizer": (compile_tokenizer, TokenizerError),
    "tokenizer digest": (quantize, UsageError),
    "executable": (read_elf, FormatError),
    "model": (read_model_head, FormatError),
    "digest": (digest_file, ToolkitError),
    "bundle": (lambda path: unpack_bundle(path, path.parent), ToolkitError),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", READERS)
def test_readers_of_a_named_pipe_refuse_at_once(tmp_path: Path, name: str) -> None:
    """Broken, a pipe among the files of somebody else hangs the builder for ever."""
    read, error = READERS[name]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(error) as caught:
        read(tmp_path / "pipe")
    told = caught.value
    assert "not a regular file" in (told.where if isinstance(told, ToolkitError) else told.args)


def test_read_bounded_holds_to_the_limit(tmp_path: Path) -> None:
    """Broken, a file without end fills the memory."""
    (tmp_path / "file").write_bytes(b"123456789")
    assert files.read_bounded(tmp_path / "file", "file", 9) == b"123456789"
    with pytest.raises(FormatError, match="file is too long"):
        files.read_bounded(tmp_path / "file", "file", 8)


def without_hard_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Makes `link` fail as on FAT (EPERM), or in a file system in user space."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("code", [None, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_create_file_with_or_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """Broken, a key or a signature cannot be written to the stick that carries it over the gap."""
    if code is not None:
        without_hard_links(monkeypatch, code)
    files.create_file(tmp_path / "key", DATA, mode=0o600)
    assert (tmp_path / "key").read_bytes() == DATA
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="file exists already"):
        files.create_file(tmp_path / "key", b"other", mode=0o600)
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(UsageError, match="file exists already"):
        files.create_file(tmp_path / "dangling", b"other", mode=0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "key"]
    assert (tmp_path / "key").read_bytes() == DATA


@pytest.mark.parametrize("links", [True, False])
def test_create_file_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Broken, half a key lies there, and nobody may write another of its name."""
    synced = []

    def fail_at_last(descriptor: int) -> None:
        synced.append(descriptor)
        if links or len(synced) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail_at_last)
    if not links:
        without_hard_links(monkeypatch, errno.EPERM)
    with pytest.raises(ToolchainError, match="file cannot be written"):
        files.create_file(tmp_path / "key", DATA, mode=0o600)
    assert list(tmp_path.iterdir()) == []


def keep_temporary_names(monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("."):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)


def test_create_file_whose_temporary_name_stays_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, the ceremony ends with an error and yet there is a key of that name."""
    keep_temporary_names(monkeypatch)
    with pytest.raises(ToolchainError, match="file cannot be written"):
        files.create_file(tmp_path / "key", DATA, mode=0o600)
    assert not (tmp_path / "key").exists()


def test_new_file_whose_temporary_name_stays_tells_what_failed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, a full disk ends in a traceback about a file that nobody named."""
    keep_temporary_names(monkeypatch)
    with (
        pytest.raises(ToolchainError) as caught,
        files.new_file(tmp_path / "model.bin", mode=0o644),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.where == (os.strerror(errno.ENOSPC),)
    assert not (tmp_path / "model.bin").exists()


def test_create_file_puts_its_name_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, a key that the ceremony has told of is gone after a cut of the power."""
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if synced[-1] == str(tmp_path) and (tmp_path / "fails").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    files.create_file(tmp_path / "key", DATA, mode=0o600)
    assert synced[-1] == str(tmp_path)
    with pytest.raises(ToolchainError, match="file cannot be written"):
        files.create_file(tmp_path / "fails", DATA, mode=0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
