"""bitnet-log, and a writer that tests watch, kill and crowd."""

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

from bitnet.seal import toolchain
from bitnet.seal.sources import Program, build_root, engine_root
from bitnet.seal.toolchain import Target, build_program, host_arch
from tests.support.status_table import status_rows, told

__all__ = [
    "assert_told",
    "end",
    "log_program",
    "show",
    "shown",
    "start_writer",
    "tell",
    "write",
    "writer_program",
]

_WRITER = Program(
    "log-writer",
    "../tests/programs/log_writer.cc",
    ("base", "crypto/crypto.zig", "platform", "runtime/log_ring.cc"),
)


@functools.cache
def log_program() -> Path:
    """Returns bitnet-log for this host."""
    return build_program("bitnet-log", Target(host_arch()))


@functools.cache
def writer_program() -> Path:
    """Returns tests/programs/log_writer.cc, linked."""
    commands = toolchain.plan(
        _WRITER,
        Target(host_arch()),
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )
    return toolchain.run(commands, directory=engine_root())


def show(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs bitnet-log on a ring."""
    return subprocess.run(
        [str(log_program()), str(path), *arguments], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


def shown(path: Path, *arguments: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the records and the state that `--json` tells."""
    result = show(path, "--json", *arguments)
    assert result.returncode == 0, result.stderr
    *records, state = map(json.loads, result.stdout.splitlines())
    return records, state


def write(path: Path, count: int) -> str:
    """Runs the writer; returns what it prints."""
    return subprocess.run(
        [str(writer_program()), str(path), str(count)], capture_output=True, text=True, check=False
    ).stdout


def end(process: subprocess.Popen[str], number: int) -> None:
    """Ends a process and closes its pipes."""
    process.send_signal(number)
    process.communicate()


def start_writer(path: Path, count: int = 0) -> subprocess.Popen[str]:
    """Starts a writer that has written and now waits for `tell`."""
    process = subprocess.Popen(
        [str(writer_program()), str(path), str(count), "wait"], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str], bytes_: str) -> None:
    """Has the writer write one record for each byte."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(bytes_)
    process.stdin.flush()
    for byte in bytes_:
        assert process.stdout.readline() == f"{byte}\n"


def assert_told(result: subprocess.CompletedProcess[str], name: str, *facts: Any) -> None:
    """The whole error is that of one row of the table, with its exit code."""
    assert result.stderr == told(name, *facts)
    assert result.returncode == status_rows()[name].exit_code
