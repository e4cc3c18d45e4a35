"""`bitnet quantize`, also `bitnet.quantize`: a checkpoint to model.bin."""

from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from bitnet.checkpoint import find_file, open_checkpoint
from bitnet.cli import render
from bitnet.errors import UsageError
from bitnet.quantize import ModelSummary, write_model

__all__ = ["main", "register"]

_HELP: Final = """Turns a published 1-bit checkpoint into model.bin.

CHECKPOINT is a directory with config.json and model.safetensors (or an index and its shards),
as published: packed ternary weights, or the float masters of a model that was trained with
1-bit weights. Everything is read from the files; what would change the arithmetic and is not
supported is refused by name. The same checkpoint gives the same bytes on any host.

Examples:

\b
  bitnet.quantize --bits 1 --format bin --model models/demo --output model.bin
  bitnet.quantize --bits 1 --format bin --model 2B-4T --output 2b.bin --json
  bitnet.quantize --bits 1 --format bin --model 2B-4T --output exact.bin \\
      --embedding f32
"""


def _check_choices(bits: int, file_format: str, embedding: str) -> None:
    if bits != 1:
        raise UsageError(
            f"number of bits is not supported: `{bits}`",
            where="1 means the 1-bit family that the checkpoint was trained for: binary or ternary",
            hint="pass `--bits 1`",
        )
    if file_format != "bin":
        raise UsageError(f"format is not supported: `{file_format}`", hint="pass `--format bin`")
    if embedding not in ("int8", "f32"):
        raise UsageError(
            f"embedding kind is unknown: `{embedding}`",
            hint="pass `--embedding int8` or `--embedding f32`",
        )


def _find_tokenizer(model: Path, tokenizer: Path | None) -> Path | None:
    """Returns the tokenizer whose digest is recorded: the one named, or the checkpoint's own."""
    return tokenizer if tokenizer is not None else find_file(model, "tokenizer.json")


def _as_json(summary: ModelSummary) -> dict[str, Any]:
    tokenizer = summary.tokenizer_sha384
    return {
        "output": str(summary.path),
        "file_bytes": summary.file_bytes,
        "tensor_count": summary.tensor_count,
        "ternary_weights": summary.ternary_count,
        "zero_fraction": round(summary.zero_count / summary.ternary_count, 6),
        "root": summary.root.hex(),
        "tokenizer_sha384": tokenizer.hex() if tokenizer is not None else None,
    }


def _print_summary(summary: ModelSummary) -> None:
    tokenizer = summary.tokenizer_sha384
    zeros = summary.zero_count / summary.ternary_count
    render.print_facts([
        ("wrote", str(summary.path)),
        ("size", render.format_bytes(summary.file_bytes)),
        ("tensors", str(summary.tensor_count)),
        ("ternary weights", f"{summary.ternary_count}, {zeros:.1%} of them zero"),
        ("tokenizer", tokenizer.hex() if tokenizer is not None else "none"),
        ("root", summary.root.hex()),
    ])  # fmt: skip


def quantize(
    model: Annotated[
        Path, typer.Option("--model", metavar="CHECKPOINT", help="Directory of the checkpoint.")
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The model.bin to write.")
    ],
    bits: Annotated[
        int,
        typer.Option(
            "--bits",
            metavar="1",
            help="Bits of a weight. Only 1: the checkpoint's own 1-bit family, binary or ternary.",
        ),
    ],
    file_format: Annotated[
        str,
        typer.Option("--format", metavar="bin", help="Form of the output. Only bin: model.bin."),
    ],
    embedding: Annotated[
        str,
        typer.Option(
            "--embedding",
            metavar="int8|f32",
            help="Rows of the embedding and of the head: int8 with a scale per row, or exact.",
        ),
    ] = "int8",
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            metavar="FILE",
            help="tokenizer.json that belongs to the model; without it the checkpoint's own.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Convert a checkpoint that does not say it was trained with 1-bit weights.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as one JSON object.")
    ] = False,
) -> None:
    _check_choices(bits, file_format, embedding)
    with open_checkpoint(model) as checkpoint, render.progress_bar("quantizing") as progress:
        summary = write_model(
            checkpoint,
            output,
            embedding="f32" if embedding == "f32" else "int8",
            tokenizer=_find_tokenizer(model, tokenizer),
            force=force,
            progress=progress,
        )
    if as_json:
        render.print_json(_as_json(summary))
    else:
        _print_summary(summary)


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("quantize", help=render.reflow_text(_HELP), no_args_is_help=True)(quantize)


def main() -> NoReturn:
    """Runs `bitnet.quantize`."""
    app = render.create_app(_HELP)
    register(app)
    render.run_program(app, "bitnet.quantize")
