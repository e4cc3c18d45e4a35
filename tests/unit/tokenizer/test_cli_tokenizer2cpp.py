"""The command line of tokenizer2cpp: what it prints, writes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet.cli import render, tokenizer2cpp
from bitnet.tokenizer import compile_tokenizer, emit_cpp
from tests.support import vocabularies
from tests.support.full_disk import file_limit


def run(*arguments: str | Path) -> int:
    app = render.create_app("x")
    tokenizer2cpp.register(app)
    return render.run_app(app, "tokenizer2cpp", [str(argument) for argument in arguments])


def test_command_writes_what_the_library_emits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file and the facts printed about it must be those of the tables."""
    output = tmp_path / "tokenizer.inc"
    assert run(vocabularies.DEMO, "--output", output, "--json") == 0
    tables = compile_tokenizer(vocabularies.DEMO)
    assert output.read_text() == emit_cpp(tables)
    facts = json.loads(capsys.readouterr().out)
    assert facts["vocab_size"] == tables.vocab_size
    assert facts["tokenizer_sha384"] == tables.source_sha384.hex()
    assert facts["output_bytes"] == output.stat().st_size
    assert facts["chat_template"] is True
    assert facts["chat_system_message"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.inc"]


def test_command_without_chat_template_leaves_it_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way out for a template that cannot be expressed."""
    output = tmp_path / "tokenizer.inc"
    assert run(vocabularies.DEMO, "--output", output, "--no-chat-template") == 0
    assert "chat template  none" in capsys.readouterr().out
    assert output.read_text() == emit_cpp(compile_tokenizer(vocabularies.DEMO, chat=False))


def test_command_on_a_refused_file_prints_the_error_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user must see what failed, where, and what to do, and find no output."""
    source = tmp_path / "tokenizer.json"
    value = json.loads(vocabularies.DEMO.read_text())
    value["padding"] = {"strategy": "Fixed"}
    source.write_text(json.dumps(value))
    assert run(source, "--output", tmp_path / "out.inc") == 1
    assert capsys.readouterr().err == (
        "error: `padding` is not supported\n"
        f"  file {source}\n"
        "  at $.padding\n"
        "\n"
        "hint: set `padding` to null: the engine never does it\n"
    )
    assert not (tmp_path / "out.inc").exists()


def test_command_with_contradicting_options_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither of two opposite wishes may win silently."""
    code = run(
        vocabularies.DEMO, "--output", tmp_path / "o", "--no-chat-template", "--chat-template", "x"
    )
    assert code == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "other.jinja"]
)
@pytest.mark.parametrize("whole_folder", [False, True])
def test_command_over_one_of_its_inputs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, whole_folder: bool
) -> None:
    """Broken, a slip of the hand replaces the tokenizer by its own tables."""
    (tmp_path / "tokenizer.json").write_bytes(vocabularies.DEMO.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for template in ("chat_template.jinja", "other.jinja"):
        (tmp_path / template).write_text("{{ messages[-1].content }}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    source = tmp_path if whole_folder else tmp_path / "tokenizer.json"
    output = tmp_path / name
    assert run(source, "--output", output, "--chat-template", tmp_path / "other.jinja") == 2
    assert capsys.readouterr().err == (
        f"error: output is one of the inputs: `{output}`\n\nhint: choose another name\n"
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_command_on_a_nearly_full_disk_fails_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, the first eight kilobytes pass for the tables, with the digest of all of them."""
    output = tmp_path / "tokenizer.inc"
    with file_limit(8192):
        assert run(vocabularies.DEMO, "--output", output, "--json") == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: file cannot be written: `{output}`\n  File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_command_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """A new user reads the examples first."""
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert "tokenizer2cpp tokenizer.json --output tokenizer.inc" in text
    assert "--no-chat-template" in text


def test_command_as_a_program_runs(tmp_path: Path) -> None:
    """The console script's entry point must work outside of a test's own process."""
    output = tmp_path / "tokenizer.inc"
    code = "from bitnet.cli.tokenizer2cpp import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, str(vocabularies.DEMO), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert output.is_file()
