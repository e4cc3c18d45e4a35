"""tokenizer.json to constant tables, the C++ text of them, and an interpreter in Python."""

from bitnet.tokenizer.compiler import compile_tokenizer, tokenizer_files
from bitnet.tokenizer.emit import emit_cpp
from bitnet.tokenizer.interpreter import cut_added, decode, encode, encode_chat
from bitnet.tokenizer.source import load_tokenizer
from bitnet.tokenizer.tables import TokenizerTables, compile_tables

__all__ = [
    "TokenizerTables",
    "compile_tables",
    "compile_tokenizer",
    "cut_added",
    "decode",
    "emit_cpp",
    "encode",
    "encode_chat",
    "load_tokenizer",
    "tokenizer_files",
]
