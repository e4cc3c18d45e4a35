"""A sealed probe program, run: it finds its payload, read-only and shared, stripped or not."""

import hashlib
import re
import resource
import subprocess
from pathlib import Path

import pytest

from bitnet.seal.embed import seal
from bitnet.seal.toolchain import host_arch
from tests.support.host import addresses_change
from tests.support.sealing import build_probe, make_model, model_head, probe_facts

MIB = 1 << 20
KINDS = [("x86_64", True), ("x86_64", False), ("aarch64", True), ("aarch64", False)]
HOST = host_arch()
PAYLOAD_BYTES = 3 * MIB + 17


def make_sealed(folder: Path, arch: str, *, pie: bool = True) -> tuple[Path, bytes]:
    """Returns a sealed probe and the model inside."""
    model = make_model(folder / "model.bin", PAYLOAD_BYTES)
    seal(build_probe(arch, pie=pie), folder / "model.bin", folder / "sealed")
    return folder / "sealed", model


@pytest.mark.parametrize(("arch", "pie"), KINDS)
def test_sealed_program_finds_its_model(tmp_path: Path, arch: str, pie: bool) -> None:
    executable, model = make_sealed(tmp_path, arch, pie=pie)
    facts = probe_facts(arch, executable)
    assert facts["bytes"] == str(PAYLOAD_BYTES)
    assert facts["sha384"] == hashlib.sha384(model).hexdigest()
    assert facts["root"] == model[216:264].hex()
    assert facts["sealed"] == "1"


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_unsealed_program_says_so(arch: str) -> None:
    """Status 29 is kModelNotSealed of engine/base/status.def."""
    result = subprocess.run(
        [*(["qemu-aarch64-static"] if arch == "aarch64" else []), str(build_probe(arch))],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert result.returncode == 1
    assert b"sealed 0\nstatus 29 count 0\n" in result.stdout


@pytest.mark.parametrize("pie", [True, False])
def test_stripped_program_still_finds_its_model(tmp_path: Path, pie: bool) -> None:
    """`strip` rewrites the file; without a section over the payload it would drop it."""
    executable, _ = make_sealed(tmp_path, HOST, pie=pie)
    before = probe_facts(HOST, executable)
    subprocess.run(["strip", "--strip-all", executable], check=True)
    after = probe_facts(HOST, executable)
    assert {**after, "address": ""} == {**before, "address": ""}


def test_program_is_static_for_ldd_and_file(tmp_path: Path) -> None:
    usual, _ = make_sealed(tmp_path, HOST)
    result = subprocess.run(["ldd", usual], capture_output=True, text=True, check=False)
    assert "=>" not in result.stdout
    assert re.search(r"statically linked|not a dynamic executable", result.stdout + result.stderr)
    described = subprocess.run(["file", usual], stdout=subprocess.PIPE, text=True, check=True)
    assert "static-pie linked" in described.stdout
    plain, _ = make_sealed(tmp_path, HOST, pie=False)
    described = subprocess.run(["file", plain], stdout=subprocess.PIPE, text=True, check=True)
    assert "statically linked" in described.stdout


def test_program_load_address_changes_from_run_to_run(tmp_path: Path) -> None:
    """Static-PIE is there for this; at a fixed address the payload lies where the file says."""
    plain, _ = make_sealed(tmp_path, HOST, pie=False)
    assert len({probe_facts(HOST, plain)["address"] for _ in range(4)}) == 1
    if not addresses_change():
        pytest.skip("addresses are not randomised here: randomize_va_space, or the personality")
    executable, _ = make_sealed(tmp_path, HOST)
    addresses = {probe_facts(HOST, executable)["address"] for _ in range(4)}
    assert len(addresses) > 1


def read_mapping(process: int, executable: Path, flags: str) -> dict[str, int]:
    """Returns the sizes in kB in smaps of the largest mapping of a file with these flags."""
    found: list[dict[str, int]] = []
    for block in re.split(r"\n(?=[0-9a-f]+-)", Path(f"/proc/{process}/smaps").read_text()):
        head = block.splitlines()[0].split()
        if head[1] == flags and head[-1] == str(executable):
            found.append({name: int(size) for name, size in re.findall(r"(\w+): +(\d+) kB", block)})
    return max(found, key=lambda sizes: sizes["Size"])


def test_payload_is_read_only_and_shared_between_processes(tmp_path: Path) -> None:
    """The weights are there once, however many processes run; nothing of them is copied."""
    executable, _ = make_sealed(tmp_path, HOST)
    started = [
        subprocess.Popen([executable, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            while not process.stdout.readline().startswith(b"sha384"):
                pass
        for process in started:
            sizes = read_mapping(process.pid, executable, "r--p")
            assert sizes["Rss"] >= PAYLOAD_BYTES // 1024
            assert sizes["Private_Clean"] == sizes["Private_Dirty"] == sizes["Anonymous"] == 0
            # Dirty where the file system lies in memory.
            assert sizes["Shared_Clean"] + sizes["Shared_Dirty"] == sizes["Rss"]
    finally:
        for process in started:
            process.communicate(b"x")


def test_relocated_memory_can_be_made_read_only(tmp_path: Path) -> None:
    """RELRO of a static program is only a header until the program protects the range itself."""
    executable, _ = make_sealed(tmp_path, HOST)
    process = subprocess.Popen([executable, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"sha384"):
            pass
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        rows = [line.split()[1] for line in maps if line.endswith(str(executable))]
        # Headers and constants, code, relocated memory, variables, model.
        assert rows == ["r--p", "r-xp", "r--p", "rw-p", "r--p"]
    finally:
        process.communicate(b"x")


def test_payload_with_another_magic_is_not_found(tmp_path: Path) -> None:
    """The magic is part of what makes a segment the payload."""
    executable, _ = make_sealed(tmp_path, HOST)
    data = bytearray(executable.read_bytes())
    data[2 * MIB] ^= 1
    executable.write_bytes(data)
    result = subprocess.run([executable], stdout=subprocess.PIPE, check=False)
    assert result.returncode == 1
    assert b"status 29 count 0" in result.stdout


def test_payload_of_five_gib_runs(tmp_path: Path) -> None:
    """The last bytes of a model that no 32-bit size can name are there; the file is sparse."""
    size = 5 * 1024 * MIB + 4096
    with (tmp_path / "model.bin").open("wb") as file:
        file.write(model_head(size).ljust(216, b"\0") + b"\x01" * 48)
        file.seek(size - 8)
        file.write(b"the last")
    seal(build_probe(HOST), tmp_path / "model.bin", tmp_path / "sealed")
    before_s = processor_seconds_of_children()
    facts = probe_facts(HOST, tmp_path / "sealed", "ends")
    assert facts["bytes"] == str(size)
    assert facts["last"] == b"the last".hex()
    assert processor_seconds_of_children() - before_s < 5


def processor_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
