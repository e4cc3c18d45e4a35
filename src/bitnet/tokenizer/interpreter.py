"""The tables interpreted in Python: the same answers as engine/tokenizer, written to be read.

Nothing here is fast; merging is quadratic in the length of a piece.
"""

import functools
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from bitnet.errors import TokenizerError
from bitnet.tokenizer.chat import CHAT_LITERAL, CHAT_SYSTEM, CHAT_TOKEN
from bitnet.tokenizer.merge import merge_symbols
from bitnet.tokenizer.tables import (
    BLOCK_SHIFT,
    ID_NONE,
    LSTRIP,
    NFC_UNSAFE,
    ROW_SHIFT,
    RSTRIP,
    SINGLE_WORD,
    TokenizerTables,
    hash_bytes,
)
from bitnet.tokenizer.unicode_classes import (
    LETTER,
    MARK,
    NUMBER,
    NUMERIC,
    SPACE,
    STRIP_SPACE,
    WORD,
)

__all__ = ["cut_added", "decode", "encode", "encode_chat"]

# A character is its code point, or this plus a byte that belongs to no valid sequence.
_INVALID: Final = 0x110000
_CR, _LF, _BLANK, _APOSTROPHE = 13, 10, 32, 39

Characters = list[int]
U8 = npt.NDArray[np.uint8]


def encode(tables: TokenizerTables, text: str | bytes, *, match_added: bool = False) -> list[int]:
    """Returns the token ids of a text.

    Args:
        tables: From `compile_tables`.
        text: A string, or any bytes; invalid UTF-8 is taken byte by byte.
        match_added: Whether added tokens are found in the text, as the `tokenizers` library does by
            default. False for the text of a user, which never becomes a control token.
    """
    if match_added:
        parts = (
            part if isinstance(part, int) else encode(tables, part)
            for part in cut_added(tables, text)
        )
        return [index for part in parts for index in ([part] if isinstance(part, int) else part)]
    characters = _decode_text(text)
    if tables.normalizes_nfc:
        characters = _normalize(tables, characters)
    return [
        index
        for piece in _split(tables, characters)
        for index in _merge(tables, _encode_text(piece))
    ]


def cut_added(tables: TokenizerTables, text: str | bytes) -> Iterator[int | bytes]:
    """Yields the added tokens of a text, as ids, and the stretches between them.

    The engine has no part in this: what it is given never becomes a control token.
    """
    for stretch in _find_added(tables, False, _decode_text(text)):
        if isinstance(stretch, int):
            yield stretch
            continue
        if tables.normalizes_nfc and len(tables.added_normalized):
            stretch = _normalize(tables, stretch)
        for part in _find_added(tables, True, stretch):
            yield part if isinstance(part, int) else _encode_text(part)


def decode(tables: TokenizerTables, ids: list[int]) -> bytes:
    """Returns the bytes of the tokens in a row; an id outside the vocabulary has none."""
    offsets, data = tables.token_offsets, tables.token_data
    return b"".join(
        data[int(offsets[index]) : int(offsets[index + 1])].tobytes()
        for index in ids
        if 0 <= index < tables.vocab_size
    )


def encode_chat(tables: TokenizerTables, user: str | bytes, system: str | bytes = b"") -> list[int]:
    """Returns the ids of a conversation of an optional system message and one user message.

    Raises:
        TokenizerError: The tables have no chat template, or none for a system message.
    """
    rows = (tables.chat_system_user if system else tables.chat_user).reshape(-1, 3).tolist()
    if not rows:
        what = "system message" if system else "message"
        raise TokenizerError(f"compiled tokenizer has no chat template for a {what}")
    messages = {True: _decode_text(system), False: _decode_text(user)}
    ids: list[int] = []
    gathered: Characters = []
    for kind, value, count in rows:
        if kind == CHAT_TOKEN:
            ids += [*encode(tables, _encode_text(gathered)), value]
            gathered = []
        elif kind == CHAT_LITERAL:
            gathered += _decode_text(tables.chat_data[value : value + count].tobytes())
        else:
            message = messages[kind == CHAT_SYSTEM]
            gathered += _trim(message) if value else message
    return ids + encode(tables, _encode_text(gathered))


# Text as characters.


def _decode_text(text: str | bytes) -> Characters:
    """Code points, with invalid bytes apart, which Python's decoder marks as U+DC00 + byte."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    decoded = text.decode("utf-8", "surrogateescape")
    return [_INVALID + ord(c) - 0xDC00 if 0xDC80 <= ord(c) <= 0xDCFF else ord(c) for c in decoded]


def _encode_text(characters: Characters) -> bytes:
    return b"".join(bytes([c - _INVALID]) if c >= _INVALID else chr(c).encode() for c in characters)


def _trim(characters: Characters) -> Characters:
    """Python's own str.strip(), which is what templates call `trim`."""
    begin, end = 0, len(characters)
    while begin < end and characters[begin] < _INVALID and chr(characters[begin]).isspace():
        begin += 1
    while end > begin and characters[end - 1] < _INVALID and chr(characters[end - 1]).isspace():
        end -= 1
    return characters[begin:end]


def _byte_of(index: U8, rows: U8, blocks: U8, c: int) -> int:
    if c >= _INVALID:
        return 0
    in_row = (c & ((1 << ROW_SHIFT) - 1)) >> BLOCK_SHIFT
    block = int(rows[int(index[c >> ROW_SHIFT]) << (ROW_SHIFT - BLOCK_SHIFT) | in_row])
    return int(blocks[block << BLOCK_SHIFT | c & ((1 << BLOCK_SHIFT) - 1)])


def _flags(tables: TokenizerTables, c: int) -> int:
    return _byte_of(tables.class_index, tables.class_rows, tables.class_blocks, c)


# Added tokens.


@functools.lru_cache(maxsize=8)
def _patterns(
    tables: TokenizerTables, normalized: bool
) -> dict[int, list[tuple[Characters, int, int]]]:
    """Text, id and flags of the added tokens by their first character, the longest first."""
    rows = tables.added_normalized if normalized else tables.added_raw
    found: dict[int, list[tuple[Characters, int, int]]] = {}
    for index, begin, count, flags in rows.reshape(-1, 4).tolist():
        pattern = _decode_text(tables.added_data[begin : begin + count].tobytes())
        found.setdefault(pattern[0], []).append((pattern, index, flags))
    for alike in found.values():
        alike.sort(key=lambda pattern: -len(pattern[0]))
    return found


def _find_added(
    tables: TokenizerTables, normalized: bool, text: Characters
) -> Iterator[int | Characters]:
    """Yields plain stretches and ids: leftmost first, the longest of those that begin there."""
    patterns = _patterns(tables, normalized)
    taken = place = 0
    while place < len(text):
        alike = patterns.get(text[place], ())
        found = next((p for p in alike if text[place : place + len(p[0])] == p[0]), None)
        if found is None:
            place += 1
            continue
        pattern, index, flags = found
        begin, place = place, place + len(pattern)
        if flags & SINGLE_WORD and not _stands_alone(tables, text, begin, place):
            continue
        end = place
        while flags & LSTRIP and begin > taken and _flags(tables, text[begin - 1]) & STRIP_SPACE:
            begin -= 1
        while flags & RSTRIP and end < len(text) and _flags(tables, text[end]) & STRIP_SPACE:
            end += 1
        if taken < begin:
            yield text[taken:begin]
        yield index
        taken = end
    if taken < len(text):
        yield text[taken:]


def _stands_alone(tables: TokenizerTables, text: Characters, begin: int, end: int) -> bool:
    around = [*text[max(begin - 1, 0) : begin], *text[end : end + 1]]
    return not any(_flags(tables, c) & WORD for c in around)


# Normal form C: The Unicode Standard, sections 3.11 and 3.12.

_SYLLABLES: Final = range(0xAC00, 0xAC00 + 11172)
_LEADS, _VOWELS = range(0x1100, 0x1100 + 19), range(0x1161, 0x1161 + 21)
_FINALS: Final = range(0x11A8, 0x11A8 + 27)


def _rank(tables: TokenizerTables, c: int) -> int:
    """Rank of the combining class; 0 for a starter."""
    kind = _byte_of(tables.nfc_index, tables.nfc_rows, tables.nfc_blocks, c)
    return 0 if kind == NFC_UNSAFE else kind


def _normalize(tables: TokenizerTables, text: Characters) -> Characters:
    decomposed: Characters = []
    for c in text:
        decomposed += _decompose(tables, c)
    begin = 0
    while begin < len(decomposed):
        end = begin
        while end < len(decomposed) and _rank(tables, decomposed[end]):
            end += 1
        decomposed[begin:end] = sorted(decomposed[begin:end], key=lambda c: _rank(tables, c))
        begin = end + 1
    return _compose_all(tables, decomposed)


def _decompose(tables: TokenizerTables, c: int) -> Characters:
    if c in _SYLLABLES:
        lead, rest = divmod(c - 0xAC00, 588)
        vowel, final = divmod(rest, 28)
        return [0x1100 + lead, 0x1161 + vowel, *([0x11A7 + final] if final else [])]
    points, offsets = tables.decomposition_points, tables.decomposition_offsets
    place = int(np.searchsorted(points, c))
    if place < len(points) and int(points[place]) == c:
        part = tables.decomposition_data[int(offsets[place]) : int(offsets[place + 1])]
        return [int(point) for point in part]
    return [c]


def _compose_all(tables: TokenizerTables, text: Characters) -> Characters:
    kept: Characters = []
    starter = -1
    last_rank = 0
    for c in text:
        rank = _rank(tables, c)
        if starter >= 0 and (starter == len(kept) - 1 or last_rank < rank):
            composed = _compose(tables, kept[starter], c)
            if composed:
                kept[starter] = composed
                continue
        if rank == 0:
            starter = len(kept)
        last_rank = rank
        kept.append(c)
    return kept


def _compose(tables: TokenizerTables, first: int, second: int) -> int:
    """What two characters compose to, or 0."""
    if first in _LEADS and second in _VOWELS:
        return 0xAC00 + (first - 0x1100) * 588 + (second - 0x1161) * 28
    if first in _SYLLABLES and (first - 0xAC00) % 28 == 0 and second in _FINALS:
        return first + second - 0x11A7
    key = first << 32 | second
    place = int(np.searchsorted(tables.composition_keys, np.uint64(key)))
    if place < len(tables.composition_keys) and int(tables.composition_keys[place]) == key:
        return int(tables.composition_points[place])
    return 0


# Pieces. engine/tokenizer/split.h says which alternatives are tried in which order.


def _split(tables: TokenizerTables, text: Characters) -> Iterator[Characters]:
    if not tables.split.digits_apart:
        yield from _split_stretch(tables, text)
        return
    begin = 0
    for place, c in enumerate(text):
        if _flags(tables, c) & NUMERIC:
            yield from _split_stretch(tables, text[begin:place])
            yield [c]
            begin = place + 1
    yield from _split_stretch(tables, text[begin:])


def _split_stretch(tables: TokenizerTables, text: Characters) -> Iterator[Characters]:
    flags = [_flags(tables, c) for c in text]
    matcher = _Matcher(tables, text, flags)
    begin = 0
    while begin < len(text):
        end = matcher.match(begin)
        yield text[begin:end]
        begin = end


class _Matcher:
    """The alternatives of a split rule in one text; each gives the end of its match, or None."""

    def __init__(self, tables: TokenizerTables, text: Characters, flags: list[int]) -> None:
        self._rule = tables.split
        self._text = text
        self._flags = flags
        self._letters = LETTER | (MARK if self._rule.letters_with_marks else 0)

    def match(self, place: int) -> int:
        for alternative in (self._contraction, self._letter_run, self._numbers, self._signs):
            end = alternative(place)
            if end is not None:
                return end
        return self._space(place)

    def _skip(self, place: int, flags: int) -> int:
        while place < len(self._text) and self._flags[place] & flags:
            place += 1
        return place

    def _contraction(self, place: int) -> int | None:
        if self._text[place] != _APOSTROPHE:
            return None
        letters = "".join(map(self._contraction_letter, self._text[place + 1 : place + 3]))
        if letters[:1] in ("s", "t", "m", "d"):
            return place + 2
        return place + 3 if letters in ("re", "ve", "ll") else None

    def _contraction_letter(self, c: int) -> str:
        if not self._rule.contractions_fold_case:
            return chr(c) if c < 128 else "-"
        return "s" if c == 0x17F else chr(c).lower() if c < 128 else "-"

    def _letter_run(self, place: int) -> int | None:
        c, flags = self._text[place], self._flags[place]
        if flags & self._letters:
            return self._skip(place, self._letters)
        if self._rule.letters_after_any:
            leads = c not in (_CR, _LF) and not flags & NUMBER
        else:
            leads = c == _BLANK
        end = self._skip(place + 1, self._letters)
        return end if leads and end > place + 1 else None

    def _numbers(self, place: int) -> int | None:
        if self._rule.number_run_max:
            end = min(self._skip(place, NUMBER), place + self._rule.number_run_max)
            return end if end > place else None
        begin = place + (self._text[place] == _BLANK)
        end = self._skip(begin, NUMBER)
        return end if end > begin else None

    def _signs(self, place: int) -> int | None:
        begin = end = place + (self._text[place] == _BLANK)
        others = SPACE | NUMBER | self._letters
        while end < len(self._text) and not self._flags[end] & others:
            end += 1
        if end == begin:
            return None
        while self._rule.newline_rules and end < len(self._text) and self._text[end] in (_CR, _LF):
            end += 1
        return end

    def _space(self, place: int) -> int:
        end = self._skip(place, SPACE)
        newlines = [k for k in range(place, end) if self._text[k] in (_CR, _LF)]
        if self._rule.newline_rules and newlines:
            return newlines[-1] + 1
        return end if end == len(self._text) or end == place + 1 else end - 1


# Merging.


@functools.lru_cache(maxsize=4)
def _merge_map(tables: TokenizerTables) -> dict[int, tuple[int, int]]:
    entries = tables.merge_entries.tolist()
    ids = tables.merge_ids.tolist()
    return {entry >> 24: (entry & 0xFFFFFF, ids[entry & 0xFFFFFF]) for entry in entries}


def _merge(tables: TokenizerTables, piece: bytes) -> list[int]:
    whole = _find_word(tables, piece)
    if whole is not None:
        return [whole]
    symbols = [int(tables.byte_ids[byte]) for byte in piece]
    return merge_symbols([s for s in symbols if s != ID_NONE], _merge_map(tables))


def _find_word(tables: TokenizerTables, piece: bytes) -> int | None:
    if len(piece) > tables.word_bytes_max:
        return None
    slot = hash_bytes(piece) >> (64 - tables.word_slot_bits)
    while (index := int(tables.word_slots[slot])) != ID_NONE:
        if decode(tables, [index]) == piece:
            return index
        slot = (slot + 1) & ((1 << tables.word_slot_bits) - 1)
    return None
