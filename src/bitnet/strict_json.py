"""Strict reading of JSON from files that nobody vouches for."""

import collections
import json
import math
from pathlib import Path
from typing import Any

from bitnet.errors import ToolkitError

__all__ = ["parse_strict_json"]


class _RefusedJsonError(ValueError):
    """What the standard parser would let through."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise _RefusedJsonError(f"key {twice[:64]!a} stands twice in one object")
    return result


def _refuse_constant(text: str) -> Any:
    raise _RefusedJsonError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedJsonError(f"number {text[:32]} is out of range")
    return value


def parse_strict_json(data: bytes, *, file: Path, what: str, error: type[ToolkitError]) -> Any:
    """Returns the JSON value of `data`: UTF-8, no key twice, no NaN, no number out of range.

    Args:
        data: The text; its size has been bounded by the caller.
        file: Named in errors.
        what: What the text is, for errors: "`config.json`", "safetensors header".
        error: The class that the caller refuses with.

    Raises:
        ToolkitError: Of class `error`: the text is not such a value.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError:
        raise error(f"{what} is nested too deeply", where=f"file {file}") from None
    except ValueError as problem:
        # JSONDecodeError, UnicodeDecodeError, over-long integers, and our own refusals.
        reason = problem.msg if isinstance(problem, json.JSONDecodeError) else str(problem)
        place = f", offset {problem.pos}" if isinstance(problem, json.JSONDecodeError) else ""
        raise error(
            f"{what} is not valid JSON", where=(f"file {file}{place}", reason[:200])
        ) from None
