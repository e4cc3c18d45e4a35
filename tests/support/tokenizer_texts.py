"""Texts that make tokenizers disagree, in bulk, from pieces that matter to the patterns."""

import random
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["NOT_UTF8", "PLAIN_CHARACTERS", "SAMPLER", "bulk_texts", "random_bytes", "random_text"]

_WORDS: Final = (
    "the", "The", " a", "hello", "World", "don", "I", "we", "they", "naïve", "Straße", "İstanbul",
    "ﬁn", "ǅ", "привет", "Ελλάδα", "日本語", "中文字符", "한국어", "हिन्दी",
    "ไทย", "العربية", "עברית", "Tiếng", "Việt",
    "x1", "HTTPServer", "snake_case", "camelCase", "self.value", "()", "{}", "[i]", "->", "==",
    "!=", "//", "/*", "https://a.b/c?d=e", "#include", "\\n", "...", "--", "—", "…",
    "“", "”", "’", "«", "»", "$", "€", "%",
)  # fmt: skip
_CONTRACTIONS: Final = (
    "'s", "'S", "'t", "'T", "'re", "'RE", "'rE", "'ve", "'Ve", "'m", "'M", "'ll", "'LL", "'lL",
    "'d", "'D", "'\u017f", "'r", "'v", "'l", "'", "''", "’s", "'\u017fx", " 's", "'sa", "'re1",
    "'\u212a", "'re\u0301",
)  # fmt: skip
_NUMBERS: Final = (
    "0", "1", "12", "123", "1234", "12345", "3.14", "1,000", "٣", "٤٥٦٧", "०१२३", "½", "Ⅷ", "²³",
    "１２３４", "〇", "𝟘𝟙", "一二三", "㊿", "\U00010107", "\U00016e80", "\u0bf0", "①",
)  # fmt: skip
_SPACES: Final = (
    " ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", " \n", "\n ", "\x0b", "\x0c", "\x85",
    "\u00a0", "\u1680", "\u2003", "\u200b", "\u2028", "\u2029", "\u202f", "\u3000", "\ufeff",
    "\x1c", "\x1f", "\x00", "\t\t", " \t\n",
)  # fmt: skip
_MARKS: Final = (
    "\u0301", "\u0300", "\u0323", "\u0327", "\u0308", "\u0345", "\u0334", "\u05b0", "\u0651",
    "\u064e", "\u093c", "\u09be", "\u0dcf", "\u1161", "\u11a8", "\u3099", "\U0001d165", "\u20dd",
    "\ufe0f", "\u200d", "\U000e0101",
)  # fmt: skip
_COMPOSED: Final = (
    "é", "e\u0301", "ậ", "a\u0323\u0302", "Å", "\u212b", "ṩ", "각", "\u1100\u1161\u11a8",
    "가\u11a8", "\u0958", "\u1f82", "\u0344", "\U0001d15e", "\u2126", "\uf900", "ǖ",
    "u\u0308\u0304", "\u0390", "\u1e9b\u0323", "\u0f73",
)  # fmt: skip
_EMOJI: Final = (
    "🦙", "👩\u200d💻", "🇩🇪", "👍🏽", "❤️", "🏳\ufe0f\u200d🌈", "©", "™", "☃",
    "\U0001fae8", "\U0001f9d1\u200d\U0001f680",
)  # fmt: skip

# Old characters, whose classes and normal forms agree in every version of Unicode; for oracles with
# a table of their own.
PLAIN_CHARACTERS: Final = (
    "abcdefXYZ  \n\n\r\t'sTrReEvVlLdDmM0123456789.,;:!?()[]{}<>|_-+*/=#@%&$\"\\~^`"
    "éèüñÅß€“”…—абвЖЯαβγΩ中文日本語한국어العربעברת\u00a0\u3000\u2003²½٣٤"
)

SAMPLER: Final = """The quick brown fox jumps over the lazy dog. It's 5 o'clock; we'll see 1,234.50!
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Où est l'œuvre d'été? ¿Qué pasó?
Съешь же ещё этих мягких французских булок, да выпей чаю. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
いろはにほへと ちりぬるを。色は匂へど散りぬるを。我能吞下玻璃。
나는 유리를 먹을 수 있어요.
मैं काँच खा सकता हूँ.
نحن نحب قراءة الكتب. דג סקרן שט בים מאוכזב.
Tôi có thể ăn thủy tinh mà không hại gì. ฉันกินกระจกได้. Minä voin.
𝕳𝖊𝖑𝖑𝖔 👩‍👩‍👧‍👦 🇺🇳 ẹ́ e\u0301 \u1100\u1161\u11a8 ﷺ ½ Ⅻ ²³ ①②③ ∑∫√ ←→ ░▒▓ ﬀ
\tdef f(x: int) -> str:\n\t\treturn f"{x!r:>10}"  # 100%\r\n\r\n    if (a && b || !c) { x += 0xFF; }
\n\n\n   end
"""


# Ranges of all planes; the first two, where most letters are, more often.
_RANGES: Final = (
    (0x20, 0x250),
    (0x250, 0x2000),
    (0x2000, 0x3400),
    (0x3400, 0xD800),
    (0xE000, 0x10000),
    (0x10000, 0x20000),
    (0x1D100, 0x1D800),
    (0x1F000, 0x20000),
    (0x20000, 0x40000),
    (0x40000, 0xE0000),
    (0xE0000, 0xF0000),
    (0xF0000, 0x110000),
)


def _any_character(generator: random.Random) -> str:
    low, high = generator.choice(_RANGES)
    return chr(generator.randrange(low, high))


def _run(generator: random.Random, choices: Sequence[str]) -> str:
    return generator.choice(choices) * generator.choice((1, 1, 2, 3, 4, 5, 8, 17))


def _broken(generator: random.Random, specials: Sequence[str]) -> str:
    """An added token, whole or nearly so."""
    if not specials:
        return "<|"
    token = generator.choice(specials)
    kind = generator.randrange(6)
    if kind == 0:
        return token[: generator.randrange(len(token) + 1)]
    if kind == 1:
        return token.upper()
    return (token, f" {token}", f"{token} ", f"\n{token}\t")[kind - 2]


def random_text(generator: random.Random, specials: Sequence[str]) -> str:
    """One text of up to some twenty pieces."""
    makers: tuple[Callable[[], str], ...] = (
        lambda: generator.choice(_WORDS),
        lambda: " " + generator.choice(_WORDS),
        lambda: generator.choice(_CONTRACTIONS),
        lambda: _run(generator, _NUMBERS),
        lambda: _run(generator, _SPACES),
        lambda: _run(generator, _SPACES),
        lambda: "".join(generator.choices(_MARKS, k=generator.randrange(1, 5))),
        lambda: generator.choice(_COMPOSED),
        lambda: generator.choice(_EMOJI),
        lambda: _any_character(generator),
        lambda: _broken(generator, specials),
        lambda: generator.choice("abcxyzABCXYZ!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~0189"),
    )
    length = generator.choice((1, 2, 3, 4, 5, 6, 8, 12, 20))
    return "".join(maker() for maker in generator.choices(makers, k=length))


def bulk_texts(count: int, *, seed: int, specials: Sequence[str]) -> list[str]:
    """`count` different-looking texts; the same for the same arguments."""
    generator = random.Random(seed)
    return [random_text(generator, specials) for _ in range(count)]


NOT_UTF8: Final = (
    b"\xc0\x80",
    b"\xe0\x80\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xff",
    b"\x80",
    b"\xbf\xbf",
    b"\xf0\x9f\xa6",
    b"\xe3\x80",
    b"\xc3",
    b"\x00",
)


def random_bytes(generator: random.Random) -> bytes:
    """Bytes that are partly valid UTF-8: text, cut sequences, overlong forms, surrogates, noise."""
    pieces = (
        lambda: "".join(generator.choices(PLAIN_CHARACTERS, k=generator.randrange(1, 8))).encode(),
        lambda: generator.randbytes(generator.randrange(1, 4)),
        lambda: generator.choice(PLAIN_CHARACTERS).encode()[:-1],
        lambda: generator.choice(NOT_UTF8),
    )
    return b"".join(generator.choice(pieces)() for _ in range(generator.randrange(1, 10)))
