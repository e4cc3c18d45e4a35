"""Damaged executables: a named error or facts, never another exception, never a partial output."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitnet.errors import FormatError, ToolkitError
from bitnet.seal.elf import EHDR_BYTES, PHDR_BYTES, SHDR_BYTES, read_elf
from bitnet.seal.elf_checks import inspect_executable
from bitnet.seal.embed import seal
from tests.support.sealing import build_probe, make_model

# Single bytes that turn counts, sizes and offsets into edges: zero, one, sign, all ones.
EDGES = (0x00, 0x01, 0x7F, 0x80, 0xFF)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small model and nothing else."""
    make_model(tmp_path / "model.bin", 4096)
    return tmp_path


def try_file(folder: Path, data: bytes) -> tuple[str, str]:
    """Seals and inspects `data`; returns how each ended, and checks what may be left."""
    engine, output = folder / "engine", folder / "sealed"
    engine.write_bytes(data)
    ends = []
    for action in (
        lambda: seal(engine, folder / "model.bin", output),
        lambda: inspect_executable(engine),
    ):
        try:
            action()
            ends.append("done")
        except ToolkitError as error:
            assert error.message
            ends.append(error.message.split(":")[0])
    assert output.exists() == (ends[0] == "done")
    output.unlink(missing_ok=True)
    assert {path.name for path in folder.iterdir()} == {"model.bin", "engine"}
    return ends[0], ends[1]


def header_ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Yields the file ranges of file header, program headers and section headers."""
    header = read_elf(path).header
    yield 0, EHDR_BYTES
    yield header.phoff, header.phoff + header.phnum * PHDR_BYTES
    yield header.shoff, header.shoff + header.shnum * SHDR_BYTES


@pytest.mark.parametrize("part", [0, 1, 2], ids=["file_header", "segments", "sections"])
def test_seal_every_header_byte_at_every_edge_value(folder: Path, part: int) -> None:
    probe = build_probe("x86_64")
    original = probe.read_bytes()
    begin, end = list(header_ranges(probe))[part]
    refused = 0
    for offset in range(begin, end, 1 + part):
        data = bytearray(original)
        data[offset] = EDGES[offset % len(EDGES)] ^ (original[offset] == EDGES[offset % len(EDGES)])
        refused += try_file(folder, bytes(data))[0] != "done"
    assert refused > (end - begin) // 24


def test_seal_truncated_anywhere_refused(folder: Path) -> None:
    original = build_probe("x86_64").read_bytes()
    lengths = [*range(0, 1024, 13), *range(1024, len(original) - 1, 509), len(original) - 1]
    for length in lengths:
        sealing, inspecting = try_file(folder, original[:length])
        assert sealing != "done", length
        assert inspecting != "done", length


def test_seal_random_mutations_named_error_or_checked_output(folder: Path) -> None:
    """Up to eight random bytes anywhere; headers are hit more often than their share."""
    probe = build_probe("x86_64")
    original = probe.read_bytes()
    ranges = [*header_ranges(probe), (0, len(original))]
    rng = random.Random(20)
    for _ in range(1000):
        data = bytearray(original)
        begin, end = rng.choice(ranges)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(begin, end)] = rng.randrange(256)
        try_file(folder, bytes(data))


def test_inspect_random_mutations_of_dynamic_parts(folder: Path) -> None:
    """The tables that pyelftools follows: dynamic entries, symbols, hashes, relocations."""
    probe = build_probe("aarch64")
    elf = read_elf(probe)
    original = probe.read_bytes()
    names = (".dynsym", ".gnu.hash", ".hash", ".dynstr", ".rela.dyn", ".dynamic", ".note.bitnet")
    sections = [section for name in names if (section := elf.find_section(name)) is not None]
    assert len(sections) >= 5
    rng = random.Random(21)
    for _ in range(300):
        data = bytearray(original)
        section = rng.choice(sections)
        for _ in range(rng.randint(1, 8)):
            data[section.offset + rng.randrange(max(section.size, 1))] = rng.randrange(256)
        try_file(folder, bytes(data))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x7fELF", b"\x7fELF" + bytes(60), b"#!/bin/sh\n", bytes(4096)],
    ids=["empty", "magic", "zeros", "script", "page"],
)
def test_inspect_other_files_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(FormatError):
        inspect_executable(tmp_path / "file")


def test_inspect_folder_or_nothing_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FormatError, match="file cannot be read"):
            inspect_executable(path)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (4, b"\x01", "not a 64-bit little-endian ELF file"),
        (5, b"\x02", "not a 64-bit little-endian ELF file"),
        (16, b"\x01", "not a linked program"),
        (18, b"\x28", "machine is not supported"),
        (54, b"\x40", "header sizes are not those of ELF-64"),
        (56, b"\xff\xff", "number of segments is out of range"),
        (60, b"\xff\xff", "number of sections is out of range"),
        (62, b"\xff\x00", "number of sections is out of range"),
        (32, b"\xff" * 8, "program header table lies outside the file"),
        (40, b"\xff" * 8, "section header table lies outside the file"),
    ],
)
def test_seal_bad_file_header_named(folder: Path, offset: int, value: bytes, message: str) -> None:
    data = bytearray(build_probe("x86_64").read_bytes())
    data[offset : offset + len(value)] = value
    assert try_file(folder, bytes(data)) == (message, message)


def test_seal_overlapping_segments_refused(folder: Path) -> None:
    data = bytearray(build_probe("x86_64").read_bytes())
    loads = [
        i for i, segment in enumerate(read_elf(build_probe("x86_64")).segments) if segment.type == 1
    ]
    size = EHDR_BYTES + loads[0] * PHDR_BYTES + 40
    data[size : size + 8] = (1 << 20).to_bytes(8, "little")
    assert try_file(folder, bytes(data))[0] == "load segments overlap or do not ascend"
