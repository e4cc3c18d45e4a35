"""The Makefile's way to an executable: what it writes, and what it says to a wrong command line."""

import subprocess
from pathlib import Path

import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.quantize import write_model
from bitnet.seal.elf_checks import inspect_executable
from bitnet.seal.toolchain import host_arch

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "models" / "demo" / "tokenizer.json"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.bin"
    with open_checkpoint(TOKENIZER.parent) as checkpoint:
        write_model(checkpoint, path, tokenizer=TOKENIZER)
    return path


@pytest.mark.parametrize(("pie", "kind"), [("1", "static-pie"), ("0", "static, fixed address")])
def test_make_static_writes_the_executable(
    model: Path, tmp_path: Path, pie: str, kind: str
) -> None:
    output = tmp_path / "bitnet-infer"
    arguments = [f"MODEL_PATH={model}", f"TOKENIZER_PATH={TOKENIZER}", f"OUTPUT={output}"]
    result = make("STATIC=1", *arguments, f"TARGET_ARCH={host_arch()}", f"PIE={pie}")
    assert result.returncode == 0, result.stderr
    facts = {fact.name: fact for fact in inspect_executable(output)}
    assert facts["kind"].value == kind
    assert all(fact.ok for fact in facts.values())


def test_make_without_a_goal_explains_itself() -> None:
    result = make()
    assert result.returncode == 0
    for goal in ("demo", "test", "unit", "exactness", "bench", "setup", "clean"):
        assert f"make {goal}" in result.stdout


def test_make_bench_builds_the_demo_that_it_measures() -> None:
    """Broken, `make bench` in a fresh clone stops, or measures what was built days ago."""
    result = make("--dry-run", "bench")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    demo = next(at for at, line in enumerate(lines) if "scripts/demo.py" in line)
    assert demo < next(at for at, line in enumerate(lines) if line.endswith("-m bench"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL_PATH=/none"], "tokenizer is not given: `TOKENIZER_PATH`"),
        (["TOKENIZER_PATH=/none"], "model is not given: `MODEL_PATH`"),
        (["MODEL_PATH=/none", "TOKENIZER_PATH=/none"], "model does not exist: `/none`"),
        (
            [f"MODEL_PATH={TOKENIZER}", "TOKENIZER_PATH=/none"],
            "tokenizer does not exist: `/none`",
        ),
        (["MODEL_PATH=/none", "STATIC=0"], "executable cannot be linked dynamically: `STATIC=0`"),
        (["MODEL_PATH=/none", "PIE=yes"], "not 0 or 1: `PIE=yes`"),
        (
            ["MODEL_PATH=/none", "TARGET_ARCH=riscv64"],
            "architecture is not supported: `TARGET_ARCH=riscv64`",
        ),
    ],
)
def test_make_wrong_command_line_named(arguments: list[str], message: str) -> None:
    result = make(*arguments)
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == f"error: {message}"
