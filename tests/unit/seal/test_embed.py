"""The ELF writer: where things land, what is refused, and that nothing partial stays."""

import errno
import os
import stat
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from bitnet.errors import FormatError, ToolchainError, ToolkitError, UsageError
from bitnet.seal.embed import seal
from tests.support.sealing import build_probe, make_model, model_head

MIB = 1 << 20
ALL_ENGINES = [("x86_64", True), ("x86_64", False), ("aarch64", True), ("aarch64", False)]


@pytest.mark.parametrize(("arch", "pie"), ALL_ENGINES)
@pytest.mark.parametrize("size", [512, 2 * MIB, 2 * MIB + 1, 3_300_001])
def test_seal_payload_lies_aligned_above_everything(
    tmp_path: Path, arch: str, pie: bool, size: int
) -> None:
    """Read back with pyelftools: segment, section, order of segments, and the model's bytes."""
    model = make_model(tmp_path / "model.bin", size)
    engine, output = build_probe(arch, pie=pie), tmp_path / "sealed"
    sealed = seal(engine, tmp_path / "model.bin", output)
    with output.open("rb") as file:
        elf = ELFFile(file)
        loads = [segment.header for segment in elf.iter_segments("PT_LOAD")]
        payload = loads[-1]
        assert payload["p_flags"] == 4
        assert payload["p_align"] == 2 * MIB
        assert payload["p_offset"] % (2 * MIB) == 0
        assert payload["p_vaddr"] % (2 * MIB) == 0
        assert payload["p_filesz"] == payload["p_memsz"] == size
        addresses = [segment["p_vaddr"] for segment in loads]
        assert addresses == sorted(addresses)
        assert loads[-2]["p_vaddr"] + loads[-2]["p_memsz"] <= payload["p_vaddr"]
        assert not list(elf.iter_segments("PT_NOTE"))
        section = elf.get_section_by_name(".bitnet.model").header
        assert (section["sh_offset"], section["sh_size"]) == (payload["p_offset"], size)
        assert section["sh_addr"] == payload["p_vaddr"]
        assert section["sh_flags"] == 2
        note = next(elf.get_section_by_name(".note.bitnet").iter_notes())
        assert note["n_name"] == "bitnet"
        assert output.read_bytes()[note["n_offset"] + 20 :][:48] == model[216:264] == sealed.root
        data = output.read_bytes()
        assert data[payload["p_offset"] : payload["p_offset"] + size] == model
        assert len(data) == sealed.file_bytes


def test_seal_code_is_the_same_under_every_model(tmp_path: Path) -> None:
    """An auditor reads the code once: only the 48 bytes of the root and the tables differ."""
    engine = build_probe("x86_64")
    code = []
    for seed, size in ((1, 4096), (2, 5_000_000)):
        make_model(tmp_path / "model.bin", size, seed=seed)
        seal(engine, tmp_path / "model.bin", tmp_path / "sealed")
        with (tmp_path / "sealed").open("rb") as file:
            elf = ELFFile(file)
            names = (".text", ".rodata", ".data", ".data.rel.ro", ".rela.dyn")
            code.append([elf.get_section_by_name(name).data() for name in names])
    assert code[0] == code[1]


def test_seal_mode_is_executable_whatever_the_umask(tmp_path: Path) -> None:
    make_model(tmp_path / "model.bin", 4096)
    before = os.umask(0o077)
    try:
        seal(build_probe("x86_64"), tmp_path / "model.bin", tmp_path / "sealed")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "sealed").stat().st_mode) == 0o755


def test_seal_five_gib_keeps_sizes_and_holes(tmp_path: Path) -> None:
    """Assemblers and linkers cut such sizes to 32 bits; and holes must not fill the disk."""
    size = 5 * 1024 * MIB + 4096
    model, output = tmp_path / "model.bin", tmp_path / "sealed"
    with model.open("wb") as file:
        file.write(model_head(size).ljust(216, b"\0") + b"\x01" * 48)
        file.seek(size - 8)
        file.write(b"the last")
    sealed = seal(build_probe("x86_64"), model, output)
    assert sealed.payload_bytes == size
    assert output.stat().st_size == sealed.file_bytes > size
    assert output.stat().st_blocks * 512 < 64 * MIB
    with output.open("rb") as file:
        elf = ELFFile(file)
        payload = list(elf.iter_segments("PT_LOAD"))[-1].header
        assert payload["p_filesz"] == payload["p_memsz"] == size
        assert elf.get_section_by_name(".bitnet.model").header["sh_size"] == size
        file.seek(payload["p_offset"] + size - 8)
        assert file.read(8) == b"the last"


def test_seal_progress_ends_at_the_whole(tmp_path: Path) -> None:
    make_model(tmp_path / "model.bin", 40 * MIB)
    seen: list[tuple[int, int]] = []
    seal(
        build_probe("x86_64"),
        tmp_path / "model.bin",
        tmp_path / "sealed",
        progress=lambda done, size: seen.append((done, size)),
    )
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert seen[-1] == (40 * MIB, 40 * MIB)


def refuse(
    tmp_path: Path, error: type[ToolkitError], message: str, *, engine: Path | None = None
) -> None:
    """Seals `model.bin` of the folder and expects an error; only the inputs may be left."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error) as caught:
        seal(engine or build_probe("x86_64"), tmp_path / "model.bin", tmp_path / "sealed")
    assert message in caught.value.message
    assert sorted(tmp_path.iterdir()) == before


def test_seal_sealed_engine_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "model.bin", 4096)
    seal(build_probe("x86_64"), tmp_path / "model.bin", tmp_path / "once")
    message = "executable carries a model already"
    refuse(tmp_path, FormatError, message, engine=tmp_path / "once")


def test_seal_engine_without_note_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "model.bin", 4096)
    message = "executable has no place for a model"
    refuse(tmp_path, FormatError, message, engine=Path("/bin/true"))


def test_seal_engine_with_used_note_refused(tmp_path: Path) -> None:
    """A root that was written by hand must not be overwritten silently."""
    make_model(tmp_path / "model.bin", 4096)
    data = bytearray(build_probe("x86_64").read_bytes())
    data[data.index(b"bitnet\0\0") + 8] = 1
    (tmp_path / "engine").write_bytes(data)
    message = "executable carries a model already"
    refuse(tmp_path, FormatError, message, engine=tmp_path / "engine")


def test_seal_engine_that_fails_the_checks_refused(tmp_path: Path) -> None:
    """An executable stack must not leave the builder's machine."""
    make_model(tmp_path / "model.bin", 4096)
    data = bytearray(build_probe("x86_64").read_bytes())
    stack = data.index(struct.pack("<II", 0x6474E551, 6))
    data[stack + 4] = 7
    (tmp_path / "engine").write_bytes(data)
    refuse(tmp_path, FormatError, "executable is not hardened", engine=tmp_path / "engine")


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"BNAGMODX", "not a model.bin file"),
        (8, struct.pack("<I", 9), "model.bin version is not supported"),
        (16, struct.pack("<Q", 4097), "model.bin is not as long as it says"),
        (216, bytes(48), "model.bin has no Merkle root"),
    ],
)
def test_seal_bad_model_refused(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    data = bytearray(make_model(tmp_path / "model.bin", 4096))
    data[offset : offset + len(value)] = value
    (tmp_path / "model.bin").write_bytes(data)
    refuse(tmp_path, FormatError, message)


@pytest.mark.parametrize("size", [0, 8, 511])
def test_seal_short_model_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "model.bin").write_bytes(model_head(size).ljust(size, b"\1")[:size])
    refuse(tmp_path, FormatError, "not a model.bin file")


def test_seal_missing_model_refused(tmp_path: Path) -> None:
    refuse(tmp_path, FormatError, "model cannot be read")


def test_seal_over_an_input_refused(tmp_path: Path) -> None:
    """`--output model.bin` must not destroy the model."""
    model = make_model(tmp_path / "model.bin", 4096)
    with pytest.raises(UsageError, match="output is one of the inputs"):
        seal(build_probe("x86_64"), tmp_path / "model.bin", tmp_path / "model.bin")
    assert (tmp_path / "model.bin").read_bytes() == model


def test_seal_of_a_model_on_a_failing_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, a disk that fails in the middle of a model passes for a hole: zeros are sealed."""
    make_model(tmp_path / "model.bin", 3 * MIB)
    seek = os.lseek

    def fail_in_the_middle(descriptor: int, place: int, how: int) -> int:
        if how == os.SEEK_DATA and place > 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        # Data ends after one MiB, so that more is asked for.
        return MIB if how == os.SEEK_HOLE else seek(descriptor, place, how)

    monkeypatch.setattr(os, "lseek", fail_in_the_middle)
    refuse(tmp_path, ToolchainError, "executable cannot be written")


def test_seal_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "model.bin", 4096)
    with pytest.raises(UsageError, match="folder of the output does not exist"):
        seal(build_probe("x86_64"), tmp_path / "model.bin", tmp_path / "none" / "sealed")
