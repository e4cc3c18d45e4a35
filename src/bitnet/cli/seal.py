"""`bitnet seal`: model.bin and tokenizer.json to one static executable."""

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from bitnet.cli import render
from bitnet.errors import UsageError
from bitnet.files import check_output, new_file
from bitnet.release.digests import digest_file
from bitnet.seal import embed
from bitnet.seal.elf_checks import check_executable
from bitnet.seal.embed import Sealed
from bitnet.seal.executable import build_engine, check_belonging
from bitnet.seal.sources import ARCHITECTURES
from bitnet.seal.toolchain import Target, host_arch
from bitnet.tokenizer import tokenizer_files

__all__ = ["register"]

_HELP: Final = """Seals a model and its tokenizer into one static executable.

Every byte of the model is checked. The engine is compiled for the architecture with the pinned
compiler (the first time takes a minute or two, later seconds), the model is put into it as a
read-only segment, and the result is checked: no interpreter, no library, RELRO, nothing writable
and executable. It needs nothing on the machine it runs on. The same inputs give the same bytes on
any host. With `--no-model` it carries the tokenizer alone, and config.yaml names the model.bin that
lies beside it.

Examples:

\b
  bitnet seal --model model.bin --tokenizer tokenizer.json \\
      --output bitnet-infer
  bitnet seal --model model.bin --tokenizer tokenizer.json \\
      --arch aarch64 --output bitnet-infer
  bitnet seal --no-model --tokenizer tokenizer.json --output bitnet-infer
"""


@contextmanager
def _build_steps() -> Iterator[Callable[[str], None]]:
    """Gives a function that shows the step under way: a spinner, or in a log one line in all."""
    if sys.stderr.isatty():
        with Console(stderr=True).status("building the engine") as status:
            yield lambda label: status.update(f"building the engine: {label}")
        return
    first = threading.Lock()  # steps begin on several threads

    def say_once(_label: str) -> None:
        if first.acquire(blocking=False):
            print("building the engine, the first time takes a minute or two", file=sys.stderr)

    yield say_once


def _seal_model(model: Path, tokenizer: Path, output: Path, target: Target) -> Sealed:
    check_output(output, (model, *tokenizer_files(tokenizer)))
    with render.progress_bar("checking") as bar:
        check_belonging(model, tokenizer, progress=bar)
    with _build_steps() as step:
        engine = build_engine(tokenizer, target, progress=step)
    with render.progress_bar("sealing") as bar:
        progress = None if bar is None else lambda done, size: bar("", done, size)
        return embed.seal(engine, model, output, progress=progress)


def _write_engine(tokenizer: Path, output: Path, target: Target) -> None:
    """Writes the executable without a model."""
    check_output(output, tokenizer_files(tokenizer))
    with _build_steps() as step:
        engine = build_engine(tokenizer, target, progress=step)
    check_executable(engine, sealed=False)
    with new_file(output, mode=0o755) as new, engine.open("rb") as built:
        shutil.copyfileobj(built, new.file)


def seal(
    tokenizer: Annotated[
        Path,
        typer.Option(
            "--tokenizer",
            metavar="FILE",
            help="tokenizer.json of the model; its chat template is looked for beside it.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The executable to write.")
    ],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="The model.bin.")
    ] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Carry no model: config.yaml names one.")
    ] = False,
    arch: Annotated[
        str,
        typer.Option(
            "--arch", metavar="|".join(ARCHITECTURES), help="Processor that it will run on."
        ),
    ] = host_arch(),
    no_pie: Annotated[
        bool,
        typer.Option("--no-pie", help="Link at a fixed address instead of position-independent."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as one JSON object.")
    ] = False,
) -> None:
    if arch not in ARCHITECTURES:
        raise UsageError(
            f"architecture is not supported: `{arch}`",
            hint=f"pass `--arch` with one of {', '.join(ARCHITECTURES)}",
        )
    if (model is None) != no_model:
        raise UsageError(
            "`--model` and `--no-model` exclude each other" if no_model else "model is not given",
            hint="pass `--model` with the model.bin, or `--no-model` if it will lie beside",
        )
    target = Target(arch, pie=not no_pie)
    sealed = None
    if model is None:
        _write_engine(tokenizer, output, target)
    else:
        sealed = _seal_model(model, tokenizer, output, target)
    written = digest_file(output)
    if as_json:
        render.print_json({
            "output": str(output),
            "file_bytes": written.size,
            "sha384": written.digest,
            "arch": arch,
            "pie": not no_pie,
            "payload_offset": sealed and sealed.payload_offset,
            "payload_bytes": sealed.payload_bytes if sealed else 0,
            "root": sealed and sealed.root.hex(),
        })  # fmt: skip
        return
    render.print_facts([
        ("wrote", str(output)),
        ("size", render.format_bytes(written.size)),
        ("model", _place_of(sealed) if sealed else "none; config.yaml names one"),
        *([("root", sealed.root.hex())] if sealed else []),
        ("sha384", written.digest),
    ])  # fmt: skip


def _place_of(sealed: Sealed) -> str:
    return f"{render.format_bytes(sealed.payload_bytes)} at offset {sealed.payload_offset}"


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("seal", help=render.reflow_text(_HELP), no_args_is_help=True)(seal)
