"""The commands of docs/operations.md, run as they stand there, and the auditor's own tools."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from bitnet.cli import app, render
from bitnet.release.archive import check_bundle
from bitnet.release.parts import join_parts
from tests.support.release import PASSPHRASE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
ASKS_FOR_A_PASSPHRASE = ("keys generate", "keys root sign", "sign")


def section_commands(heading: str) -> list[str]:
    """Returns the indented lines of a section of the page."""
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(f"# {heading}\n")
    end = re.search(r"^#+ ", text[start + 2 :], re.MULTILINE)
    body = text[start : start + 2 + end.start()] if end else text[start:]
    return [line[4:] for line in body.splitlines() if line.startswith("    ")]


def run_builder(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs one line of the builder's side; a passphrase comes from a file instead of a prompt."""
    monkeypatch.chdir(folder)
    words = shlex.split(command, comments=True)
    if words[0] != "bitnet":
        script = ["bash", "-euo", "pipefail", "-c", command]
        return subprocess.run(script, cwd=folder, stdout=subprocess.PIPE, check=False).returncode
    target = None
    if ">" in words:
        target, words = words[words.index(">") + 1], words[: words.index(">")]
    arguments = words[1:]
    if " ".join(arguments).startswith(ASKS_FOR_A_PASSPHRASE):
        arguments += ["--passphrase-file", "passphrase"]
    if target is None:
        return render.run_app(app.create(), "bitnet", arguments)
    code = "from bitnet.cli.app import main; main()"
    with (folder / target).open("wb") as out:
        command_line = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command_line, cwd=folder, stdout=out, check=False).returncode


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the page was followed from the ceremony to the transfer."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "passphrase").write_text(PASSPHRASE, encoding="utf-8")
    (folder / "models").mkdir()
    shutil.copytree(ROOT / "models" / "demo", folder / "models" / "demo")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for heading in ("Key ceremony", "Making a release", "Signing", "Transfer"):
            commands = section_commands(heading)
            assert commands, heading
            for command in commands:
                assert run_builder(command, folder, monkeypatch) == 0, command
        yield folder


def test_page_followed_leaves_what_is_to_be_transferred(workplace: Path) -> None:
    """A command on the page that does not work as written costs an operator a day."""
    release = workplace / "release"
    names = {path.name for path in release.iterdir()}
    assert {"MANIFEST", "bitnet-v2.1.0.tar.zst", "transfer.html", "update.sig"} <= names
    parts = sorted(release.glob("*.part-*"))
    joined = workplace / "joined"
    with joined.open("wb") as out:
        join_parts(parts, out)
    assert joined.read_bytes() == (release / "bitnet-v2.1.0.tar.zst").read_bytes()


def test_bundle_holds_every_program_and_document(workplace: Path) -> None:
    """A release without one of them cannot be verified, updated or explained in the gap."""
    bundle = workplace / "release" / "bitnet-v2.1.0.tar.zst"
    with bundle.open("rb") as file:
        manifest, _ = check_bundle(file, bundle.name, 0)
    names = {entry.name for entry in manifest.files}
    assert {
        "bitnet-infer", "config.yaml", "provenance.json", "sbom.cdx.json",
        "selftest.answer", "selftest.prompt",
    } <= names  # fmt: skip
    programs = {entry.name for entry in manifest.files if entry.mode == 0o755}
    assert programs == {name for name in names if name.startswith("bitnet-")}
    assert (manifest.counter, manifest.minimum_counter, manifest.version) == (7, 3, "2.1.0")


@pytest.fixture(scope="module")
def audited(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which an auditor went through the page with coreutils alone."""
    folder = tmp_path_factory.mktemp("auditor")
    for path in ("release/update.sig", "keys/alice-2026.pub"):
        shutil.copy(workplace / path, folder)
    bundle = workplace / "release" / "bitnet-v2.1.0.tar.zst"
    arguments = ["bundle", "--existing", bundle, "--split", "1MiB", "--output", folder]
    assert render.run_app(app.create(), "bitnet", list(map(str, arguments))) == 0
    assert len(list(folder.glob("*.part-*"))) > 2
    lines = [
        *section_commands("Parts become the bundle again"),
        *section_commands("The files are those that were signed"),
        *section_commands("Whose signature it is"),
    ]
    subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], cwd=folder, check=True)
    return folder


def test_parts_that_are_joined_as_the_page_says_are_the_bundle(
    workplace: Path, audited: Path
) -> None:
    """A first machine has none of our programs: without this line parts are no way in."""
    name = "bitnet-v2.1.0.tar.zst"
    assert (audited / name).read_bytes() == (workplace / "release" / name).read_bytes()


def test_audit_with_coreutils_finds_everything_in_order(audited: Path) -> None:
    """The steps themselves fail on any difference; here they passed."""
    assert (audited / "ed25519.sig").stat().st_size == 64
    assert (audited / "ml-dsa-87.sig").stat().st_size == 4627


def test_first_installation_goes_as_the_page_says(workplace: Path, audited: Path) -> None:
    """The digest that the ceremony prints must be the one that a machine in the gap compares."""
    shutil.copy(workplace / "trust.root", audited)
    prefix = audited / "prefix"
    prefix.mkdir()
    (told,) = [line for line in section_commands("Key ceremony") if "sha384sum" in line]
    digest = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", told], cwd=audited, check=True, capture_output=True,
    ).stdout.split()[0].decode()  # fmt: skip
    shown = subprocess.run(
        [sys.executable, "-c", "from bitnet.cli.app import main; main()", "keys", "root", "verify",
         "trust.root", "--json"],
        cwd=audited, check=True, capture_output=True,
    ).stdout  # fmt: skip
    assert json.loads(shown)["digest"] == digest
    for command in section_commands("First installation inside the gap"):
        words = command.replace("DIGEST-FROM-THE-PAPER", digest).split(" ")
        if words[0].startswith("unpacked/bitnet-"):
            words[1:1] = ["--prefix", str(prefix)]
            words = [word.replace("/etc/bitnet/", f"{prefix}/etc/bitnet/") for word in words]
            result = subprocess.run(words, cwd=audited, capture_output=True)
            assert result.returncode == 0, (command, result.stderr)
    assert (prefix / "opt/bitnet/bitnet-infer").is_file()
    log = (prefix / "opt/bitnet.d/log").read_text(encoding="ascii")
    assert [line.split(" ")[3] for line in log.splitlines()] == ["root", "trial", "installed"]


def verify_with_openssl(folder: Path, heading: str) -> int:
    (line,) = section_commands(heading)
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True).returncode


def judged_by_openssl(folder: Path, heading: str) -> tuple[int, int]:
    """Returns the exit status for the statement as it is and for one with another counter."""
    genuine = verify_with_openssl(folder, heading)
    statement = folder / "statement"
    original = statement.read_bytes()
    statement.write_bytes(original.replace(b"counter 7", b"counter 9"))
    changed = verify_with_openssl(folder, heading)
    statement.write_bytes(original)
    return genuine, changed


def test_audit_of_the_ed25519_half_with_openssl(audited: Path) -> None:
    """An auditor trusts openssl, not us; and it must refuse another statement."""
    assert judged_by_openssl(audited, "The Ed25519 half") == (0, 1)


def openssl_version() -> tuple[int, ...]:
    text = subprocess.run(["openssl", "version"], capture_output=True, text=True).stdout
    found = re.match(r"OpenSSL (\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else (0, 0)


@pytest.mark.skipif(openssl_version() < (3, 5), reason="this openssl has no ML-DSA: 3.5 is needed")
def test_audit_of_the_ml_dsa_half_with_openssl(audited: Path) -> None:
    """The same for the half that is there to outlive quantum computers."""
    assert judged_by_openssl(audited, "The ML-DSA-87 half (OpenSSL 3.5 or newer)") == (0, 1)


def test_audit_files_of_the_ml_dsa_half_are_those_of_openssl(audited: Path) -> None:
    """The DER that the page builds by hand is read by OpenSSL 4 inside `cryptography`."""
    key = load_der_public_key((audited / "ml-dsa-87.der").read_bytes())
    assert isinstance(key, MLDSA87PublicKey)
    signature, statement = audited / "ml-dsa-87.sig", audited / "statement"
    key.verify(signature.read_bytes(), statement.read_bytes())


@pytest.mark.parametrize("name", ["bitnet-v2.1.0.tar.zst", "update.sig"])
def test_audit_of_something_changed_stops(audited: Path, tmp_path: Path, name: str) -> None:
    """Steps that pass on anything would prove nothing."""
    for path in ("bitnet-v2.1.0.tar.zst", "update.sig", "alice-2026.pub"):
        shutil.copy(audited / path, tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[300] ^= 1
    (tmp_path / name).write_bytes(data)
    lines = section_commands("The files are those that were signed")
    script = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
    assert subprocess.run(script, cwd=tmp_path, capture_output=True).returncode != 0


def test_loss_of_a_key_is_repaired_as_the_page_says(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day when it is needed is no day for trying commands out."""
    for command in section_commands("Loss of a key"):
        assert run_builder(command, workplace, monkeypatch) == 0, command


def test_order_to_go_back_is_signed_as_the_page_says(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest gone back to must be older than the counter that is left."""
    old = workplace / "old"
    old.mkdir()
    text = (workplace / "release" / "MANIFEST").read_bytes()
    changed = text.replace(b"# counter 7", b"# counter 5")
    (old / "MANIFEST").write_bytes(changed)
    commands = [
        line
        for line in section_commands("Update, status, going back")
        if line.startswith("bitnet sign ")
    ]
    assert len(commands) == 2
    for command in commands:
        assert run_builder(command, workplace, monkeypatch) == 0, command
