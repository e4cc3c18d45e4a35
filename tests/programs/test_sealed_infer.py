"""The product itself: the bundled model sealed for each target, stripped, and asked."""

import hashlib
import json
import struct
import subprocess
from pathlib import Path

import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.cli import render
from bitnet.cli.app import create
from bitnet.errors import FormatError, IntegrityError, ToolkitError
from bitnet.quantize import write_model
from bitnet.seal.elf import read_elf
from bitnet.seal.elf_checks import check_executable
from bitnet.seal.executable import build_engine, check_belonging, seal_model
from bitnet.seal.toolchain import Target, host_arch
from tests.support import model_bin
from tests.support.infer import missing_layers

DEMO = Path(__file__).parents[2] / "models" / "demo"

QUESTION = b"show failed systemd units\n"
ANSWER = b"systemctl list-units --failed\n"
PT_GNU_RELRO = 0x6474E552
TARGETS = [("x86_64", True), ("x86_64", False), ("aarch64", True), ("aarch64", False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and a configuration for it."""
    folder = tmp_path_factory.mktemp("sealed")
    with open_checkpoint(DEMO) as checkpoint:
        write_model(checkpoint, folder / "model.bin", tokenizer=DEMO / "tokenizer.json")
    return folder


def emulator_of(arch: str) -> list[str]:
    return [] if arch == host_arch() else [f"qemu-{arch}-static"]


def write_config(folder: Path, capsys: pytest.CaptureFixture[str], arch: str) -> Path:
    path = folder / "config.yaml"
    capsys.readouterr()
    assert render.run_app(create(), "bitnet", ["config", "--model", str(folder / "model.bin")]) == 0
    text = capsys.readouterr().out
    # An emulator passes on few of the calls that lock the process down.
    accepted = json.dumps(list(missing_layers(*emulator_of(arch), arch=arch)))
    assert text.count("accept_missing: []\n") == 1
    text = text.replace("accept_missing: []", f"accept_missing: {accepted}")
    path.write_text(text, encoding="utf-8")
    return path


def ask(arch: str, executable: Path, config: Path) -> bytes:
    command = [*emulator_of(arch), executable, "--config", config, "--seed", "42"]
    return subprocess.run(command, input=QUESTION, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize(("arch", "pie"), TARGETS)
def test_sealed_demo_answers_on_every_target(
    folder: Path, capsys: pytest.CaptureFixture[str], arch: str, pie: bool
) -> None:
    """One executable, nothing beside it, the same answer on both architectures, stripped or not."""
    config = write_config(folder, capsys, arch)
    executable = folder / f"bitnet-infer-{arch}-{pie}"
    sealed = seal_model(
        folder / "model.bin", DEMO / "tokenizer.json", executable, Target(arch, pie=pie)
    )
    assert sealed.file_bytes == executable.stat().st_size <= 6_000_000
    check_executable(executable, sealed=True)
    assert ask(arch, executable, config) == ANSWER
    if arch == host_arch():
        subprocess.run(["strip", "--strip-all", executable], check=True)
        check_executable(executable, sealed=True)
        assert ask(arch, executable, config) == ANSWER


@pytest.mark.parametrize(("arch", "pie"), TARGETS)
def test_relocated_pointers_end_with_a_page_of_any_kernel(arch: str, pie: bool) -> None:
    """If this fails, the program does not start on a kernel of AArch64 with pages of 16 or 64 KiB,
    where these pointers could not be made read-only."""
    elf = read_elf(build_engine(DEMO / "tokenizer.json", Target(arch, pie=pie)))
    (relro,) = (segment for segment in elf.segments if segment.type == PT_GNU_RELRO)
    page_bytes_max = {"x86_64": 4096, "aarch64": 65536}[arch]
    assert relro.memsz > 0
    assert (relro.vaddr + relro.memsz) % page_bytes_max == 0


def test_check_belonging_other_tokenizer_names_both(folder: Path, tmp_path: Path) -> None:
    """A wrong tokenizer gives fluent nonsense, so it must not be sealed."""
    tokenizer = tmp_path / "tokenizer.json"
    data = (DEMO / "tokenizer.json").read_bytes()
    tokenizer.write_bytes(data + b"\n")
    with pytest.raises(FormatError) as caught:
        check_belonging(folder / "model.bin", tokenizer)
    assert caught.value.message == (
        f"model and tokenizer do not belong together: `{folder / 'model.bin'}`, `{tokenizer}`"
    )
    digests = [hashlib.sha384(text).hexdigest() for text in (data, data + b"\n")]
    assert [line.split()[-1] for line in caught.value.where] == digests


@pytest.mark.parametrize("offset", [20, 216, 600])
def test_check_belonging_damaged_model_refused(folder: Path, tmp_path: Path, offset: int) -> None:
    data = bytearray((folder / "model.bin").read_bytes())
    data[offset] ^= 1
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(ToolkitError):
        check_belonging(tmp_path / "model.bin", DEMO / "tokenizer.json")


def write_well_digested(good: Path, path: Path, tensor: int, at: int, value: int) -> None:
    """Writes a model with one byte of a tensor set and every digest computed again."""
    data = bytearray(good.read_bytes())
    offset, size = struct.unpack_from("<QQ", data, 512 + 64 * tensor + 24)
    data[offset + (at if at >= 0 else size + at)] = value
    header_bytes, data_bytes = struct.unpack_from("<QQ", data, 128)
    path.write_bytes(model_bin.seal(data, header_bytes, data_bytes))


@pytest.mark.parametrize(
    ("tensor", "at", "value", "name"),
    [
        (3, 0, 0xFF, "layers.0.q"),  # four codes 3
        (1, 4095, 1, "rope_inv_freq"),  # between the tensors
        (0, -1, 1, "embedding"),  # the residual norm of a row that pads
    ],
)
def test_seal_model_that_keeps_its_digests_but_not_the_format_refused(
    folder: Path, tmp_path: Path, tensor: int, at: int, value: int, name: str
) -> None:
    """Sealed, such a model would answer differently on different instruction sets."""
    model, output = tmp_path / "model.bin", tmp_path / "bitnet-infer"
    write_well_digested(folder / "model.bin", model, tensor, at, value)
    with pytest.raises(FormatError) as caught:
        seal_model(model, DEMO / "tokenizer.json", output, Target(host_arch()))
    assert caught.value.message == f"model.bin tensor holds a value that cannot be: `{name}`"
    arguments = ["seal", "--model", str(model), "--tokenizer", str(DEMO / "tokenizer.json")]
    assert render.run_app(create(), "bitnet", [*arguments, "--output", str(output)]) == 1
    assert not output.exists()


def test_seal_model_changed_leaf_refused(folder: Path, tmp_path: Path) -> None:
    """A copy that went wrong would be carried into the gap and noticed there."""
    data = bytearray((folder / "model.bin").read_bytes())
    data[struct.unpack_from("<Q", data, 128)[0] + 100_000] ^= 1
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(IntegrityError, match="leaf does not match its digest"):
        seal_model(
            tmp_path / "model.bin", DEMO / "tokenizer.json", tmp_path / "x", Target(host_arch())
        )


def test_seal_model_reports_progress_of_the_check_to_its_end(folder: Path) -> None:
    """A model of gigabytes would be checked in silence."""
    seen: list[tuple[str, int, int]] = []
    check_belonging(
        folder / "model.bin",
        DEMO / "tokenizer.json",
        progress=lambda label, done, total: seen.append((label, done, total)),
    )
    data_bytes = struct.unpack_from("<Q", (folder / "model.bin").read_bytes(), 136)[0]
    assert {total for _, _, total in seen} == {data_bytes}
    digests = [done for label, done, _ in seen if label == "digests"]
    values = [done for label, done, _ in seen if label != "digests"]
    assert digests == sorted(digests)
    assert values == sorted(values)
    assert digests[-1] == values[-1] == data_bytes


def test_seal_command_prints_facts_as_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bitnet-infer"
    arguments = ["seal", "--model", str(folder / "model.bin"), "--tokenizer"]
    arguments += [str(DEMO / "tokenizer.json"), "--output", str(output), "--json"]
    assert render.run_app(create(), "bitnet", arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["sha384"] == hashlib.sha384(output.read_bytes()).hexdigest()
    assert facts["file_bytes"] == output.stat().st_size
    assert facts["arch"] == host_arch()
    assert render.run_app(create(), "bitnet", ["elf", str(output), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["hardened"] is True
    assert shown["facts"]["model_root"] == {"value": facts["root"], "ok": True}


def test_seal_command_unknown_architecture_exact_text(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["seal", "--model", str(folder / "model.bin"), "--tokenizer", "t.json"]
    arguments += ["--output", "x", "--arch", "riscv64"]
    assert render.run_app(create(), "bitnet", arguments) == 2
    assert capsys.readouterr().err == (
        "error: architecture is not supported: `riscv64`\n"
        "\n"
        "hint: pass `--arch` with one of x86_64, aarch64\n"
    )


def test_elf_command_ordinary_program_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert render.run_app(create(), "bitnet", ["elf", "/bin/true"]) == 1
    lines = capsys.readouterr().out.splitlines()
    marked = [line for line in lines if line.endswith("  <- not as it should be")]
    assert any(line.startswith("interpreter") for line in marked)
