"""Reading the text files of a release line by line: one form, every refusal with its line.

Source: docs/formats/release.md. A parser of this package takes the lines it expects, builds its
value, and at the end `check_canonical` compares with what the writer makes of that value; so no
second spelling of anything is ever accepted.
"""

import base64
import binascii
import re
from typing import Final

from bitnet.errors import FormatError, ToolkitError, UsageError

__all__ = [
    "DIGEST",
    "NAME",
    "NUMBER",
    "NUMBER_LIMIT",
    "LineReader",
    "check_canonical",
    "check_name",
    "check_number",
    "decode_base64",
    "encode_base64",
]

NUMBER_LIMIT: Final = 1 << 63
NUMBER: Final = r"(0|[1-9][0-9]{0,18})"
NAME: Final = r"([A-Za-z0-9_][A-Za-z0-9._-]{0,63})"
DIGEST: Final = r"([0-9a-f]{96})"


class LineReader:
    """Takes an ASCII text apart, line by line.

    Args:
        data: The whole text; it must end with a line break.
        what: What it is, for errors: "manifest".
        bytes_max: Longest text that is looked at.
        error: Class of the refusals.

    Raises:
        FormatError: The text is too long, empty, not ASCII, or does not end with a line break.
    """

    def __init__(
        self, data: bytes, what: str, bytes_max: int, error: type[ToolkitError] = FormatError
    ) -> None:
        self.what = what
        self._error = error
        if len(data) > bytes_max:
            raise error(
                f"{what} is too long", where=f"found {len(data)} bytes, limit {bytes_max} bytes"
            )
        if not data.endswith(b"\n"):
            raise error(f"{what} does not end with a line break", where=f"offset {len(data)}")
        try:
            text = data.decode("ascii")
        except UnicodeDecodeError as problem:
            raise error(
                f"{what} holds a byte that is not ASCII", where=f"offset {problem.start}"
            ) from None
        self._lines = text.split("\n")[:-1]
        self._next = 0

    def take(self, pattern: str, form: str) -> tuple[str, ...]:
        """Returns the groups of the next line, which must match the whole of `pattern`.

        Args:
            pattern: Regular expression of the line.
            form: The line as the format's page writes it, for errors.

        Raises:
            FormatError: The line is missing or has another form, or a number is out of range.
        """
        found = self.take_if(pattern)
        if found is None:
            ended = self._next == len(self._lines)
            line = "end of file" if ended else self._lines[self._next][:80]
            raise self._error(
                f"{self.what} is malformed: line {self._next + 1}",
                where=(f"found     {line}", f"expected  {form}"),
            )
        return found

    def take_if(self, pattern: str) -> tuple[str, ...] | None:
        """Returns the groups of the next line and goes on, or None where it does not match."""
        if self._next == len(self._lines):
            return None
        match = re.fullmatch(pattern, self._lines[self._next], re.ASCII)
        if match is None:
            return None
        self._next += 1
        return tuple(group or "" for group in match.groups())

    def number(self, digits: str) -> int:
        """Returns the number that the last line taken holds.

        Raises:
            FormatError: It is 2^63 or more.
        """
        value = int(digits)
        if value >= NUMBER_LIMIT:
            raise self.refusal(f"number {digits} is not below 2^63")
        return value

    def refusal(self, reason: str) -> ToolkitError:
        """Returns the error for the last line taken, to be raised by the caller."""
        return self._error(f"{self.what} is malformed: line {self._next}", where=reason)

    def finish(self) -> None:
        """Checks that no line is left.

        Raises:
            FormatError: One is.
        """
        if self._next != len(self._lines):
            raise self._error(
                f"{self.what} is malformed: line {self._next + 1}",
                where=(f"found     {self._lines[self._next][:80]}", "expected  end of file"),
            )


def check_canonical(data: bytes, emitted: bytes, what: str) -> None:
    """Checks that a text is exactly what its writer makes of the values read from it.

    Raises:
        FormatError: It is not.
    """
    if data != emitted:
        pairs = enumerate(zip(data, emitted))
        short = min(len(data), len(emitted))
        offset = next((index for index, (left, right) in pairs if left != right), short)
        raise FormatError(f"{what} is not in its one form", where=f"offset {offset}")


def check_name(value: str, what: str) -> None:
    """Checks an argument against the grammar of names.

    Raises:
        UsageError: It is none.
    """
    if re.fullmatch(NAME, value, re.ASCII) is None:
        raise UsageError(
            f"{what} is not a name: `{value}`",
            where="a name is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter, digit or _",
        )


def check_number(value: int, what: str) -> None:
    """Checks an argument against the range of numbers.

    Raises:
        UsageError: It is negative, or 2^63 or more.
    """
    if not 0 <= value < NUMBER_LIMIT:
        raise UsageError(f"{what} is out of range: `{value}`", where="limit 2^63 - 1")


def encode_base64(data: bytes) -> str:
    """Returns RFC 4648 base64 with padding, on one line."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, size: int) -> bytes | None:
    """Returns the `size` bytes that `text` stands for, or None where it is not their one form."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) == size and encode_base64(data) == text else None
