"""Character classes and normal form as the `tokenizers` library itself has them.

The library carries several Unicode versions at once (its regular expressions, its normaliser,
Rust's own `char`), none of them that of this Python. So every table here is found by asking the
library about every code point: equal to the oracle by construction, and the same on every builder
with the pinned version.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

__all__ = [
    "CODE_POINT_COUNT",
    "LETTER",
    "MARK",
    "NUMBER",
    "NUMERIC",
    "SPACE",
    "STRIP_SPACE",
    "TRIMMED",
    "WORD",
    "Composition",
    "character_flags",
    "composition",
    "nfc",
]

CODE_POINT_COUNT: Final = 0x110000

LETTER: Final = 1  # \p{L}
NUMBER: Final = 2  # \p{N}
MARK: Final = 4  # \p{M}
SPACE: Final = 8  # \s of the pattern
NUMERIC: Final = 16  # what the Digits pre-tokenizer splits off
TRIMMED: Final = 32  # white space of str.strip(), which templates call `trim`
WORD: Final = 64  # \w, for single_word
STRIP_SPACE: Final = 128  # \s, for lstrip and rstrip

U8 = npt.NDArray[np.uint8]
_CHUNK: Final = 4096


def _chunks(size: int = _CHUNK) -> Iterator[list[str]]:
    """All code points but the surrogates, which no Python string gives to the library."""
    points = [*range(0xD800), *range(0xE000, CODE_POINT_COUNT)]
    for begin in range(0, len(points), size):
        yield [chr(point) for point in points[begin : begin + size]]


def _mark_all(flags: U8, characters: set[str], flag: int) -> None:
    flags[[ord(character) for character in characters]] |= flag


def _matching(pattern: str) -> set[str]:
    """Characters that match a class of the library's regular expressions."""
    remover = normalizers.Replace(Regex(f"[^{pattern}]"), "")
    found: set[str] = set()
    for chunk in _chunks():
        found.update(remover.normalize_str("".join(chunk)))
    return found


def _numeric() -> set[str]:
    splitter = pre_tokenizers.Digits(individual_digits=True)
    found: set[str] = set()
    for chunk in _chunks():
        # Between letters, whatever stands alone was split off.
        for piece, _ in splitter.pre_tokenize_str("a" + "a".join(chunk) + "a"):
            if len(piece) == 1 and piece != "a":
                found.add(piece)
    return found


def _beside_added_token(token: AddedToken, spans: set[tuple[int, int]]) -> set[str]:
    """Characters after which `token`, at the beginning of a text, is found with one of `spans`."""
    tokenizer = Tokenizer(models.BPE({"?": 0}, []))
    tokenizer.add_tokens([token])
    token_id = tokenizer.token_to_id(token.content)
    found: set[str] = set()
    for chunk in _chunks(1 << 16):
        texts = [token.content + character for character in chunk]
        for character, encoding in zip(chunk, tokenizer.encode_batch(texts), strict=True):
            places = zip(encoding.ids, encoding.offsets, strict=True)
            if any(index == token_id and span in spans for index, span in places):
                found.add(character)
    return found


# A private character: no word character, no white space, and in no normal form.
_PROBE: Final = "\ue000"


def _word_characters() -> set[str]:
    token = AddedToken(_PROBE, single_word=True, normalized=False)
    # The token is found wherever its neighbour is no word character.
    apart = _beside_added_token(token, {(0, 1)})
    return {character for chunk in _chunks() for character in chunk if character not in apart}


def _strip_spaces() -> set[str]:
    token = AddedToken(_PROBE, rstrip=True, normalized=False)
    return _beside_added_token(token, {(0, 2)})


_PROBES: Final[dict[int, Callable[[], set[str]]]] = {
    LETTER: lambda: _matching(r"\p{L}"),
    NUMBER: lambda: _matching(r"\p{N}"),
    MARK: lambda: _matching(r"\p{M}"),
    SPACE: lambda: _matching(r"\s"),
    NUMERIC: _numeric,
    TRIMMED: lambda: {c for chunk in _chunks() for c in chunk if c.isspace()},
    WORD: _word_characters,
    STRIP_SPACE: _strip_spaces,
}


@functools.cache
def _members(flag: int) -> frozenset[str]:
    return frozenset(_PROBES[flag]())


def character_flags(wanted: int) -> U8:
    """The classes of every code point.

    Args:
        wanted: The flags to fill in; the others stay 0, which keeps the tables small.

    Returns:
        uint8[0x110000].
    """
    flags = np.zeros(CODE_POINT_COUNT, np.uint8)
    for flag in _PROBES:
        if wanted & flag:
            _mark_all(flags, set(_members(flag)), flag)
    return flags


@dataclasses.dataclass(frozen=True)
class Composition:
    """What NFC needs to know.

    Attributes:
        order: uint8[0x110000], 0 for a starter, else the rank of the canonical combining class (1 =
            lowest).
        order_count: Number of ranks.
        decompositions: Code point to its full canonical decomposition; without Hangul syllables.
        pairs: (first, second) to the composed code point; without Hangul.
        unsafe: uint8[0x110000], 1 where a starter changes by itself or may combine with what stands
            before it.
        bytes_factor_max: A text never grows by more than this factor.
    """

    order: U8
    order_count: int
    decompositions: dict[int, tuple[int, ...]]
    pairs: dict[tuple[int, int], int]
    unsafe: U8
    bytes_factor_max: int


_HANGUL: Final = range(0xAC00, 0xAC00 + 11172)
_VOWELS_AND_FINALS: Final = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))


@functools.cache
def composition() -> Composition:
    """Asks the library's NFC and NFD about every code point."""
    nfd, nfc = normalizers.NFD(), normalizers.NFC()
    everything = [character for chunk in _chunks() for character in chunk]
    full = {c: d for c in everything if (d := nfd.normalize_str(c)) != c}
    _check_hangul(full)
    order, order_count = _combining_order(nfd, everything)
    composed = {c: d for c, d in full.items() if nfc.normalize_str(c) == c}
    pairs: dict[tuple[int, int], int] = {}
    unsafe = np.zeros(CODE_POINT_COUNT, np.uint8)
    for c, d in composed.items():
        if ord(c) in _HANGUL:
            continue
        first, second = nfc.normalize_str(d[:-1]), d[-1]
        if len(first) != 1 or nfc.normalize_str(first + second) != c:
            raise AssertionError(f"composition of U+{ord(c):04X} is not a pair")
        pairs[ord(first), ord(second)] = ord(c)
        unsafe[ord(second)] = 1
    unsafe[list(_VOWELS_AND_FINALS)] = 1
    for c, d in full.items():
        if c not in composed or unsafe[ord(d[0])] or order[ord(d[0])]:
            unsafe[ord(c)] = 1
    # A composed character is never longer than its parts, so the decompositions give the bound.
    for (a, b), c_point in pairs.items():
        assert len(chr(c_point).encode()) <= len((chr(a) + chr(b)).encode())
    return Composition(
        order=order,
        order_count=order_count,
        decompositions={
            ord(c): tuple(map(ord, d)) for c, d in full.items() if ord(c) not in _HANGUL
        },
        pairs=pairs,
        unsafe=unsafe,
        bytes_factor_max=max(-(-len(d.encode()) // len(c.encode())) for c, d in full.items()),
    )


def _check_hangul(full: dict[str, str]) -> None:
    """The syllables are composed by arithmetic (Unicode, section 3.12); this checks it."""
    for index, point in enumerate(_HANGUL):
        lead, vowel, final = 0x1100 + index // 588, 0x1161 + index % 588 // 28, 0x11A7 + index % 28
        parts = chr(lead) + chr(vowel) + (chr(final) if index % 28 else "")
        if full.get(chr(point)) != parts:
            raise AssertionError(f"decomposition of U+{point:04X} is not arithmetic")


def _combining_order(nfd: normalizers.NFD, everything: list[str]) -> tuple[U8, int]:
    """Ranks of the combining classes, from which marks the library puts before which.

    A mark of class 1 (U+0334) moves before every mark of a higher class, and one of class 240
    (U+0345) lets every mark of a lower class move before it; together they tell marks from
    starters. The marks are then sorted into groups of equal class by comparing with one mark of
    each group.
    """

    def moves_before(second: str, first: str) -> bool:
        return nfd.normalize_str("a" + first + second) == "a" + second + first

    plain = [c for c in everything if nfd.normalize_str(c) == c]
    marks = [c for c in plain if moves_before("\u0334", c) or moves_before(c, "\u0345")]
    groups: list[list[str]] = []
    for mark in sorted({*marks, "\u0334", "\u0345"}):
        low, high = 0, len(groups)
        while low < high:
            middle = (low + high) // 2
            if moves_before(groups[middle][0], mark):
                low = middle + 1
            else:
                high = middle
        if low < len(groups) and not moves_before(mark, groups[low][0]):
            groups[low].append(mark)
        else:
            groups.insert(low, [mark])
    order = np.zeros(CODE_POINT_COUNT, np.uint8)
    for rank, group in enumerate(groups, start=1):
        order[[ord(mark) for mark in group]] = rank
    return order, len(groups)


def nfc(text: str) -> str:
    """The normal form C of a text, by the library's own normaliser."""
    return normalizers.NFC().normalize_str(text)
