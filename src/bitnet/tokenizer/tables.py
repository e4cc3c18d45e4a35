"""A checked tokenizer.json as constant tables: engine/tokenizer/tables.h in NumPy arrays."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitnet.errors import TokenizerError
from bitnet.tokenizer import unicode_classes
from bitnet.tokenizer.byte_level import CHARACTER_OF_BYTE, bytes_of_token
from bitnet.tokenizer.chat import CHAT_SYSTEM, CHAT_TOKEN, CHAT_USER, ChatProgram
from bitnet.tokenizer.merge import MERGE_NONE, merge_symbols
from bitnet.tokenizer.patterns import SplitRule
from bitnet.tokenizer.source import AddedToken, TokenizerSource

__all__ = [
    "BLOCK_SHIFT",
    "HASH_MULTIPLIER",
    "ID_NONE",
    "LSTRIP",
    "NFC_UNSAFE",
    "ROW_SHIFT",
    "RSTRIP",
    "SINGLE_WORD",
    "TokenizerTables",
    "compile_tables",
    "hash_bytes",
]

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

ID_NONE: Final = 0xFFFFFFFF
# A map of code points: blocks of 4 bytes, rows of 128 numbers of blocks, numbers of rows.
BLOCK_SHIFT: Final = 2
ROW_SHIFT: Final = 9
_ASCII: Final = 128
HASH_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_U64: Final = (1 << 64) - 1

# Byte of nfc_blocks for a starter that may change.
NFC_UNSAFE: Final = 255
# Squares of the lengths of entries that are merged to see whether they are whole, in all; some
# ten seconds. The 151,643 entries of Qwen3 have 8.6 million.
_WORD_STEPS_MAX: Final = 1 << 28
# Flags of one entry of added_raw and added_normalized.
SINGLE_WORD: Final = 1
LSTRIP: Final = 2
RSTRIP: Final = 4


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizerTables:
    """Everything that encoding and decoding need; engine/tokenizer/tables.h explains each field.

    Arrays of counts and offsets are uint32. Scalars that the engine reads are Python integers.
    """

    source_sha256: bytes
    source_sha384: bytes
    split: SplitRule
    # Vocabulary.
    vocab_size: int
    token_offsets: U32  # [vocab_size + 1] into token_data
    token_data: U8
    special_bits: U32  # one bit an id
    byte_ids: U32  # [256]
    # Pieces that are one token as a whole.
    word_slots: U32  # [1 << word_slot_bits], id or ID_NONE
    word_slot_bits: int
    word_bytes_max: int
    # Merges.
    merge_buckets: U32  # [(1 << merge_bucket_bits) + 1] into merge_entries
    merge_bucket_bits: int
    merge_entries: U64  # left << 44 | right << 24 | rank
    merge_ids: U32  # [rank]
    # Characters.
    class_index: U8  # [0x110000 >> ROW_SHIFT], number of a row
    class_rows: U8  # [rows << (ROW_SHIFT - BLOCK_SHIFT)], number of a block
    class_blocks: U8  # [blocks << BLOCK_SHIFT]
    # Normal form C; empty where the file asks for none.
    nfc_bytes_factor: int  # 1 without NFC
    nfc_index: U8
    nfc_rows: U8
    nfc_blocks: U8
    decomposition_points: U32  # ascending
    decomposition_offsets: U32  # [+ 1] into decomposition_data
    decomposition_data: U32
    composition_keys: U64  # ascending, first << 32 | second
    composition_points: U32
    # Added tokens: rows of (id, offset into added_data, bytes, flags), in the order of their bytes.
    added_raw: U32
    added_normalized: U32
    added_data: U8
    # Ids before a plain text.
    prefix_ids: U32
    # Chat: rows of (kind, a, b); see chat.py. A raw prompt has the ids before a text.
    chat_raw: U32
    chat_user: U32
    chat_system_user: U32
    chat_data: U8

    @property
    def normalizes_nfc(self) -> bool:
        """True if text is put into NFC first."""
        return len(self.nfc_index) > 0

    def nbytes(self) -> int:
        """Bytes of all arrays."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def hash_bytes(data: bytes) -> int:
    """The hash of `word_slots`: eight bytes at a time, little-endian, padded with zeros."""
    value = len(data)
    for begin in range(0, len(data), 8):
        value ^= int.from_bytes(data[begin : begin + 8], "little")
        value = value * HASH_MULTIPLIER & _U64
        value ^= value >> 32
    return value


def compile_tables(source: TokenizerSource, chat: ChatProgram | None = None) -> TokenizerTables:
    """Turns a checked tokenizer into tables.

    Args:
        source: From `load_tokenizer`.
        chat: The chat template as pieces, or None for none.

    Raises:
        TokenizerError: An array would not fit its field.
    """
    added = sorted(source.added_tokens, key=lambda token: token.id)
    vocab_size = 1 + max([*source.vocabulary.values(), *(token.id for token in added)])
    token_offsets, token_data = _token_bytes(source, added, vocab_size)
    merges = _merge_tables(source)
    words = _whole_words(source, merges[4])
    added_raw, added_normalized, added_data = _added_tables(source)
    chat_rows = chat or ChatProgram((), (), b"")
    class_index, class_rows, class_blocks = _class_tables(_wanted_flags(source, chat_rows))
    return TokenizerTables(
        source_sha256=source.data_sha256,
        source_sha384=source.data_sha384,
        split=source.split,
        vocab_size=vocab_size,
        token_offsets=token_offsets,
        token_data=token_data,
        special_bits=_bits((token.id for token in added if token.special), vocab_size),
        byte_ids=_byte_ids(source),
        word_slots=words[0],
        word_slot_bits=words[1],
        word_bytes_max=words[2],
        merge_buckets=merges[0],
        merge_bucket_bits=merges[1],
        merge_entries=merges[2],
        merge_ids=merges[3],
        class_index=class_index,
        class_rows=class_rows,
        class_blocks=class_blocks,
        added_raw=added_raw,
        added_normalized=added_normalized,
        added_data=added_data,
        prefix_ids=np.array(source.prefix_ids, np.uint32),
        chat_raw=np.array(
            [*((CHAT_TOKEN, token, 0) for token in source.prefix_ids), (CHAT_USER, 0, 0)], np.uint32
        ).reshape(-1),
        chat_user=np.array(chat_rows.user, np.uint32).reshape(-1),
        chat_system_user=np.array(chat_rows.system_user, np.uint32).reshape(-1),
        chat_data=np.frombuffer(chat_rows.data, np.uint8),
        **(_nfc_tables() if source.normalizes_nfc else _no_nfc_tables()),
    )


def _token_bytes(
    source: TokenizerSource, added: list[AddedToken], vocab_size: int
) -> tuple[U32, U8]:
    """Bytes of every id, one after the other; an added token gives its text as it is."""
    pieces = [b""] * vocab_size
    for token, index in source.vocabulary.items():
        data = bytes_of_token(token)
        pieces[index] = token.encode() if data is None else data
    for added_token in added:
        pieces[added_token.id] = added_token.content.encode()
    return _concatenate(pieces)


def _concatenate(pieces: list[bytes]) -> tuple[U32, U8]:
    offsets = np.zeros(len(pieces) + 1, np.uint64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    if int(offsets[-1]) >= 1 << 31:
        raise TokenizerError("vocabulary has too many bytes", where=f"{int(offsets[-1])} bytes")
    return offsets.astype(np.uint32), np.frombuffer(b"".join(pieces), np.uint8)


def _bits(indices: Iterable[int], size: int) -> U32:
    bits = np.zeros(-(-size // 32), np.uint32)
    for index in indices:
        bits[index >> 5] |= np.uint32(1 << (index & 31))
    return bits


def _byte_ids(source: TokenizerSource) -> U32:
    return np.array([source.vocabulary.get(c, ID_NONE) for c in CHARACTER_OF_BYTE], np.uint32)


def _merge_tables(source: TokenizerSource) -> tuple[U32, int, U64, U32, dict[int, tuple[int, int]]]:
    """Buckets, their bits, entries, ids by rank; and the same as a dict of key to (rank, id)."""
    ids = source.vocabulary
    table: dict[int, tuple[int, int]] = {}
    for rank, (left, right) in enumerate(source.merges):
        table[ids[left] << 20 | ids[right]] = (rank, ids[left + right])
    count = len(source.merges)
    bits = max(1, (max(count, 1) - 1).bit_length() - 2)
    keys = np.fromiter(table.keys(), np.uint64, count)
    ranks = np.fromiter((rank for rank, _ in table.values()), np.uint64, count)
    buckets = (keys * np.uint64(HASH_MULTIPLIER)) >> np.uint64(64 - bits)
    order = np.lexsort((keys, buckets))
    begins = np.searchsorted(buckets[order], np.arange((1 << bits) + 1, dtype=np.uint64))
    entries = keys[order] << np.uint64(24) | ranks[order]
    merge_ids = np.fromiter((index for _, index in table.values()), np.uint32, count)
    return begins.astype(np.uint32), bits, entries, merge_ids, table


def _whole_words(
    source: TokenizerSource, merges: dict[int, tuple[int, int]]
) -> tuple[U32, int, int]:
    """Hash table of the pieces that are known to be one token, its bits, and the longest of them.

    With `ignore_merges` these are all entries; otherwise those that merging their own bytes gives
    back, which are a short cut alone: entries that would take too long to merge are left out.
    A control token is never among them, so that no text of a user can become one.
    """
    steps_left = _WORD_STEPS_MAX
    special = {token.id for token in source.added_tokens if token.special}
    byte_ids = [source.vocabulary.get(c, MERGE_NONE) for c in CHARACTER_OF_BYTE]
    words: dict[bytes, int] = {}
    for token, index in source.vocabulary.items():
        data = bytes_of_token(token)
        if data is None or index in special:
            continue
        if not source.ignore_merges:
            symbols = [byte_ids[byte] for byte in data]
            steps = len(symbols) ** 2
            if MERGE_NONE in symbols or steps > steps_left:
                continue
            steps_left -= steps
            if merge_symbols(symbols, merges) != [index]:
                continue
        words[data] = index
    bits = max(1, (len(words) * 4 // 3).bit_length())
    slots = [ID_NONE] * (1 << bits)
    for data, index in sorted(words.items(), key=lambda word: word[1]):
        place = hash_bytes(data) >> (64 - bits)
        while slots[place] != ID_NONE:
            place = (place + 1) & ((1 << bits) - 1)
        slots[place] = index
    return np.array(slots, np.uint32), bits, max(map(len, words), default=0)


def _wanted_flags(source: TokenizerSource, chat: ChatProgram) -> int:
    wanted = unicode_classes.LETTER | unicode_classes.NUMBER | unicode_classes.SPACE
    if source.split.letters_with_marks:
        wanted |= unicode_classes.MARK
    if source.split.digits_apart:
        wanted |= unicode_classes.NUMERIC
    if any(token.single_word for token in source.added_tokens):
        wanted |= unicode_classes.WORD
    if any(token.lstrip or token.rstrip for token in source.added_tokens):
        wanted |= unicode_classes.STRIP_SPACE
    rows = np.array([*chat.user, *chat.system_user], np.uint32).reshape(-1, 3)
    if np.any((rows[:, 0] >= CHAT_SYSTEM) & (rows[:, 1] == 1)):
        wanted |= unicode_classes.TRIMMED
    return wanted


def _character_map(values: U8) -> tuple[U8, U8, U8]:
    """Splits a table over all code points into numbers of rows, the different rows, and blocks.

    The blocks begin with ASCII as it is, so that it needs no look at the others.
    """
    ascii_count = _ASCII >> BLOCK_SHIFT
    numbers, blocks = _different(values[_ASCII:], 1 << BLOCK_SHIFT)
    numbers = np.concatenate([np.arange(ascii_count), numbers + ascii_count])
    index, rows = _different(numbers, 1 << (ROW_SHIFT - BLOCK_SHIFT))
    if max(*index, *rows) > np.iinfo(np.uint8).max:
        raise TokenizerError("classes of characters have too many different rows")
    blocks = np.concatenate([values[:_ASCII], blocks])
    return index.astype(np.uint8), rows.astype(np.uint8), blocks


def _different(values: npt.NDArray[Any], size: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Which of the different parts of `size` stand in a row, and those parts one after another."""
    parts = values.reshape(-1, size)
    numbers: dict[bytes, int] = {}
    order = [numbers.setdefault(part.tobytes(), len(numbers)) for part in parts]
    return np.array(order), np.frombuffer(b"".join(numbers), values.dtype)


@functools.cache
def _class_tables(wanted: int) -> tuple[U8, U8, U8]:
    return _character_map(unicode_classes.character_flags(wanted))


def _no_nfc_tables() -> dict[str, Any]:
    empty32 = np.zeros(0, np.uint32)
    return {
        "nfc_bytes_factor": 1,
        "nfc_index": np.zeros(0, np.uint8),
        "nfc_rows": np.zeros(0, np.uint8),
        "nfc_blocks": np.zeros(0, np.uint8),
        "decomposition_points": empty32,
        "decomposition_offsets": empty32,
        "decomposition_data": empty32,
        "composition_keys": np.zeros(0, np.uint64),
        "composition_points": empty32,
    }


@functools.cache
def _nfc_tables() -> dict[str, Any]:
    """Fields of the normal form.

    The byte of a code point is 0 where it stays as it is and nothing before it reaches it, 1 and
    more for a mark of that rank, NFC_UNSAFE for any other starter.
    """
    data = unicode_classes.composition()
    assert data.order_count < NFC_UNSAFE
    unsafe = data.unsafe * np.uint8(NFC_UNSAFE)
    kinds = np.where(data.order > 0, data.order, unsafe).astype(np.uint8)
    index, rows, blocks = _character_map(kinds)
    points = sorted(data.decompositions)
    parts = [data.decompositions[point] for point in points]
    pairs = sorted((first << 32 | second, c) for (first, second), c in data.pairs.items())
    return {
        "nfc_bytes_factor": data.bytes_factor_max,
        "nfc_index": index,
        "nfc_rows": rows,
        "nfc_blocks": blocks,
        "decomposition_points": np.array(points, np.uint32),
        "decomposition_offsets": np.cumsum([0, *map(len, parts)]).astype(np.uint32),
        "decomposition_data": np.array([c for part in parts for c in part], np.uint32),
        "composition_keys": np.array([key for key, _ in pairs], np.uint64),
        "composition_points": np.array([c for _, c in pairs], np.uint32),
    }


def _added_tables(source: TokenizerSource) -> tuple[U32, U32, U8]:
    """The two sets of patterns, sorted by bytes, and the bytes."""
    data = bytearray()
    rows: dict[bool, list[tuple[int, ...]]] = {False: [], True: []}
    patterns = [(_pattern(token, source), token) for token in source.added_tokens]
    for pattern, token in sorted(patterns, key=lambda pair: (pair[0], pair[1].id)):
        flags = SINGLE_WORD * token.single_word | LSTRIP * token.lstrip | RSTRIP * token.rstrip
        rows[token.normalized].append((token.id, len(data), len(pattern), flags))
        data += pattern
    for normalized in (False, True):
        found = [bytes(data[row[1] : row[1] + row[2]]) for row in rows[normalized]]
        if len(set(found)) != len(found):
            raise TokenizerError(
                "two added tokens have the same text after normalisation",
                where=(f"file {source.file}", "at $.added_tokens"),
            )
    raw, normalized_rows = (np.array(rows[key], np.uint32).reshape(-1) for key in (False, True))
    return raw, normalized_rows, np.frombuffer(bytes(data), np.uint8)


def _pattern(token: AddedToken, source: TokenizerSource) -> bytes:
    if token.normalized and source.normalizes_nfc:
        return unicode_classes.nfc(token.content).encode()
    return token.content.encode()
