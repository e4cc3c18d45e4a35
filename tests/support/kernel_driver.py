"""Builds and runs `tests/engine/kernels_test.cc`, and speaks its protocol of cases."""

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitnet.seal.sources import Program, build_root, engine_root
from bitnet.seal.toolchain import (
    OUTPUT,
    Command,
    Target,
    find_compiler,
    host_arch,
    plan,
    run,
)

__all__ = [
    "OPERATIONS",
    "TABLES",
    "Case",
    "assembly",
    "available_tables",
    "build",
    "commands",
    "evaluate",
    "run_driver",
]

Array = np.ndarray[Any, Any]

# The order of `Operation` in kernels_case.h and of `KernelTable` in table.h.
OPERATIONS: Final = (
    "ternary_matmul",
    "int8_high",
    "int8_low",
    "f32_matmul",
    "rms_norm",
    "quantize_int8",
    "quantize_split",
    "relu2_gate",
    "silu_gate",
    "add_in_place",
    "rope",
    "rope_angles",
    "attention",
    "exp_sum",
    "store_f16",
    "store_int8",
    "attention_f16",
    "attention_int8",
)
TABLES: Final = {
    "x86_64": ("ref", "avx2", "avx512vnni"),
    "aarch64": ("ref", "neon", "dotprod", "i8mm"),
}
_PROGRAM: Final = Program("kernels_test", "../tests/engine/kernels_test.cc", ("base", "kernels"))


def commands(arch: str, *, sanitize: bool = False) -> list[Command]:
    """Returns the commands that build the driver with the flags of the product."""
    return plan(
        _PROGRAM,
        Target(arch, sanitize=sanitize),
        engine=engine_root(),
        build=build_root(),
        compiler=str(find_compiler()),
    )


def build(arch: str, variant: str = "product") -> Path:
    """Builds the driver and returns its path.

    Args:
        arch: Architecture of the executable.
        variant: `product`; `sanitize` (address and undefined behaviour, this host only);
            `undefined` (undefined behaviour traps, any architecture); `fused` (aarch64, the
            float kernels with fused multiply-add: a broken build that the walk must notice).
    """
    steps = commands(arch, sanitize=variant == "sanitize")
    if variant == "undefined":
        steps = [_with_traps(step) for step in steps]
    elif variant == "fused":
        steps = [_fused(step) for step in steps]
    if variant in ("undefined", "fused"):
        # Names of outputs come from the unchanged arguments, so the variants need their own folder.
        folder = build_root() / arch / f"kernels-{variant}"
        shutil.rmtree(folder, ignore_errors=True)
        places = {str(step.output): str(folder / step.output.name) for step in steps}
        steps = [
            Command(
                step.label,
                tuple(places.get(argument, argument) for argument in step.argv),
                Path(places[str(step.output)]),
            )
            for step in steps
        ]
    return run(steps, directory=engine_root(), jobs=1)


def _with_traps(step: Command) -> Command:
    traps = ("-fsanitize=undefined", "-fsanitize-trap=undefined")
    at = step.argv.index("-fno-sanitize=all") if "-fno-sanitize=all" in step.argv else None
    return step if at is None else replace(step, argv=step.argv[:at] + traps + step.argv[at + 1 :])


def _fused(step: Command) -> Command:
    if "kernels_ref" not in step.label:
        return step
    argv = ["-ffp-contract=fast" if word == "-ffp-contract=off" else word for word in step.argv]
    return replace(step, argv=tuple(argv))


def assembly(step: Command, directory: Path, *extra: str) -> str:
    """Returns what a compile command makes as assembly text, of the same compiler and flags."""
    target = directory / f"{step.output.stem}.s"
    # The driver hands on a -c of its own beside -S, which -Werror would not let pass.
    changed = {OUTPUT: str(target), "-c": "-S", "-Werror": "-Wno-error"}
    argv = [changed.get(word, word) for word in step.argv]
    subprocess.run([*argv, *extra], cwd=engine_root(), check=True, capture_output=True)
    return target.read_text(encoding="utf-8")


def run_driver(
    driver: Path, arch: str, *arguments: str, cpu: str | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Runs the driver: natively, or emulated for a foreign architecture or a named `cpu`."""
    prefix: list[str] = []
    if cpu is not None or arch != host_arch():
        prefix = [f"qemu-{arch}-static", "-cpu", cpu or "max"]
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        [*prefix, str(driver), *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        env=environment,
    )


def available_tables(driver: Path, arch: str, cpu: str | None = None) -> dict[str, bool]:
    """Returns which tables the driver says it can run."""
    result = run_driver(driver, arch, "--tables", cpu=cpu)
    assert result.returncode == 0, result.stderr.decode()
    rows = re.findall(r"^(\w+) (available|unavailable)$", result.stdout.decode(), re.MULTILINE)
    return {name: state == "available" for name, state in rows}


@dataclass
class Case:
    """One call of one kernel; kernels_case.h says what the sizes and inputs of each mean."""

    operation: str
    size: Sequence[int]
    inputs: Sequence[Array]
    scalar: float = 0.0
    expected: Sequence[Array] = field(default_factory=tuple)

    def encode(self) -> bytes:
        """Returns the case as the driver reads it."""
        size = [*self.size, *[0] * (6 - len(self.size))]
        index = OPERATIONS.index(self.operation)
        parts = [struct.pack("<I6IfI", index, *size, self.scalar, len(self.inputs))]
        for array in self.inputs:
            data = np.ascontiguousarray(array).tobytes()
            parts += [struct.pack("<I", len(data)), data]
        return b"".join(parts)


def evaluate(driver: Path, arch: str, table: str, cases: Sequence[Case]) -> list[list[bytes]]:
    """Runs the cases with one table and returns the outputs of each, as bytes."""
    stdin = b"".join(case.encode() for case in cases)
    result = run_driver(driver, arch, "--evaluate", table, stdin=stdin)
    assert result.returncode == 0, result.stderr.decode()
    data = memoryview(result.stdout)
    answers = []
    for _ in cases:
        (count,), data = struct.unpack("<I", data[:4]), data[4:]
        outputs = []
        for _ in range(count):
            (size,) = struct.unpack("<I", data[:4])
            outputs.append(bytes(data[4 : 4 + size]))
            data = data[4 + size :]
        answers.append(outputs)
    assert len(data) == 0
    return answers
