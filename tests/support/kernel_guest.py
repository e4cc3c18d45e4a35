"""Programs of another architecture under a real kernel: a machine of qemu with one process 1.

User-mode emulation enforces no system-call filter; a kernel does, emulated or not.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet.seal import toolchain
from bitnet.seal.sources import Program, build_root, engine_root

__all__ = ["Ended", "run_in_guest"]

_INIT = Program("guest-init", "../tests/programs/attack/init.cc", ())
_MACHINE = (
    "-machine", "virt", "-cpu", "max", "-smp", "2", "-m", "1G", "-nographic", "-no-reboot",
    "-nic", "none", "-append", "console=ttyAMA0 loglevel=0 panic=-1 audit=0",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a job ended: the signal that killed it or 0, its exit code, what it wrote."""

    signal: int
    code: int
    output: bytes


def run_in_guest(
    kernel: Path,
    jobs: Sequence[Sequence[str]],
    files: dict[str, Path | bytes],
    *,
    seconds: int = 1800,
) -> Iterator[Ended]:
    """Boots an AArch64 kernel and runs `jobs` in it, in order; yields how each ended.

    Args:
        kernel: An uncompressed arm64 `Image`, with its own pages of 4 KiB.
        jobs: Command lines; programs are paths in the guest.
        files: What lies in the guest's root folder, by name; all may be executed. `input` is the
            standard input of jobs that begin with `<`.

    Raises:
        RuntimeError: The guest ended before its last job; the message holds its last words.
    """
    words = b"".join(b"".join(word.encode() + b"\0" for word in job) + b"\0" for job in jobs)
    commands = toolchain.plan(
        _INIT,
        toolchain.Target("aarch64"),
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )
    init = toolchain.run(commands, directory=engine_root())
    with tempfile.NamedTemporaryFile(suffix=".cpio") as image:
        image.write(_archive({"init": init, "jobs": words, **files}))
        image.flush()
        command = ["qemu-system-aarch64", *_MACHINE, "-kernel", str(kernel), "-initrd", image.name]
        guest = subprocess.Popen(
            ["timeout", str(seconds), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            assert guest.stdout is not None
            yield from _told(guest.stdout, len(jobs))
        finally:
            guest.kill()
            guest.wait()


def _told(console: Iterator[bytes], count: int) -> Iterator[Ended]:
    last: list[bytes] = []
    number = 0
    for line in console:
        last = [*last[-20:], line]
        found = re.search(rb"@ (\d+) (\d+) (\d+) ([0-9a-f]*)\r?$", line.rstrip(b"\n"))
        if found is None:
            continue
        assert int(found[1]) == number, line
        number += 1
        yield Ended(int(found[2]), int(found[3]), bytes.fromhex(found[4].decode()))
        if number == count:
            return
    raise RuntimeError(
        f"guest ended after {number} of {count} jobs:\n" + b"".join(last).decode("utf-8", "replace")
    )


def _archive(files: dict[str, Path | bytes]) -> bytes:
    """Returns a cpio archive in the form that a kernel unpacks at start, "newc"."""

    def entry(name: str, mode: int, data: bytes, inode: int) -> bytes:
        numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % number for number in numbers)
        named = head + name.encode() + b"\0"
        return _padded(named) + _padded(data)

    parts = [entry("dev", 0o040755, b"", 1)]
    for inode, (name, source) in enumerate(files.items(), 2):
        data = source if isinstance(source, bytes) else source.read_bytes()
        parts.append(entry(name, 0o100755, data, inode))
    return b"".join([*parts, entry("TRAILER!!!", 0, b"", 0)])


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
