"""The inverse frequencies of rotary positions, the same bits on every host."""

import decimal
import functools

import numpy as np
import numpy.typing as npt

__all__ = ["rope_inv_freq"]

_DIGITS = 50


def _power(base: float, exponent: float) -> np.float32:
    """Returns base ** exponent, correctly rounded to binary32."""
    with decimal.localcontext(decimal.Context(prec=_DIGITS)):
        exact = decimal.Decimal(base) ** decimal.Decimal(exponent)
        return _round_to_binary32(exact)


def _round_to_binary32(exact: decimal.Decimal) -> np.float32:
    """Returns the binary32 number nearest to `exact`, which is positive and in the normal range.

    Rounding to binary64 first and then to binary32 could round twice; so the neighbours of that
    candidate are compared with the exact value.
    """
    candidate = np.float32(float(exact))
    neighbours = (
        np.nextafter(candidate, np.float32(0)),
        candidate,
        np.nextafter(candidate, np.float32(np.inf)),
    )
    return min(neighbours, key=lambda value: abs(decimal.Decimal(float(value)) - exact))


@functools.cache
def _inv_freq(theta: float, head_dim: int) -> tuple[float, ...]:
    base = float(np.float32(theta))
    result = []
    for i in range(head_dim // 2):
        exponent = np.float32(2 * i) / np.float32(head_dim)
        result.append(float(np.float32(1) / _power(base, float(exponent))))
    return tuple(result)


def rope_inv_freq(theta: float, head_dim: int) -> npt.NDArray[np.float32]:
    """Returns float32[head_dim / 2], 1 / theta ** (2i / head_dim), as the models define it.

    The definition is transformers' `1.0 / (base ** (arange(0, dim, 2, float32) / dim))`: the base
    and the exponent are binary32, the division by the dimension is rounded. The power itself is
    rounded correctly here, while a libm may be an ulp off; that makes the result one on all hosts.

    Source: transformers 5.23.0, models/bitnet/modeling_bitnet.py, compute_default_rope_parameters.
    """
    return np.array(_inv_freq(theta, head_dim), dtype=np.float32)
