"""Sealed executables for tests: a small probe program, and what looks like a model to sealing."""

import random
import struct
import subprocess
from functools import cache
from pathlib import Path

from bitnet.seal import toolchain
from bitnet.seal.sources import Program, build_root, engine_root

__all__ = [
    "PROBE",
    "build_probe",
    "make_model",
    "model_head",
    "plan_probe",
    "probe_facts",
    "run_on",
]

# Prints what the engine's payload code finds in the running executable.
PROBE = Program(
    "payload-probe",
    "../tests/programs/payload_probe/probe.cc",
    ("base", "crypto/crypto.zig", "format/executable.cc"),
)


def plan_probe(target: toolchain.Target) -> list[toolchain.Command]:
    """Returns the commands that build the probe."""
    return toolchain.plan(
        PROBE,
        target,
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )


@cache
def build_probe(arch: str, *, pie: bool = True, sanitize: bool = False) -> Path:
    """Returns the probe, not sealed, built for an architecture."""
    commands = plan_probe(toolchain.Target(arch, pie=pie, sanitize=sanitize))
    return toolchain.run(commands, directory=engine_root())


def make_model(path: Path, size: int, *, seed: int = 1) -> bytes:
    """Writes `size` bytes with the head of a model.bin and random content; returns them."""
    data = bytearray(random.Random(seed).randbytes(size))
    data[:24] = model_head(size)
    path.write_bytes(data)
    return bytes(data)


def model_head(size: int) -> bytes:
    """Returns the first 24 bytes of docs/formats/model.md: magic, version, header and file size."""
    return struct.pack("<8sIIQ", b"BNAGMODL", 1, 4096, size)


def run_on(arch: str, executable: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """Runs an executable, under emulation where it is for aarch64, and returns its output."""
    emulator = ["qemu-aarch64-static"] if arch == "aarch64" else []
    result = subprocess.run(
        [*emulator, str(executable), *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    return result.stdout


def probe_facts(arch: str, executable: Path, *arguments: str, stdin: bytes = b"") -> dict[str, str]:
    """Returns what the probe prints, by the first word of each line."""
    output = run_on(arch, executable, *arguments, stdin=stdin).decode("ascii")
    return dict(line.split(" ", 1) for line in output.splitlines())
