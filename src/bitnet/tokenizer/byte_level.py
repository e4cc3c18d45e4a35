"""The alphabet of byte-level BPE: one printable character for each byte."""

from typing import Final

__all__ = ["BYTE_OF_CHARACTER", "CHARACTER_OF_BYTE", "bytes_of_token"]


def _characters() -> list[str]:
    """Bytes that print as themselves keep their code point; the others follow from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


CHARACTER_OF_BYTE: Final = _characters()
BYTE_OF_CHARACTER: Final = {character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}


def bytes_of_token(token: str) -> bytes | None:
    """The bytes that a vocabulary entry stands for; None if it is not made of that alphabet."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:
        return None
