"""`bitnet seal`: model.bin and tokenizer.json to one static executable."""

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
from bitnet.files import check_output
from bitnet.release.digests import digest_file
from bitnet.seal import embed
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
any host.

Examples:

\b
  bitnet seal --model model.bin --tokenizer tokenizer.json \\
      --output bitnet-infer
  bitnet seal --model model.bin --tokenizer tokenizer.json \\
      --arch aarch64 --output bitnet-infer
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


def seal(
    model: Annotated[Path, typer.Option("--model", metavar="FILE", help="The model.bin.")],
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
    check_output(output, (model, *tokenizer_files(tokenizer)))
    with render.progress_bar("checking") as bar:
        check_belonging(model, tokenizer, progress=bar)
    with _build_steps() as step:
        engine = build_engine(tokenizer, Target(arch, pie=not no_pie), progress=step)
    with render.progress_bar("sealing") as bar:
        progress = None if bar is None else lambda done, size: bar("", done, size)
        sealed = embed.seal(engine, model, output, progress=progress)
    digest = digest_file(output).digest
    if as_json:
        render.print_json({
            "output": str(sealed.path),
            "file_bytes": sealed.file_bytes,
            "sha384": digest,
            "arch": arch,
            "pie": not no_pie,
            "payload_offset": sealed.payload_offset,
            "payload_bytes": sealed.payload_bytes,
            "root": sealed.root.hex(),
        })  # fmt: skip
        return
    render.print_facts([
        ("wrote", str(sealed.path)),
        ("size", render.format_bytes(sealed.file_bytes)),
        ("model", f"{render.format_bytes(sealed.payload_bytes)} at offset {sealed.payload_offset}"),
        ("root", sealed.root.hex()),
        ("sha384", digest),
    ])  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("seal", help=render.reflow_text(_HELP), no_args_is_help=True)(seal)
