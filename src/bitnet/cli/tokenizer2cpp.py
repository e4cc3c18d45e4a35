"""`tokenizer2cpp`, also `bitnet tokenizer2cpp`: a tokenizer.json to constant tables in C++."""

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console

from bitnet.cli import render
from bitnet.errors import UsageError
from bitnet.files import check_output, replace_file
from bitnet.tokenizer import TokenizerTables, compile_tokenizer, emit_cpp, tokenizer_files

__all__ = ["main", "register"]

_HELP: Final = """Compiles a tokenizer.json into constant tables in C++.

The engine reads no JSON and has no regular expressions: what the tokenizer does becomes tables and
one hand-written matcher. Supported is byte-level BPE as Llama-3, Qwen2/3, Qwen3.5, GPT-2 and
SmolLM2 publish it; the token ids are those of the `tokenizers` library. Whatever the tables cannot
express is refused by name.

The chat template that lies beside the file (chat_template.jinja, or tokenizer_config.json) is
turned into fixed pieces around the messages, here and once; the engine knows no template language.
The same files give the same bytes.

Examples:

\b
  tokenizer2cpp tokenizer.json --output tokenizer.inc
  tokenizer2cpp tokenizer.json --output tokenizer.inc --chat-template my_template.jinja
  tokenizer2cpp tokenizer.json --output tokenizer.inc --no-chat-template --json
"""


@contextlib.contextmanager
def _status_line() -> Iterator[Callable[[str], None] | None]:
    """Gives a function that shows the current step on stderr; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Console(stderr=True).status("starting") as status:
        yield lambda step: status.update(f"{step} …")


def _describe(tables: TokenizerTables, output: Path, text: bytes) -> dict[str, Any]:
    return {
        "output": str(output),
        "output_bytes": len(text),
        "output_sha256": hashlib.sha256(text).hexdigest(),
        "tokenizer_sha256": tables.source_sha256.hex(),
        "tokenizer_sha384": tables.source_sha384.hex(),
        "split_rule": tables.split.name,
        "normalizes_nfc": tables.normalizes_nfc,
        "vocab_size": tables.vocab_size,
        "merge_count": len(tables.merge_ids),
        "added_token_count": (len(tables.added_raw) + len(tables.added_normalized)) // 4,
        "prefix_ids": tables.prefix_ids.tolist(),
        "table_bytes": tables.nbytes(),
        "chat_template": len(tables.chat_user) > 0,
        "chat_system_message": len(tables.chat_system_user) > 0,
    }


def _print_human(facts: dict[str, Any]) -> None:
    chat = "none"
    if facts["chat_template"]:
        takes = "with" if facts["chat_system_message"] else "without"
        chat = f"fixed pieces, {takes} a system message"
    render.print_facts([
        ("wrote", facts["output"]),
        ("size", render.format_bytes(facts["output_bytes"])),
        ("tables", render.format_bytes(facts["table_bytes"])),
        ("split rule", facts["split_rule"] + (", NFC" if facts["normalizes_nfc"] else "")),
        ("ids", f"{facts['vocab_size']}, of them {facts['added_token_count']} added tokens"),
        ("merges", str(facts["merge_count"])),
        ("chat template", chat),
        ("tokenizer", facts["tokenizer_sha384"]),
    ])  # fmt: skip


def tokenizer2cpp(
    tokenizer: Annotated[
        Path, typer.Argument(metavar="TOKENIZER", help="tokenizer.json, or the directory with it.")
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The tokenizer.inc to write.")
    ],
    chat_template: Annotated[
        Path | None,
        typer.Option(
            "--chat-template",
            metavar="FILE",
            help="Jinja chat template to use in place of the one beside the tokenizer.",
        ),
    ] = None,
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Leave the chat template out.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as one JSON object.")
    ] = False,
) -> None:
    if no_chat_template and chat_template is not None:
        raise UsageError(
            "`--chat-template` and `--no-chat-template` exclude each other", hint="pass one of them"
        )
    check_output(output, tokenizer_files(tokenizer, chat_template))
    with _status_line() as progress:
        tables = compile_tokenizer(
            tokenizer, chat=not no_chat_template, chat_template=chat_template, progress=progress
        )
        if progress is not None:
            progress("writing")
        text = emit_cpp(tables).encode()
        replace_file(output, text)
    facts = _describe(tables, output, text)
    if as_json:
        render.print_json(facts)
    else:
        _print_human(facts)


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("tokenizer2cpp", help=render.reflow_text(_HELP), no_args_is_help=True)(
        tokenizer2cpp
    )


def main() -> NoReturn:
    """Runs `tokenizer2cpp`."""
    app = render.create_app(_HELP)
    register(app)
    render.run_program(app, "tokenizer2cpp")
