"""bitnet-log beside a writer: one that is at work, comes, goes, or dies, and a ring set back."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitnet.seal.toolchain import host_arch
from tests.support.attacks import system_calls
from tests.support.held import Held, held_after
from tests.support.log_programs import (
    assert_told,
    end,
    log_program,
    show,
    start_writer,
    tell,
    write,
    writer_program,
)
from tests.support.log_ring import HEADER_BYTES
from tests.support.status_table import told


def test_reader_does_not_keep_a_writer_out(tmp_path: Path) -> None:
    """A reader that took the lock it asks for could stop the next start."""
    path = tmp_path / "ring"
    write(path, 5)
    reader = subprocess.Popen(
        [str(log_program()), str(path), "--follow", "--json"], text=True, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None
    lines = [json.loads(reader.stdout.readline()) for _ in range(6)]
    assert lines[-1]["writer"] == "died"  # it is ready when it has told how the ring is
    for _ in range(20):
        assert write(path, 1) == "ready\n"
    assert reader.poll() is None
    end(reader, signal.SIGTERM)


def test_follow_shows_records_live_and_survives_the_writer(tmp_path: Path) -> None:
    """An operator watches the log when something goes wrong, not before."""
    path = tmp_path / "ring"
    writer = start_writer(path, 2)
    reader = subprocess.Popen(
        [str(log_program()), str(path), "--follow", "--json"], text=True, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None

    def line() -> dict[str, Any]:
        assert reader.stdout is not None
        return dict(json.loads(reader.stdout.readline()))

    assert [line().get("sequence") for _ in range(2)] == [0, 1]
    assert line()["writer"] == "running"
    tell(writer, "ab")
    assert [line()["sequence"] for _ in range(2)] == [2, 3]
    end(writer, signal.SIGKILL)
    assert line()["writer"] == "died"
    again = start_writer(path)
    assert line()["writer"] == "running"
    tell(again, "x.")
    assert [line()["event"] for _ in range(2)] == ["prompt", "exit"]
    again.communicate("")
    assert line()["writer"] == "ended"
    path.unlink()
    reader.communicate(timeout=120)
    assert reader.returncode == 0


def head_of(path: Path) -> bytes:
    """The count of records in the header."""
    with path.open("rb") as file:
        return file.read(72)[64:]


def stop_between_looks(reader: subprocess.Popen[str]) -> None:
    """Stops a reader that follows while it waits for its next look.

    One stopped in the middle of a look would see parts of two rings.
    """
    proc = Path(f"/proc/{reader.pid}")
    waiting = {str(system_calls(host_arch())[name]) for name in ("nanosleep", "clock_nanosleep")}

    def reads() -> str:
        (line,) = re.findall(r"^syscr: \d+$", (proc / "io").read_text(), re.MULTILINE)
        return str(line)

    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline
        before = reads()
        if (proc / "syscall").read_text().split()[0] not in waiting:
            continue
        reader.send_signal(signal.SIGSTOP)
        while (proc / "stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline
        # It was seen waiting, and has read nothing since before.
        if reads() == before:
            return
        reader.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("more", [0, 3, 8])
def test_follow_refuses_a_ring_that_was_set_back(tmp_path: Path, more: int) -> None:
    """Whoever puts an older copy back would else hide all records up to the number shown last."""
    path = tmp_path / "ring"
    write(path, 5)
    older = path.read_bytes()
    write(path, 5)
    reader = subprocess.Popen(
        [str(log_program()), str(path), "--follow", "--json"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert reader.stdout is not None
    lines = [json.loads(reader.stdout.readline()) for _ in range(11)]
    assert lines[-1]["head"] == 10
    # At once, so that a look sees either of two rings that each hold together.
    other = tmp_path / "other"
    other.write_bytes(older)
    other.chmod(0o640)
    write(other, more)
    assert show(other).returncode == 0
    content = other.read_bytes()
    stop_between_looks(reader)
    path.write_bytes(content)
    reader.send_signal(signal.SIGCONT)
    try:
        output, errors = reader.communicate(timeout=120)
    finally:
        reader.kill()
    assert (output, errors) == ("", told("kLogChain", "shown before", 9))
    assert reader.returncode == 3


@contextlib.contextmanager
def held_look(path: Path, reads: int, trace: Path) -> Iterator[Held]:
    """A reader that has asked for a writer, and stands still after so many reads."""
    # It asks with its second fcntl; the first belongs to the opening.
    call, count = ("pread64", reads) if reads else ("fcntl", 2)
    command = [log_program(), path, "--json"]
    with held_after(call, count, trace, command, watched="fcntl,pread64") as held:
        asked = [number for number, line in enumerate(held.calls) if "F_OFD_GETLK" in line]
        read = [number for number, line in enumerate(held.calls) if line.startswith("pread64(")]
        assert len(asked) == 1 and len(read) == reads and asked < (read or [len(held.calls)])
        yield held


def state_of(held: Held) -> str:
    """What a look told of the writer."""
    process = held.go_on()
    output, errors = process.communicate(timeout=120)
    assert (errors, process.returncode) == ("", 0)
    return str(json.loads(output.splitlines()[-1])["writer"])


def test_writer_that_starts_during_a_look_is_not_told_as_dead(tmp_path: Path) -> None:
    """An operator who reads `died` looks for a crash that never was."""
    path = tmp_path / "ring"
    write(path, 3)
    with held_look(path, 0, tmp_path / "trace") as look:
        writer = start_writer(path, 2)
        assert state_of(look) == "running"
    writer.communicate("")
    # One that came and went: what was copied of it ends in the middle.
    with held_look(path, 1, tmp_path / "again") as look:
        write(path, 2)
        assert state_of(look) == "running"


def test_record_whose_head_is_not_stored_yet_is_no_change(tmp_path: Path) -> None:
    """A writer that starts during a look can be caught between its two stores."""
    path = tmp_path / "ring"
    write(path, 4)
    shorter = path.read_bytes()[: HEADER_BYTES - 1][64:72]
    write(path, 1)

    def tear() -> None:
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), shorter, 64)

    with held_look(path, 0, tmp_path / "trace") as look:
        writer = start_writer(path)
        tear()
        assert state_of(look) == "running"
    end(writer, signal.SIGKILL)
    # Of one that died there nothing is known but that it did: docs/formats/log.md.
    assert_told(show(path), "kLogChain", "head", 4)
    assert write(path, 1) == "ready\n"
    assert show(path).returncode == 0


def test_reader_beside_a_fast_writer_never_cries_wolf(tmp_path: Path) -> None:
    """A false alarm teaches an operator to ignore the true one."""
    path = tmp_path / "ring"
    process = subprocess.Popen(
        [str(writer_program()), str(path), "3000000"], stdout=subprocess.PIPE
    )
    while not path.exists() or not any(head_of(path)):
        pass  # its header is whole when a record is counted
    looks = 0
    while process.poll() is None:
        result = show(path, "--json", "--lines", "1")
        assert result.returncode == 0, result.stderr
        looks += 1
    process.communicate()
    assert looks > 10
    assert show(path).returncode == 0
