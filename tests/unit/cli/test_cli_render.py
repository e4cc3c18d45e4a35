"""Running a command line: the form of errors, exit codes, nothing that a terminal would obey."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from bitnet import errors
from bitnet.cli import app, render
from tests.support.engine import DEMO_TOKENIZER, demo_model

ROOT = Path(__file__).parents[3]
CONTROL = "\x1b[2J\x07\r\n\u202e\u2028\ud800"


def make_app(action: Callable[[], object]) -> typer.Typer:
    """An application with one command that does `action`."""
    one = render.create_app("One command.")

    @one.command("act")
    def act(number: int = typer.Option(1, "--number", help="A number.")) -> None:
        action()

    @one.callback()
    def root() -> None:
        pass

    return one


def fail(error: BaseException) -> Callable[[], object]:
    def action() -> None:
        raise error

    return action


def test_run_app_error_has_the_form_of_the_house(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, errors would not be found by those who search logs for them."""
    error = errors.CheckpointError(
        "tensor is bad: `x`", where=("file a", "offset 3"), hint="copy it"
    )
    assert render.run_app(make_app(fail(error)), "prog", ["act"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: tensor is bad: `x`\n  file a\n  offset 3\n\nhint: copy it\n"


def test_run_app_error_without_facts_or_hint_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Broken, an error would end in empty lines."""
    assert render.run_app(make_app(fail(errors.FormatError("bad"))), "prog", ["act"]) == 1
    assert capsys.readouterr().err == "error: bad\n"


def test_run_app_untrusted_text_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, a name inside a file could clear the screen or forge a line of output."""
    error = errors.CheckpointError(f"bad: `{CONTROL}`", where=CONTROL, hint=CONTROL)
    render.run_app(make_app(fail(error)), "prog", ["act"])
    escaped = r"\x1b[2J\x07\r\n\u202e\u2028\ud800"
    expected = f"error: bad: `{escaped}`\n  {escaped}\n\nhint: {escaped}\n"
    assert capsys.readouterr().err == expected


@given(st.text(st.characters()))
def test_escape_text_result_is_always_printable(text: str) -> None:
    """Broken, some character would reach the terminal as a command."""
    escaped = render.escape_text(text)
    assert escaped.isprintable()
    if text.isprintable():
        assert escaped == text


@pytest.mark.parametrize(
    "kind", [getattr(errors, name) for name in errors.__all__], ids=errors.__all__
)
def test_run_app_exit_code_is_that_of_the_class(
    kind: type[errors.ToolkitError], capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, scripts would take a refusal for another, or for success."""
    assert render.run_app(make_app(fail(kind("x"))), "prog", ["act"]) == kind.exit_code
    assert capsys.readouterr().err == "error: x\n"
    assert 1 <= kind.exit_code <= 5


INVALID_INTEGER = (
    "invalid value for `--number`: Input should be a valid integer, "
    "unable to parse string as an integer"
)
USAGE = [
    (["act", "--nope"], "no such option: `--nope`", "prog act"),
    (["act", "--number", "x"], INVALID_INTEGER, "prog act"),
    (["act", "more"], "got unexpected extra argument(s) (more)", "prog act"),
    (["nope"], "no such command `nope`", "prog"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message", "command"), USAGE)
def test_run_app_usage_error_has_the_same_form(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, command: str
) -> None:
    """Broken, a mistyped option would be reported in another style, or not as usage."""
    assert render.run_app(make_app(lambda: None), "prog", arguments) == 2
    hint = f"hint: run `{command} --help` for what it takes"
    assert capsys.readouterr().err == f"error: {message}\n\n{hint}\n"


def test_run_app_without_a_command_shows_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, a script that forgot its command would go on."""
    assert render.run_app(make_app(lambda: None), "prog", []) == 2
    captured = capsys.readouterr()
    assert "One command." in captured.out + captured.err
    assert "error:" not in captured.err


def test_run_app_success_and_help_are_zero(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, success would look like failure."""
    assert render.run_app(make_app(lambda: None), "prog", ["act"]) == 0
    assert render.run_app(make_app(lambda: None), "prog", ["act", "--help"]) == 0
    assert "A number." in capsys.readouterr().out


def test_run_app_interrupt_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, Ctrl-C would show a traceback."""
    for kind in (KeyboardInterrupt, typer.Abort):
        assert render.run_app(make_app(fail(kind())), "prog", ["act"]) == 130
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "\n  No space left on device"),
        (OSError(36, "File name too long", "a\x07b"), ": `a\\x07b`\n  File name too long"),
        (PermissionError(13, "Permission denied", b"\xff"), ": `\\udcff`\n  Permission denied"),
        (OSError("odd"), "\n  odd"),
    ],
)
def test_run_app_refusal_of_the_system_is_5(
    error: OSError, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a full disk or a missing right would be reported as a defect of the program."""
    assert render.run_app(make_app(fail(error)), "prog", ["act"]) == 5
    hint = "hint: check the path, the permissions, and the space where it was to be written"
    assert capsys.readouterr().err == f"error: operating system refuses{told}\n\n{hint}\n"


CONFIG = ("config", "--model", "{model}")


@pytest.mark.parametrize(
    ("arguments", "shell", "code", "told"),
    [
        (CONFIG, "> /dev/full", 5, "error: operating system refuses\n  No space left on device"),
        (CONFIG, ">&-", 5, "error: standard stream is not open: `stdout`\n"),
        (CONFIG, "2>&-", 5, ""),
        (("config", "--model", "x" * 300), "", 1, "error: cannot open model file: `xxx"),
        (("keys", "generate", "a", "--custodian", "a", "--output", "x" * 300), "", 5, "x" * 300),
        (("keys", "generate", "a", "--custodian", "a", "--output", "."), "<&-", 2, "no terminal"),
        ((*CONFIG, "--model-path", "\udce9"), "", 2, "error: value is not UTF-8: `model`\n"),
        (("tokenizer2cpp", "{tokenizer}", "--output", "x" * 300), "", 5, "file cannot be written"),
    ],
)
def test_program_that_the_system_refuses_says_so(
    tmp_path: Path, arguments: tuple[str, ...], shell: str, code: int, told: str
) -> None:
    """Broken, ordinary failures end in `internal error`, or in a second error at the exit."""
    places = {"model": demo_model(), "tokenizer": DEMO_TOKENIZER}
    command = [sys.executable, "-c", "from bitnet.cli.app import main; main()"]
    command += [each.format(**places) for each in arguments]
    result = subprocess.run(
        ["sh", "-c", f'"$@" {shell}', "sh", *command],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert told in result.stderr.decode()
    assert b"internal error" not in result.stderr
    assert b"Exception ignored" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_run_app_defect_is_70_and_tells_how_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, a defect would look like bad input, or print a page of source."""
    assert render.run_app(make_app(fail(ValueError("boom\x1b"))), "prog", ["act"]) == 70
    assert capsys.readouterr().err == (
        "error: internal error in `prog`: ValueError\n  boom\\x1b\n\n"
        "hint: run it again with `--debug` and report what it prints\n"
    )


def test_run_app_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, nobody could report a defect."""
    assert render.run_app(make_app(fail(ValueError("boom"))), "prog", ["act", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_reflow_text_joins_paragraphs_and_keeps_examples() -> None:
    """Broken, help would wrap in the middle of lines, or run examples together."""
    text = "One\ntwo.\n\nThree\nfour.\n\n\b\n  a b\n  c d\n"
    assert render.reflow_text(text) == "One two.\n\nThree four.\n\n\b\n  a b\n  c d"


def test_format_bytes_names_the_unit() -> None:
    """Broken, sizes would be read wrongly by a thousand."""
    assert render.format_bytes(999) == "999 bytes"
    assert render.format_bytes(3_242_336) == "3.24 MB (3242336 bytes)"
    assert render.format_bytes(1_187_801_280) == "1.19 GB (1187801280 bytes)"


def test_progress_bar_without_a_terminal_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, logs would fill with bars."""
    with render.progress_bar("work") as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


def run_in_terminal(code: str, environment: dict[str, str]) -> str:
    """Runs Python code with stderr on a pseudo-terminal and returns what it drew there."""
    import os
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=slave, stdout=subprocess.DEVNULL, cwd=ROOT,
        env=os.environ | {"TERM": "xterm"} | environment,
    )  # fmt: skip
    os.close(slave)
    drawn = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        drawn += chunk
    os.close(master)
    assert process.wait() == 0
    return drawn.decode()


ERROR_CODE = (
    "from bitnet.cli import render; from bitnet.errors import ToolkitError;"
    "render.print_error(ToolkitError('bad'))"
)
BAR_CODE = (
    "from bitnet.cli import render\n"
    "with render.progress_bar('working') as progress:\n"
    "    progress('tensor.x', 500_000, 1_000_000); progress('tensor.y', 1_000_000, 1_000_000)"
)


def test_print_error_colour_only_in_a_terminal_that_wants_it() -> None:
    """Broken, NO_COLOR would be ignored."""
    assert "\x1b[1;31merror:\x1b[0m bad" in run_in_terminal(ERROR_CODE, {"NO_COLOR": ""})
    assert run_in_terminal(ERROR_CODE, {"NO_COLOR": "1"}) == "error: bad\r\n"


def test_progress_bar_in_a_terminal_shows_item_and_rate() -> None:
    """Broken, a conversion of minutes would show nothing."""
    drawn = run_in_terminal(BAR_CODE, {"COLUMNS": "120"})
    assert "working" in drawn
    assert "tensor.y" in drawn
    assert "1.0/1.0 MB" in drawn


def test_every_subcommand_is_registered_and_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, a subcommand would be missing, or its help would show no example."""
    bitnet = app.create()
    for name in app.SUBCOMMANDS:
        assert render.run_app(bitnet, "bitnet", [name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "Example:" in shown or "Examples:" in shown
        assert f"Usage: bitnet {name}" in shown


def test_help_of_vocabulary_shows_the_escape_as_it_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Broken, who reads the help writes a parser for two backslashes."""
    assert render.run_app(app.create(), "bitnet", ["vocabulary", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "\\xNN" in shown
    assert "\\\\xNN" not in shown


def test_closed_pipe_ends_quietly() -> None:
    """Broken, `bitnet inspect … | head` would print a traceback."""
    code = (
        "import sys; sys.argv = ['bitnet', '--help']\n"
        "from bitnet.cli.app import main\n"
        "input(); main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1
