"""The JSON files of a tokenizer; errors name the place inside the file as a JSON path."""

from pathlib import Path
from typing import Any

from bitnet.checkpoint.directory import has_file, read_file
from bitnet.errors import CheckpointError, TokenizerError
from bitnet.strict_json import parse_strict_json

__all__ = ["Node", "parse_json", "read_beside"]


def read_beside(tokenizer_file: Path, name: str, *, bytes_max: int) -> bytes | None:
    """Returns the bytes of a file in the folder of a tokenizer.json; None if there is none.

    A link is followed only to a file of the same folder, as in a checkpoint.

    Raises:
        TokenizerError: It cannot be read, is no regular file, lies elsewhere, or is larger.
    """
    if not has_file(tokenizer_file.parent, name):
        return None
    try:
        return read_file(tokenizer_file.parent, name, bytes_max)
    except CheckpointError as error:
        raise TokenizerError(error.message, where=error.where, hint=error.hint) from None


def parse_json(data: bytes, *, file: Path) -> Any:
    """Returns the JSON value of `data`, strictly read.

    Raises:
        TokenizerError: The text is not such a value.
    """
    return parse_strict_json(data, file=file, what=f"`{file.name}`", error=TokenizerError)


class Node:
    """A value inside a JSON file together with its path; every accessor refuses by that path.

    Args:
        value: What the parser gave.
        path: Such as `$.model.vocab`.
        file: Named in errors.
    """

    __slots__ = ("file", "path", "value")

    def __init__(self, value: Any, path: str, file: Path) -> None:
        self.value = value
        self.path = path
        self.file = file

    def refuse(self, message: str, *, hint: str | None = None) -> TokenizerError:
        """Returns the error that names this place; the caller raises it."""
        return TokenizerError(message, where=(f"file {self.file}", f"at {self.path}"), hint=hint)

    def shown(self) -> str:
        """The value, short and printable, for messages."""
        text = ascii(self.value)
        return text if len(text) <= 80 else text[:77] + "..."

    def get(self, key: str) -> "Node":
        """The member `key` of an object; null where it is absent."""
        return Node(self.value.get(key), f"{self.path}.{key}", self.file)

    def item(self, index: int) -> "Node":
        """The element `index` of an array."""
        return Node(self.value[index], f"{self.path}[{index}]", self.file)

    def items(self) -> list["Node"]:
        """The elements of an array."""
        if not isinstance(self.value, list):
            raise self.refuse("not an array")
        return [self.item(index) for index in range(len(self.value))]

    def object(self, known: tuple[str, ...], required: tuple[str, ...] = ()) -> "Node":
        """This node, an object whose keys are all `known` and hold all `required`."""
        if not isinstance(self.value, dict):
            raise self.refuse("not an object")
        for key in sorted(self.value):
            if key not in known:
                raise self.refuse(
                    f"key is unknown: `{ascii(key)[1:65].rstrip(chr(39))}`",
                    hint="what this key does cannot be expressed by the compiled tables",
                )
        for key in required:
            if key not in self.value:
                raise self.refuse(f"key is missing: `{key}`")
        return self

    def text(self) -> str:
        """A string without lone surrogates."""
        if not isinstance(self.value, str):
            raise self.refuse("not a string")
        try:
            self.value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.refuse("string holds a lone surrogate") from None
        return self.value

    def truth(self) -> bool:
        """A boolean."""
        if not isinstance(self.value, bool):
            raise self.refuse("not a boolean")
        return self.value

    def index(self, limit: int) -> int:
        """An integer, 0 <= value < limit."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.refuse("not an integer")
        if not 0 <= self.value < limit:
            raise self.refuse(f"integer is out of range: limit {limit}")
        return self.value
