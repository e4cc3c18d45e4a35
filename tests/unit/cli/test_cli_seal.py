"""`bitnet seal`: what is refused before anything is compiled, and the form without a model."""

import hashlib
import json
from pathlib import Path

import pytest

from bitnet.cli import app, render, seal
from bitnet.errors import FormatError, ToolchainError, ToolkitError, UsageError
from bitnet.seal import executable
from bitnet.seal.executable import build_engine, seal_model
from bitnet.seal.toolchain import Target, host_arch
from tests.support.engine import DEMO_TOKENIZER, demo_model
from tests.support.infer import ANSWER, ask, write_config


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and its tokenizer; whoever compiles fails the test."""
    (tmp_path / "model.bin").write_bytes(demo_model().read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(DEMO_TOKENIZER.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")

    def compile_nothing(*_: object, **__: object) -> Path:
        pytest.fail("the engine is built for an output that cannot be written")

    for module in (seal, executable):
        monkeypatch.setattr(module, "build_engine", compile_nothing)
    return tmp_path


REFUSED = {
    "model.bin": "output is one of the inputs",
    "tokenizer.json": "output is one of the inputs",
    "tokenizer_config.json": "output is one of the inputs",
    "none/bitnet-infer": "folder of the output does not exist",
    ".": "output is not a regular file",
}


@pytest.mark.parametrize("name", REFUSED)
def test_seal_to_a_place_that_is_none_is_refused_at_once(
    inputs: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, the tokenizer is replaced by an executable, or minutes of compiling are lost."""
    before = {path: path.read_bytes() for path in inputs.iterdir()}
    model, tokenizer, output = inputs / "model.bin", inputs / "tokenizer.json", inputs / name
    command = ["seal", "--model", model, "--tokenizer", tokenizer, "--output", output]
    assert render.run_app(app.create(), "bitnet", [str(each) for each in command]) == 2
    assert capsys.readouterr().err.startswith(f"error: {REFUSED[name]}: ")
    with pytest.raises(UsageError, match=REFUSED[name]):
        seal_model(model, tokenizer, output, Target(host_arch()))
    if name != "model.bin":
        command = ["seal", "--no-model", "--tokenizer", tokenizer, "--output", output]
        assert render.run_app(app.create(), "bitnet", [str(each) for each in command]) == 2
        assert capsys.readouterr().err.startswith(f"error: {REFUSED[name]}: ")
    assert {path: path.read_bytes() for path in inputs.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "model is not given"),
        (("--model", "model.bin", "--no-model"), "`--model` and `--no-model` exclude each other"),
    ],
)
def test_seal_says_whether_there_is_a_model(
    inputs: Path, arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, an executable without a model is written where somebody forgot to name it."""
    tokenizer, output = str(inputs / "tokenizer.json"), str(inputs / "bitnet-infer")
    command = ["seal", *arguments, "--tokenizer", tokenizer, "--output", output]
    assert render.run_app(app.create(), "bitnet", command) == 2
    assert capsys.readouterr().err.startswith(f"error: {told}\n")


def test_seal_without_a_model_answers_with_the_one_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, no command makes what a release with a model.bin beside its executable needs."""
    program = tmp_path / "bitnet-infer"
    command = ["seal", "--no-model", "--tokenizer", str(DEMO_TOKENIZER), "--output", str(program)]
    assert render.run_app(app.create(), "bitnet", [*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    content = program.read_bytes()
    assert (told["file_bytes"], told["root"]) == (len(content), None)
    assert told["sha384"] == hashlib.sha384(content).hexdigest()
    assert program.stat().st_mode & 0o777 == 0o755
    result = ask(write_config(tmp_path, model=str(demo_model())), program=program)
    assert (result.stdout, result.stderr, result.returncode) == (ANSWER, b"", 0)


def test_seal_of_a_tokenizer_without_end_is_refused(inputs: Path) -> None:
    """Broken, the memory fills before anything is compared."""
    with pytest.raises(FormatError) as caught:
        seal_model(inputs / "model.bin", Path("/dev/zero"), inputs / "o", Target(host_arch()))
    assert caught.value.message == "tokenizer cannot be read: `/dev/zero`"


def test_build_engine_where_no_folder_can_be_made_is_an_environment_error(tmp_path: Path) -> None:
    """Broken, a full or read-only home is reported as a defect of the program."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ToolkitError) as caught:
        build_engine(DEMO_TOKENIZER, Target(host_arch()), build=tmp_path / "file" / "build")
    assert isinstance(caught.value, ToolchainError)
    assert caught.value.message.startswith("folder for objects cannot be written: `")
    assert caught.value.where == ("Not a directory",)
