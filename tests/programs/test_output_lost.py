"""What a program could not say: no exit code tells that it was said."""

import json
import struct
import subprocess
from pathlib import Path

import pytest

from bitnet.seal.toolchain import Target, build_program, host_arch
from tests.support.infer import QUESTION, sealed_program, write_config
from tests.support.log_ring import event_rows, read_ring
from tests.support.status_table import status_rows, told

NO_SPACE, BROKEN_PIPE = 28, 32
PROGRAMS = ("bitnet-infer", "bitnet-integrity", "bitnet-log", "bitnet-rollback", "bitnet-update",
            "bitnet-verify")  # fmt: skip


def program(name: str) -> Path:
    if name == "bitnet-infer":
        return sealed_program()
    return build_program(name, Target(host_arch()))


def run_into_full(*command: object) -> subprocess.CompletedProcess[str]:
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60, check=False,
        )  # fmt: skip


def assert_write_failed(result: subprocess.CompletedProcess[str], errno: int) -> None:
    assert result.stderr == told("kWriteFailed", "", 0, errno)
    assert result.returncode == status_rows()["kWriteFailed"].exit_code


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_text_of_a_program_that_is_lost_is_an_error(name: str, option: str) -> None:
    """If this fails, a script takes an empty file for the version that it asked for."""
    assert_write_failed(run_into_full(program(name), option), NO_SPACE)


def test_result_that_is_lost_is_an_error(tmp_path: Path) -> None:
    """If this fails, a check or a measurement that nobody saw counts as done."""
    config = write_config(tmp_path, log=str(tmp_path / "ring"))
    infer = (sealed_program(), "--config", config)
    for command in (
        (program("bitnet-verify"), "--selftest"),
        (program("bitnet-integrity"), "--binary", sealed_program()),
        (*infer, "--hardening-report"),
        (*infer, "--seed", "1", "--bench", "20"),
        (program("bitnet-log"), tmp_path / "ring"),
        (program("bitnet-log"), tmp_path / "ring", "--json"),
    ):
        assert_write_failed(run_into_full(*command), NO_SPACE)


def test_refusal_whose_text_is_lost_keeps_its_code(tmp_path: Path) -> None:
    """If this fails, a full disk turns `not trusted` into something that may be tried again."""
    content = bytearray(sealed_program().read_bytes())
    note = content.index(struct.pack("<III8s", 8, 96, 1, b"bitnet\0\0")) + 20
    content[note] ^= 1
    path = tmp_path / "changed"
    path.write_bytes(content)
    result = run_into_full(program("bitnet-integrity"), "--binary", path)
    assert result.stderr == told("kSealBroken", "root", note)
    assert result.returncode == status_rows()["kSealBroken"].exit_code


def test_reader_that_went_away_is_an_error_in_the_log(tmp_path: Path) -> None:
    """If this fails, the run dies of a signal: it wipes nothing, and the log says `died`."""
    ring = tmp_path / "ring"
    config = write_config(tmp_path, log=str(ring), threads=2)
    process = subprocess.Popen(
        [sealed_program(), "--config", config, "--seed", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(QUESTION, timeout=60)
    assert errors.decode() == told("kWriteFailed", "", 0, BROKEN_PIPE)
    assert process.returncode == status_rows()["kWriteFailed"].exit_code
    *_, error, last = read_ring(ring.read_bytes())
    assert [event_rows()[each.event].word for each in (error, last)] == ["error", "exit"]
    assert error.numbers == (status_rows()["kWriteFailed"].number, 0, BROKEN_PIPE)
    assert last.numbers[0] == process.returncode
    state = subprocess.run(
        [program("bitnet-log"), ring, "--json"], capture_output=True, check=True, timeout=60
    ).stdout
    assert json.loads(state.splitlines()[-1])["writer"] == "ended"
