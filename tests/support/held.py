"""A program held still after one of its own system calls, for as long as a test needs.

strace gives it SIGSTOP with the call, and the kernel stops it when the call is done: no clock is
raced against, as it would be with a delay.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.host import installed

__all__ = ["Held", "held_after"]


@dataclass
class Held:
    """A program that stands still, under the strace that waits for it."""

    process: subprocess.Popen[str]
    calls: list[str]

    def go_on(self) -> subprocess.Popen[str]:
        """Lets the program go on; its streams and its exit code are those of the process."""
        for program in _traced(self.process):
            os.kill(program, signal.SIGCONT)
        return self.process


def _traced(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in children.read_text(encoding="ascii").split()]


@contextlib.contextmanager
def held_after(
    call: str, count: int, trace: Path, command: Sequence[str | Path], *, watched: str = ""
) -> Iterator[Held]:
    """Starts a program and yields when it stands still after the `count`th call of a name.

    `trace` is a file to write; `calls` of what is yielded has the calls up to there, of that name
    and of those in `watched`.
    """
    names = ",".join(filter(None, (call, watched)))
    process = subprocess.Popen(
        [installed("strace"), "-qq", "-e", f"trace={names}", "-o", trace,
         "-e", f"inject={call}:signal=SIGSTOP:when={count}", *command],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "--- stopped by SIGSTOP ---" not in (lines := _lines(trace)):
            assert process.poll() is None, lines
            assert time.monotonic() < deadline, lines
            time.sleep(0.01)
        yield Held(process, [line for line in lines if not line.startswith("---")])
    finally:
        with contextlib.suppress(OSError):  # it has ended
            for program in _traced(process):
                os.kill(program, signal.SIGKILL)
        process.kill()
        process.communicate()


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
