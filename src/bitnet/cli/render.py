"""The one place that runs a command line and speaks to its user.

Data goes to stdout, everything else to stderr. An error reads

    error: what failed: `thing`
      fact
      fact

    hint: one action

and nothing in it needs colour to be understood. Exit codes are those of `bitnet.errors`: 0 done,
1 failed, 2 usage, 3 not trusted, 5 environment, 70 a defect, 130 interrupted.
"""

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import typer
from rich import progress as rich_progress
from rich.console import Console

from bitnet.errors import ToolchainError, ToolkitError, UsageError
from bitnet.files import replace_file

__all__ = [
    "create_app",
    "escape_text",
    "format_bytes",
    "print_columns",
    "print_error",
    "print_facts",
    "print_json",
    "print_warning",
    "progress_bar",
    "reflow_text",
    "run_app",
    "run_program",
    "step_progress",
    "write_records",
]

EXIT_INTERNAL: Final = 70
EXIT_INTERRUPTED: Final = 130

# Typer carries its own copy of click; the base of its public error class is what parsing raises.
_ParseError: Final[type[Exception]] = typer.BadParameter.__mro__[1]

_DEBUG_FLAG: Final = "--debug"


def create_app(help_text: str) -> typer.Typer:
    """Returns an empty application of the house's style, to which commands are registered."""
    return typer.Typer(
        help=reflow_text(help_text),
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        epilog="With `--debug` an internal error shows its traceback. NO_COLOR is respected.",
    )


def reflow_text(text: str) -> str:
    r"""Returns a help text with each paragraph on one line, to be wrapped to any width.

    A paragraph that starts with a line of `\b` alone keeps its lines: examples.
    """
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(
        paragraph if paragraph.startswith("\b") else paragraph.replace("\n", " ")
        for paragraph in paragraphs
    )


def escape_text(text: str) -> str:
    """Returns `text` with everything that a terminal might obey written as an escape.

    Control characters, line breaks, marks of writing direction and lone surrogates: whatever
    Python does not call printable.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _colour_wanted() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def print_error(error: ToolkitError) -> None:
    """Prints an error to stderr: one line, indented facts, a blank line and a hint."""
    if sys.stderr is None:
        return  # closed at the start: there is nobody to tell
    start, end = ("\x1b[1;31m", "\x1b[0m") if _colour_wanted() else ("", "")
    lines = [f"{start}error:{end} {escape_text(error.message)}"]
    lines += [f"  {escape_text(fact)}" for fact in error.where]
    if error.hint is not None:
        lines += ["", f"hint: {escape_text(error.hint)}"]
    print("\n".join(lines), file=sys.stderr)


def print_warning(message: str, *, hint: str) -> None:
    """Prints to stderr what stops nothing, but that somebody should know, and what to do."""
    if sys.stderr is not None:
        print(f"warning: {escape_text(message)}\n\nhint: {escape_text(hint)}", file=sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    """Prints one JSON object to stdout, ASCII only, keys in the order given."""
    print(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Prints name and value, one pair per line, aligned."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        print(f"{name:<{width}}  {escape_text(value)}")


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Prints a table in plain text; the first `left` columns are aligned left, the others right."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        cells = [
            f"{escape_text(cell):<{width}}" if index < left else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def format_bytes(count: int) -> str:
    """Returns a size for people, decimal units as disks are sold: `3.24 MB (3242336 bytes)`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit} ({count} bytes)"
    return f"{count} bytes"


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int, int], None] | None]:
    """Gives a function (item, bytes done, bytes in all) that draws a bar with rate on stderr.

    Gives None where stderr is no terminal: nothing is drawn into logs.
    """
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[item]}", markup=False),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, item="")

        def update(item: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, item=escape_text(item))

        yield update


@contextlib.contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function (label, steps done, steps in all) that draws a bar on a terminal.

    Elsewhere it writes a line for each new phase, which is what stands before a colon in a label.
    """
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def write(label: str, done: int, total: int) -> None:
            phase = label.partition(":")[0]
            if phase not in seen:
                seen.add(phase)
                print(f"{phase} (step {done + 1} of {total})", file=sys.stderr, flush=True)

        yield write
        return
    columns = (
        rich_progress.TextColumn("measuring"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[item]}", markup=False),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, item="")

        def update(label: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, item=label)

        yield update


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Writes a JSON object a line, in a folder that is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"folder for the records cannot be made: `{path.parent}`",
            where=error.strerror or str(error),
        ) from None
    data = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
    replace_file(path, data)


def _as_usage_error(error: Exception, name: str) -> UsageError:
    """Returns a parse failure of the command line in the form of our own errors."""
    message = getattr(error, "format_message", error.__str__)()
    message = re.sub(r"'([^']*)'", r"`\1`", message).strip().rstrip(".")
    message = re.sub(r"(?<![\w`-])(--[\w-]+)(?![\w`])", r"`\1`", message)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else name
    return UsageError(
        message[:1].lower() + message[1:], hint=f"run `{command} --help` for what it takes"
    )


def _check_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            raise ToolchainError(
                f"standard stream is not open: `{name}`",
                hint="start the program with standard output and standard error open",
            )


def _as_environment_error(error: OSError) -> ToolchainError:
    """Returns what the operating system refused in the form of our own errors."""
    name = error.filename
    thing = f": `{os.fsdecode(name)}`" if isinstance(name, str | bytes) else ""
    return ToolchainError(
        f"operating system refuses{thing}",
        where=error.strerror or str(error),
        hint="check the path, the permissions, and the space where it was to be written",
    )


def _give_up_broken_output() -> None:
    """Points stdout elsewhere if it takes no more, so that the exit does not fail there, too."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_checked(app: typer.Typer, name: str, arguments: list[str]) -> int:
    _check_streams()
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except _ParseError as error:
        if not getattr(error, "format_message", str)():
            return UsageError.exit_code  # the help text has been shown in place of a message
        raise _as_usage_error(error, name) from None
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def run_app(app: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code; no exception leaves.

    Args:
        app: The application.
        name: What the program is called, for help texts.
        arguments: The command line without the program's name.
    """
    debug = _DEBUG_FLAG in arguments
    try:
        return _run_checked(app, name, [item for item in arguments if item != _DEBUG_FLAG])
    except ToolkitError as error:
        if debug:
            traceback.print_exc()
        print_error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("error: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        _give_up_broken_output()
        return 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        print_error(refusal := _as_environment_error(error))
        _give_up_broken_output()
        return refusal.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost frame of a command
        if debug:
            traceback.print_exc()
        summary = f"internal error in `{name}`: {type(error).__name__}"
        hint = f"run it again with `{_DEBUG_FLAG}` and report what it prints"
        print_error(ToolkitError(summary, where=str(error)[:500], hint=hint))
        return EXIT_INTERNAL


def run_program(app: typer.Typer, name: str) -> NoReturn:
    """Runs the process's own command line and exits: the body of a console script."""
    sys.exit(run_app(app, name, sys.argv[1:]))
