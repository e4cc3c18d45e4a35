"""Byte-pair merging by definition: lowest rank first, leftmost first on ties. Short inputs only."""

import itertools
from typing import Final

__all__ = ["MERGE_NONE", "merge_symbols"]

MERGE_NONE: Final = 0xFFFFFFFF


def merge_symbols(symbols: list[int], merges: dict[int, tuple[int, int]]) -> list[int]:
    """Merges `symbols` until no pair has a rank; quadratic, for words and tests.

    Args:
        symbols: Token ids below 2**20.
        merges: `left << 20 | right` to (rank, merged id).
    """
    symbols = list(symbols)
    found = [merges.get(a << 20 | b) for a, b in itertools.pairwise(symbols)]
    while True:
        best = (
            min((pair[0], place) for place, pair in enumerate(found) if pair)
            if any(found)
            else None
        )
        if best is None:
            return symbols
        place = best[1]
        merged = found[place]
        assert merged is not None
        symbols[place : place + 2] = [merged[1]]
        del found[place]
        if place > 0:
            found[place - 1] = merges.get(symbols[place - 1] << 20 | symbols[place])
        if place < len(found):
            found[place] = merges.get(symbols[place] << 20 | symbols[place + 1])
