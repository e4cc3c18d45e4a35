"""Strict reading of JSON from files that nobody vouches for."""

import json
import math
import os
from pathlib import Path
from typing import Any, Final

from bitnet.checkpoint.directory import open_file
from bitnet.errors import CheckpointError

__all__ = ["CONFIG_BYTES_MAX", "load_json_object", "parse_json_object"]

CONFIG_BYTES_MAX: Final = 1 << 20


class _RefusedJsonError(ValueError):
    """What the standard parser would let through."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _RefusedJsonError(f"key {key!a} stands twice")
        result[key] = value
    return result


def _refuse_constant(text: str) -> Any:
    raise _RefusedJsonError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedJsonError(f"number {text[:32]} is out of range")
    return value


def parse_json_object(data: bytes, *, file: Path, what: str) -> dict[str, Any]:
    """Returns the JSON object that `data` holds, UTF-8, with no key twice and no NaN.

    Args:
        data: The text; its size has been bounded by the caller.
        file: Named in errors.
        what: What the text is, for errors: "config.json", "safetensors header".

    Raises:
        CheckpointError: The text is not such an object.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError:
        raise CheckpointError(f"{what} is nested too deeply", where=f"file {file}") from None
    except ValueError as error:
        # JSONDecodeError, UnicodeDecodeError, over-long integers, and our own refusals.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        place = f", offset {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise CheckpointError(
            f"{what} is not valid JSON", where=(f"file {file}{place}", reason[:200])
        ) from None
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
    file = directory / name
    try:
        with os.fdopen(open_file(directory, name), "rb") as stream:
            data = stream.read(bytes_max + 1)
    except OSError as error:
        raise CheckpointError(
            f"cannot read `{name}`", where=(f"file {file}", error.strerror or str(error))
        ) from None
    if len(data) > bytes_max:
        raise CheckpointError(
            f"`{name}` is too large", where=(f"file {file}", f"limit {bytes_max} bytes")
        )
    return parse_json_object(data, file=file, what=f"`{name}`")
