"""bitnet-infer held in the middle of a run, so that it can be looked at from outside."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.infer import QUESTION, sealed_program

__all__ = [
    "NOBODY",
    "Mapping",
    "Paused",
    "become_nobody",
    "mappings_of",
    "paused_run",
    "public_folder",
]

# The user that owns nothing.
NOBODY = 65534
_WRITE = 1 if os.uname().machine == "x86_64" else 64


@dataclass(frozen=True)
class Mapping:
    """One block of /proc/PID/smaps."""

    begin: int
    end: int
    permissions: str
    path: str
    fields: dict[str, int]
    flags: tuple[str, ...]


@dataclass
class Paused:
    """A run that stands in the write of its first token, and the end of its standard output."""

    process: subprocess.Popen[bytes]
    output: int
    filler: int

    @property
    def proc(self) -> Path:
        return Path(f"/proc/{self.process.pid}")

    def finish(self) -> bytes:
        """Lets the run end and returns its answer."""
        with os.fdopen(os.dup(self.output), "rb") as pipe:
            received = pipe.read()
        self.process.wait(120)
        return received[self.filler :]


def mappings_of(process: Path) -> list[Mapping]:
    """Returns the memory of a process as the kernel describes it."""
    result = []
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", (process / "smaps").read_text()):
        head, *rest = block.splitlines()
        place, permissions, *more = head.split(maxsplit=5)
        begin, end = (int(number, 16) for number in place.split("-"))
        sizes = re.findall(r"^(\w+): +(\d+) kB$", "\n".join(rest), re.MULTILINE)
        fields = {name: int(value) * 1024 for name, value in sizes}
        flags = next(line for line in rest if line.startswith("VmFlags:")).split()[1:]
        path = more[3] if len(more) > 3 else ""
        result.append(Mapping(begin, end, permissions, path, fields, tuple(flags)))
    return result


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """Yields a folder that every user may enter, with the sealed program in it."""
    with tempfile.TemporaryDirectory(prefix="bitnet-public-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(sealed_program(), folder / "bitnet-infer")
        yield folder


def become_nobody() -> None:
    """Gives up every right, in a child before it starts."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


@contextlib.contextmanager
def paused_run(
    config: Path, *, program: Path | None = None, question: bytes = QUESTION, **options: Any
) -> Iterator[Paused]:
    """Runs the program with a standard output that is full: it stops when it writes a token.

    By then everything that a run touches has been touched.
    """
    reader, writer = os.pipe()
    capacity = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(capacity))
    process = subprocess.Popen(
        [program or sealed_program(), "--config", config, "--seed", "1"],
        stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE, **options,
    )  # fmt: skip
    os.close(writer)
    paused = Paused(process, reader, capacity)
    try:
        assert process.stdin is not None
        process.stdin.write(question)
        process.stdin.close()
        process.stdin = None
        deadline = time.monotonic() + 120
        while (paused.proc / "syscall").read_text().split()[0:2] != [str(_WRITE), "0x1"]:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield paused
    finally:
        os.close(reader)
        process.kill()
        process.communicate()
