"""bitnet-infer as a user has it: the real static executable, a configuration, and its outputs."""

import functools
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitnet.quantize import open_model
from bitnet.seal.executable import build_engine, seal_model
from bitnet.seal.run_config import KEYS, default_values, emit_config
from bitnet.seal.toolchain import Target, host_arch
from tests.support.engine import DEMO_TOKENIZER, demo_model, scratch_directory
from tests.support.host import installed
from tests.support.status_table import status_rows, told

__all__ = [
    "ANSWER",
    "QUESTION",
    "Result",
    "SystemCall",
    "ask",
    "assert_refused",
    "demo_config",
    "missing_layers",
    "sealed_program",
    "traced",
    "unsealed_program",
    "write_config",
]

QUESTION = b"extract a tar.gz archive into a directory"
ANSWER = b"tar xf path/to/source.tar --directory path/to/directory\n"
Result = subprocess.CompletedProcess[bytes]


@functools.cache
def unsealed_program() -> Path:
    """Returns the executable for this host with the demo's tokenizer and no model inside."""
    return build_engine(DEMO_TOKENIZER, Target(host_arch()))


@functools.cache
def sealed_program() -> Path:
    """Returns the executable for this host with the demo inside."""
    path = scratch_directory() / "bitnet-infer"
    seal_model(demo_model(), DEMO_TOKENIZER, path, Target(host_arch()))
    return path


@functools.cache
def missing_layers(*emulator: str, arch: str | None = None) -> tuple[str, ...]:
    """Returns the layers of the lock-down that this kernel, or an emulator on it, does not have."""
    program = build_engine(DEMO_TOKENIZER, Target(arch or host_arch()))
    config = scratch_directory() / "report.yaml"
    config.write_text(_config(model=str(demo_model())), encoding="utf-8")
    result = subprocess.run(
        [*emulator, program, "--config", config, "--hardening-report", "--json"],
        stdout=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip
    layers = json.loads(result.stdout)["layers"]
    return tuple(name for name, layer in layers.items() if layer["state"] != "on")


def demo_config(**changes: object) -> str:
    """Returns a config.yaml for the demo; a change to None leaves the key out.

    Layers that this kernel lacks may be missing, unless the changes say otherwise.
    """
    return _config(**({"accept_missing": list(missing_layers())} | changes))


def _config(**changes: object) -> str:
    with open_model(demo_model()) as model:
        values = default_values(model.spec) | {"max_new_tokens": 64, "kv_cache": "f32"}
    text = emit_config(values | {key: value for key, value in changes.items() if value is not None})
    lines = text.splitlines(keepends=True)
    absent = [key.name for key in KEYS if key.name in changes and changes[key.name] is None]
    return "".join(line for line in lines if line.split(":")[0] not in absent)


def write_config(directory: Path, **changes: object) -> Path:
    """Writes `demo_config` into a folder and returns its path."""
    path = directory / "config.yaml"
    path.write_text(demo_config(**changes), encoding="utf-8")
    return path


def ask(
    config: Path | None,
    *arguments: str,
    question: bytes = QUESTION,
    program: Path | None = None,
    seed: str | None = "42",
    environment: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Result:
    """Runs the program on a question; streams and exit code come back."""
    command = [*wrapper, str(program or sealed_program())]
    command += ["--config", str(config)] if config is not None else []
    command += ["--seed", seed] if seed is not None else []
    return subprocess.run(
        [*command, *arguments], input=question, capture_output=True, timeout=60, check=False,
        env=environment if environment is not None else {},
    )  # fmt: skip


def assert_refused(result: Result, name: str, *facts: Any) -> None:
    """Nothing on standard output, the whole error on standard error, the exit code of the table."""
    assert result.stderr.decode("ascii") == told(name, *facts)
    assert result.stdout == b""
    assert result.returncode == status_rows()[name].exit_code


class SystemCall(str):
    """One line of a trace, without the process id."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return self.split("(", 1)[0]


def traced(
    config: Path, *arguments: str, program: Path | None = None, question: bytes = QUESTION
) -> list[SystemCall]:
    """Runs the program on the question under strace and returns its calls in order."""
    log = config.parent / "trace"
    result = ask(
        config,
        *arguments,
        question=question,
        program=program,
        wrapper=[installed("strace"), "-f", "-qq", "-s", "200", "-o", str(log)],
    )
    assert result.returncode == 0, result.stderr
    calls = []
    for line in log.read_text(errors="replace").splitlines():
        text = re.sub(r"^\d+ +", "", line)
        if re.match(r"\w+\(", text):  # not the second half of a call that was interrupted
            calls.append(SystemCall(text))
    return calls
