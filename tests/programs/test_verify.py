"""bitnet-verify as a user has it: the static program, files on a disk, and what it says."""

import base64
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bitnet.seal.toolchain import find_compiler, host_arch
from tests.support.engine import REPOSITORY, scratch_directory
from tests.support.host import installed
from tests.support.publisher import Release, Signer, container, statement_of, trust_root
from tests.support.release_probe import verify_program
from tests.support.status_table import status_rows

ALICE, BOB, CAROL = (Signer(name) for name in ("alice", "bob", "carol"))
ROOT = container(
    trust_root(3, {"root": (2, [ALICE, BOB]), "release": (2, [ALICE, BOB])}), [ALICE, BOB]
)
ROUNDS = int(os.environ.get("RACE_ROUNDS", "2000"))
Result = subprocess.CompletedProcess[str]


def program(word: str) -> bytes:
    """A small static program that says a word and its arguments."""
    path = scratch_directory() / f"says-{word}"
    if not path.exists():
        source = path.with_suffix(".c")
        source.write_text(
            '#include <stdio.h>\nint main(int c, char** v) { printf("%s", "' + word + '");'
            'for (int i = 0; i < c; ++i) printf(" %s", v[i]); puts(""); return 0; }\n'
        )
        target = f"{host_arch()}-linux-musl"
        command = [str(find_compiler()), "cc", "-target", target, "-static", "-Os", "-s"]
        subprocess.run([*command, str(source), "-o", str(path)], check=True)
    return path.read_bytes()


def make_release(counter: int = 7, **changes: object) -> Release:
    files = {
        "bitnet-infer": (0o755, program("good")),
        "config.yaml": (0o644, f"counter: {counter}\n".encode()),
        "model.bin": (0o644, b"model" * counter),
    }
    return Release(counter, files=files, **changes)


def install(folder: Path, release: Release, *signers: Signer, root: bytes = ROOT) -> Path:
    """Lays an installation out below a prefix; returns the folder of the release."""
    place = folder / "opt" / "bitnet.d" / release.name
    place.mkdir(parents=True)
    (folder / "opt" / "bitnet").symlink_to(f"bitnet.d/{release.name}")
    (folder / "etc" / "bitnet").mkdir(parents=True)
    (folder / "etc" / "bitnet" / "trust.root").write_bytes(root)
    (place / "MANIFEST").write_bytes(release.manifest)
    (place / "update.sig").write_bytes(container(release.statement, signers or (ALICE, BOB)))
    for name, (mode, data) in release.files.items():
        (place / name).write_bytes(data)
        (place / name).chmod(mode)
    return place


def run(*arguments: object, wrap: Sequence[str] = (), **options: object) -> Result:
    command = [*wrap, str(verify_program(host_arch())), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def refused(result: Result, status: str, *facts: str) -> None:
    """The refusal is that of one row of the table, and nothing else happened."""
    row = status_rows()[status]
    assert f"error: {row.text}" in result.stderr, result.stderr
    assert result.returncode == row.exit_code
    assert result.stdout == ""
    for fact in facts:
        assert fact in result.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return install(tmp_path, make_release())


def test_bundle_signed_by_enough_is_trusted_and_told_by_whom(tmp_path: Path) -> None:
    """If this fails, a person cannot see what was verified and who answers for it."""
    release = make_release()
    bundle, root = tmp_path / "bundle", tmp_path / "trust.root"
    bundle.write_bytes(release.compressed())
    root.write_bytes(ROOT)
    (tmp_path / "update.sig").write_bytes(container(release.statement, [ALICE, BOB, CAROL]))
    result = run("--root", root, "--bundle", bundle)
    digest = hashlib.sha384(statement_of(ROOT)).hexdigest()
    signers = "".join(
        f"    {each.name} ({each.name}), key {each.key_id[:8]}\n"
        for each in sorted((ALICE, BOB), key=lambda each: each.key_id)
    )
    assert result.stdout == (
        f"trusted: `{bundle}`\n  bitnet 1.0.0, counter 7, x86_64\n"
        "  release: 2 of 2 needed; not counted: "
        "0 invalid, 0 revoked, 0 of another role, 1 unknown\n"
        f"{signers}  trust root version 3, SHA-384 {digest}\n"
    )
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(run("--root", root, "--bundle", bundle, "--json").stdout)
    assert told["trusted"] is True and told["counter"] == 7 and told["root_version"] == 3
    assert {each["key"] for each in told["signers"]} == {ALICE.key_id, BOB.key_id}
    # The name without a folder: update.sig lies in the current one.
    assert run("--root", "trust.root", "--bundle", "bundle", cwd=tmp_path).returncode == 0
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    refused(run("--root", root, "--bundle", bundle), "kFileDigest", f"`{bundle}`")
    bundle.write_bytes(data[:-1])
    refused(run("--root", root, "--bundle", bundle), "kFileDigest", f"bytes found {len(data) - 1}")


def test_model_by_one_public_key_is_trusted(tmp_path: Path) -> None:
    """If this fails, one person with one key cannot use the program."""
    release = make_release(with_bundle=False)
    key, sig, model = (tmp_path / name for name in ("alice.pub", "a.sig", "m"))
    ed25519, mldsa = ALICE.publics
    key.write_text(
        f"bitnet-public-key v1\nname alice\ncustodian alice\ned25519 {ed25519.hex()}\n"
        f"ml-dsa-87 {base64.b64encode(mldsa).decode()}\n"
    )
    sig.write_bytes(container(release.statement, [ALICE]))
    model.write_bytes(release.files["model.bin"][1])
    arguments = ("--pubkey", key, "--sig", sig)
    result = run(*arguments, "--model", model)
    assert (result.returncode, result.stderr) == (0, "")
    assert "release: 1 of 1 needed" in result.stdout and "trust root" not in result.stdout
    refused(run(*arguments, "--bundle", model), "kNoBundle")
    model.write_bytes(b"x")
    refused(run(*arguments, "--model", model), "kFileDigest")
    sig.write_bytes(container(release.statement, [BOB]))
    refused(run(*arguments, "--model", model), "kSignersUnknown", "1 unknown")
    del release.files["model.bin"]
    sig.write_bytes(container(release.statement, [ALICE]))
    refused(run(*arguments, "--model", model), "kFileNotListed", "`model.bin`")


def test_release_whole_is_trusted_and_anything_else_is_not(tmp_path: Path, place: Path) -> None:
    """If this fails, a changed, missing or further file of an installation goes unseen."""
    arguments = ("--root", tmp_path / "etc/bitnet/trust.root", "--release", place)
    assert run(*arguments).returncode == 0
    assert run(*arguments[:3], tmp_path / "opt/bitnet").returncode == 0
    config = place / "config.yaml"
    config.write_bytes(b"counter: 8\n")
    refused(run(*arguments), "kFileDigest", "`config.yaml`")
    config.unlink()
    refused(run(*arguments), "kFileMissing", "`config.yaml`", "errno 2")
    config.symlink_to("model.bin")
    refused(run(*arguments), "kFileMissing", "`config.yaml`", "errno 40")
    config.unlink()
    config.mkdir()
    refused(run(*arguments), "kFileMissing", "`config.yaml`")
    config.rmdir()
    os.mkfifo(config)
    refused(run(*arguments), "kFileMissing", "`config.yaml`")
    config.unlink()
    config.write_bytes(make_release().files["config.yaml"][1])
    (place / "\x1b[31m").write_bytes(b"")
    refused(run(*arguments), "kFileNotListed", "`\\x1b[31m`")
    (place / "\x1b[31m").unlink()
    assert run(*arguments).returncode == 0


@pytest.mark.parametrize("name", ["bitnet-infer", "config.yaml", "model.bin", "MANIFEST"])
def test_release_file_longer_or_shorter_by_a_byte_is_refused(
    tmp_path: Path, place: Path, name: str
) -> None:
    """A file that begins with what was signed would carry anything behind it."""
    arguments = ("--root", tmp_path / "etc/bitnet/trust.root", "--release", place)
    signed = (place / name).read_bytes()
    for content in (signed + b"\n", signed + b"\0", signed[:-1]):
        (place / name).write_bytes(content)
        facts = (f"`{name}`", f"bytes found {len(content)}, bytes signed {len(signed)}")
        refused(run(*arguments), "kFileDigest", *facts)
    (place / name).write_bytes(signed)
    assert run(*arguments).returncode == 0


@pytest.mark.conformance("test_targets_hash_mismatch", "mixed files of two valid releases")
def test_release_mixed_from_two_valid_ones_is_refused(tmp_path: Path, place: Path) -> None:
    """Files that were never tried together would run together."""
    other = make_release(8)
    arguments = ("--root", tmp_path / "etc/bitnet/trust.root", "--release", place)
    for name, data in (
        ("model.bin", other.files["model.bin"][1]),
        ("MANIFEST", other.manifest),
        ("update.sig", container(other.statement, [ALICE, BOB])),
    ):
        file = place / name
        kept = file.read_bytes()
        file.write_bytes(data)
        refused(run(*arguments), "kFileDigest")
        file.write_bytes(kept)
    assert run(*arguments).returncode == 0


@pytest.mark.conformance("test_repository_substitutes_target_file", "a file of another name")
def test_release_two_files_exchanged_is_refused(tmp_path: Path, place: Path) -> None:
    """A signed file would do under the name of another."""
    (place / "model.bin").rename(place / "x")
    (place / "config.yaml").rename(place / "model.bin")
    (place / "x").rename(place / "config.yaml")
    refused(run("--root", tmp_path / "etc/bitnet/trust.root", "--release", place), "kFileDigest")


def test_exec_verified_release_runs_with_its_arguments(tmp_path: Path, place: Path) -> None:
    """If this fails, the verified program does not get what the user said."""
    for separator in ((), ("--",)):
        result = run("--prefix", tmp_path, "--exec", *separator, "--seed", "42", "--", "x")
        assert result.stdout == "good bitnet-infer --seed 42 -- x\n"
        assert result.stderr.startswith(f"trusted: `{tmp_path}/opt/bitnet/`")
        assert result.returncode == 0
    (place / "bitnet-infer").write_bytes(program("evil"))
    refused(run("--prefix", tmp_path, "--exec"), "kFileDigest", "`bitnet-infer`")
    (place / "bitnet-infer").unlink()
    refused(run("--prefix", tmp_path, "--exec"), "kFileMissing")


def test_exec_seals_the_copy_before_it_is_hashed(tmp_path: Path, place: Path) -> None:
    """If this fails, who holds the copy open can change it between the check and the start."""
    log = tmp_path / "trace"
    watched = "trace=memfd_create,fcntl,pread64,write,execveat"
    strace = (installed("strace"), "-qq", "-e", watched, "-o", str(log))
    result = run("--prefix", tmp_path, "--exec", wrap=strace)
    assert result.stdout == "good bitnet-infer\n"
    trace = log.read_text().replace("|", " ")
    (copy,) = re.findall(r"^memfd_create\(.*MFD_ALLOW_SEALING.*\) = (\d+)$", trace, re.MULTILINE)
    calls = re.findall(rf"^(\w+)\({copy}, (.*)\) +=", trace, re.MULTILINE)
    names = [name for name, _ in calls]
    sealed = names.index("fcntl")
    assert set(names[:sealed]) == {"write"}
    assert set(names[sealed + 1 :]) == {"pread64", "execveat"}
    kind, *seals = calls[sealed][1].replace(",", "").split()
    assert kind == "F_ADD_SEALS"
    assert sorted(seals) == ["F_SEAL_GROW", "F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_WRITE"]


def test_exec_release_without_program_is_refused(tmp_path: Path) -> None:
    """If this fails, a descriptor that is none is run."""
    release = make_release()
    del release.files["bitnet-infer"]
    install(tmp_path, release)
    refused(run("--prefix", tmp_path, "--exec"), "kFileNotListed", "`bitnet-infer`")


@pytest.mark.conformance("(ours) time of check", "a file swapped between verify and exec")
def test_exec_under_a_racing_swap_never_runs_what_was_not_verified(
    tmp_path: Path, place: Path
) -> None:
    """Who can write the folder for an instant would have his program run as the verified one."""
    assert len(program("evil")) == len(program("good"))
    good, evil = tmp_path / "good", tmp_path / "evil"
    good.write_bytes(program("good"))
    evil.write_bytes(program("evil"))
    evil.chmod(0o755)
    racer = scratch_directory() / "swap-race"
    compiler = [str(find_compiler()), "c++", "-std=c++20", "-O1"]
    source = REPOSITORY / "tests" / "support" / "swap_race.cc"
    subprocess.run([*compiler, str(source), "-o", str(racer)], check=True)
    command = [verify_program(host_arch()), "--prefix", tmp_path, "--exec"]
    race = [racer, place, "bitnet-infer", good, evil, "good bitnet-infer", str(ROUNDS), *command]
    result = subprocess.run(race, capture_output=True, text=True, timeout=ROUNDS / 10 + 60)
    assert result.stderr == ""
    ran, stopped, wrong = map(int, result.stdout.split())
    print(f"{ran} runs of the verified program, {stopped} refusals, {wrong} others")
    assert wrong == 0 and ran + stopped == ROUNDS
    assert ran > ROUNDS // 100 and stopped > ROUNDS // 100


def test_files_too_large_or_missing_are_refused_unread(tmp_path: Path, place: Path) -> None:
    """If this fails, a huge file is read, or a missing one taken for something."""
    root = tmp_path / "etc/bitnet/trust.root"
    with root.open("ab") as file:
        file.truncate(1 << 32)
    refused(run("--root", root, "--release", place), "kReleaseTooLarge", "bytes 4294967296")
    root.write_bytes(ROOT)
    with (place / "update.sig").open("ab") as file:
        file.truncate(1 << 32)
    refused(run("--root", root, "--release", place), "kReleaseTooLarge")
    (place / "update.sig").unlink()
    refused(run("--root", root, "--release", place), "kFileSystem", "errno 2")
    refused(run("--root", tmp_path / "none", "--release", place), "kFileSystem")
    refused(run("--root", root, "--bundle", tmp_path), "kFileSystem")
    refused(run("--root", root, "--release", tmp_path / ("x" * 5000)), "kOptionValue")
    root.write_bytes(container(trust_root(1, {"root": (1, [ALICE]), "release": (1, [BOB])}), [BOB]))
    refused(run("--root", root, "--release", place), "kSignersUnknown", "trust.root")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--help-me",), "kUsage"),
        ((), "kOptionMissing"),
        (("--root", "r"), "kOptionMissing"),
        (("--bundle", "b"), "kOptionMissing"),
        (("--root", "r", "--root", "r", "--bundle", "b"), "kOptionValue"),
        (("--root", "r", "--bundle"), "kOptionValue"),
        (("--root", "r", "--pubkey", "p", "--bundle", "b"), "kOptionValue"),
        (("--root", "r", "--model", "m", "--bundle", "b"), "kOptionValue"),
        (("--root", "r", "--model", "m", "--exec"), "kOptionValue"),
        (("--selftest", "--root", "r"), "kOptionValue"),
    ],
)
def test_arguments_that_are_none_are_refused(arguments: tuple[str, ...], status: str) -> None:
    """A mistyped command that ends with 0 would pass for a verification."""
    refused(run(*arguments), status)


def test_json_failure_names_the_status(tmp_path: Path, place: Path) -> None:
    """If this fails, a script must read prose to learn why."""
    (place / "model.bin").write_bytes(b"")
    result = run("--root", tmp_path / "etc/bitnet/trust.root", "--release", place, "--json")
    assert json.loads(result.stdout) == {"trusted": False, "error": "kFileDigest"}
    assert result.returncode == 3


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_selftest_and_version_any_architecture(arch: str) -> None:
    """If this fails, the program cannot show that it computes rightly, or claims too much."""
    emulator = ["qemu-aarch64-static"] if arch == "aarch64" else []
    command = [*emulator, str(verify_program(arch))]
    result = subprocess.run([*command, "--selftest"], capture_output=True, text=True, timeout=60)
    assert result.stdout == "SHA-384, SHA3-384, Ed25519, ML-DSA-87: as known\n"
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    assert re.match(r"[0-9]+\.[0-9]+\.[0-9]+\nSHA-384 ", result.stdout)
    assert "no FIPS 140-3 validation is claimed" in result.stdout
    result = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    assert result.stdout.startswith("usage: bitnet-verify ")


def test_selftest_of_a_damaged_program_fails(tmp_path: Path) -> None:
    """If this fails, the self-test passes whatever the program computes."""
    data = verify_program(host_arch()).read_bytes()
    for text in (b"ywB1P0WjXou1", b"7AFJgohRb8km", b"kqAJqfDUyrhy", b"F6UIF5s1BXCZ"):
        assert data.count(text) == 1
        damaged = tmp_path / "damaged"
        damaged.write_bytes(data.replace(text, b"AAAA" + text[4:]))
        damaged.chmod(0o755)
        result = subprocess.run([damaged, "--selftest"], capture_output=True, text=True, timeout=60)
        refused(result, "kSelftestFailed")
