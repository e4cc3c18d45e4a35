"""Tables as C++ text: the `tokenizer.inc` that is compiled into an executable."""

from typing import Final

import numpy as np
import numpy.typing as npt

from bitnet.tokenizer.tables import TokenizerTables

__all__ = ["GENERATOR_VERSION", "emit_cpp"]

GENERATOR_VERSION: Final = 1

_TYPES: Final = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}
_COLUMNS: Final = 100


def emit_cpp(tables: TokenizerTables) -> str:
    """Returns constant definitions that end in `const bitnet::tokenizer::Tables kTokenizerTables`.

    The text depends on nothing but the tables: same tokenizer.json and template, same bytes.
    """
    arrays = _arrays(tables)
    lines = [
        f"// Written by tokenizer2cpp, generator version {GENERATOR_VERSION}; do not edit.",
        f"// tokenizer.json SHA-256 {tables.source_sha256.hex()}",
        f"// split rule {tables.split.name}, {tables.vocab_size} ids, {tables.nbytes()} bytes",
        "#include <cstdint>",
        "",
        '#include "tokenizer/tables.h"',
        "",
        "namespace bitnet_tokenizer_data {",
        "",
    ]
    for name, values in arrays.items():
        if len(values) > 0:
            lines += _array(name, values)
    for name in ("chat_raw", "chat_user", "chat_system_user"):
        lines += _rows("ChatRow", name, getattr(tables, name))
    lines += ["}  // namespace bitnet_tokenizer_data", ""]
    lines += _definition(tables)
    return "\n".join(lines) + "\n"


# Arrays in the order of engine/tokenizer/tables.h.
_VOCABULARY: Final = (
    "token_offsets", "token_data", "special_bits", "byte_ids", "word_slots",
    "merge_buckets", "merge_entries", "merge_ids",
)  # fmt: skip
_MAP_PARTS: Final = ("index", "rows", "blocks")
_NORMAL_FORM: Final = (
    "decomposition_points", "decomposition_offsets", "decomposition_data", "composition_keys",
    "composition_points",
)  # fmt: skip


def _arrays(tables: TokenizerTables) -> dict[str, npt.NDArray[np.generic]]:
    maps = [f"{name}_{part}" for name in ("class", "nfc") for part in _MAP_PARTS]
    names = (*_VOCABULARY, *maps, *_NORMAL_FORM, "chat_data")
    return {name: getattr(tables, name) for name in names}


def _array(name: str, values: npt.NDArray[np.generic]) -> list[str]:
    """One definition. Bytes become a string literal, which a compiler reads far faster."""
    kind = _TYPES[values.dtype.itemsize]
    if kind == "uint8_t":
        return [
            f"alignas(64) static const {kind} {name}[{len(values)} + 1] =",
            *_string_literals(values.tobytes()),
            "    ;",
            "",
        ]
    return [
        f"alignas(64) static const {kind} {name}[{len(values)}] = {{",
        *_wrapped([str(value) for value in values.tolist()]),
        "};",
        "",
    ]


def _wrapped(words: list[str]) -> list[str]:
    lines: list[str] = []
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > _COLUMNS:
            lines.append(line)
            line = "   "
        line += f" {word},"
    return [*lines, line]


def _string_literals(data: bytes) -> list[str]:
    """Printable ASCII as it is, the rest in octal, which ends after three digits anyway."""
    plain = {*range(32, 127)} - {*b'"\\?'}
    texts = [chr(byte) if byte in plain else f"\\{byte:03o}" for byte in range(256)]
    step = 24
    return [
        '    "' + "".join(texts[byte] for byte in data[begin : begin + step]) + '"'
        for begin in range(0, len(data), step)
    ]


def _rows(kind: str, name: str, values: npt.NDArray[np.uint32]) -> list[str]:
    if len(values) == 0:
        return []
    rows = ["{" + ", ".join(map(str, row)) + "}" for row in values.reshape(-1, 3).tolist()]
    return [
        f"static const bitnet::tokenizer::{kind} {name}[{len(rows)}] = {{",
        *_wrapped(rows),
        "};",
        "",
    ]


def _definition(tables: TokenizerTables) -> list[str]:
    def pointer(name: str) -> str:
        return f"bitnet_tokenizer_data::{name}" if len(getattr(tables, name)) else "nullptr"

    def character_map(name: str) -> str:
        return "{" + ", ".join(pointer(f"{name}_{part}") for part in _MAP_PARTS) + "}"

    split = tables.split
    members: list[tuple[str, str]] = [
        ("struct_bytes", "sizeof(bitnet::tokenizer::Tables)"),
        ("contractions_fold_case", str(int(split.contractions_fold_case))),
        ("letters_after_any", str(int(split.letters_after_any))),
        ("letters_with_marks", str(int(split.letters_with_marks))),
        ("number_run_max", str(split.number_run_max)),
        ("newline_rules", str(int(split.newline_rules))),
        ("digits_apart", str(int(split.digits_apart))),
        *((name, str(value)) for name, value in table_sizes(tables).items()),
        ("source_sha384", "{" + ", ".join(map(str, tables.source_sha384)) + "}"),
        *((name, pointer(name)) for name in _VOCABULARY),
        ("classes", character_map("class")),
        ("nfc", character_map("nfc")),
        *((name, pointer(name)) for name in _NORMAL_FORM),
        ("chat_raw", pointer("chat_raw")),
        ("chat_user", pointer("chat_user")),
        ("chat_system_user", pointer("chat_system_user")),
        ("chat_data", pointer("chat_data")),
    ]
    return [
        "extern const bitnet::tokenizer::Tables kTokenizerTables;",
        "const bitnet::tokenizer::Tables kTokenizerTables = {",
        *(f"    .{name} = {value}," for name, value in members),
        "};",
    ]


def table_sizes(tables: TokenizerTables) -> dict[str, int]:
    """The counts of engine/tokenizer/tables.h, in its order."""
    return {
        "vocab_size": tables.vocab_size,
        "word_slot_bits": tables.word_slot_bits,
        "word_bytes_max": tables.word_bytes_max,
        "merge_bucket_bits": tables.merge_bucket_bits,
        "merge_count": len(tables.merge_ids),
        "nfc_bytes_factor": tables.nfc_bytes_factor,
        "decomposition_count": len(tables.decomposition_points),
        "composition_count": len(tables.composition_points),
        "chat_raw_count": len(tables.chat_raw) // 3,
        "chat_user_count": len(tables.chat_user) // 3,
        "chat_system_user_count": len(tables.chat_system_user) // 3,
        "chat_literal_bytes": len(tables.chat_data),
    }
