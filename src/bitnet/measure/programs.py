"""The measuring programs, bench/decode_main.cc and bench/limits.cc: built once, kept running."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bitnet.engine.library import KV_CACHE_KINDS
from bitnet.errors import EvaluationError, ToolchainError
from bitnet.seal.sources import PROGRAMS, Program, build_root, engine_root
from bitnet.seal.toolchain import Target, find_compiler, host_arch, plan, run

__all__ = [
    "WEIGHTS_PLACES",
    "DecodeProgram",
    "DecodeTimes",
    "LimitsProgram",
    "MeasuringProgram",
    "SpeedProgram",
    "build_measuring_program",
]

# Everything of the engine but a main file; the linker drops what is not reached.
_PARTS: Final = PROGRAMS["library"].parts
_MAIN_FILES: Final = {"decode": "../bench/decode_main.cc", "limits": "../bench/limits.cc"}
_STOP_SECONDS: Final = 5
# By their numbers in format::WeightsPlace.
WEIGHTS_PLACES: Final = ("mapped", "resident")


def build_measuring_program(
    name: str, *, arch: str | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """Returns `decode` or `limits`, compiled with the flags of the product.

    Raises:
        ToolchainError: The compiler is missing or fails.
    """
    commands = plan(
        Program(name, _MAIN_FILES[name], _PARTS),
        Target(arch or host_arch()),
        engine=engine_root(),
        build=build_root().resolve(),
        compiler=str(find_compiler()),
    )
    return run(commands, directory=engine_root(), progress=progress)


class MeasuringProgram:
    """A running program that takes a command a line and answers with a JSON object a line.

    It waits without using the processor between commands. Use as a context manager. `name` is what
    errors call it; by default the file's name.

    Raises:
        ToolchainError: It cannot be started, or lacks something on this host (exit code 5).
        EvaluationError: It stopped for another reason; what it said stands in the facts.
    """

    def __init__(self, path: Path, arguments: Sequence[str], *, name: str | None = None) -> None:
        self._name = name if name is not None else path.name.partition("-")[0]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                [str(path), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
            )
        except (OSError, ValueError) as error:
            self._errors.close()
            raise ToolchainError(
                f"measuring program cannot be started: `{path}`", where=str(error)
            ) from None
        try:
            self.facts = self._read_answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the program; a command under way is broken off."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def ask(self, command: str, *numbers: int) -> dict[str, Any]:
        """Returns the answer to one command."""
        assert self._process.stdin is not None
        line = " ".join([command, *map(str, numbers)])
        with contextlib.suppress(BrokenPipeError):  # the missing answer says more
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        return self._read_answer()

    def peak_bytes(self) -> int | None:
        """Returns the most memory that was resident since the start; None where nothing tells."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
            if found := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE):
                return 1024 * int(found[1])
        return None

    def processor_seconds(self) -> float | None:
        """Returns the time of all processors that it has used; None where nothing tells."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
            fields = text.rpartition(")")[2].split()  # a name may contain spaces
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return None

    def _parse_answer(self, line: str) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer
        raise EvaluationError(
            f"measuring program gave no JSON object: `{self._name}`", where=repr(line[:200])
        )

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.endswith("\n"):
            return self._parse_answer(line)
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read(2000).decode("utf-8", "replace").splitlines()
        error = ToolchainError if code == 5 else EvaluationError
        raise error(
            f"measuring program stopped: `{self._name}`",
            where=(f"exit code {code}", *(line.strip() for line in said if line.strip())),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class DecodeTimes:
    """Nanoseconds of each token; pages mapped meanwhile, and how many of them came from a disk.

    `head_bytes`: what the choices of all tokens have read of the head, None where nothing tells.
    """

    ns: tuple[int, ...]
    faults: int
    disk_reads: int
    head_bytes: int | None = None


class SpeedProgram(MeasuringProgram):
    """A program that decodes and prefills: bench/decode_main.cc, or a peer with its commands."""

    def decode(self, position: int, count: int) -> DecodeTimes:
        """Returns the times of `count` tokens from `position` on."""
        answer = self.ask("decode", position, count)
        times, head_bytes = tuple(answer["ns"]), answer.get("head_bytes")
        return DecodeTimes(times, answer["faults"], answer["reads"], head_bytes)

    def prefill(self, position: int, count: int) -> int:
        """Returns the nanoseconds of `count` tokens, from `position` on, in chunks."""
        return sum(self.ask("prefill", position, count)["ns"])


class DecodeProgram(SpeedProgram):
    """bench/decode_main.cc over one model with one kernel table and number of threads.

    Attributes:
        facts: `isa` (the kernel table in use), `threads`, `arena_bytes`, `open_ns`.
    """

    def __init__(
        self,
        path: Path,
        model: Path,
        *,
        isa: str,
        threads: int,
        chunk: int,
        context: int,
        kv_cache: str = "f32",
        weights: str = "mapped",
    ) -> None:
        kinds = (KV_CACHE_KINDS.index(kv_cache), WEIGHTS_PLACES.index(weights))
        numbers = (threads, chunk, context, *kinds)
        super().__init__(path, [str(model), isa, *map(str, numbers)])


class LimitsProgram(MeasuringProgram):
    """bench/limits.cc with its buffers; `model` is read too, as a mapped file, unless None."""

    def __init__(self, path: Path, buffer_bytes: int, model: Path | None) -> None:
        super().__init__(path, [str(buffer_bytes), *([str(model)] if model is not None else [])])

    def bandwidth(self, threads: int, passes: int) -> dict[str, list[float]]:
        """Returns gigabytes a second of each pass, by source and streams: `huge, 4 streams`."""
        reads = self.ask("bandwidth", threads, passes)["reads"]
        return {
            f"{read['pages']}, {read['streams']} stream{'s' * (read['streams'] > 1)}": [
                read["bytes"] / ns for ns in read["ns"]
            ]
            for read in reads
        }

    def peak(self, threads: int, passes: int) -> dict[str, list[float]]:
        """Returns giga multiply-adds a second of each pass, by loop: `vpdpbusd_512`."""
        loops = self.ask("peak", threads, passes)["loops"]
        return {loop["name"]: [loop["macs"] / ns for ns in loop["ns"]] for loop in loops}
