"""The JSON files and headers of a checkpoint, as objects."""

from pathlib import Path
from typing import Any, Final

from bitnet.checkpoint.directory import read_file
from bitnet.errors import CheckpointError
from bitnet.strict_json import parse_strict_json

__all__ = ["CONFIG_BYTES_MAX", "load_json_object", "parse_json_object"]

CONFIG_BYTES_MAX: Final = 1 << 20


def parse_json_object(data: bytes, *, file: Path, what: str) -> dict[str, Any]:
    """Returns the JSON object that `data` holds, UTF-8, with no key twice and no NaN.

    Args:
        data: The text; its size has been bounded by the caller.
        file: Named in errors.
        what: What the text is, for errors: "config.json", "safetensors header".

    Raises:
        CheckpointError: The text is not such an object.
    """
    value = parse_strict_json(data, file=file, what=what, error=CheckpointError)
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is not a JSON object", where=f"file {file}")
    return value


def load_json_object(
    directory: Path, name: str, *, bytes_max: int = CONFIG_BYTES_MAX
) -> dict[str, Any]:
    """Returns the JSON object of a whole file of a checkpoint directory.

    Raises:
        CheckpointError: The file cannot be read, is larger than `bytes_max`, or is no such object.
    """
    data = read_file(directory, name, bytes_max)
    return parse_json_object(data, file=directory / name, what=f"`{name}`")
