"""One bundle from any host: folder, time, zone, locale, umask, user, order, cores, home."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from bitnet.cli import app, render
from bitnet.release.archive import check_bundle
from bitnet.release.unpack import unpack_bundle
from bitnet.seal.toolchain import host_arch
from tests.support.host import installed, missing_rights
from tests.support.infer import demo_config
from tests.support.release import make_bundle

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"
NOBODY = "65534"
NAME = "bitnet-v2.1.0.tar.zst"

# Everything from the checkpoint to the bundle, in the folder given.
SCRIPT = """
import os, sys
from bitnet.cli import app, render
if len(sys.argv) > 2:
    os.umask(int(sys.argv[2], 8))
def bitnet(*arguments):
    code = render.run_app(app.create(), "bitnet", arguments)
    if code:
        sys.exit(code)
os.chdir(sys.argv[1])
kind = ("--bits", "1", "--format", "bin")
bitnet("quantize", *kind, "--model", "checkpoint", "--output", "model.bin")
tokenizer = ("--tokenizer", "checkpoint/tokenizer.json")
bitnet("seal", "--model", "model.bin", *tokenizer, "--output", "bitnet-infer")
os.mkdir("out")
version = ("--version", "2.1.0", "--counter", "7", "--minimum-counter", "3")
more = ("--checkpoint", "checkpoint", "--training-data", "tldr-pages")
files = ("--executable", "bitnet-infer", "--config", "config.yaml")
bitnet("bundle", *files, *version, *more, "--output", "out")
"""


def lay_out(folder: Path, *, reverse: bool = False) -> None:
    """Writes the inputs; the order of creation is what the folder's listing may follow."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    for path in sorted(DEMO.iterdir(), reverse=reverse):
        shutil.copyfile(path, checkpoint / path.name)
    (folder / "config.yaml").write_text(demo_config(), encoding="utf-8")


def build(
    folder: Path,
    *,
    before: tuple[str, ...] = (),
    umask: str = "022",
    source: Path = ROOT,
    **environment: str,
) -> bytes:
    """Returns the bundle that a process of its own makes in a folder."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": str(source / "src"),
        **environment,
    }
    command = [*before, sys.executable, "-c", SCRIPT, str(folder), umask]
    result = subprocess.run(command, env=environ, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return (folder / "out" / NAME).read_bytes()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that all others are compared with."""
    folder = tmp_path_factory.mktemp("original")
    lay_out(folder)
    build(folder)
    return folder / "out" / NAME


def somebody_else() -> tuple[str, ...]:
    """Returns what runs a command as another user who can read what this one can."""
    capability = "+dac_override"
    user = ("--reuid", NOBODY, "--regid", NOBODY, "--clear-groups")
    return ("setpriv", *user, f"--inh-caps={capability}", f"--ambient-caps={capability}", "--")


# Name → what is put before the command, umask, environment. Folder and process differ in all.
VARIATIONS: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "folder": ((), "022", {}),
    "time": (("faketime", "2031-05-06 07:08:09"), "022", {}),
    "date of the source": ((), "022", {"SOURCE_DATE_EPOCH": "86400"}),
    "time zone": ((), "022", {"TZ": "Asia/Kathmandu"}),
    "locale": ((), "022", {"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr"}),
    "umask": ((), "077", {}),
    "user": (somebody_else(), "022", {}),
    "order of files": ((), "022", {}),
    "cores": (("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))), "022", {}),
    "home": ((), "022", {"HOME": "/nonexistent"}),
    "hashes": ((), "022", {"PYTHONHASHSEED": "7"}),
    "host name": (("unshare", "--uts", "sh", "-c", 'hostname other; exec "$0" "$@"'), "022", {}),
}

# What it takes to vary it.
RIGHTS = {
    "user": ("CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"),
    "host name": ("SYS_ADMIN",),
}


@pytest.mark.parametrize("variation", list(VARIATIONS))
def test_bundle_in_another_environment_is_the_same_bytes(
    original: Path, tmp_path: Path, variation: str
) -> None:
    """Else nobody could confirm a release but the one who made it."""
    before, umask, environment = VARIATIONS[variation]
    if before:
        installed(before[0])
    if missing := missing_rights(*RIGHTS.get(variation, ())):
        pytest.skip(f"this process may not do it: it lacks {', '.join(missing)}")
    folder = tmp_path / "a folder" / variation
    lay_out(folder, reverse=variation == "order of files")
    if variation == "user":
        for path in (folder, *tmp_path.rglob("*")):
            os.chown(path, int(NOBODY), int(NOBODY))
    data = build(folder, before=before, umask=umask, **environment)
    assert hashlib.sha384(data).hexdigest() == hashlib.sha384(original.read_bytes()).hexdigest()


@pytest.mark.timeout(900)
def test_bundle_from_another_checkout_with_nothing_cached_is_the_same_bytes(
    original: Path, tmp_path: Path
) -> None:
    """Everything at once, compiler included."""
    source = tmp_path / "another checkout"
    for name in ("src", "engine"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    home = tmp_path / "home"
    home.mkdir()
    folder = tmp_path / "work"
    lay_out(folder, reverse=True)
    environment = {"HOME": str(home), "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8"}
    data = build(folder, umask="077", source=source, **environment)
    assert data == original.read_bytes()


def rebuild(bundle: Path, checkpoint: Path) -> int:
    arguments = ["rebuild", "--check", str(bundle), "--checkpoint", str(checkpoint)]
    return render.run_app(app.create(), "bitnet", arguments)


def test_rebuild_of_the_same_checkpoint_confirms_every_byte(
    original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that a second builder types before signing."""
    assert rebuild(original, DEMO) == 0
    assert "every byte the same" in capsys.readouterr().out


def copy_changed(tmp_path: Path, name: str, offset: int) -> Path:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(DEMO, checkpoint)
    data = bytearray((checkpoint / name).read_bytes())
    data[offset : offset + 4096] = bytes(4096)
    (checkpoint / name).write_bytes(data)
    return checkpoint


def test_rebuild_of_another_checkpoint_names_the_file(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cause is the checkpoint: its digests are in the provenance."""
    assert rebuild(original, copy_changed(tmp_path, "model.safetensors", 900_000)) == 3
    assert "checkpoint is not the one of the bundle: `model.safetensors`" in capsys.readouterr().err


def test_rebuild_of_a_checkpoint_with_a_further_file_names_it(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its digest would stand in the new provenance, which would get the blame."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(DEMO, checkpoint)
    (checkpoint / "notes.json").write_bytes(b"{}")
    assert rebuild(original, checkpoint) == 3
    digest = hashlib.sha384(b"{}").hexdigest()
    assert capsys.readouterr().err == (
        "error: checkpoint is not the one of the bundle: `notes.json`\n"
        f"  found     {digest}\n"
        "  expected  no such file\n"
        "\n"
        "hint: take the file out of the folder\n"
    )


def test_rebuild_that_differs_names_file_and_offset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without recorded digests the difference is found in the result."""
    lay_out(tmp_path)
    script = SCRIPT.replace('more = ("--checkpoint", "checkpoint", ', "more = (")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environ, check=True)
    bundle = tmp_path / "out" / NAME
    assert rebuild(bundle, DEMO) == 0
    changed = copy_changed(tmp_path / "other", "model.safetensors", 900_000)
    capsys.readouterr()
    assert rebuild(bundle, changed) == 3
    told = capsys.readouterr().err
    assert told.startswith("error: rebuild differs: `bitnet-infer`\n  offset ")


def test_rebuild_of_a_damaged_bundle_is_refused(original: Path, tmp_path: Path) -> None:
    """What is not whole is not compared."""
    data = bytearray(original.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / NAME
    damaged.write_bytes(data)
    assert rebuild(damaged, DEMO) in (1, 3)


def remake(original: Path, folder: Path, **changed: bytes) -> Path:
    """Returns the bundle with the content of some files changed."""
    (folder / "unpacked").mkdir()
    manifest, _ = unpack_bundle(original, folder / "unpacked")
    files = {
        entry.name: (entry.mode, (folder / "unpacked" / entry.name).read_bytes())
        for entry in manifest.files
    }
    files |= {name: (0o644, data) for name, data in changed.items()}
    return make_bundle(folder, files)[0]


@pytest.mark.parametrize(
    "name",
    ["bitnet-airgap", "cyclonedx-python-lib", "jinja2", "packageurl-python", "tokenizers",
     "zstandard"],
)  # fmt: skip
def test_rebuild_with_another_version_of_what_decides_bytes_names_it(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Else a library that was updated meanwhile looks like a release that was tampered with."""
    (tmp_path / "read").mkdir()
    unpack_bundle(original, tmp_path / "read")
    statement = json.loads((tmp_path / "read" / "provenance.json").read_bytes())
    versions = statement["predicate"]["runDetails"]["builder"]["version"]
    here = versions[name]
    assert here == metadata.version(name)
    versions[name] = "0.0.1"
    bundle = remake(original, tmp_path, **{"provenance.json": json.dumps(statement).encode()})
    capsys.readouterr()
    assert rebuild(bundle, DEMO) == 2
    assert capsys.readouterr().err == (
        f"error: bundle was made with another version: `{name}`\n"
        "  made with  0.0.1\n"
        f"  here       {here}\n"
        "\n"
        f"hint: install `{name}==0.0.1` and run it again\n"
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [("provenance.json", "provenance"), ("selftest.prompt", "prompt of the self-test")],
)
def test_rebuild_of_a_bundle_with_an_endless_text_is_refused(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, what: str
) -> None:
    """Nobody has signed what is rebuilt: a text of gigabytes would fill the memory."""
    bundle = remake(original, tmp_path, **{name: b" " * ((1 << 20) + 1)})
    assert rebuild(bundle, DEMO) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"error: {what} is too long: `")
    assert told[1] == "  limit 1048576 bytes"


def test_rebuild_of_a_release_with_its_model_beside_confirms_every_byte(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other form of a release: what `seal --no-model` writes is what a second builder makes."""
    lay_out(tmp_path)
    (tmp_path / "config.yaml").write_text(demo_config(model="model.bin"), encoding="utf-8")
    (tmp_path / "out").mkdir()
    script = SCRIPT.replace('"--model", "model.bin", *tokenizer', '"--no-model", *tokenizer')
    script = script.replace("files = (", 'files = ("--model", "model.bin", ').replace(
        'os.mkdir("out")', ""
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environ, check=True)
    bundle = tmp_path / "out" / NAME
    with bundle.open("rb") as file:
        manifest, _ = check_bundle(file, bundle.name, 0)
    assert manifest.find("model.bin") is not None
    assert answer_of(bundle) == answer_of(original)
    assert rebuild(bundle, DEMO) == 0
    assert "every byte the same" in capsys.readouterr().out


def test_foreign_bundle_has_the_answer_of_this_host(original: Path, tmp_path: Path) -> None:
    """One answer on every architecture: a builder need not own both kinds of machine."""
    arch = "aarch64" if host_arch() == "x86_64" else "x86_64"
    lay_out(tmp_path)

    def bitnet(*arguments: object) -> int:
        return render.run_app(app.create(), "bitnet", [str(each) for each in arguments])

    model, program = tmp_path / "model.bin", tmp_path / "bitnet-infer"
    tokenizer = ("--tokenizer", DEMO / "tokenizer.json")
    kind = ("--bits", 1, "--format", "bin")
    assert bitnet("quantize", *kind, "--model", DEMO, "--output", model) == 0
    output = ("--output", program)
    assert bitnet("seal", "--model", model, *tokenizer, "--arch", arch, *output) == 0
    files = ("--executable", program, "--config", tmp_path / "config.yaml", "--arch", arch)
    version = ("--version", "2.1.0", "--counter", 7, "--output", tmp_path)
    assert bitnet("bundle", *files, *version) == 2  # does not run here, and no tokenizer is given
    assert bitnet("bundle", *files, *version, *tokenizer) == 0
    assert answer_of(tmp_path / NAME) == answer_of(original)
    assert rebuild(tmp_path / NAME, DEMO) == 0


def answer_of(bundle: Path) -> str:
    with bundle.open("rb") as file:
        manifest, _ = check_bundle(file, bundle.name, 0)
    entry = manifest.find("selftest.answer")
    assert entry is not None and entry.size > 1
    return entry.digest
