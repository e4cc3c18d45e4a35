"""Chat templates as fixed pieces around the messages, found and checked by rendering.

The engine knows no template language. What it can say is a list of pieces: a token, a literal text,
the system message, the user message (either as it is, or trimmed). A template that amounts to such
a list, for conversations of an optional system message and one user message, is compiled; any other
is refused.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Final

from bitnet.errors import TokenizerError
from bitnet.tokenizer.chat_template import ChatTemplate, Renderer
from bitnet.tokenizer.source import AddedToken, TokenizerSource

__all__ = [
    "CHAT_LITERAL",
    "CHAT_SYSTEM",
    "CHAT_TOKEN",
    "CHAT_USER",
    "ChatProgram",
    "compile_chat",
]

# Kinds of a piece; ChatKind in engine/tokenizer/tables.h.
CHAT_TOKEN: Final = 1
CHAT_LITERAL: Final = 2
CHAT_SYSTEM: Final = 3
CHAT_USER: Final = 4

Row = tuple[int, int, int]

_LITERAL_BYTES_MAX: Final = 1 << 16
_MARKERS: Final = {"system": "Qz7vSystemMarker3xKj", "user": "Wk4pUserMarker9yBn"}
_KINDS: Final = {"system": CHAT_SYSTEM, "user": CHAT_USER}
_FRAGMENTS: Final = (
    " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\x1c", "a", "Hello", "word two",
    "'", '"', "\\", "{{ messages }}", "{% if x %}", "{#", "<think>", "</think>", "<tool_response>",
    "</tool_response>", "<b>&amp;", "%s %d {0}", "0", "None", "[INST]", "\u00e9", "e\u0301",
    "\U0001f999",
)  # fmt: skip
_TRIALS: Final = 40


@dataclasses.dataclass(frozen=True, slots=True)
class ChatProgram:
    """The pieces of a conversation.

    Attributes:
        user: Rows (kind, value, bytes) for one user message; empty if there is no template.
        system_user: The same with a system message before it; empty if the template takes none.
        data: Literal texts; a row of kind CHAT_LITERAL is data[value : value + bytes].
    """

    user: tuple[Row, ...]
    system_user: tuple[Row, ...]
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class _Part:
    """A literal text, or the message of a role."""

    text: str
    role: str = ""
    trimmed: bool = False


def compile_chat(template: ChatTemplate, source: TokenizerSource) -> ChatProgram:
    """Turns a template into pieces.

    Args:
        template: From `find_chat_template`.
        source: Its added tokens are what control tokens in the template's text become.

    Raises:
        TokenizerError: The template fails, or does more than put fixed text around the messages.
    """
    renderer = Renderer(template)
    data = bytearray()
    user = _find_parts(renderer, ("user",))
    if user is None:
        raise renderer.refuse("chat template does not show the user message exactly once")
    system_user = _find_system_parts(renderer)
    rows = [
        _rows(parts, source, data, renderer.refuse) if parts else ()
        for parts in (user, system_user)
    ]
    if len(data) > _LITERAL_BYTES_MAX:
        raise renderer.refuse(f"chat template has too much text: limit {_LITERAL_BYTES_MAX} bytes")
    return ChatProgram(rows[0], rows[1], bytes(data))


def _find_system_parts(renderer: Renderer) -> list[_Part] | None:
    """None where the template refuses or leaves out a system message."""
    try:
        _render(renderer, dict(_MARKERS))
    except TokenizerError:
        if renderer.exhausted:
            raise
        return None
    return _find_parts(renderer, ("system", "user"))


def _render(renderer: Renderer, contents: dict[str, str]) -> str:
    return renderer.render([{"role": role, "content": text} for role, text in contents.items()])


def _find_parts(renderer: Renderer, roles: tuple[str, ...]) -> list[_Part] | None:
    """Cuts a rendered conversation at its messages; None if one of them is not there once."""
    text = _render(renderer, {role: _MARKERS[role] for role in roles})
    if any(text.count(_MARKERS[role]) != 1 for role in roles):
        return None
    found = sorted((text.index(_MARKERS[role]), role) for role in roles)
    parts: list[_Part] = []
    place = 0
    for begin, role in found:
        parts += [_Part(text[place:begin]), _Part("", role, _is_trimmed(renderer, roles, role))]
        place = begin + len(_MARKERS[role])
    parts.append(_Part(text[place:]))
    _check_parts(renderer, roles, parts)
    return parts


def _is_trimmed(renderer: Renderer, roles: tuple[str, ...], role: str) -> bool:
    contents = {name: _MARKERS[name] for name in roles}
    contents[role] = f"\n\t {_MARKERS[role]} \n\u3000"
    return contents[role] not in _render(renderer, contents)


def _check_parts(renderer: Renderer, roles: tuple[str, ...], parts: list[_Part]) -> None:
    """Renders conversations of random contents and compares them with the pieces."""
    # The same trials for every build.
    generator = random.Random(len(parts))
    for trial in range(_TRIALS):
        contents = {role: _random_text(generator, trial) for role in roles}
        if contents.get("system") == "":
            # No system message and an empty one are the same to the engine.
            continue
        expected = "".join(_part_text(part, contents) for part in parts)
        if _render(renderer, contents) != expected:
            raise renderer.refuse(
                "chat template does more than put fixed text around the messages",
                *(f"{role} message {ascii(text)[:120]}" for role, text in contents.items()),
            )


def _random_text(generator: random.Random, trial: int) -> str:
    if trial < len(_FRAGMENTS):
        return _FRAGMENTS[trial]
    return "".join(generator.choices(_FRAGMENTS, k=generator.randrange(12)))


def _part_text(part: _Part, contents: dict[str, str]) -> str:
    if not part.role:
        return part.text
    return contents[part.role].strip() if part.trimmed else contents[part.role]


def _rows(
    parts: list[_Part],
    source: TokenizerSource,
    data: bytearray,
    refuse: Callable[[str], TokenizerError],
) -> tuple[Row, ...]:
    """Rows of the parts; control tokens in the template's own text become ids."""
    rows: list[Row] = []
    for part in parts:
        if part.role:
            rows.append((_KINDS[part.role], int(part.trimmed), 0))
            continue
        for piece in _split_tokens(part.text, source.added_tokens):
            if isinstance(piece, str):
                rows.append((CHAT_LITERAL, len(data), len(piece.encode())))
                data += piece.encode()
                continue
            if piece.lstrip or piece.rstrip or piece.single_word:
                raise refuse(
                    "chat template uses a token whose match depends on its neighbours: "
                    f"`{ascii(piece.content)[1:65]}`"
                )
            rows.append((CHAT_TOKEN, piece.id, 0))
    return tuple(rows)


def _split_tokens(text: str, tokens: tuple[AddedToken, ...]) -> list[str | AddedToken]:
    """Finds tokens as the library does: those of the raw text first, leftmost, longest."""
    pieces: list[str | AddedToken] = [text] if text else []
    for normalized in (False, True):
        found = [token for token in tokens if token.normalized is normalized]
        pieces = [
            part
            for piece in pieces
            for part in (_split_text(piece, found) if isinstance(piece, str) else [piece])
        ]
    return pieces


def _split_text(text: str, tokens: list[AddedToken]) -> list[str | AddedToken]:
    by_text = {token.content: token for token in tokens}
    lengths = sorted({len(content) for content in by_text}, reverse=True)
    pieces: list[str | AddedToken] = []
    begin = place = 0
    while place < len(text):
        token = next(
            (
                by_text[text[place : place + n]]
                for n in lengths
                if text[place : place + n] in by_text
            ),
            None,
        )
        if token is None:
            place += 1
            continue
        pieces += [text[begin:place], token] if begin < place else [token]
        begin = place = place + len(token.content)
    return [*pieces, text[begin:]] if begin < len(text) else pieces
