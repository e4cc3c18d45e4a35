"""What the reference takes for granted about NumPy on this host: IEEE operations, one at a time.

If one of these fails, no hash of this host can be compared with another's.
"""

import numpy as np

from tests.support import scalar_pass

# Long enough for every vectorised loop, its unrolled body and its tail.
COUNT = 1003


def test_products_and_sums_in_binary32_are_two_roundings() -> None:
    """A fused multiply-add would keep the 2^-24 that the product's rounding drops."""
    x = np.full(COUNT, 1 + 2.0**-12, np.float32)
    product = np.float32(1 + 2.0**-11)  # x * x is 1 + 2^-11 + 2^-24, a tie that goes to even
    assert np.array_equal(x * x - product, np.zeros(COUNT, np.float32))
    acc = np.full(COUNT, -product)
    acc += x * x
    assert np.array_equal(acc, np.zeros(COUNT, np.float32))


def test_products_and_sums_in_binary64_are_two_roundings() -> None:
    """The same for the angle of RoPE."""
    x = np.full(COUNT, 1 + 2.0**-27, np.float64)
    product = np.float64(1 + 2.0**-26)  # the 2^-54 is dropped
    assert np.array_equal(x * x - product, np.zeros(COUNT))


def test_subnormals_in_binary32_are_kept() -> None:
    """Neither flushed as results nor read as zero."""
    smallest = np.float32(2.0**-149)
    normal = np.full(COUNT, 2.0**-126, np.float32)
    halved = normal * np.float32(0.5)
    assert (halved.view(np.uint32) == 1 << 22).all()
    tiny = np.full(COUNT, smallest)
    assert ((tiny + tiny).view(np.uint32) == 2).all()
    assert (tiny * np.float32(2.0**100) == np.float32(2.0**-49)).all()
    assert ((normal - (normal - tiny)).view(np.uint32) == 1).all()
    assert (np.sqrt(tiny) == np.float32(np.sqrt(2.0**-149))).all()
    assert ((tiny / np.float32(2)).view(np.uint32) == 0).all()


def test_subnormals_in_binary64_are_kept() -> None:
    """The same for the angle of RoPE."""
    normal = np.full(COUNT, 2.0**-1022)
    assert ((normal * 0.5).view(np.uint64) == 1 << 51).all()


def test_every_operation_in_binary32_is_correctly_rounded() -> None:
    """+ - * / sqrt against Python's binary64 and one more rounding, innocuous for these."""
    rng = np.random.default_rng(0)
    a, b = (np.exp(rng.uniform(-30, 30, (2, COUNT))) * rng.choice((-1, 1), (2, COUNT))).astype(
        np.float32
    )
    left, right = a.tolist(), b.tolist()
    pairs = list(zip(left, right, strict=True))
    assert (a + b).tolist() == [scalar_pass.f32(x + y) for x, y in pairs]
    assert (a - b).tolist() == [scalar_pass.f32(x - y) for x, y in pairs]
    assert (a * b).tolist() == [scalar_pass.f32(x * y) for x, y in pairs]
    assert (a / b).tolist() == [scalar_pass.f32(x / y) for x, y in pairs]
    assert np.sqrt(np.abs(a)).tolist() == [scalar_pass.f32(abs(x) ** 0.5) for x in left]


def test_int32_to_binary32_rounds_once_to_even() -> None:
    """The sums of an int8 head reach 2^31; their conversion is the contract's float(int32)."""
    values = np.array([2**24 + 1, 2**24 + 3, 2**30 + 64, 2**30 + 65, -(2**30) - 192], np.int64)
    expected = [2.0**24, 2.0**24 + 4, 2.0**30, 2.0**30 + 128, -(2.0**30) - 256]
    assert values.astype(np.float64).astype(np.float32).tolist() == expected
    assert values.astype(np.int32).astype(np.float32).tolist() == expected
