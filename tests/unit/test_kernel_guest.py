"""The guest of `make attack KERNEL=...`: what it is given, and how its console is read."""

from pathlib import Path

import pytest

from tests.support.kernel_guest import Ended, _archive, _told

FIELDS = ("ino", "mode", "uid", "gid", "nlink", "mtime", "filesize", "devmajor", "devminor",
          "rdevmajor", "rdevminor", "namesize", "check")  # fmt: skip


def unpack(archive: bytes) -> dict[str, tuple[dict[str, int], bytes]]:
    """Reads "newc" as the kernel's early-userspace/buffer-format.rst describes it."""
    found: dict[str, tuple[dict[str, int], bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        digits = archive[at + 6 : at + 110]
        numbers = {name: int(digits[8 * i : 8 * i + 8], 16) for i, name in enumerate(FIELDS)}
        end = at + 110 + numbers["namesize"]
        name = archive[at + 110 : end]
        assert name[-1:] == b"\0"
        begin = end + -end % 4
        at = begin + numbers["filesize"]
        data = archive[begin:at]
        at += -at % 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return found
        found[name[:-1].decode()] = (numbers, data)


def test_archive_any_lengths_is_what_a_kernel_unpacks(tmp_path: Path) -> None:
    """The guest would start without its first process, or with a program cut short."""
    (tmp_path / "p").write_bytes(bytes(range(251)))
    files: dict[str, Path | bytes] = {"a" * n: bytes([n]) * (n - 1) for n in range(1, 10)}
    files["init"] = tmp_path / "p"
    found = unpack(_archive(files))
    assert found.pop("dev")[0]["mode"] == 0o040755
    assert {name: data for name, (_, data) in found.items()} == {
        name: data if isinstance(data, bytes) else data.read_bytes() for name, data in files.items()
    }
    numbers = [each for each, _ in found.values()]
    assert {each["mode"] for each in numbers} == {0o100755}
    assert len({each["ino"] for each in numbers}) == len(files)


def test_console_noise_between_is_passed_over_and_endings_are_told() -> None:
    """A line of the kernel's own would be taken for an attack that came back."""
    lines = [b"[    0.1] @ 0 31\r\n", b"@ 0 31 0 \r\n", b"audit: x\r\n", b"@ 1 0 3 6f6b\r\n"]
    assert list(_told(iter(lines), 2)) == [Ended(31, 0, b""), Ended(0, 3, b"ok")]


def test_console_that_ends_early_is_an_error_with_its_last_words() -> None:
    """Attacks that were never made would count as beaten."""
    lines = [b"@ 0 31 0 \r\n", b"Kernel panic - not syncing\r\n"]
    with pytest.raises(RuntimeError, match=r"after 1 of 2 jobs(.|\n)*Kernel panic"):
        list(_told(iter(lines), 2))


def test_console_that_leaves_a_job_out_is_no_answer() -> None:
    """The endings of later jobs would be told as those of earlier ones."""
    with pytest.raises(AssertionError):
        list(_told(iter([b"@ 1 31 0 \r\n"]), 2))
