"""`bitnet sign` as custodians type it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bitnet.cli import app, render
from bitnet.release.container import Container, parse_container
from bitnet.release.sealed_key import seal_key
from bitnet.release.statements import parse_rollback_order, parse_update_statement
from bitnet.release.trust import accept_update
from tests.support.release import PASSPHRASE, make_bundle, make_key, make_root

ALICE, BOB = make_key("alice"), make_key("bob")


def run(*arguments: object) -> int:
    return render.run_app(app.create(), "bitnet", [str(item) for item in arguments])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "secret").write_text(PASSPHRASE, encoding="utf-8")
    for key in (ALICE, BOB):
        sealed = seal_key(key, PASSPHRASE, salt=bytes(16), nonce=bytes(12))
        (folder / f"{key.name}.key").write_bytes(sealed)
    return folder


def sign(keys: Path, name: str, output: Path, *what: object) -> int:
    secret = ("--passphrase-file", keys / "secret")
    return run("sign", *what, "--key", keys / f"{name}.key", "--output", output, *secret)


def test_bundle_is_signed_by_two_people_one_after_the_other(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result must be what machines with a 2-of-2 root accept."""
    bundle, statement = make_bundle(tmp_path)
    output, trust = tmp_path / "update.sig", tmp_path / "trust.root"
    root = make_root(1, root=(1, (ALICE,)), release=(2, (ALICE, BOB)))
    trust.write_bytes(Container(root.emit()).emit())
    what = ("--bundle", bundle, "--root", trust)
    assert sign(keys, "alice", output, *what) == 0
    shown = capsys.readouterr().out
    assert "product        bitnet 2.1.0 for x86_64\ncounter        7, floor 3\n" in shown
    assert "role release  1 of 2 custodians have signed\n" in shown
    assert sign(keys, "bob", output, *what, "--add") == 0
    assert "role release  complete: " in capsys.readouterr().out
    accepted, signers = accept_update(root, parse_container(output.read_bytes()))
    assert accepted == statement
    assert {key.name for key in signers["release"]} == {"alice", "bob"}


def test_bundle_that_is_damaged_is_not_signed(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signature under something broken travels for days before it is found."""
    bundle, _ = make_bundle(tmp_path)
    data = bytearray(bundle.read_bytes())
    data[-3] ^= 1
    bundle.write_bytes(data)
    assert sign(keys, "alice", tmp_path / "update.sig", "--bundle", bundle) in (1, 3)
    assert capsys.readouterr().err.startswith("error: bundle is malformed")
    assert not (tmp_path / "update.sig").exists()


def test_model_alone_is_signed_under_its_fixed_name(keys: Path, tmp_path: Path) -> None:
    """`bitnet-verify --model` looks for the entry model.bin."""
    model = tmp_path / "other-name.bin"
    model.write_bytes(b"weights")
    output = tmp_path / "update.sig"
    assert sign(keys, "alice", output, "--model", model) == 0
    statement = parse_update_statement(parse_container(output.read_bytes()).statement)
    assert (statement.bundle_digest, statement.bundle_bytes) == (None, 0)
    (entry,) = statement.manifest.files
    assert (entry.name, entry.mode, entry.size) == ("model.bin", 0o644, 7)
    assert entry.digest == hashlib.sha384(b"weights").hexdigest()


def test_manifest_and_order_are_signed(keys: Path, tmp_path: Path) -> None:
    """An order names the manifest that is gone back to."""
    _, statement = make_bundle(tmp_path)
    manifest, output = tmp_path / "MANIFEST", tmp_path / "out"
    manifest.write_bytes(statement.manifest.emit())
    assert sign(keys, "alice", output, "--manifest", manifest) == 0
    signed = parse_update_statement(parse_container(output.read_bytes()).statement)
    assert signed.manifest == statement.manifest and signed.bundle_digest is None
    order = tmp_path / "rollback.order"
    why = ("--rollback-from", 9, "--reason", "bad-answers")
    assert sign(keys, "alice", order, "--manifest", manifest, *why) == 0
    made = parse_rollback_order(parse_container(order.read_bytes()).statement)
    assert (made.from_counter, made.to_counter, made.reason) == (9, 7, "bad-answers")
    assert made.digest == hashlib.sha384(manifest.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "not one thing to sign is named"),
        (("--model", "a", "--bundle", "b"), 2, "not one thing to sign is named"),
        (("--model", "a", "--rollback-from", 1, "--reason", "x"), 2, "order is not complete"),
        (("--manifest", "a", "--reason", "x"), 2, "order is not complete"),
        (("--model", "a", "--openssf"), 2, "OpenSSF signature is not complete"),
        (("--manifest", "a", "--openssf", "--openssf-key", "k"), 2, "OpenSSF signature is not"),
        (("--model", "absent"), 1, "file cannot be read: `absent`"),
        (("--bundle", "absent"), 2, "bundle cannot be read: `absent`"),
        (("--manifest", "absent"), 1, "manifest cannot be read: `absent`"),
    ],
)
def test_command_that_says_too_little_is_refused(
    keys: Path,
    tmp_path: Path,
    arguments: tuple[object, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody signs by guess."""
    assert sign(keys, "alice", tmp_path / "out", *arguments) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_signature_file_is_never_overwritten_nor_mixed(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signature of somebody else may be the only copy."""
    one, other, output = tmp_path / "one", tmp_path / "other", tmp_path / "update.sig"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    assert sign(keys, "alice", output, "--model", one) == 0
    before = output.read_bytes()
    assert sign(keys, "bob", output, "--model", one) == 2
    assert "signature file exists already" in capsys.readouterr().err
    assert sign(keys, "bob", output, "--model", other, "--add") == 3
    assert "signature file is for something else" in capsys.readouterr().err
    assert sign(keys, "alice", output, "--model", one, "--add") == 3
    assert "key has signed already: `alice`" in capsys.readouterr().err
    assert output.read_bytes() == before


PHRASE = b"pear tw\xc3\xb6 nine"


def write_curve_key(
    path: Path, curve: ec.EllipticCurve, phrase: bytes | None = PHRASE
) -> ec.EllipticCurvePrivateKey:
    """Writes a key and, beside it, its passphrase; without one where `phrase` is None."""
    key = ec.generate_private_key(curve)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if phrase is not None:
        encryption = serialization.BestAvailableEncryption(phrase)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, pkcs8, encryption))
    return key


def openssf_options(key: Path, phrase: bytes = PHRASE) -> tuple[object, ...]:
    file = key.with_suffix(".phrase")
    file.write_bytes(phrase + b"\n")
    return "--openssf", "--openssf-key", key, "--openssf-passphrase-file", file


def model_signing(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


def test_openssf_signature_is_accepted_by_its_own_tool(keys: Path, tmp_path: Path) -> None:
    """An auditor with `model_signing` alone must be able to verify, and to refuse."""
    pytest.importorskip("model_signing", reason="the extra `openssf` is not installed")
    model, output = tmp_path / "model.bin", tmp_path / "update.sig"
    model.write_bytes(b"weights")
    key = write_curve_key(tmp_path / "p384.pem", ec.SECP384R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "p384.pub").write_bytes(public)
    openssf = openssf_options(tmp_path / "p384.pem")
    assert sign(keys, "alice", output, "--model", model, *openssf) == 0
    signature = tmp_path / "update.sig.openssf.json"
    options = ("--signature", signature, "--public_key", tmp_path / "p384.pub")
    assert model_signing("verify", "key", *options, model).returncode == 0
    model.write_bytes(b"Weights")
    assert model_signing("verify", "key", *options, model).returncode != 0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "OpenSSF key cannot be read"),
        ("pipe", "OpenSSF key cannot be read"),
        ("long", "OpenSSF key is too long"),
        ("text", "OpenSSF key cannot be read"),
        ("p256", "OpenSSF key is no P-384 key"),
        ("open", "OpenSSF key is not encrypted"),
        ("other passphrase", "OpenSSF key cannot be read"),
        ("no passphrase", "OpenSSF key cannot be read"),
    ],
)
def test_openssf_key_that_is_no_encrypted_p384_key_is_refused(
    keys: Path, tmp_path: Path, kind: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is signed at all when one of the two signatures cannot be made."""
    pem = tmp_path / "key.pem"
    if kind == "p256":
        write_curve_key(pem, ec.SECP256R1())
    elif kind == "text":
        pem.write_bytes(b"no key")
    elif kind == "pipe":
        os.mkfifo(pem)
    elif kind == "long":
        pem.write_bytes(b"x" * 65537)
    elif kind != "missing":
        write_curve_key(pem, ec.SECP384R1(), None if kind == "open" else PHRASE)
    phrase = {"other passphrase": b"another", "no passphrase": b""}.get(kind, PHRASE)
    (tmp_path / "model.bin").write_bytes(b"weights")
    what = ("--model", tmp_path / "model.bin", *openssf_options(pem, phrase))
    assert sign(keys, "alice", tmp_path / "update.sig", *what) == 1
    assert f"error: {message}: `{pem}`" in capsys.readouterr().err
    assert not (tmp_path / "update.sig").exists()


def test_openssf_signature_of_before_is_left_alone(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be somebody else's, and the only copy; nothing is signed then."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    write_curve_key(tmp_path / "key.pem", ec.SECP384R1())
    before = tmp_path / "update.sig.openssf.json"
    before.write_bytes(b"{}")
    what = ("--model", tmp_path / "model.bin", *openssf_options(tmp_path / "key.pem"))
    assert sign(keys, "alice", tmp_path / "update.sig", *what) == 2
    assert f"error: file exists already: `{before}`" in capsys.readouterr().err
    assert before.read_bytes() == b"{}"
    assert not (tmp_path / "update.sig").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("nowhere/update.sig", "folder of the output does not exist"),
        ("model.bin", "output is one of the inputs"),
        (".", "output is not a regular file"),
    ],
)
def test_signature_that_could_not_be_written_is_refused_before_the_passphrase(
    keys: Path, tmp_path: Path, output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Custodians come together for a signature: a slip is told before they have typed."""
    model = tmp_path / "model.bin"
    model.write_bytes(b"weights")
    what = ("--model", model, "--key", keys / "alice.key", "--output", tmp_path / output)
    assert run("sign", *what, "--passphrase-file", tmp_path / "never-read") == 2
    assert f"error: {message}: `" in capsys.readouterr().err
    assert model.read_bytes() == b"weights"


def test_openssf_without_its_library_says_what_to_install(
    keys: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is an optional dependency."""
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    write_curve_key(tmp_path / "key.pem", ec.SECP384R1())
    (tmp_path / "model.bin").write_bytes(b"weights")
    what = ("--model", tmp_path / "model.bin", *openssf_options(tmp_path / "key.pem"))
    assert sign(keys, "alice", tmp_path / "update.sig", *what) == 5
    assert "hint: run `python -m pip install 'bitnet-airgap[openssf]'`" in capsys.readouterr().err
