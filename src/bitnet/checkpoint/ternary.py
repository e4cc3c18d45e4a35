"""Ternary matrices from what checkpoints store: packed codes, or float masters."""

import math

import numpy as np
import numpy.typing as npt

from bitnet.errors import CheckpointError

__all__ = [
    "VALUES_PER_BYTE",
    "MagnitudeSummary",
    "absmean_scale",
    "quantize_masters",
    "row_magnitudes",
    "unpack_stripe",
]

# Layout    packed: uint8[rows / 4, cols]; bits 2s of row r hold row s * (rows / 4) + r,
#           as code = weight + 1.
# Exact     codes 0, 1, 2 mean -1, 0, +1; code 3 is refused.
# Source    transformers 5.23.0, integrations/bitnet.py, pack_weights and unpack_weights.
VALUES_PER_BYTE = 4


def unpack_stripe(packed: npt.NDArray[np.uint8], stripe: int) -> npt.NDArray[np.int8]:
    """Returns int8 weights of one of the four stripes that share the bytes of `packed`.

    Raises:
        CheckpointError: A code is 3; `where` holds the row and column within `packed`.
    """
    codes = (packed >> np.uint8(2 * stripe)) & np.uint8(3)
    bad = codes == 3
    if bad.any():
        row, col = np.unravel_index(int(np.argmax(bad)), bad.shape)
        raise CheckpointError(
            "packed weight code 3 does not exist", where=f"packed row {row}, column {col}"
        )
    return codes.astype(np.int8) - np.int8(1)


def row_magnitudes(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Returns float64[rows], the sum of |values| of each row, in one fixed order.

    The columns are folded in halves by whole-array additions, so no host's choice of vector width
    enters the result.
    """
    sums = np.abs(values).astype(np.float64)
    width = sums.shape[1]
    while width > 1:
        half = (width + 1) // 2
        sums[:, : width - half] += sums[:, half:width]
        width = half
    return sums[:, 0].copy()


class MagnitudeSummary:
    """The mean of |W| of a matrix that is seen in blocks of rows, and whether W is {-a, 0, +a}."""

    def __init__(self) -> None:
        self._row_sums: list[float] = []
        self._count = 0
        self._zeros = 0
        self._least = math.inf
        self._greatest = 0.0
        self._one_a_row = True

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Takes float32[rows, cols] into account."""
        self._row_sums.extend(row_magnitudes(values).tolist())
        self._count += values.size
        magnitudes = np.abs(values)
        used = magnitudes > 0
        self._zeros += values.size - int(np.count_nonzero(used))
        greatest = magnitudes.max(axis=1, initial=0.0)
        least = magnitudes.min(axis=1, initial=np.inf, where=used)
        self._greatest = max(self._greatest, float(greatest.max(initial=0.0)))
        self._least = min(self._least, float(least.min(initial=np.inf)))
        self._one_a_row &= bool(np.all((least == greatest) | (greatest == 0)))

    @property
    def mean(self) -> np.float32:
        """mean |W|, rounded once to binary32 (the sum over the rows is exact)."""
        return np.float32(math.fsum(self._row_sums) / self._count)

    @property
    def single_magnitude(self) -> np.float32 | None:
        """The one magnitude of all values that are not zero, if there is just one."""
        return np.float32(self._greatest) if self._least == self._greatest else None

    @property
    def has_scales(self) -> bool:
        """Whether W looks like -1, 0, +1 times several scales, for rows or other parts of it.

        Every row has one magnitude, or more than a tenth of W is exactly zero: of weights that
        were trained in floating point nearly none are.
        """
        several = self._least < self._greatest
        return several and (self._one_a_row or 10 * self._zeros > self._count)


def absmean_scale(mean: np.float32) -> np.float32:
    """Returns s of WeightQuant: 1 / max(mean |W|, 1e-5), in binary32.

    Source: transformers 5.23.0, integrations/bitnet.py, WeightQuant.
    """
    return np.float32(1) / max(mean, np.float32(1e-5))


def quantize_masters(values: npt.NDArray[np.float32], scale: np.float32) -> npt.NDArray[np.int8]:
    """Returns int8 clamp(round_half_even(values * scale), -1, 1) as WeightQuant, in binary32."""
    with np.errstate(over="ignore", under="ignore"):
        codes: npt.NDArray[np.int8] = np.clip(np.rint(values * scale), -1, 1).astype(np.int8)
    return codes
