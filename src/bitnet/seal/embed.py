"""Puts a model into an executable as a load segment of its own, without assembler or linker.

The layout is described in docs/formats/executable.md. What the linker wrote stays where it is;
changed are the file header, one row of the program headers (the note's segment becomes the
payload's) and the 96 bytes of the note that name the model and the rest of the image. The model is
appended at the next multiple of 2 MiB, a new section table follows it. Any size works: the model is
copied once, by the kernel where it can, and holes of a sparse file stay holes.
"""

import errno
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bitnet.errors import FormatError, ToolchainError
from bitnet.files import check_output, new_file, open_regular
from bitnet.quantize.layout import (
    DIGEST_BYTES,
    HEADER_FIELDS,
    MAGIC,
    TENSOR_TABLE_OFFSET,
    VERSION,
    unpack_fields,
)
from bitnet.seal.elf import (
    PF_R,
    PHDR_BYTES,
    PT_LOAD,
    PT_NOTE,
    SHDR_BYTES,
    SHF_ALLOC,
    SHT_NOBITS,
    SHT_NOTE,
    SHT_PROGBITS,
    Elf,
    Section,
    Segment,
    read_elf,
)
from bitnet.seal.elf_checks import check_executable

__all__ = [
    "MODEL_SECTION",
    "NOTE_SECTION",
    "PAYLOAD_ALIGN_BYTES",
    "ModelHead",
    "Sealed",
    "read_model_head",
    "seal",
]

PAYLOAD_ALIGN_BYTES: Final = 2 << 20
MODEL_SECTION: Final = ".bitnet.model"
NOTE_SECTION: Final = ".note.bitnet"

# The note of engine/format/executable.cc: sizes of name and description, type 1, name, 96 zeros.
_NOTE_BYTES: Final = 2 * DIGEST_BYTES
_NOTE_HEAD: Final = struct.pack("<III8s", 8, _NOTE_BYTES, 1, b"bitnet\0\0")
_CHUNK_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class ModelHead:
    """What sealing needs to know of a model.bin: its size, its root, its tokenizer's SHA-384."""

    file_bytes: int
    root: bytes
    tokenizer_sha384: bytes


@dataclass(frozen=True)
class Sealed:
    """What `seal` wrote: where, how large, and where the model lies in it."""

    path: Path
    file_bytes: int
    payload_offset: int
    payload_vaddr: int
    payload_bytes: int
    root: bytes


@dataclass(frozen=True)
class _Layout:
    """Where things go in the sealed file."""

    body_bytes: int
    payload: Segment
    names_offset: int
    names: bytes
    sections: tuple[Section, ...]
    sections_offset: int

    @property
    def file_bytes(self) -> int:
        return self.sections_offset + len(self.sections) * SHDR_BYTES


def read_model_head(path: Path) -> ModelHead:
    """Reads the fields of a model.bin that sealing binds; `bitnet.quantize` checks the others.

    Raises:
        FormatError: It cannot be read, is no model.bin of this version, is truncated, or has no
        root.
    """
    try:
        with open_regular(path) as file:
            head = file.read(TENSOR_TABLE_OFFSET)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise FormatError(
            f"model cannot be read: `{path}`", where=error.strerror or str(error)
        ) from error
    if len(head) < TENSOR_TABLE_OFFSET or not head.startswith(MAGIC):
        raise FormatError(f"not a model.bin file: `{path}`", hint="make one with `bitnet.quantize`")
    fields = unpack_fields(HEADER_FIELDS, head)
    if fields["version"] != VERSION:
        raise FormatError(
            f"model.bin version is not supported: `{path}`",
            where=(f"version   {fields['version']}", f"limit     {VERSION}"),
        )
    if fields["file_bytes"] != size:
        raise FormatError(
            f"model.bin is not as long as it says: `{path}`",
            where=(f"says      {fields['file_bytes']} bytes", f"has       {size} bytes"),
        )
    if not any(fields["root"]):
        raise FormatError(f"model.bin has no Merkle root: `{path}`")
    return ModelHead(size, fields["root"], fields["tokenizer_sha384"])


def seal(
    engine: Path,
    model: Path,
    output: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Sealed:
    """Writes an executable that is `engine` with `model` inside.

    Args:
        engine: A linked program with a `.note.bitnet`, not sealed yet.
        model: A model.bin.
        output: Written under a temporary name, checked with `check_executable`, then renamed;
            mode 0755 whatever the umask.
        progress: Called with the bytes of the model copied so far and their total.

    Raises:
        FormatError: The engine or the model is not what it must be, or the result fails the checks.
        UsageError: `output` is one of the inputs, or no place for a file.
        ToolchainError: The output cannot be written.
    """
    elf = read_elf(engine)
    note_index, note_offset = _find_note(elf)
    head = read_model_head(model)
    layout = _plan_layout(elf, head.file_bytes)
    check_output(output, (engine, model))
    with new_file(output, mode=0o755) as new:
        try:
            _copy(engine, new.file.fileno(), 0, layout.body_bytes, None)
            _copy(model, new.file.fileno(), layout.payload.offset, head.file_bytes, progress)
            _write_headers(new.file.fileno(), elf, layout, note_index)
            note_offset += len(_NOTE_HEAD)
            image = _image_digest(new.file.fileno(), elf, note_offset)
            _write_at(new.file.fileno(), head.root + image, note_offset)
        except OSError as error:
            raise ToolchainError(
                f"executable cannot be written: `{output}`", where=error.strerror or str(error)
            ) from error
        check_executable(new.path, sealed=True)
    payload = layout.payload
    return Sealed(
        output, layout.file_bytes, payload.offset, payload.vaddr, payload.filesz, head.root
    )


def _find_note(elf: Elf) -> tuple[int, int]:
    """Returns the index of the note's segment and the note's offset; checks that it is unused."""
    place = f"file      {elf.path}"
    if elf.find_section(MODEL_SECTION) is not None:
        raise FormatError(f"executable carries a model already: `{elf.path}`", where=place)
    section = elf.find_section(NOTE_SECTION)
    expected_bytes = len(_NOTE_HEAD) + _NOTE_BYTES
    if section is None or section.type != SHT_NOTE or section.size != expected_bytes:
        raise FormatError(
            f"executable has no place for a model: `{elf.path}`",
            where=(place, f"section   {NOTE_SECTION} is missing or malformed"),
        )
    extent = (PT_NOTE, section.offset, section.size)
    found = [
        index
        for index, segment in enumerate(elf.segments)
        if (segment.type, segment.offset, segment.filesz) == extent
    ]
    if len(found) != 1:
        raise FormatError(
            f"executable has no place for a model: `{elf.path}`",
            where=(place, f"segments  {len(found)} cover {NOTE_SECTION}, 1 is needed"),
        )
    with elf.path.open("rb") as file:
        file.seek(section.offset)
        note = file.read(expected_bytes)
    if note[: len(_NOTE_HEAD)] != _NOTE_HEAD:
        raise FormatError(f"note of the executable is malformed: `{elf.path}`", where=place)
    if any(note[len(_NOTE_HEAD) :]):
        raise FormatError(f"executable carries a model already: `{elf.path}`", where=place)
    return found[0], section.offset


def _plan_layout(elf: Elf, payload_bytes: int) -> _Layout:
    """Decides where payload, names and section table go. All sums are of checked values."""
    old_names = elf.sections[elf.header.shstrndx]
    ends = [segment.offset + segment.filesz for segment in elf.segments]
    ends += [
        section.offset + section.size
        for section in elf.sections
        if section.type != SHT_NOBITS and section is not old_names
    ]
    ends += [elf.header.phoff + elf.header.phnum * PHDR_BYTES]
    body_bytes = max(ends)
    offset = _round_up(body_bytes, PAYLOAD_ALIGN_BYTES)
    last = elf.load_segments[-1] if elf.load_segments else None
    if last is None:
        raise FormatError(f"executable has no load segment: `{elf.path}`")
    vaddr = _round_up(last.vaddr + last.memsz, PAYLOAD_ALIGN_BYTES)
    payload = Segment(
        PT_LOAD, PF_R, offset, vaddr, vaddr, payload_bytes, payload_bytes, PAYLOAD_ALIGN_BYTES
    )
    names = elf.section_names + MODEL_SECTION.encode() + b"\0"
    names_offset = offset + payload_bytes
    sections_offset = _round_up(names_offset + len(names), 8)
    section = Section(
        name=len(elf.section_names),
        type=SHT_PROGBITS,
        flags=SHF_ALLOC,
        addr=vaddr,
        offset=offset,
        size=payload_bytes,
        link=0,
        info=0,
        addralign=PAYLOAD_ALIGN_BYTES,
        entsize=0,
    )
    # At the end of the table, so that no index in symbols or links changes.
    sections = [*elf.sections, section]
    moved = replace(old_names, offset=names_offset, size=len(names))
    sections[elf.header.shstrndx] = moved
    return _Layout(body_bytes, payload, names_offset, names, tuple(sections), sections_offset)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _write_headers(descriptor: int, elf: Elf, layout: _Layout, note_index: int) -> None:
    """Writes file header, program headers, names and section table over the copied body."""
    segments = [segment for index, segment in enumerate(elf.segments) if index != note_index]
    # Load segments ascend by address, so the payload stands behind the last of them.
    last = max(index for index, segment in enumerate(segments) if segment.type == PT_LOAD)
    segments.insert(last + 1, layout.payload)
    header = replace(elf.header, shoff=layout.sections_offset, shnum=len(layout.sections))
    _write_at(descriptor, header.pack(), 0)
    _write_at(descriptor, b"".join(segment.pack() for segment in segments), header.phoff)
    _write_at(descriptor, layout.names, layout.names_offset)
    table = b"".join(section.pack() for section in layout.sections)
    _write_at(descriptor, table, layout.sections_offset)


def _image_digest(descriptor: int, elf: Elf, note_offset: int) -> bytes:
    """Returns the digest of docs/formats/executable.md, "The note", over what was written.

    Zero are the note itself and what `strip` may change: where the section table is.
    """
    digest = hashlib.sha3_384(b"\x04")
    for segment in elf.segments:
        if segment.type != PT_LOAD:
            continue
        data = bytearray(os.pread(descriptor, segment.filesz, segment.offset))
        for start, end in ((40, 48), (58, 64), (note_offset, note_offset + _NOTE_BYTES)):
            if segment.offset <= start and end <= segment.offset + segment.filesz:
                data[start - segment.offset : end - segment.offset] = bytes(end - start)
        digest.update(struct.pack("<QQ", segment.offset, segment.filesz))
        digest.update(data)
    return digest.digest()


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _copy(
    source: Path,
    descriptor: int,
    offset: int,
    size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Copies the first `size` bytes of a file to `offset`; holes are left as holes."""
    with source.open("rb", buffering=0) as file:
        for start, end in _data_extents(file.fileno(), size):
            for at in range(start, end, _CHUNK_BYTES):
                if progress is not None:
                    progress(at, size)
                _copy_chunk(file.fileno(), at, descriptor, offset + at, min(end - at, _CHUNK_BYTES))
        if os.fstat(file.fileno()).st_size < size:
            raise FormatError(f"file became shorter while it was copied: `{source}`")
    if progress is not None:
        progress(size, size)


def _data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields the ranges below `size` that are not holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # only a hole is left
                raise
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start < size:
            yield start, end
        at = end


def _copy_chunk(source: int, source_at: int, target: int, target_at: int, size: int) -> None:
    """Copies within the kernel, or through memory where the file system cannot."""
    while size > 0:
        try:
            count = os.copy_file_range(source, target, size, source_at, target_at)
        except OSError:
            data = os.pread(source, size, source_at)
            _write_at(target, data, target_at)
            count = len(data)
        if count == 0:
            raise FormatError("file became shorter while it was copied")
        source_at, target_at, size = source_at + count, target_at + count, size - count
