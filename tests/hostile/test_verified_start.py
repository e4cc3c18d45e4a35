"""Changed bits of a model: each is found, and the leaf that holds it is named."""

import ctypes
import functools
import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from bitnet.engine import library
from bitnet.seal import toolchain
from bitnet.seal.elf import PT_LOAD, read_elf
from bitnet.seal.sources import PROGRAMS, Program, build_root, engine_root
from tests.support.engine import (
    Failure,
    demo_model,
    engine_library,
    example_count,
    open_handle,
    run_tokens,
    small_model_parts,
    status_name,
)
from tests.support.host import installed, root_only
from tests.support.infer import (
    ANSWER,
    ask,
    assert_refused,
    sealed_program,
    unsealed_program,
    write_config,
)
from tests.support.status_table import told

LEAF_BYTES = 65536
FLIPS = 10_000
STARTS = 50
IMAGE_STARTS = 12


class Copy:
    """A model.bin in memory, 64-byte aligned, that can be changed and checked."""

    def __init__(self, content: bytes) -> None:
        self._memory = ctypes.create_string_buffer(len(content) + 64)
        self.size = len(content)
        self.offset = -ctypes.addressof(self._memory) % 64
        self.bytes = memoryview(self._memory).cast("B")[self.offset : self.offset + self.size]
        self.bytes[:] = content

    def check(self, leaf_hash: int) -> tuple[str, int, int]:
        """Returns status, first byte of the leaf and its number."""
        error = library.new_error()
        address = ctypes.addressof(self._memory) + self.offset
        status = engine_library().bitnet_check_leaves(
            leaf_hash, address, self.size, ctypes.byref(error)
        )
        return (status_name(status) if status else "", error.where, error.value)


def available_hashes() -> list[int]:
    shared = engine_library()
    return [
        i for i in range(shared.bitnet_leaf_hash_count()) if shared.bitnet_leaf_hash_available(i)
    ]


@functools.cache
def extent() -> tuple[int, int, int]:
    """Returns data_offset, leaves_offset and size of the demo's model.bin."""
    content = demo_model().read_bytes()
    return (*extent_of(content), len(content))


def extent_of(content: bytes) -> tuple[int, int]:
    """Reads data_offset and leaves_offset where docs/formats/model.md puts them."""
    data_offset, _, leaves_offset = struct.unpack_from("<3Q", content, 128)
    return data_offset, leaves_offset


def test_any_flipped_bit_of_10000_is_found_and_the_leaf_named() -> None:
    """One bit that passes is a weight that somebody else chose."""
    data_offset, leaves_offset, size = extent()
    copy = Copy(demo_model().read_bytes())
    hashes = available_hashes()
    assert [copy.check(index) for index in hashes] == [("", 0, 0)] * len(hashes)
    rng = random.Random(1)
    for trial in range(example_count(FLIPS)):
        place, bit = rng.randrange(size), rng.randrange(8)
        copy.bytes[place] ^= 1 << bit
        found = copy.check(hashes[-1 if trial % 100 else rng.randrange(len(hashes))])
        if data_offset <= place < leaves_offset:
            leaf = (place - data_offset) // LEAF_BYTES
            assert found == ("kModelLeaf", data_offset + leaf * LEAF_BYTES, leaf), place
        else:
            assert found[0], place
        copy.bytes[place] ^= 1 << bit
    assert copy.check(hashes[-1]) == ("", 0, 0)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9])
def test_few_leaves_and_a_short_last_one_are_checked(count: int) -> None:
    """Groups of lanes must end where the model ends, with a last leaf of any length."""
    # Planes of 16 and 64 bytes, scale and norm: 88 bytes a row; the rest fits into a leaf's end.
    content = small_model_parts(vocab_size=max(19, count * LEAF_BYTES // 88 - 700))
    copy = Copy(content)
    data_offset, leaves_offset = extent_of(content)
    assert -(-(leaves_offset - data_offset) // LEAF_BYTES) == count
    for index in available_hashes():
        assert copy.check(index) == ("", 0, 0)
        for place in (data_offset, leaves_offset - 1):
            copy.bytes[place] ^= 1
            leaf = (place - data_offset) // LEAF_BYTES
            assert copy.check(index) == ("kModelLeaf", data_offset + leaf * LEAF_BYTES, leaf)
            copy.bytes[place] ^= 1


def low_plane() -> range:
    """Bytes of the demo's embedding that the screened head reads for a few rows only."""
    rows, cols = struct.unpack_from("<12xII", demo_model().read_bytes(), 512)
    (begin,) = struct.unpack_from("<24xQ", demo_model().read_bytes(), 512)
    assert (rows % 16, cols % 128) == (0, 0)
    plane = rows * cols // 2
    return range(begin + plane, begin + 2 * plane)


@pytest.mark.parametrize(
    ("mode", "head"), [("full", "screened"), ("lazy", "full"), ("lazy", "screened")]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_engine_modes_find_a_change_in_every_leaf(
    tmp_path: Path, mode: str, head: str, threads: int
) -> None:
    """A leaf that no thread checks before its use would be used unchecked."""
    data_offset, leaves_offset, _ = extent()
    original = demo_model().read_bytes()
    path = tmp_path / "model.bin"
    number = library.HEAD_MODES.index(head)
    arguments = {"context": 32, "threads": threads, "verify": mode, "head": number}
    skipped = low_plane() if (mode, head) == ("lazy", "screened") else range(0)

    def answer() -> list[int] | Failure:
        handle = open_handle(path, **arguments)  # type: ignore[arg-type]
        if isinstance(handle, Failure):
            return handle
        result = run_tokens(handle, list(range(8)), 4)
        engine_library().bitnet_close(handle)
        return result

    path.write_bytes(original)
    right = answer()
    assert isinstance(right, list)
    rng = random.Random(threads)
    for begin in range(data_offset, leaves_offset, LEAF_BYTES):
        content = bytearray(original)
        place = rng.randrange(begin, min(begin + LEAF_BYTES, leaves_offset))
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        failure = answer()
        if failure == right and begin in skipped and begin + LEAF_BYTES - 1 in skipped:
            continue  # rows that no token needed
        leaf = (begin - data_offset) // LEAF_BYTES
        assert isinstance(failure, Failure), place
        assert (failure.status, failure.where, failure.found) == ("kModelLeaf", begin, leaf)


@functools.cache
def counting_program() -> Path:
    """Returns the program that hashes by the reference and counts."""
    parts = [part for part in PROGRAMS["library"].parts if part != "crypto"]
    parts += ["crypto/crypto.zig", "crypto/keccak_ref.cc"]
    commands = toolchain.plan(
        Program("leaf-count", "../tests/engine/leaf_count_main.cc", tuple(parts)),
        toolchain.Target(toolchain.host_arch()),
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )
    return toolchain.run(commands, directory=engine_root())


def hash_counts(model: Path, verify: str, head: str, threads: int, *numbers: int) -> list[int]:
    """Returns how often each leaf was hashed; `numbers` are lanes, tokens of prompt and answer."""
    modes = (library.VERIFY_MODES.index(verify), library.HEAD_MODES.index(head))
    arguments = map(str, (*modes, threads, *numbers))
    command = [str(counting_program()), str(model), *arguments]
    result = subprocess.run(command, capture_output=True, check=True, timeout=120)
    counts: list[int] = json.loads(result.stdout)
    return counts


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_each_leaf_that_is_needed_is_hashed_once(threads: int, lanes: int) -> None:
    """Twice would make `lazy` slower than `full`; not at all, and a changed one would pass."""
    data_offset, leaves_offset, _ = extent()
    once = [1] * -(-(leaves_offset - data_offset) // LEAF_BYTES)
    for verify, head in (("full", "full"), ("lazy", "full"), ("full", "screened")):
        assert hash_counts(demo_model(), verify, head, threads, lanes, 20, 3) == once
    assert not any(hash_counts(demo_model(), "off", "full", threads, lanes, 20, 3))
    for tokens in ((20, 3), (1, 0)):
        counts = hash_counts(demo_model(), "lazy", "screened", threads, lanes, *tokens)
        assert set(counts) <= {0, 1}


def test_lazy_leaves_rows_that_nobody_reads_alone(tmp_path: Path) -> None:
    """If this fails, `lazy` costs what `full` does."""
    path = tmp_path / "model.bin"
    path.write_bytes(small_model_parts(vocab_size=24_000))  # planes of 6 and 23 leaves
    counts = hash_counts(path, "lazy", "screened", 2, 8, 1, 0)
    # The group that holds row 0 of both planes, and the two with scales and matrices.
    assert (len(counts), sum(counts)) == (34, 8 + 8 + 2)


def sealed_copy(path: Path, place: int, bit: int) -> int:
    """Writes the sealed program with one bit of its model changed; returns the file's size."""
    content = bytearray(sealed_program().read_bytes())
    start = content.index(demo_model().read_bytes()[:512])
    content[start + place] ^= 1 << bit
    path.write_bytes(content)
    path.chmod(0o755)
    return len(content)


def test_any_flipped_bit_of_50_starts_stops_the_program(tmp_path: Path) -> None:
    """The check must stand between the file and the first byte of an answer, not in a library."""
    data_offset, leaves_offset, _ = extent()
    program = tmp_path / "bitnet-infer"
    config = write_config(tmp_path, verify="full")
    rng = random.Random(3)
    for _ in range(STARTS):
        place = rng.randrange(data_offset, leaves_offset)
        sealed_copy(program, place, rng.randrange(8))
        leaf = (place - data_offset) // LEAF_BYTES
        where = data_offset + leaf * LEAF_BYTES
        count = -(-(leaves_offset - data_offset) // LEAF_BYTES)
        assert_refused(ask(config, program=program), "kModelLeaf", "leaf", where, leaf, count)


def test_flipped_bit_in_the_tokenizer_stops_the_program(tmp_path: Path) -> None:
    """The answer would be another text, and nothing would say so: the tables are no leaf's."""
    program = tmp_path / "bitnet-infer"
    content = bytearray(sealed_program().read_bytes())
    content[content.index(b"/directory") + 1] ^= 1
    program.write_bytes(content)
    program.chmod(0o755)
    changed = ask(write_config(tmp_path, verify="off"), program=program)
    assert (changed.returncode, changed.stdout) == (0, ANSWER.replace(b"/di", b"/ei"))
    for mode in ("full", "lazy"):
        for model in ("sealed", str(demo_model())):
            result = ask(write_config(tmp_path, verify=mode, model=model), program=program)
            assert_refused(result, "kSealBroken", "image", note_of(content))


def note_of(content: bytes) -> int:
    """Where the two digests of a sealed executable begin (docs/formats/executable.md, The note)."""
    return content.index(struct.pack("<III8s", 8, 96, 1, b"bitnet\0\0")) + 20


@pytest.mark.parametrize("segment", [0, 1, 2, 3])
def test_flipped_bit_in_any_segment_of_the_program_never_passes(
    tmp_path: Path, segment: int
) -> None:
    """Code and constants, wherever the damage lets the program come as far as its check."""
    program = tmp_path / "bitnet-infer"
    original = sealed_program().read_bytes()
    load = [each for each in read_elf(sealed_program()).segments if each.type == PT_LOAD][segment]
    config = write_config(tmp_path, verify="full")
    rng = random.Random(segment)
    for _ in range(IMAGE_STARTS):
        content = bytearray(original)
        place = load.offset + rng.randrange(0 if segment else 1024, load.filesz)
        content[place] ^= 1 << rng.randrange(8)
        program.write_bytes(content)
        program.chmod(0o755)
        try:
            result = ask(config, program=program)
        except subprocess.TimeoutExpired as hung:  # before it came as far as its check
            assert not hung.stdout, place
            continue
        assert result.returncode != 0, place
        assert result.stdout == b"", place


@root_only
def test_start_without_proc_tells_the_file_and_the_way_out(tmp_path: Path) -> None:
    """A check that cannot be made must not pass for one that was."""
    shutil.copy(sealed_program(), tmp_path / "program")
    program, config = Path("/program"), Path("/config.yaml")
    for mode in ("full", "lazy", "off"):
        write_config(tmp_path, verify=mode)
        result = ask(config, program=program, wrapper=(installed("chroot"), str(tmp_path)))
        if mode == "off":
            assert result.stdout == ANSWER
        else:
            assert_refused(result, "kOwnFileHidden", "/proc/self/exe", 0, 2)


def test_lazy_change_in_a_matrix_stops_before_any_output(tmp_path: Path) -> None:
    """What was computed with a changed weight must not reach standard output."""
    data_offset, leaves_offset, _ = extent()
    program = tmp_path / "bitnet-infer"
    place = leaves_offset - LEAF_BYTES
    sealed_copy(program, place, 0)
    leaf = (place - data_offset) // LEAF_BYTES
    count = -(-(leaves_offset - data_offset) // LEAF_BYTES)
    for mode, refused in (("lazy", True), ("off", False)):
        result = ask(write_config(tmp_path, verify=mode, threads=2), program=program)
        if refused:
            where = data_offset + leaf * LEAF_BYTES
            assert_refused(result, "kModelLeaf", "leaf", where, leaf, count)
        else:
            assert told("kModelLeaf").splitlines()[0] not in result.stderr.decode()


def test_verify_modes_change_no_byte_of_the_answer(tmp_path: Path) -> None:
    """Checking is not computing."""
    answers = {
        ask(write_config(tmp_path, verify=mode, threads=threads)).stdout
        for mode in ("full", "lazy", "off")
        for threads in (1, 2)
    }
    assert len(answers) == 1


def test_model_file_beside_the_program_is_checked_too(tmp_path: Path) -> None:
    """A model named in the configuration is mapped, not sealed: it is changed more easily."""
    content = bytearray(demo_model().read_bytes())
    data_offset, leaves_offset, _ = extent()
    content[data_offset + LEAF_BYTES] ^= 4
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    count = -(-(leaves_offset - data_offset) // LEAF_BYTES)
    result = ask(write_config(tmp_path, model=str(path)), program=unsealed_program())
    assert_refused(result, "kModelLeaf", "leaf", data_offset + LEAF_BYTES, 1, count)
