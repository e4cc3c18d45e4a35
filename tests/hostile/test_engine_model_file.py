"""model.bin as an attacker would write it, handed to the engine without a check before it.

A file is changed in place between calls. Where a check behind the digest is meant, the root is
computed again, so that only that check can refuse.
"""

import gc
import hashlib
import math
import os
import random
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import model_bin
from tests.support.engine import (
    REPOSITORY,
    Failure,
    MutableFile,
    available_isas,
    engine_library,
    open_engine,
    open_handle,
    run_tokens,
    small_model,
    small_model_parts,
)

MODEL_ERRORS = {
    "kModelTruncated", "kModelMagic", "kModelVersion", "kModelField", "kModelTensor",
    "kModelReserved", "kModelDigest", "kModelValue",
}  # fmt: skip
# Geometry within range may ask for more than there is, or for less context than the call wants.
OPEN_ERRORS = MODEL_ERRORS | {"kNoMemory", "kConfigConflict"}
HEADER_BYTES = 4096
DATA_BYTES = struct.unpack_from("<Q", small_model(), 136)[0]
FILE_BYTES = len(small_model())
LESS = DATA_BYTES - 4096


def table_of_page(section: str) -> dict[str, tuple[int, str]]:
    """Offset and struct code of each named field, from docs/formats/model.md."""
    page = (REPOSITORY / "docs/formats/model.md").read_text(encoding="utf-8")
    part = page.split(f"## {section}")[1].split("\n## ")[0]
    codes = {"u32": "<I", "u64": "<Q", "f32": "<f", "u32[8]": "<I", "bytes": "<B"}
    rows = re.findall(r"^\| (\d+) \| \d+ \| (\S+) \| (\w+) \|", part, re.MULTILINE)
    return {name: (int(offset), codes[kind]) for offset, kind, name in reversed(rows)}


FIELDS = table_of_page("Header")
ENTRY = table_of_page("Tensor table")
TENSORS = model_bin.tensor_list(
    model_bin.Geometry(20, 24, 1, 2, 1, 10, 19, 64, 1, 7, 1e-5, 3, 1, (2,))
)
INDEX = {role: index for index, (role, *_) in enumerate(TENSORS)}


def entry_offset(role: str, field: str) -> int:
    return 512 + 64 * INDEX[role] + ENTRY[field][0]


def data_offset(role: str) -> int:
    return int(struct.unpack_from("<Q", small_model(), entry_offset(role, "offset"))[0])


def put_root(data: Any, header_bytes: int = HEADER_BYTES, data_bytes: int = DATA_BYTES) -> None:
    """Writes the root that header and leaf digests have; the leaves stay as they are."""
    data[216:264] = bytes(48)
    digest = hashlib.sha3_384(b"\x01")
    digest.update(data[:header_bytes])
    digest.update(data[header_bytes + data_bytes :])
    data[216:264] = digest.digest()


def close(handle: Any) -> None:
    engine_library().bitnet_close(handle)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[MutableFile]:
    file = MutableFile(tmp_path / "model.bin", small_model())
    yield file
    file.close()


def opened(file: MutableFile, **options: Any) -> Failure | None:
    """Opens and closes; None for success."""
    result = open_handle(file.path, **options)
    if isinstance(result, Failure):
        return result
    close(result)
    return None


def opened_with(
    file: MutableFile, changes: list[tuple[int, str, float]], **options: Any
) -> Failure | None:
    """Opens the file with some numbers replaced and the root computed again."""
    for offset, code, value in changes:
        struct.pack_into(code, file.bytes, offset, value)
    put_root(file.bytes)
    return opened(file, **options)


# Without the root: nobody gets past the digest.


def test_open_unchanged_file_succeeds(file: MutableFile) -> None:
    """If this fails, every refusal below is worth nothing."""
    assert opened(file) is None
    put_root(file.bytes)
    assert bytes(file.bytes) == small_model()


def test_open_any_header_byte_changed_is_refused(file: MutableFile) -> None:
    """If this fails, one changed byte of header, tensor table or padding goes unnoticed."""
    rng = random.Random(1)
    good = small_model()
    statuses = set()
    for offset in range(HEADER_BYTES):
        for flip in (1 << rng.randrange(8), rng.randrange(1, 256)):
            file.bytes[offset] = good[offset] ^ flip
            failure = opened(file)
            assert failure is not None, (offset, flip)
            assert failure.status in MODEL_ERRORS, (offset, flip, failure)
            statuses.add(failure.status)
        file.bytes[offset] = good[offset]
    assert statuses >= {"kModelMagic", "kModelVersion", "kModelField", "kModelDigest"}
    assert opened(file) is None


def test_open_any_leaf_digest_changed_is_refused(file: MutableFile) -> None:
    """If this fails, leaf digests can be exchanged under a header that is right."""
    good = small_model()
    assert len(good) - HEADER_BYTES - DATA_BYTES == 48
    for offset in range(HEADER_BYTES + DATA_BYTES, FILE_BYTES):
        file.bytes[offset] = good[offset] ^ 0x10
        assert opened(file) == Failure("kModelDigest", "header", 216, 0, 0)
        file.bytes[offset] = good[offset]


def test_open_any_byte_of_a_leaf_digest_changed_under_its_root_names_the_leaf(
    file: MutableFile,
) -> None:
    """If this fails, a leaf's digest is compared in part, and what is left can be searched for."""
    good = small_model()
    for offset in range(HEADER_BYTES + DATA_BYTES, FILE_BYTES):
        file.bytes[offset] = good[offset] ^ 1
        put_root(file.bytes)
        assert opened(file, verify="full") == Failure("kModelLeaf", "leaf", HEADER_BYTES, 0, 1)
        file.bytes[offset] = good[offset]
    put_root(file.bytes)
    assert opened(file, verify="full") is None


def test_open_truncated_file_is_refused(tmp_path: Path) -> None:
    """If this fails, an interrupted copy is read past its end."""
    good = small_model()
    lengths = {*range(1025), *range(1025, FILE_BYTES, 211), *range(FILE_BYTES - 64, FILE_BYTES)}
    lengths |= {size for page in range(4096, FILE_BYTES, 4096) for size in (page - 1, page)}
    for length in sorted(lengths):
        path = tmp_path / "model.bin"
        path.write_bytes(good[:length])
        failure = open_handle(path)
        assert isinstance(failure, Failure)
        limit = 512 if length < 512 else FILE_BYTES
        assert failure.status == "kModelTruncated"
        assert (failure.found, failure.limit) == (length, limit)


@pytest.mark.parametrize("extra", [1, 48, 4096, 1 << 20])
def test_open_extended_file_is_refused(tmp_path: Path, extra: int) -> None:
    """If this fails, bytes ride along that no digest covers."""
    path = tmp_path / "model.bin"
    path.write_bytes(small_model() + bytes(extra))
    expected = Failure("kModelTruncated", "file_bytes", 16, FILE_BYTES + extra, FILE_BYTES)
    assert open_handle(path) == expected


def test_open_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """If this fails, the program waits for ever on a FIFO, or maps what is not a file."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    for name, status, number in (
        (".", "kModelMissing", 21),
        ("fifo", "kModelMissing", 22),
        ("missing", "kModelMissing", 2),
        ("empty/child", "kModelMissing", 20),
        ("loop", "kModelMissing", 40),
        ("empty", "kModelTruncated", 0),
    ):
        failure = open_handle(tmp_path / name)
        assert isinstance(failure, Failure)
        assert (failure.status, failure.found) == (status, number)
        assert failure.subject == ("header" if name == "empty" else str(tmp_path / name))
    for device in ("/dev/null", "/dev/zero"):
        assert open_handle(Path(device)) == Failure("kModelMissing", device, 0, 22, 0)


# With the right root: each field of docs/formats/model.md has its own refusal.

NAN, INFINITE = math.nan, math.inf
# Of the small model: 32 rows, a high plane of 32 columns and a low plane of 128, two in a byte.
EMBEDDING_PLANES = 32 * 16 + 32 * 64
# Field, value, and what the error must say: found and limit.
FIELD_CASES: list[tuple[str, float, int, int]] = [
    ("header_bytes", 0, 0, 4096),
    ("header_bytes", 8192, 8192, 4096),
    ("header_bytes", 0xFFFFFFFF, 0xFFFFFFFF, 4096),
    ("hidden_size", 0, 0, 1),
    ("hidden_size", 65537, 65537, 65536),
    ("hidden_size", 0xFFFFFFFF, 0xFFFFFFFF, 65536),
    ("intermediate_size", 0, 0, 1),
    ("intermediate_size", 131073, 131073, 131072),
    ("layer_count", 0, 0, 1),
    ("layer_count", 1025, 1025, 1024),
    ("head_count", 0, 0, 1),
    ("head_count", 1025, 1025, 1024),
    ("kv_head_count", 0, 0, 1),
    ("kv_head_count", 1025, 1025, 1024),
    ("kv_head_count", 3, 3, 2),
    ("head_dim", 0, 0, 2),
    ("head_dim", 1, 1, 2),
    ("head_dim", 11, 11, 65536),
    ("head_dim", 1026, 1026, 1024),
    ("vocab_size", 0, 0, 1),
    ("vocab_size", (1 << 20) + 1, (1 << 20) + 1, 1 << 20),
    ("context_max", 0, 0, 1),
    ("context_max", (1 << 20) + 1, (1 << 20) + 1, 1 << 20),
    ("activation", 0, 0, 1),
    ("activation", 3, 3, 2),
    ("flags", 8, 8, 7),
    ("flags", 0xFFFFFFFF, 0xFFFFFFFF, 7),
    *(("norm_eps", value, 0, 1) for value in (0.0, -0.0, -1e-5, 1.0000001, NAN, INFINITE)),
    *(("attention_scale", value, 0, 1) for value in (0.0, -0.5, 0.5, 1.5, NAN, INFINITE)),
    ("embedding_kind", 2, 2, 3),
    ("embedding_kind", 5, 5, 4),
    ("head_kind", 0, 0, 3),
    ("head_kind", 5, 5, 4),
    ("head_kind", 4, 4, 3),
    ("bos_id", 19, 19, 19),
    ("bos_id", 0xFFFFFFFE, 0xFFFFFFFE, 19),
    ("eos_count", 9, 9, 8),
    ("eos_count", 0xFFFFFFFF, 0xFFFFFFFF, 8),
    ("eos_ids", 19, 19, 19),
    ("eos_ids", 0xFFFFFFFF, 0xFFFFFFFF, 19),
    ("tensor_count", 0, 0, 14),
    ("tensor_count", 15, 15, 14),
    ("tensor_count", 0xFFFFFFFF, 0xFFFFFFFF, 14),
    ("leaf_bytes", 0, 0, 65536),
    ("leaf_bytes", 131072, 131072, 65536),
    ("data_offset", 0, 0, 4096),
    ("data_offset", 1 << 63, 1 << 63, 4096),
    ("data_bytes", DATA_BYTES + 1, DATA_BYTES + 1, FILE_BYTES),
    ("data_bytes", 2**64 - 4096, 2**64 - 4096, FILE_BYTES),
    ("data_bytes", 1 << 40, 1 << 40, FILE_BYTES),
    ("leaves_offset", 0, 0, HEADER_BYTES + DATA_BYTES),
    ("leaves_offset", 2**64 - 1, 2**64 - 1, HEADER_BYTES + DATA_BYTES),
    ("leaf_count", 0, 0, 1),
    ("leaf_count", 2**64 - 1, 2**64 - 1, 1),
]


@pytest.mark.parametrize(("name", "value", "found", "limit"), FIELD_CASES)
def test_open_header_field_out_of_range_is_named(
    file: MutableFile, name: str, value: float, found: int, limit: int
) -> None:
    """If this fails, a size from the file is used before it is checked."""
    offset, code = FIELDS[name]
    failure = opened_with(file, [(offset, code, value)])
    assert failure == Failure("kModelField", name, offset, found, limit)


def test_header_cases_leave_no_field_out() -> None:
    """If this fails, a field was added to the page without a test that it is checked."""
    elsewhere = {"magic", "version", "file_bytes", "reserved", "tokenizer_sha384", "root"}
    assert {name for name, *_ in FIELD_CASES} | elsewhere == set(FIELDS)
    assert {name for name, *_ in ENTRY_CASES} | {"scale", "reserved"} == set(ENTRY)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("magic", 0)], Failure("kModelMagic", "magic", 0, 0, 0)),
        ([("version", 0)], Failure("kModelVersion", "version", 8, 0, 1)),  # before the freeze
        ([("version", 2)], Failure("kModelVersion", "version", 8, 2, 1)),
        (
            [("file_bytes", FILE_BYTES + 1)],
            Failure("kModelTruncated", "file_bytes", 16, FILE_BYTES, FILE_BYTES + 1),
        ),
        (
            [("file_bytes", 2**64 - 1)],
            Failure("kModelTruncated", "file_bytes", 16, FILE_BYTES, 2**64 - 1),
        ),
        (
            [("head_count", 1024), ("kv_head_count", 1), ("head_dim", 1024)],
            Failure("kModelField", "head_dim", 44, 1024, 128),
        ),
        # Fewer bytes of data, all sizes adapted: nothing is left for the last leaf digest.
        (
            [("data_bytes", LESS), ("leaves_offset", HEADER_BYTES + LESS)],
            Failure("kModelField", "file_bytes", 16, FILE_BYTES, FILE_BYTES - 4096),
        ),
        # Geometry that asks for a longer tensor table than there is.
        ([("layer_count", 2)], Failure("kModelField", "tensor_count", 120, 14, 25)),
        ([("flags", 6)], Failure("kModelField", "tensor_count", 120, 14, 15)),
        ([("flags", 5)], Failure("kModelField", "tensor_count", 120, 14, 13)),
        # Geometry in range that the tensors do not have.
        ([("hidden_size", 65536)], Failure("kModelTensor", "tensor", 0, 1, 1)),
        ([("vocab_size", 1 << 20)], Failure("kModelTensor", "tensor", 0, 1, 1)),
        ([("hidden_size", 21)], Failure("kModelTensor", "tensor", 0, 1, 1)),
        ([("intermediate_size", 131072)], Failure("kModelTensor", "tensor", 9, 10, 10)),
        ([("head_count", 1), ("kv_head_count", 1)], Failure("kModelTensor", "tensor", 3, 4, 4)),
        ([("embedding_kind", 4), ("head_kind", 4)], Failure("kModelTensor", "tensor", 0, 1, 1)),
    ],
)  # fmt: skip
def test_open_header_that_contradicts_the_file_is_refused(
    file: MutableFile, changes: list[tuple[str, int]], expected: Failure
) -> None:
    """If this fails, geometry and tensors can disagree, and one is read beyond the other."""
    assert opened_with(file, [(*FIELDS[name], value) for name, value in changes]) == expected


@pytest.mark.parametrize("place", range(1, 8))
def test_open_eos_id_behind_the_count_must_be_absent(file: MutableFile, place: int) -> None:
    """If this fails, an unused slot can hold a stop token that an editor does not see."""
    offset = FIELDS["eos_ids"][0] + 4 * place
    failure = opened_with(file, [(offset, "<I", 5)])
    assert failure == Failure("kModelField", "eos_ids", offset, 5, 19)


def test_open_eos_id_missing_of_the_count_is_refused(file: MutableFile) -> None:
    """If this fails, the engine compares tokens with a slot that holds none."""
    failure = opened_with(file, [(84, "<I", 2)])
    assert failure == Failure("kModelField", "eos_ids", 92, 0xFFFFFFFF, 19)


@pytest.mark.parametrize(
    ("offset", "subject", "where"),
    [
        (160, "header", 160), (167, "header", 160), (264, "header", 264), (511, "header", 264),
        (512 + 64 * 14, "tensor table", 512 + 64 * 14), (4095, "tensor table", 512 + 64 * 14),
        *((512 + 64 * i + b, "tensor", i) for i in range(14) for b in (40, 63)),
    ],
)  # fmt: skip
def test_open_reserved_byte_set_is_refused(
    file: MutableFile, offset: int, subject: str, where: int
) -> None:
    """If this fails, a later version's fields are ignored by this one."""
    failure = opened_with(file, [(offset, "<B", 1)])
    assert failure == Failure("kModelReserved", subject, where, 0, 0)


def test_open_tokenizer_digest_is_free(file: MutableFile) -> None:
    """If this fails, a model without a known tokenizer cannot be opened for evaluation."""
    assert opened_with(file, [(168, "<B", 1), (215, "<B", 255)]) is None


# Change of one field of an entry; every field but the scale and the reserved bytes.
ENTRY_CASES: list[tuple[str, int]] = [
    ("role", 0), ("role", 16), ("role", 0xFFFFFFFF), ("layer", 7), ("layer", 0x7FFFFFFF),
    ("kind", 0), ("kind", 2), ("kind", 0xFFFFFFFF), ("rows", 0), ("rows", 0xFFFFFFFF), ("cols", 0),
    ("cols", 0xFFFFFFFF), ("offset", 0), ("offset", 4097), ("offset", 1 << 63),
    ("offset", 2**64 - 4096), ("bytes", 0), ("bytes", 1 << 63), ("bytes", 2**64 - 1),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(TENSORS)), ids=[role for role, *_ in TENSORS])
def test_open_tensor_entry_changed_is_named(file: MutableFile, index: int) -> None:
    """If this fails, a tensor can be moved, resized or exchanged under a right geometry."""
    good = small_model()
    role = model_bin.ROLE_NUMBERS[TENSORS[index][0]]
    for name, value in ENTRY_CASES:
        offset, code = 512 + 64 * index + ENTRY[name][0], ENTRY[name][1]
        for number in (value, struct.unpack_from(code, good, offset)[0] + 1):
            limit = struct.calcsize(code) * 8
            failure = opened_with(file, [(offset, code, number % (1 << limit))])
            found = number % (1 << limit) if name == "role" else role
            assert failure == Failure("kModelTensor", "tensor", index, found, role), (name, number)
            file.bytes[:HEADER_BYTES] = good[:HEADER_BYTES]


@pytest.mark.parametrize("index", range(len(TENSORS)), ids=[role for role, *_ in TENSORS])
def test_open_tensor_scale_not_usable_is_refused(file: MutableFile, index: int) -> None:
    """If this fails, a multiplier that is not a positive number reaches every product."""
    role, ternary = model_bin.ROLE_NUMBERS[TENSORS[index][0]], TENSORS[index][2] == 1
    for value in (NAN, INFINITE, -INFINITE, -1.0, 0.0 if ternary else 1.0, -0.0):
        failure = opened_with(file, [(512 + 64 * index + 20, "<f", value)])
        if ternary:
            assert failure == Failure("kModelValue", "tensor", index, 0, 0)
        else:
            assert failure == Failure("kModelTensor", "tensor", index, role, role)


def test_open_data_longer_than_the_tensors_is_refused(tmp_path: Path) -> None:
    """If this fails, a file carries pages that no tensor owns."""
    data = bytearray(small_model()[: HEADER_BYTES + DATA_BYTES] + bytes(4096))
    struct.pack_into("<Q", data, 16, FILE_BYTES + 4096)
    struct.pack_into("<QQ", data, 136, DATA_BYTES + 4096, HEADER_BYTES + DATA_BYTES + 4096)
    path = tmp_path / "model.bin"
    path.write_bytes(model_bin.seal(data, HEADER_BYTES, DATA_BYTES + 4096))
    expected = Failure("kModelField", "data_bytes", 136, DATA_BYTES + 4096, DATA_BYTES)
    assert open_handle(path) == expected


def test_open_data_shorter_than_the_tensors_is_refused(tmp_path: Path) -> None:
    """If this fails, the last tensor reaches into the leaf digests, or past the end of the file."""
    data = bytearray(small_model()[: HEADER_BYTES + DATA_BYTES - 4096])
    struct.pack_into("<Q", data, 16, FILE_BYTES - 4096)
    struct.pack_into("<QQ", data, 136, DATA_BYTES - 4096, HEADER_BYTES + DATA_BYTES - 4096)
    path = tmp_path / "model.bin"
    path.write_bytes(model_bin.seal(data, HEADER_BYTES, DATA_BYTES - 4096))
    assert open_handle(path) == Failure("kModelTensor", "tensor", 13, 14, 14)


VECTORS = [role for role, _, kind, *_ in TENSORS if kind == 4]


@pytest.mark.parametrize("role", VECTORS)
@pytest.mark.parametrize("element", [0, 4, 15])
def test_open_vector_not_finite_is_named(file: MutableFile, role: str, element: int) -> None:
    """If this fails, a NaN in a norm (or in its padding) silently poisons every answer."""
    offset = data_offset(role) + 4 * element
    for value in (NAN, INFINITE, -INFINITE):
        failure = opened_with(file, [(offset, "<f", value)])
        assert failure == Failure("kModelValue", "tensor", INDEX[role], element, 0)


@pytest.mark.parametrize("element", [0, 4, 5, 15])
def test_open_frequency_out_of_range_is_named(file: MutableFile, element: int) -> None:
    """If this fails, angles leave the range in which every processor computes the same sine."""
    offset = data_offset("rope_inv_freq") + 4 * element
    for value in (1.0000001, 3e38, -1e-30, -1.0):
        failure = opened_with(file, [(offset, "<f", value)])
        assert failure == Failure("kModelValue", "tensor", INDEX["rope_inv_freq"], element, 0)
    assert opened_with(file, [(offset, "<f", 1.0)]) is None


# The first and the last row of 32 that is in use, and the padding's, of the scales and of the norms
# of what the low plane adds, which follow.
@pytest.mark.parametrize("number", [0, 18, 19, 31, 32, 50, 51, 63])
def test_open_row_scale_or_norm_not_usable_is_named(file: MutableFile, number: int) -> None:
    """If this fails, a row of the embedding is read with a scale that is no scale.

    Or the screened head takes for the bound of a sum what bounds nothing, and skips the best row.
    """
    offset = data_offset("embedding") + EMBEDDING_PLANES + 4 * number
    for value in (NAN, INFINITE, -INFINITE, -1e-30):
        failure = opened_with(file, [(offset, "<f", value)])
        assert failure == Failure("kModelValue", "tensor", 0, number, 0)


# Contents that are allowed and still break the arithmetic.


def poisoned(tmp_path: Path, kind: int, offset: int, value: float) -> Path:
    data = bytearray(small_model_parts(flags=6, kind=kind))
    struct.pack_into("<f", data, offset, value)
    path = tmp_path / "model.bin"
    path.write_bytes(model_bin.seal(data, 4096, struct.unpack_from("<Q", data, 136)[0]))
    return path


@pytest.mark.parametrize(
    ("kind", "offset", "value"),
    [
        (
            3,
            4096 + EMBEDDING_PLANES + 4 * 5,
            3e38,
        ),  # row scale: the embedding overflows to infinity
        (4, 4096 + 4 * 5 * 32, NAN),
        (4, 4096 + 4 * 5 * 32, INFINITE),
    ],
)
def test_generate_from_numbers_that_overflow_is_refused(
    tmp_path: Path, kind: int, offset: int, value: float
) -> None:
    """If this fails, a broken model gives a fluent answer that depends on the processor."""
    path = poisoned(tmp_path, kind, offset, value)
    for isa in available_isas():
        handle = open_handle(path, isa=isa)
        assert not isinstance(handle, Failure)
        healthy = run_tokens(handle, [3, 4], 1)
        assert isinstance(healthy, list)
        for prompt in ([5], [3, 5], [5, 3], [3, 4, 1, 0, 5, 3]):
            failure = run_tokens(handle, prompt, 1)
            assert isinstance(failure, Failure), (isa, prompt, failure)
            assert failure.status == "kNotFinite"
        assert run_tokens(handle, [3, 4], 1) == healthy
        close(handle)


def test_open_and_run_random_changes_never_crash(file: MutableFile) -> None:
    """If this fails, some well-sealed file stops the process instead of being refused."""
    rng = random.Random(20_250_101)
    good = small_model()
    ends = {"opened": 0, "ran": 0}
    isas = available_isas()
    for round_ in range(2000):
        # Where the file is not data, a change is nearly always refused: most go where it may pass.
        span = (4096 if round_ % 4 == 0 else FILE_BYTES) - 8
        for _ in range(rng.randrange(1, 9)):
            at = rng.randrange(span) if round_ % 2 else HEADER_BYTES + rng.randrange(DATA_BYTES - 8)
            count = rng.randrange(1, 9)
            special = rng.choice([b"\0" * 8, b"\xff" * 8, b"\x7f" * 8, rng.randbytes(8)])
            file.bytes[at : at + count] = special[:count]
        put_root(file.bytes)
        handle = open_handle(file.path, isa=isas[round_ % len(isas)], threads=1 + round_ % 2)
        if isinstance(handle, Failure):
            assert handle.status in OPEN_ERRORS, handle
        else:
            ends["opened"] += 1
            answer = run_tokens(handle, [rng.randrange(19) for _ in range(6)], 4)
            if isinstance(answer, Failure):
                assert answer.status == "kNotFinite", answer
            else:
                ends["ran"] += 1
                assert all(0 <= token < 19 for token in answer)
            close(handle)
        file.bytes[:] = good
    assert ends["opened"] > 2000 // 10
    assert ends["ran"] > 0


def test_open_geometry_of_any_size_never_crashes(file: MutableFile) -> None:
    """If this fails, the plan of the memory overflows or is trusted before the file is checked."""
    rng = random.Random(3)
    good = small_model()
    names = ("hidden_size", "intermediate_size", "head_count", "kv_head_count", "head_dim",
             "vocab_size", "context_max")  # fmt: skip
    for _ in range(400):
        changes: list[tuple[int, str, float]] = [
            (*FIELDS[name], rng.choice([1, 2, 16, 1 << rng.randrange(21), rng.getrandbits(20)]))
            for name in rng.sample(names, rng.randrange(1, 5))
        ]
        context = rng.choice([1, 16, 64, 1 << 20, 0xFFFFFFFF])
        failure = opened_with(file, changes, context=context, prefill_chunk=rng.choice([1, 512]))
        if failure is not None:
            assert failure.status in OPEN_ERRORS, (changes, failure)
        file.bytes[:] = good


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"context": 0}, Failure("kConfigConflict", "context", 0, 0, 64)),
        ({"context": 65}, Failure("kConfigConflict", "context", 0, 65, 64)),
        ({"context": 2**32 - 1}, Failure("kConfigConflict", "context", 0, 2**32 - 1, 64)),
        ({"threads": 0}, Failure("kConfigConflict", "threads", 0, 0, 64)),
        ({"threads": 65}, Failure("kConfigConflict", "threads", 0, 65, 64)),
        ({"prefill_chunk": 0}, Failure("kConfigConflict", "prefill_chunk", 0, 0, 512)),
        ({"prefill_chunk": 513}, Failure("kConfigConflict", "prefill_chunk", 0, 513, 512)),
        ({"isa": ""}, Failure("kIsaUnavailable", "isa", 0, 0, 0)),
        ({"isa": "ref2"}, Failure("kIsaUnavailable", "isa", 0, 0, 0)),
    ],
)
def test_open_options_out_of_range_are_refused(
    file: MutableFile, options: dict[str, Any], expected: Failure
) -> None:
    """If this fails, sizes outside the proven limits reach the memory plan."""
    assert opened(file, **options) == expected


def test_open_refused_often_leaks_nothing(file: MutableFile) -> None:
    """If this fails, a service that is fed broken files runs out of memory or descriptors."""
    process = Path("/proc/self")

    def resources() -> tuple[int, int, int]:
        maps = (process / "maps").read_text().count(str(file.path))
        return maps, len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    file.bytes[300] = 1
    gc.collect()  # of engines that other tests left
    before = resources()
    for _ in range(50):
        assert opened(file, threads=3) is not None
    file.bytes[300] = 0
    for _ in range(20):
        assert opened(file, threads=3) is None
    # Whoever joins a thread goes on a moment before the kernel has taken it off the list.
    deadline = time.monotonic() + 10
    while resources() != before:
        assert time.monotonic() < deadline, (resources(), before)
        time.sleep(0.01)
    with open_engine(file.path) as engine:
        assert engine.logits([1]).shape == (1, 19)
