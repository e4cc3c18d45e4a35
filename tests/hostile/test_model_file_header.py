"""The header of model.bin: every field out of range, every byte changed, every truncation."""

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.errors import FormatError, IntegrityError
from bitnet.quantize import open_model, write_model
from tests.support import model_bin
from tests.support.checkpoints import make_checkpoint

RESERVED = "model.bin reserved bytes are not zero: "
HEADER = "model.bin header field is out of range: "
TENSOR = "model.bin tensor is not what the geometry gives: "
NONE = 0xFFFFFFFF


def make_model(directory: Path, **geometry: object) -> bytes:
    """The bytes of a small model.bin: hidden 24, 3 heads of 8, 2 layers, vocab 37."""
    with open_checkpoint(make_checkpoint(**geometry).write(directory / "c")) as checkpoint:
        write_model(checkpoint, directory / "good.bin")
    return (directory / "good.bin").read_bytes()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_model(tmp_path_factory.mktemp("good"))


def sizes_of(data: bytes) -> tuple[int, int]:
    """header_bytes, data_bytes"""
    return struct.unpack_from("<I", data, 12)[0], struct.unpack_from("<Q", data, 136)[0]


def put(kind: str, offset: int, *values: float) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into("<" + kind, data, offset, *values)


FIELDS: dict[str, tuple[Callable[[bytearray], None], str, str]] = {
    # what is wrong: change, message, fact
    "header_bytes": (put("I", 12, 8192), HEADER + "`header_bytes`", "offset 12"),
    "file_bytes": (put("Q", 16, 1 << 40), HEADER + "`file_bytes`", "offset 16"),
    "hidden_size 0": (put("I", 24, 0), HEADER + "`hidden_size`", "value 0, expected 1 to 65536"),
    "hidden_size": (put("I", 24, 65537), HEADER + "`hidden_size`", "offset 24"),
    "intermediate_size": (put("I", 28, 131073), HEADER + "`intermediate_size`", "offset 28"),
    "layer_count": (put("I", 32, 1025), HEADER + "`layer_count`", "offset 32"),
    "head_count": (put("I", 36, 1025), HEADER + "`head_count`", "offset 36"),
    "kv_head_count 0": (put("I", 40, 0), HEADER + "`kv_head_count`", "offset 40"),
    "kv_head_count 2 of 3": (put("I", 40, 2), HEADER + "`kv_head_count`", "divisor"),
    "kv_head_count 6 of 3": (put("I", 40, 6), HEADER + "`kv_head_count`", "1 to 3"),
    "head_dim odd": (put("I", 44, 7), HEADER + "`head_dim`", "even"),
    "head_dim": (put("I", 44, 1026), HEADER + "`head_dim`", "offset 44"),
    "heads too wide": (put("III", 36, 1024, 1, 1022), HEADER + "`head_dim`", "131072"),
    "vocab_size": (put("I", 48, (1 << 20) + 1), HEADER + "`vocab_size`", "offset 48"),
    "context_max 0": (put("I", 52, 0), HEADER + "`context_max`", "offset 52"),
    "context_max": (put("I", 52, (1 << 20) + 1), HEADER + "`context_max`", "offset 52"),
    "activation": (put("I", 56, 3), HEADER + "`activation`", "value 3, expected 1 or 2"),
    "flags": (put("I", 60, 8), HEADER + "`flags`", "offset 60"),
    "norm_eps 0": (put("f", 64, 0.0), HEADER + "`norm_eps`", "offset 64"),
    "norm_eps NaN": (put("f", 64, float("nan")), HEADER + "`norm_eps`", "value nan"),
    "norm_eps 2": (put("f", 64, 2.0), HEADER + "`norm_eps`", "value 2.0"),
    "attention_scale": (put("f", 68, float("inf")), HEADER + "`attention_scale`", "offset 68"),
    "attention_scale < 0": (put("f", 68, -0.5), HEADER + "`attention_scale`", "value -0.5"),
    "embedding_kind": (put("I", 72, 1), HEADER + "`embedding_kind`", "3 or 4"),
    "head_kind of tied": (put("I", 76, 4), HEADER + "`head_kind`", "value 4, expected 3"),
    "bos_id": (put("I", 80, 37), HEADER + "`bos_id`", "value 37, expected 0 to 36"),
    "eos_count": (put("I", 84, 9), HEADER + "`eos_count`", "value 9, expected 0 to 8"),
    "eos_ids": (put("I", 88, 37), HEADER + "`eos_ids`", "below vocab_size 37"),
    "eos_ids left over": (put("I", 92, 1), HEADER + "`eos_ids`", "0xffffffff"),
    "eos_ids missing": (put("I", 84, 2), HEADER + "`eos_ids`", "below vocab_size"),
    "tensor_count": (put("I", 120, 24), HEADER + "`tensor_count`", "expected 25"),
    "leaf_bytes": (put("I", 124, 4096), HEADER + "`leaf_bytes`", "expected 65536"),
    "data_offset": (put("Q", 128, 8192), HEADER + "`data_offset`", "offset 128"),
    "data_bytes": (put("Q", 136, (1 << 64) - 4096), HEADER + "`data_bytes`", "offset 136"),
    "leaves_offset": (put("Q", 144, 0), HEADER + "`leaves_offset`", "offset 144"),
    "leaf_count": (put("Q", 152, 0), HEADER + "`leaf_count`", "offset 152"),
    "reserved": (put("B", 167, 1), RESERVED, "offset 167, value 1"),
    "reserved at the end": (put("B", 511, 9), RESERVED, "offset 511"),
    "after the table": (put("B", 4000, 1), RESERVED, "offset 4000"),
    "more layers": (put("I", 32, 3), HEADER + "`tensor_count`", "expected 36"),
    "wider": (put("I", 24, 40), TENSOR + "`embedding`", "cols 24, expected 40"),
    "much wider": (put("I", 24, 4000), HEADER + "`data_bytes`", "offset 136"),
    "untied": (put("I", 60, 6), HEADER + "`tensor_count`", "expected 26"),
}  # fmt: skip
SCALE = "model.bin tensor scale is not usable: "
Q = 512 + 64 * 3  # entry of layers.0.q
ENTRIES: dict[str, tuple[Callable[[bytearray], None], str, str]] = {
    "role": (put("I", Q, 5), TENSOR + "`layers.0.q`", "role 5, expected 4"),
    "layer": (put("I", Q + 4, 1), TENSOR + "`layers.0.q`", "layer 1, expected 0"),
    "layer of the embedding": (put("I", 516, 0), TENSOR + "`embedding`", "layer 0"),
    "kind": (put("I", Q + 8, 4), TENSOR + "`layers.0.q`", "kind 4, expected 1"),
    "rows": (put("I", Q + 12, 25), TENSOR + "`layers.0.q`", "rows 25, expected 24"),
    "cols": (put("I", Q + 16, 32), TENSOR + "`layers.0.q`", "cols 32, expected 24"),
    "offset": (put("Q", Q + 24, 1 << 63), TENSOR + "`layers.0.q`", f"offset {1 << 63}"),
    "overlap": (put("Q", Q + 24, 4096), TENSOR + "`layers.0.q`", "offset 4096"),
    "bytes": (put("Q", Q + 32, 0), TENSOR + "`layers.0.q`", "bytes 0"),
    "scale 0": (put("f", Q + 20, 0.0), SCALE + "`layers.0.q`", "value 0.0"),
    "scale < 0": (put("f", Q + 20, -1.0), SCALE + "`layers.0.q`", "value -1.0"),
    "scale infinite": (put("f", Q + 20, float("inf")), SCALE + "`layers.0.q`", "value inf"),
    "scale NaN": (put("f", Q + 20, float("nan")), SCALE + "`layers.0.q`", "value nan"),
    "scale of a norm": (put("f", 512 + 64 + 20, 1.0), SCALE + "`rope_inv_freq`", "expected 0"),
    "scale of a norm -0": (put("f", 512 + 64 + 20, -0.0), SCALE + "`rope_inv_freq`", "expected 0"),
    "reserved": (put("B", Q + 63, 1), RESERVED, f"offset {Q + 63}"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FIELDS, *(f"entry: {key}" for key in ENTRIES)])
def test_open_model_field_out_of_range_is_named(tmp_path: Path, good: bytes, name: str) -> None:
    """Broken, a well-sealed file with that field would be read out of bounds or misread."""
    change, message, fact = (FIELDS | {f"entry: {key}": value for key, value in ENTRIES.items()})[
        name
    ]
    data = bytearray(good)
    change(data)
    file = tmp_path / "m.bin"
    file.write_bytes(model_bin.seal(data, *sizes_of(good)))
    with pytest.raises(FormatError) as caught:
        open_model(file)
    assert type(caught.value) is FormatError
    assert caught.value.message.startswith(message)
    assert fact in "\n".join(caught.value.where)


def test_open_model_other_files_are_refused(tmp_path: Path, good: bytes) -> None:
    """Broken, a mistyped path would show a traceback."""
    file = tmp_path / "m.bin"
    cases = [
        (b"", "model.bin is shorter than its header"),
        (bytes(511), "model.bin is shorter than its header"),
        (b"GGUF" + bytes(4092), "not a model.bin file"),
        (good[:8] + b"\x00" + good[9:], "model.bin version is not supported"),
        (good[:8] + b"\x02" + good[9:], "model.bin version is not supported"),
        (good + b"\0", "model.bin is longer than it says"),
        (good[:-1], "model.bin is shorter than it says"),
    ]
    for data, message in cases:
        file.write_bytes(data)
        with pytest.raises(FormatError, match=message):
            open_model(file)
    with pytest.raises(FormatError, match="cannot open model file"):
        open_model(tmp_path / "none.bin")
    with pytest.raises(FormatError, match="cannot open model file"):
        open_model(tmp_path)


@pytest.mark.timeout(120)
def test_open_model_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Broken, a named pipe would hang the reader."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="cannot open model file") as caught:
        open_model(tmp_path / "pipe")
    assert caught.value.where == ("not a regular file",)


def test_open_model_root_covers_header_and_digests(tmp_path: Path, good: bytes) -> None:
    """Broken, a changed digest or a changed harmless field would pass."""
    file = tmp_path / "m.bin"
    for offset in (52, 80, 168, 216, 263, len(good) - 1, len(good) - 48):
        data = bytearray(good)
        data[offset] ^= 1
        file.write_bytes(data)
        with pytest.raises(IntegrityError, match="root does not match"):
            open_model(file)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_open_model_every_header_byte_changed_is_refused(
    tmp_path: Path, good: bytes, mask: int
) -> None:
    """Broken, one flipped bit of the header would go unnoticed."""
    file = tmp_path / "m.bin"
    file.write_bytes(good)
    header_bytes, _ = sizes_of(good)
    with file.open("r+b", buffering=0) as stream:
        for offset in range(header_bytes):
            os.pwrite(stream.fileno(), bytes([good[offset] ^ mask]), offset)
            with pytest.raises((FormatError, IntegrityError)):
                open_model(file)
            os.pwrite(stream.fileno(), good[offset : offset + 1], offset)
    open_model(file).verify()


def test_open_model_every_truncation_is_refused(tmp_path: Path, good: bytes) -> None:
    """Broken, a copy that stopped would be read beyond its end."""
    header_bytes, _ = sizes_of(good)
    file = tmp_path / "m.bin"
    sampled = random.Random(0).sample(range(header_bytes + 1, len(good)), 1000)
    lengths = [*range(header_bytes + 1), *sampled, len(good) - 1]
    for length in sorted(lengths, reverse=True):
        with file.open("wb" if length == max(lengths) else "r+b") as stream:
            if length == max(lengths):
                stream.write(good)
            stream.truncate(length)
        with pytest.raises(FormatError):
            open_model(file)
