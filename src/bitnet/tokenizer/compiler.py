"""The whole way from a tokenizer.json and what lies beside it to tables."""

from collections.abc import Callable
from pathlib import Path

from bitnet.tokenizer.chat import compile_chat
from bitnet.tokenizer.chat_template import files_beside, find_chat_template, load_chat_template
from bitnet.tokenizer.source import find_tokenizer, load_tokenizer
from bitnet.tokenizer.tables import TokenizerTables, compile_tables

__all__ = ["compile_tokenizer", "tokenizer_files"]


def tokenizer_files(path: Path, chat_template: Path | None = None) -> tuple[Path, ...]:
    """Returns what `compile_tokenizer` may read; not every one of them need exist."""
    file = find_tokenizer(path)
    return (file, *files_beside(file), *((chat_template,) if chat_template is not None else ()))


def compile_tokenizer(
    path: Path,
    *,
    chat: bool = True,
    chat_template: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> TokenizerTables:
    """Reads a tokenizer and its chat template and returns the tables.

    Args:
        path: A tokenizer.json, or the directory that holds it.
        chat: Whether a chat template is looked for at all.
        chat_template: A file with the template; without it the one beside the tokenizer, if there
            is one.
        progress: Called with the name of each step as it begins.

    Raises:
        TokenizerError: A file cannot be read, or asks for something that the tables cannot express.
    """
    report = progress or (lambda _step: None)
    report("reading the tokenizer")
    source = load_tokenizer(path)
    program = None
    if chat:
        report("fixing the chat template")
        template = (
            find_chat_template(source.file)
            if chat_template is None
            else load_chat_template(chat_template, source.file)
        )
        program = compile_chat(template, source) if template is not None else None
    report("building the tables")
    return compile_tables(source, program)
