"""`bitnet vocabulary`: the tokens of a tokenizer, one per line, as `--debug-vocab` reads them."""

from pathlib import Path
from typing import Annotated, Final

import typer

from bitnet.cli import render
from bitnet.tokenizer import compile_tokenizer

__all__ = ["register"]

_HELP: Final = """Writes the vocabulary of a tokenizer to standard output, one token per line.

Line i + 1 is token i. Printable ASCII stands for itself, everything else and the backslash as
\\xNN. bitnet-infer needs no such file; with `--debug-vocab vocab.txt` it holds it against what is
compiled in and then shows every token of a run on standard error.

Example:

\b
  bitnet vocabulary tokenizer.json > vocab.txt
"""

_BACKSLASH: Final = 0x5C


def _escape(data: bytes) -> str:
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != _BACKSLASH else f"\\x{byte:02x}"
        for byte in data
    )


def vocabulary(
    tokenizer: Annotated[
        Path, typer.Argument(metavar="TOKENIZER", help="tokenizer.json of the model.")
    ],
) -> None:
    tables = compile_tokenizer(tokenizer)
    offsets = tables.token_offsets
    data = tables.token_data.tobytes()
    for index in range(tables.vocab_size):
        print(_escape(data[offsets[index] : offsets[index + 1]]))


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("vocabulary", help=render.reflow_text(_HELP), no_args_is_help=True)(vocabulary)
