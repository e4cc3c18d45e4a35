"""bitnet-integrity: a sealed executable and a process held against their digests, from outside."""

import functools
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet.seal import toolchain
from bitnet.seal.elf import PT_LOAD, read_elf
from bitnet.seal.embed import seal
from bitnet.seal.sources import PROGRAMS, Program, build_root, engine_root
from bitnet.seal.toolchain import Target, build_program, host_arch
from tests.support.engine import demo_model
from tests.support.host import root_only
from tests.support.infer import sealed_program, unsealed_program, write_config
from tests.support.lockdown import mappings_of
from tests.support.sealing import build_probe
from tests.support.status_table import status_rows, told

LEAF_BYTES = 65536
STARTS = 200
FLIPS = 10_000
# The place and size of the section table, in the file's header: strip changes them, nothing that
# loads or runs the program reads them.
SECTION_TABLE = {*range(40, 48), *range(58, 64)}
FLIPPER = Program(
    "flips",
    "../tests/programs/flips.cc",
    tuple(PROGRAMS["bitnet-integrity"].parts),
)


@functools.cache
def integrity_program() -> Path:
    return build_program("bitnet-integrity", Target(host_arch()))


def integrity(*arguments: object, program: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program or integrity_program()), *map(str, arguments)], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def facts(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `--json` tells, without the regions."""
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {key: value for line in lines for key, value in line.items() if "region" not in line}


def assert_told(result: subprocess.CompletedProcess[str], name: str, *facts: Any) -> None:
    assert result.stderr == told(name, *facts)
    assert result.returncode == status_rows()[name].exit_code


def image_digest(path: Path) -> bytes:
    """docs/formats/executable.md, The note, with hashlib."""
    data = bytearray(path.read_bytes())
    note = data.index(struct.pack("<III8s", 8, 96, 1, b"bitnet\0\0")) + 20
    data[40:48], data[58:64], data[note : note + 96] = bytes(8), bytes(6), bytes(96)
    digest = hashlib.sha3_384(b"\4")
    for segment in read_elf(path).segments:
        if segment.type == PT_LOAD and segment.align != 2 << 20:
            digest.update(struct.pack("<QQ", segment.offset, segment.filesz))
            digest.update(data[segment.offset : segment.offset + segment.filesz])
    return digest.digest()


def test_binary_that_is_whole_is_told_with_its_digests() -> None:
    """What an operator compares with the paper must be what other tools print."""
    found = facts(integrity("--binary", sealed_program(), "--json"))
    content = sealed_program().read_bytes()
    assert found["sha3_384"] == hashlib.sha3_384(content).hexdigest()
    assert found["image"] == image_digest(sealed_program()).hex()
    assert found["root"] == demo_model().read_bytes()[216:264].hex()
    assert found["leaves"].endswith(" match")
    assert found["result"] == "matches"


def test_binary_after_strip_still_verifies(tmp_path: Path) -> None:
    """Users strip what they install, and nothing that is loaded changes by it."""
    path = tmp_path / "stripped"
    shutil.copy(sealed_program(), path)
    subprocess.run(["strip", "--strip-all", str(path)], check=True)
    assert facts(integrity("--binary", path, "--json"))["image"] == image_digest(path).hex()


def test_any_flipped_bit_of_a_sealed_binary_is_found(tmp_path: Path) -> None:
    """Whatever is loaded is covered: code, constants, tables and weights, and the leaf is named."""
    original = sealed_program().read_bytes()
    payload = original.index(demo_model().read_bytes()[:512])
    data_offset, _, leaves_offset = struct.unpack_from("<3Q", original, payload + 128)
    loads = [segment for segment in read_elf(sealed_program()).segments if segment.type == PT_LOAD]
    path = tmp_path / "bitnet-infer"
    path.write_bytes(original)
    rng = random.Random(7)
    with path.open("r+b") as file:
        for _ in range(STARTS):
            segment = rng.choice(loads)
            place = rng.randrange(segment.offset, segment.offset + segment.filesz)
            if place in SECTION_TABLE:
                continue
            bit = 1 << rng.randrange(8)
            os.pwrite(file.fileno(), bytes([original[place] ^ bit]), place)
            result = integrity("--binary", path)
            assert result.returncode in ((1, 3) if place < 4096 else (3,)), place
            inside = place - payload - data_offset
            if 0 <= inside < leaves_offset - data_offset:
                leaf = inside // LEAF_BYTES
                count = -(-(leaves_offset - data_offset) // LEAF_BYTES)
                where = data_offset + leaf * LEAF_BYTES
                assert_told(result, "kModelLeaf", "leaf", where, leaf, count)
            os.pwrite(file.fileno(), original[place : place + 1], place)
    assert integrity("--binary", path).returncode == 0


@functools.cache
def flip_program() -> Path:
    commands = toolchain.plan(
        FLIPPER,
        Target(host_arch()),
        engine=engine_root(),
        build=build_root(),
        compiler=str(toolchain.find_compiler()),
    )
    return toolchain.run(commands, directory=engine_root())


def flipped(path: Path, flips: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """What the check of bitnet-integrity says of each flip: status, where, found."""
    lines = "".join(f"{place} {1 << bit}\n" for place, bit in flips)
    subprocess.run(
        [str(flip_program()), str(sealed_program()), str(path)], input=lines, text=True, check=True,
        stdout=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    status, where, found = np.loadtxt(path, dtype=np.uint64, ndmin=2).T.tolist()
    return list(zip(status, where, found, strict=True))


def test_ten_thousand_flipped_bits_of_a_sealed_binary_are_found(tmp_path: Path) -> None:
    """Of weights the leaf is named, of everything else the part; and none is passed over."""
    original = sealed_program().read_bytes()
    payload = original.index(demo_model().read_bytes()[:512])
    data_offset, _, leaves_offset = struct.unpack_from("<3Q", original, payload + 128)
    note = original.index(struct.pack("<III8s", 8, 96, 1, b"bitnet\0\0")) + 20
    loads = [segment for segment in read_elf(sealed_program()).segments if segment.type == PT_LOAD]
    rng = random.Random(11)
    flips = []
    while len(flips) < FLIPS:
        segment = rng.choice(loads)
        place = rng.randrange(segment.offset, segment.offset + segment.filesz)
        if place not in SECTION_TABLE:
            flips.append((place, rng.randrange(8)))
    numbers = {row.number: name for name, row in status_rows().items()}
    weights = 0
    for (place, _), (status, where, found) in zip(
        flips, flipped(tmp_path / "found", flips), strict=True
    ):
        leaf = (place - payload - data_offset) // LEAF_BYTES
        if payload + data_offset <= place < payload + leaves_offset:
            assert numbers[status] == "kModelLeaf", place
            assert (where, found) == (data_offset + leaf * LEAF_BYTES, leaf)
            weights += 1
        elif place < 4096 or note - 20 <= place < note:
            assert numbers[status] in ("kElf", "kSealBroken"), place
        elif place >= payload or note <= place < note + 48:
            assert numbers[status] == "kSealBroken", place
        else:
            assert (numbers[status], where) == ("kSealBroken", note + 48), place
    assert FLIPS // 10 < weights < FLIPS // 2


def test_section_table_is_what_the_digests_leave_out(tmp_path: Path) -> None:
    """The page says which bytes are not covered: these, and no other."""
    flips = [(place, bit) for place in range(64) for bit in range(8)]
    passed = {
        place
        for (place, _), (status, _, _) in zip(
            flips, flipped(tmp_path / "found", flips), strict=True
        )
        if status == 0
    }
    assert passed == SECTION_TABLE


def test_binary_with_the_model_of_another_root_is_refused(tmp_path: Path) -> None:
    """A model that is whole by itself is still not the one that was sealed."""
    content = bytearray(sealed_program().read_bytes())
    note = content.index(struct.pack("<III8s", 8, 96, 1, b"bitnet\0\0")) + 20
    content[note] ^= 1
    path = tmp_path / "other"
    path.write_bytes(content)
    assert_told(integrity("--binary", path), "kSealBroken", "root", note)
    content[note] ^= 1
    content[note + 50] ^= 1
    path.write_bytes(content)
    assert_told(integrity("--binary", path), "kSealBroken", "image", note + 48)


@pytest.mark.parametrize(
    ("content", "subject", "where"),
    [
        (b"", "file header", 0),
        (b"\x7fELF\2\1\1" + bytes(40), "file header", 0),
        (b"\x7fELF\1\1\1" + bytes(100), "file header", 0),
        (b"\x7fELF\2\1\1" + bytes(100), "program headers", 32),
    ],
)
def test_files_that_are_no_executable_are_refused(
    tmp_path: Path, content: bytes, subject: str, where: int
) -> None:
    """The file comes from outside: nothing in it may be believed."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert_told(integrity("--binary", path), "kElf", subject, where)


def changed_header(path: Path, offset: int, layout: str, value: int) -> Path:
    content = bytearray(sealed_program().read_bytes()[: 1 << 20])
    struct.pack_into(layout, content, offset, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (32, "<Q", 2**64 - 56), (32, "<Q", 1 << 20), (54, "<H", 55), (56, "<H", 65535),
        (56, "<H", 0),
    ],
)  # fmt: skip
def test_headers_that_leave_the_file_are_refused(
    tmp_path: Path, offset: int, layout: str, value: int
) -> None:
    """An offset or a count that is believed is a read out of bounds."""
    result = integrity("--binary", changed_header(tmp_path / "file", offset, layout, value))
    assert result.returncode == 1
    assert result.stderr.startswith("error: not an executable of this product")


def test_model_at_an_odd_place_is_refused(tmp_path: Path) -> None:
    """Its header would be read where no header of a model can be, and the reader stops."""
    content = bytearray(sealed_program().read_bytes())
    place = next(
        at
        for at in range(64, 1024, 56)
        if struct.unpack_from("<I44xQ", content, at) == (1, 2 << 20)
    )
    (offset,) = struct.unpack_from("<Q", content, place + 8)
    struct.pack_into("<Q", content, place + 8, offset - 300)
    path = tmp_path / "file"
    path.write_bytes(content)
    assert_told(integrity("--binary", path), "kElf", "place of the model", offset - 300)


def test_regions_of_long_names_are_whole_lines(tmp_path: Path) -> None:
    """A line that is cut would run into the next one, and be no JSON."""
    folder = tmp_path / ("é" * 120) / ("é" * 120) / ("é" * 120) / ("é" * 120)
    folder.mkdir(parents=True)
    program = folder / "bitnet-integrity"
    shutil.copy(integrity_program(), program)
    result = integrity("--self", "--json", program=program)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    path = str(program).encode().decode("latin-1")
    assert {line["name"] for line in lines if line.get("of_executable")} == {path}
    assert lines[-1] == {"result": "matches"}


def test_unsealed_program_is_told_as_such() -> None:
    """If this fails, a file in which nothing was held against a digest is said to match."""
    result = integrity("--binary", unsealed_program())
    assert_told(result, "kModelNotSealed", unsealed_program())
    assert result.stdout.splitlines()[-1] == "model  none: not sealed"


@contextmanager
def running(directory: Path, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program that waits for its prompt; the lock-down hides it from all but root."""
    config = write_config(directory, **settings)
    process = subprocess.Popen(
        [str(sealed_program()), "--config", str(config), "--seed", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "read" not in Path(f"/proc/{process.pid}/wchan").read_text() + state(process):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def state(process: subprocess.Popen[bytes]) -> str:
    """`read` where the first number of /proc/PID/syscall is that of read."""
    number = Path(f"/proc/{process.pid}/syscall").read_text().split()[0]
    return "read" if number == {"x86_64": "0", "aarch64": "63"}[host_arch()] else ""


@root_only
def test_process_that_is_whole_is_told_region_by_region(tmp_path: Path) -> None:
    """An auditor wants to see where code is, and that none of it came from elsewhere."""
    with running(tmp_path) as process:
        result = integrity("--pid", process.pid, "--json")
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    assert facts(result)["result"] == "matches"
    regions = [json.loads(line) for line in result.stdout.splitlines() if '"region"' in line]
    assert [(each["region"], each["rights"]) for each in regions] == [
        ("-".join(f"{int(end, 16):x}".zfill(len(f"{int(end, 16):x}") + len(f"{int(end, 16):x}") % 2)
                  for end in line.split()[0].split("-")), line.split()[1])
        for line in maps
    ]  # fmt: skip
    own = [each for each in regions if each["of_executable"]]
    assert {each["name"] for each in own} == {str(sealed_program())}
    assert len(own) >= 4


@pytest.mark.parametrize("part", ["code", "weights"])
@root_only
def test_process_whose_memory_was_changed_is_found(tmp_path: Path, part: str) -> None:
    """What runs is what is in memory, not what is in the file."""
    with running(tmp_path) as process:
        wanted = "r-xp" if part == "code" else "r--p"
        lines = [
            line.split()
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
            if line.endswith(str(sealed_program())) and wanted in line
        ]
        begin = int(lines[-1][0].split("-")[0], 16)
        address = begin + 5000
        flip_in_memory(process.pid, address)
        result = integrity("--pid", process.pid)
    offset = int(lines[-1][2], 16) + 5000
    assert_told(result, "kMappingDiffers", "memory", address, offset)


def flip_in_memory(pid: int, address: int) -> None:
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        byte = os.pread(memory.fileno(), 1, address)[0]
        os.pwrite(memory.fileno(), bytes([byte ^ 1]), address)


@pytest.mark.parametrize("lock", ["all", "arena"])
@root_only
def test_copy_of_the_weights_that_was_changed_is_found(tmp_path: Path, lock: str) -> None:
    """If this fails, the weights in the file match, and those that are read are looked at by
    nobody."""
    model = demo_model().read_bytes()
    payload = sealed_program().read_bytes().index(model[:512])
    with running(tmp_path, weights="resident", lock=lock) as process:
        whole = integrity("--pid", process.pid, "--json")
        mappings = mappings_of(Path(f"/proc/{process.pid}"))
        (copy,) = (
            each.begin for each in mappings
            if each.permissions == "r--p" and not each.path and each.end - each.begin > 65536
        )  # fmt: skip
        for place in (0, len(model) // 2, len(model) - 1):
            flip_in_memory(process.pid, copy + place)
            result = integrity("--pid", process.pid)
            assert_told(result, "kMappingDiffers", "memory", copy + place, payload + place)
            flip_in_memory(process.pid, copy + place)
    assert facts(whole)["result"] == "matches"
    regions = [json.loads(line) for line in whole.stdout.splitlines() if '"region"' in line]
    (told_copy,) = (each for each in regions if each["of_executable"] and not each["name"])
    assert told_copy["region"].startswith(f"{copy:x}-")


@contextmanager
def changed_by_itself(folder: Path, how: str) -> Iterator[tuple[int, int, int]]:
    """A sealed program that changes its own memory: process, first address, and what it changed."""
    executable = folder / "probe"
    seal(build_probe(host_arch()), demo_model(), executable)
    process = subprocess.Popen(
        [executable, "wait", how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        words = next(line for line in process.stdout if line.startswith(b"changed"))
        begin = Path(f"/proc/{process.pid}/maps").read_text().split("-")[0]
        yield process.pid, int(begin, 16), int(words.split()[1], 16)
    finally:
        process.communicate(b"x")


@root_only
def test_process_that_changed_nothing_matches(tmp_path: Path) -> None:
    """If this fails, the tests below find something else than what was changed."""
    with changed_by_itself(tmp_path, "nothing") as (pid, _, _):
        assert facts(integrity("--pid", pid, "--json"))["result"] == "matches"


@pytest.mark.parametrize("how", ["code", "copy", "writable"])
@root_only
def test_process_with_foreign_memory_is_found(tmp_path: Path, how: str) -> None:
    """Code that the executable does not ask for, its own at another place too, is somebody's; so is
    the right to write what it holds constant."""
    with changed_by_itself(tmp_path, how) as (pid, _, place):
        assert_told(integrity("--pid", pid), "kRegionForeign", "region", place)


@root_only
def test_process_without_a_segment_is_found(tmp_path: Path) -> None:
    """What was unmapped was compared with nothing, and must not count as equal."""
    with changed_by_itself(tmp_path, "gone") as (pid, begin, _):
        subject = "segment is not there"
        assert_told(integrity("--pid", pid), "kRegionForeign", subject, begin)


def test_process_of_another_program_is_refused() -> None:
    """A program without our note has nothing that its memory could be held against."""
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        result = integrity("--pid", sleeper.pid)
        assert_told(result, "kElf", "note", 0)
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize(
    "pid", ["0", "99999999999", "1/../self", "-1", "", "x", "12self", "selfself"]
)
def test_pid_that_is_none_is_refused(pid: str) -> None:
    """The number becomes a path under /proc, so it must be a number."""
    result = integrity("--pid", pid)
    assert result.returncode in (2, 5)
    assert result.stdout == ""


def test_self_tells_digest_regions_lockdown_and_its_limits() -> None:
    """A program that judges itself must say what that is worth."""
    result = integrity("--self")
    assert result.returncode == 0
    digest = hashlib.sha3_384(integrity_program().read_bytes()).hexdigest()
    assert f"sha3_384  {digest}\n" in result.stdout
    assert "kernel_lockdown  " in result.stdout
    limits = [line for line in result.stdout.splitlines() if line.startswith("limit  ")]
    assert limits == [
        "limit  a modified program can lie about its own digest",
        "limit  the kernel, the hypervisor and the firmware are trusted",
        "limit  this proves a state at one time only",
        "limit  this proves bytes, not behaviour and not where the training came from",
        "limit  without a quote of a TPM over a nonce this is no remote attestation",
    ]


@pytest.mark.parametrize(
    ("arguments", "name", "subject"),
    [
        ([], "kOptionMissing", "--self, --binary or --pid"),
        (["--self", "--pid", "1"], "kOptionValue", "--self, --binary or --pid"),
        (["--binary"], "kOptionValue", "--binary"),
        (["x"], "kUsage", "x"),
    ],
)
def test_wrong_command_line_is_refused_by_name(
    arguments: list[str], name: str, subject: str
) -> None:
    """Two questions at once have no one answer."""
    assert_told(integrity(*arguments), name, subject)
