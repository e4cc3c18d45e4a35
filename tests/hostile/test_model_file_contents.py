"""Everything behind the header of model.bin: digests, codes, padding, and values."""

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.errors import FormatError, IntegrityError
from bitnet.quantize import open_model, write_model
from tests.support import model_bin
from tests.support.checkpoints import make_checkpoint


def make_model(directory: Path, embedding: str) -> bytes:
    """hidden 24, 3 heads of 8, intermediate 20, 2 layers, vocab 37: padding in every direction."""
    with open_checkpoint(make_checkpoint().write(directory / "c")) as checkpoint:
        kind: Literal["int8", "f32"] = "f32" if embedding == "f32" else "int8"
        write_model(checkpoint, directory / "good.bin", embedding=kind)
    return (directory / "good.bin").read_bytes()


@pytest.fixture(scope="module", params=["int8", "f32"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_model(tmp_path_factory.mktemp("good"), request.param)


def sizes_of(data: bytes) -> tuple[int, int]:
    return struct.unpack_from("<I", data, 12)[0], struct.unpack_from("<Q", data, 136)[0]


def place_of(data: bytes, index: int) -> tuple[int, int]:
    """Offset and bytes of a tensor by its place in the table."""
    return struct.unpack_from("<QQ", data, 512 + 64 * index + 24)


EMBEDDING, ROPE, Q, UP = 0, 1, 3, 10
VALUE = "model.bin tensor holds a value that cannot be: "


def change_at(tensor: int, place: int, value: bytes) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        offset, byte_count = place_of(data, tensor)
        begin = offset + (place if place >= 0 else byte_count + place)
        data[begin : begin + len(value)] = value

    return change


def change_gap(data: bytearray) -> None:
    offset, byte_count = place_of(data, ROPE)
    data[offset + byte_count] = 1


def clear_code(data: bytearray) -> None:
    """Row 0, column 0 of the embedding: both its nibbles, 48 rows of 32 columns apart."""
    offset, _ = place_of(data, EMBEDDING)
    data[offset] &= 0xF0
    data[offset + 48 * 32 // 2] &= 0xF0


# hidden 24 is padded to 32: block 1 of a tile holds columns 16 … 31, of which 24 … 31 are padding:
# in its byte 4r + b they are the bits of p = 2 and p = 3. Row 24 … 31 of q are padding.
BOTH: dict[str, tuple[Callable[[bytearray], None], str, str]] = {
    "code 3": (change_at(Q, 0, b"\x57"), VALUE + "`layers.0.q`", "row 0, column 0: code 3"),
    "padding of a row": (change_at(Q, 64, b"\x45"), VALUE + "`layers.0.q`", "row 0, column 24"),
    "row of padding": (change_at(Q, -4, b"\x56"), VALUE + "`layers.0.q`", "row 31, column 16"),
    "norm NaN": (
        change_at(ROPE + 1, 4, b"\0\0\xc0\x7f"), VALUE + "`layers.0.input_norm`", "not finite"
    ),
    "norm padding": (
        change_at(ROPE + 1, -1, b"\x01"), VALUE + "`layers.0.input_norm`", "padding must be +0"
    ),
    "norm padding -0": (
        change_at(ROPE + 1, -1, b"\x80"), VALUE + "`layers.0.input_norm`", "padding must be +0"
    ),
    "between tensors": (change_gap, VALUE + "`rope_inv_freq`", "between tensors"),
}  # fmt: skip
INT8: dict[str, tuple[Callable[[bytearray], None], str, str]] = {
    "code -128": (clear_code, VALUE + "`embedding`", "row 0, column 0: code 0"),
    "padding column": (
        change_at(EMBEDDING, 3 * 64, b"\x89"), VALUE + "`embedding`", "row 0, column 24: code 144"
    ),
    "scale negative": (
        change_at(EMBEDDING, -48 * 8, struct.pack("<f", -1.0)), VALUE + "`embedding`", "row scale 0"
    ),
    "scale NaN": (
        change_at(EMBEDDING, -48 * 8 + 3 * 4, b"\0\0\xc0\x7f"),
        VALUE + "`embedding`", "row scale 3 is nan",
    ),
    "residual norm": (
        change_at(EMBEDDING, -48 * 4 + 2 * 4, struct.pack("<f", 1.0)),
        VALUE + "`embedding`", "residual norm 2 is 1.0, of the codes",
    ),
    "residual norm NaN": (
        change_at(EMBEDDING, -48 * 4, b"\0\0\xc0\x7f"),
        VALUE + "`embedding`", "residual norm 0 is nan, of the codes",
    ),
    "low plane padding": (
        change_at(EMBEDDING, 48 * 32 // 2 + 33, b"\x01"),
        VALUE + "`embedding`", "padding of the low plane must be 0",
    ),
    "scale of padding": (
        change_at(EMBEDDING, -4, struct.pack("<f", 1.0)), VALUE + "`embedding`", "padding must be 0"
    ),
}  # fmt: skip
F32: dict[str, tuple[Callable[[bytearray], None], str, str]] = {
    "value infinite": (
        change_at(EMBEDDING, 0, b"\0\0\x80\x7f"),
        VALUE + "`embedding`",
        "not finite",
    ),
    "padding column": (change_at(EMBEDDING, 24 * 4, b"\x01"), VALUE + "`embedding`", "padding"),
}


@pytest.mark.parametrize("name", [*BOTH, *INT8, *F32])
def test_verify_value_that_cannot_be_is_named(tmp_path: Path, good: bytes, name: str) -> None:
    """Broken, a well-sealed file could hold codes that kernels do not expect."""
    kind = struct.unpack_from("<I", good, 72)[0]
    makers = BOTH | (INT8 if kind == 3 else F32)
    if name not in makers:
        return  # of the other kind; it has its own turn
    change, message, fact = makers[name]
    data = bytearray(good)
    change(data)
    assert data != good
    file = tmp_path / "m.bin"
    file.write_bytes(model_bin.seal(data, *sizes_of(good)))
    with open_model(file) as model, pytest.raises(FormatError) as caught:
        model.verify()
    assert caught.value.message == message
    assert fact in "\n".join(caught.value.where)


def test_verify_first_bad_leaf_is_named(tmp_path: Path, good: bytes) -> None:
    """Broken, damage on disk would be computed with."""
    header_bytes, data_bytes = sizes_of(good)
    file = tmp_path / "m.bin"
    assert data_bytes > 65536
    for place in (0, 65535, 65536, data_bytes - 1):
        data = bytearray(good)
        data[header_bytes + place] ^= 0x10
        data[header_bytes + data_bytes - 1] ^= 0x10 if place != data_bytes - 1 else 0
        file.write_bytes(data)
        with open_model(file) as model, pytest.raises(IntegrityError) as caught:
            model.verify()
        begin = header_bytes + place // 65536 * 65536
        assert caught.value.where[0].startswith(f"leaf {place // 65536}, offset {begin} to ")


def test_verify_random_damage_is_always_found(tmp_path: Path, good: bytes) -> None:
    """Broken, some byte of the file would be bound by nothing."""
    rng = random.Random(1)
    file = tmp_path / "m.bin"
    for _ in range(800):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.randrange(len(data))
            data[place] ^= rng.randrange(1, 256)
        if data == good:
            continue
        file.write_bytes(data)
        with pytest.raises((FormatError, IntegrityError)):
            open_model(file).verify()
