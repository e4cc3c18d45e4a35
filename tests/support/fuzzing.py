"""Fuzz harnesses: built from the engine's own sources, seeded, run for a time.

A harness is a file under tests/fuzz with `fuzz_one`; `HARNESSES` says what is linked into it and
what it starts from.
"""

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet.seal import toolchain
from bitnet.seal.sources import Program, build_root, engine_root
from tests.support.engine import REPOSITORY

__all__ = ["Harness", "build_harness", "fuzz", "replay"]

FUZZ = REPOSITORY / "tests" / "fuzz"


@dataclass(frozen=True)
class Harness:
    """One file with `fuzz_one`.

    Attributes:
        name: `tests/fuzz/NAME.cc`.
        parts: Folders and files of the engine that it is made of.
        seeds: Returns the inputs that it starts from.
        include: Returns a folder for generated includes, or None.
        edges_min: What a short run must reach: fewer, and the seeds are refused at the door.
        bytes_max: The longest input.
    """

    name: str
    parts: tuple[str, ...]
    seeds: Callable[[], Iterable[bytes]]
    include: Callable[[], Path | None] = lambda: None
    edges_min: int = 20
    bytes_max: int = 4096


def driver_command(build: Path) -> toolchain.Command:
    """Returns the command that compiles the driver, which is not instrumented."""
    source = FUZZ / "driver.cc"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:20]
    flags = ("-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-c")
    output = build / toolchain.host_arch() / "obj" / f"fuzz-driver-{digest}.o"
    return toolchain.Command(
        "compile tests/fuzz/driver.cc",
        ("g++", *flags, str(source), "-o", toolchain.OUTPUT),
        output,
    )


@functools.cache
def build_harness(harness: Harness) -> Path:
    """Returns the program: engine instrumented and with sanitizers, driver, harness."""
    build = build_root()
    folder = harness.include()
    *compiles, link = toolchain.plan(
        Program(f"fuzz-{harness.name}", f"../tests/fuzz/{harness.name}.cc", harness.parts),
        toolchain.Target(toolchain.host_arch(), sanitize=True, coverage=True),
        engine=engine_root(),
        build=build,
        compiler=str(toolchain.find_compiler()),
        include=() if folder is None else (folder,),
    )
    driver = driver_command(build)
    *argv, flag, output = link.argv
    digest = hashlib.sha256(f"{link.output.name} {driver.output.name}".encode()).hexdigest()[:20]
    linked = toolchain.Command(
        link.label,
        (*argv, str(driver.output), flag, output),
        link.output.with_name(f"fuzz-{harness.name}-{digest}"),
    )
    return toolchain.run([*compiles, driver, linked], directory=engine_root(), jobs=1)


def fuzz(
    harness: Harness,
    directory: Path,
    *,
    seconds: int,
    seed: int = 1,
    runs: int | None = None,
) -> dict[str, Any]:
    """Runs a harness over its seeds and the corpus under `directory`; returns what it counted.

    `seconds` are of processor time, as are those that are returned.

    `accepted` counts mutations that the code under test took for right, or is None where the
    harness does not count them; `slowest_ms` is the longest single execution.

    A finding lies under `directory`/crashes afterwards, and `report` holds what was printed.
    """
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in harness.seeds():
        assert len(data) <= harness.bytes_max, f"{harness.name}: a seed of {len(data)} bytes"
        (corpus / f"seed-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
    command = [
        str(build_harness(harness)),
        "--corpus", str(corpus), "--crashes", str(directory / "crashes"),
        "--seconds", str(seconds), "--seed", str(seed), "--bytes-max", str(harness.bytes_max),
    ]  # fmt: skip
    command += [] if runs is None else ["--runs", str(runs)]
    # The driver ends hangs itself; a host with other work gives a second of processor in many.
    result = _run(command, 300 + 20 * seconds)
    report = result.stderr.decode("utf-8", "replace")
    assert result.returncode in (0, 1), report[-4000:]
    return json.loads(result.stdout) | {"harness": harness.name, "report": report[-4000:]}


def replay(harness: Harness, *inputs: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs the harness once over each file."""
    return _run([str(build_harness(harness)), *map(str, inputs)], 120)


def _run(command: list[str], seconds: int) -> subprocess.CompletedProcess[bytes]:
    options = "detect_leaks=0:abort_on_error=1:handle_abort=1:handle_sigill=1"
    options += ":max_allocation_size_mb=512:quarantine_size_mb=4"
    environment = {"ASAN_OPTIONS": options, "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run(
        command, env=dict(os.environ) | environment, capture_output=True, timeout=seconds,
        check=False,
    )  # fmt: skip
