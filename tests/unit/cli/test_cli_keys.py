"""`bitnet keys` as custodians type it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet.cli import app, render
from bitnet.release.container import parse_container
from bitnet.release.keys import parse_public_key
from bitnet.release.sealed_key import open_key
from bitnet.release.trust import accept_successor, parse_trust_root
from tests.support.release import PASSPHRASE, make_key

ROOT = Path(__file__).parents[3]


def run(*arguments: object) -> int:
    return render.run_app(app.create(), "bitnet", [str(item) for item in arguments])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys of Alice, Bob and Carol, made by the command, and their passphrase."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "secret").write_text(PASSPHRASE + "\n", encoding="utf-8")
    for name in ("alice", "bob", "carol"):
        arguments = ("--custodian", f"{name}-person", "--output", folder)
        secret = ("--passphrase-file", folder / "secret")
        assert run("keys", "generate", name, *arguments, *secret) == 0
    return folder


def make_root(keys: Path, output: Path) -> None:
    """Writes a root of the three, 2-of-3, signed by Alice and Bob."""
    members = [keys / f"{name}.pub" for name in ("alice", "bob", "carol")]
    roles = [item for key in members for item in ("--root", key, "--release", key)]
    thresholds = ("--root-threshold", 2, "--release-threshold", 2)
    assert run("keys", "root", "init", *roles, *thresholds, "--output", output) == 0
    assert sign(keys, "alice", output) == 0
    assert sign(keys, "bob", output, "--add") == 0


def sign(keys: Path, name: str, root: Path, *more: object) -> int:
    secret = ("--passphrase-file", keys / "secret")
    return run("keys", "root", "sign", root, "--key", keys / f"{name}.key", *secret, *more)


def test_generate_writes_a_pair_that_belongs_together(keys: Path) -> None:
    """A private key that nobody else may read, and the public key of the same person."""
    private = keys / "alice.key"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    public = parse_public_key((keys / "alice.pub").read_bytes())
    opened = open_key(private.read_bytes(), PASSPHRASE)
    assert opened.public == public
    assert (public.name, public.custodian) == ("alice", "alice-person")
    assert sorted(path.name for path in keys.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("command", ["generate", "init", "revoke"])
def test_output_in_a_folder_that_is_not_there_is_a_slip_of_the_command_line(
    keys: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts tell a wrong path (2) from a disk that fails (5)."""
    make_root(keys, tmp_path / "trust.root")
    capsys.readouterr()
    absent = tmp_path / "absent"
    member = keys / "alice.pub"
    arguments: dict[str, tuple[object, ...]] = {
        "generate": ("generate", "x", "--custodian", "x", "--output", absent),
        "init": ("root", "init", "--root", member, "--release", member, "--root-threshold", 1,
                 "--release-threshold", 1, "--output", absent / "trust.root"),
        "revoke": ("root", "revoke", tmp_path / "trust.root", "carol", "--output", absent / "new"),
    }  # fmt: skip
    assert run("keys", *arguments[command]) == 2
    assert f"does not exist: `{absent}`\n" in capsys.readouterr().err


def test_generate_twice_makes_different_keys(keys: Path) -> None:
    """Randomness that repeats is no secret."""
    ids = {parse_public_key(path.read_bytes()).key_id for path in keys.glob("*.pub")}
    assert len(ids) == 3


def test_generate_over_an_existing_file_is_refused(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that is overwritten is a signer that is lost."""
    before = (keys / "alice.key").read_bytes()
    arguments = ("--custodian", "x", "--output", keys, "--passphrase-file", keys / "secret")
    assert run("keys", "generate", "alice", *arguments) == 2
    assert capsys.readouterr().err == (
        f"error: file exists already: `{keys}/alice.key`\n\n"
        "hint: choose another name; nothing is overwritten\n"
    )
    assert (keys / "alice.key").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "custodian", "code"),
    [("../x", "a", 2), ("x", "a b", 2), (".x", "a", 2), ("x" * 65, "a", 2)],
)
def test_generate_with_an_unusable_name_is_refused(
    keys: Path, tmp_path: Path, name: str, custodian: str, code: int
) -> None:
    """Names become file names and stand in the root, between spaces."""
    secret = ("--passphrase-file", keys / "secret")
    arguments = ("--custodian", custodian, "--output", tmp_path)
    assert run("keys", "generate", name, *arguments, *secret) == code
    assert list(tmp_path.iterdir()) == []


def test_generate_with_a_short_passphrase_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither half may stay behind."""
    (tmp_path / "short").write_text("short\n", encoding="utf-8")
    arguments = ("--custodian", "a", "--output", tmp_path)
    assert run("keys", "generate", "x", *arguments, "--passphrase-file", tmp_path / "short") == 2
    assert "passphrase is too short" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["short"]


def test_generate_without_terminal_or_file_says_what_to_do(tmp_path: Path) -> None:
    """A script must not hang in a prompt."""
    code = "from bitnet.cli.app import main; main()"
    arguments = ["keys", "generate", "x", "--custodian", "a", "--output", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert result.returncode == 2
    assert "hint: pass `--passphrase-file`" in result.stderr


def test_show_prints_the_id_in_groups_and_words(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two people compare these over a telephone."""
    assert run("keys", "show", keys / "bob.pub", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    key = parse_public_key((keys / "bob.pub").read_bytes())
    assert shown["key_id"] == key.key_id == "".join(shown["groups"])
    assert len(shown["words"]) == 48
    assert run("keys", "show", keys / "bob.pub") == 0
    text = capsys.readouterr().out
    assert " ".join(shown["groups"][:6]) in text
    assert "words 41-48  " + " ".join(shown["words"][40:]) in text


def test_show_of_a_private_key_is_refused(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody should get used to handing that file around."""
    assert run("keys", "show", keys / "bob.key") == 1
    assert "file is a private key" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "long", "text"])
def test_show_of_something_else_is_refused(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe must not be waited for, a disk image not be read."""
    path = tmp_path / "x.pub"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_bytes(b"x\n" * (10_000 if kind == "long" else 1))
    assert run("keys", "show", path) == 1
    assert capsys.readouterr().err.startswith("error: public key ")


def test_root_is_made_signed_verified_and_followed(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ceremony of docs/operations.md, and the loss of a key after it."""
    one, two = tmp_path / "trust.root", tmp_path / "trust.root.2"
    make_root(keys, one)
    first = parse_trust_root(parse_container(one.read_bytes()).statement)
    assert (first.version, first.roles["release"].threshold) == (1, 2)
    capsys.readouterr()
    assert run("keys", "root", "verify", one, "--json") == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    assert run("keys", "root", "verify", one, "--digest", digest) == 0
    assert run("keys", "root", "verify", one, "--digest", "0" * 96) == 3
    assert run("keys", "root", "revoke", one, "carol", "--output", two) == 0
    assert run("keys", "root", "threshold", two, 1, "--role", "release") == 0
    assert run("keys", "root", "verify", two, "--previous", one) == 3
    assert sign(keys, "alice", two, "--previous", one) == 0
    assert sign(keys, "bob", two, "--add", "--previous", one) == 0
    assert run("keys", "root", "verify", two, "--previous", one) == 0
    second = accept_successor(first, parse_container(two.read_bytes()))
    assert (second.version, second.roles["release"].threshold) == (2, 1)
    assert second.revoked == (parse_public_key((keys / "carol.pub").read_bytes()).key_id,)


def test_root_that_is_signed_is_not_changed_in_place(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The issued file is the one that machines hold."""
    path = tmp_path / "trust.root"
    make_root(keys, path)
    before = path.read_bytes()
    assert run("keys", "root", "revoke", path, "carol") == 2
    assert "root is signed and is not overwritten" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_root_add_and_remove_change_a_draft(keys: Path, tmp_path: Path) -> None:
    """A draft is changed in its own file and keeps its version."""
    path, dave = tmp_path / "trust.root", tmp_path / "dave.pub"
    dave.write_bytes(make_key("dave").public.emit())
    alice = keys / "alice.pub"
    base = ("--root", alice, "--release", alice, "--root-threshold", 1, "--release-threshold", 1)
    assert run("keys", "root", "init", *base, "--output", path) == 0
    more = ("--role", "release", "--threshold", 2)
    assert run("keys", "root", "add", path, dave, *more) == 0
    root = parse_trust_root(parse_container(path.read_bytes()).statement)
    assert (root.version, root.roles["release"].threshold) == (1, 2)
    assert run("keys", "root", "remove", path, "dave", "--role", "release") == 2
    assert run("keys", "root", "threshold", path, 1, "--role", "release") == 0
    assert run("keys", "root", "remove", path, "dave", "--role", "release") == 0
    root = parse_trust_root(parse_container(path.read_bytes()).statement)
    assert [key.name for key in root.keys] == ["alice"]


def test_root_that_loses_its_last_site_key_says_what_that_means(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, the answer to a stolen site key hands orders to go back to `release` unnoticed."""
    path, alice, bob = tmp_path / "trust.root", keys / "alice.pub", keys / "bob.pub"
    base = ("--root", alice, "--release", alice, "--root-threshold", 1, "--release-threshold", 1)
    assert run("keys", "root", "init", *base, "--site", bob, "--output", path) == 0
    capsys.readouterr()
    for verb in (("revoke", path, "bob"), ("remove", path, "bob", "--role", "site")):
        draft = tmp_path / verb[0]
        draft.write_bytes(path.read_bytes())
        assert run("keys", "root", verb[0], draft, *verb[2:]) == 0
        assert "warning: role `site` goes with its last key" in capsys.readouterr().err
        assert "site" not in parse_trust_root(parse_container(draft.read_bytes()).statement).roles
    assert run("keys", "root", "add", path, keys / "carol.pub", "--role", "site") == 0
    assert run("keys", "root", "revoke", path, "bob") == 0
    assert capsys.readouterr().err == ""


def test_root_threshold_that_would_be_ignored_is_refused(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a typing error leaves a root with less than what was asked for."""
    path, alice = tmp_path / "trust.root", keys / "alice.pub"
    base = ("--root", alice, "--release", alice, "--root-threshold", 1, "--release-threshold", 1)
    assert run("keys", "root", "init", *base, "--site-threshold", 2, "--output", path) == 2
    assert "role `site` has no keys" in capsys.readouterr().err
    assert not path.exists()
    assert run("keys", "root", "init", *base, "--output", path) == 0
    before = path.read_bytes()
    more = ("--role", "release", "--threshold", 0)
    assert run("keys", "root", "add", path, keys / "bob.pub", *more) == 2
    assert path.read_bytes() == before


def test_root_sign_says_when_add_is_wrong_or_missing(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who believes to be the first signer and is not has another file than meant."""
    path = tmp_path / "trust.root"
    make_root(keys, path)
    capsys.readouterr()
    assert sign(keys, "carol", path) == 2
    assert "root is signed by others" in capsys.readouterr().err
    assert sign(keys, "alice", path, "--add") == 3
    assert "key has signed already: `alice`" in capsys.readouterr().err
    draft = tmp_path / "draft"
    assert run("keys", "root", "revoke", path, "carol", "--output", draft) == 0
    assert sign(keys, "alice", draft, "--add") == 2
    assert "root carries no signature yet" in capsys.readouterr().err


def test_root_sign_with_a_wrong_passphrase_changes_nothing(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three tries must leave the file as it was."""
    path = tmp_path / "trust.root"
    make_root(keys, path)
    before = path.read_bytes()
    (tmp_path / "wrong").write_text("correct horse battery stable\n", encoding="utf-8")
    arguments = ("--key", keys / "carol.key", "--add")
    code = run("keys", "root", "sign", path, *arguments, "--passphrase-file", tmp_path / "wrong")
    assert code == 3
    assert "private key does not open: `carol`" in capsys.readouterr().err
    assert path.read_bytes() == before
