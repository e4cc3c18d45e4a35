"""`bitnet bundle` as a builder types it: what it refuses, and that nothing half-made stays."""

import hashlib
import inspect
import json
import os
import re
import shutil
import struct
from pathlib import Path

import pytest

from bitnet import Engine
from bitnet.cli import app, render, selftest_answer
from bitnet.cli import bundle as bundle_command
from bitnet.cli.selftest_answer import find_answer
from bitnet.errors import BundleError, CheckpointError, UsageError
from bitnet.release import selftest
from bitnet.release.archive import check_bundle
from bitnet.release.assemble import (
    RELEASE_PROGRAMS,
    Request,
    build_programs,
    digest_checkpoint,
    prepare,
)
from bitnet.release.container import Container
from bitnet.release.manifest import Manifest
from bitnet.seal.embed import seal
from bitnet.seal.run_config import ISA_NAMES
from bitnet.seal.sources import PROGRAMS, engine_root
from bitnet.seal.toolchain import host_arch
from tests.support import model_bin
from tests.support.engine import DEMO, DEMO_TOKENIZER, demo_model
from tests.support.infer import ANSWER, QUESTION, demo_config, sealed_program, unsealed_program
from tests.support.release import make_bundle, make_key, make_root, sign_all

FOREIGN = "aarch64" if host_arch() == "x86_64" else "x86_64"


def run(*arguments: object) -> int:
    return render.run_app(app.create(), "bitnet", [str(item) for item in arguments])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(demo_config(), encoding="utf-8")
    return path


def bundle(folder: Path, config: Path, *more: object, executable: Path | None = None) -> int:
    """Runs the command for the demo into `folder`/out."""
    output = folder / "out"
    output.mkdir(exist_ok=True)
    files = ("--executable", executable or sealed_program(), "--config", config)
    version = ("--version", "2.1.0", "--counter", 7)
    return run("bundle", *files, *version, "--output", output, *more)


def test_bundle_of_the_demo_holds_the_real_answer(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The self-test is what the machine in the gap will ask: it must be what runs there."""
    prompt = tmp_path / "prompt"
    prompt.write_bytes(QUESTION)
    capsys.readouterr()
    assert bundle(tmp_path, config, "--selftest-prompt", prompt, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    path = Path(facts["bundle"])
    collected: dict[str, bytes] = {}

    class Sink:
        def expect(self, manifest: Manifest) -> None:
            assert not collected

        def begin(self, entry: object) -> None:
            self.name = entry.name  # type: ignore[attr-defined]
            collected[self.name] = b""

        def write(self, data: bytes) -> None:
            collected[self.name] += data

    with path.open("rb") as file:
        manifest, digest = check_bundle(file, path.name, 0, sink=Sink())
    assert digest.digest == facts["sha384"]
    assert collected["selftest.prompt"] == QUESTION
    assert collected["selftest.answer"] == ANSWER
    assert collected["bitnet-infer"] == sealed_program().read_bytes()
    assert collected["config.yaml"] == config.read_bytes()
    assert (tmp_path / "out" / "MANIFEST").read_bytes() == manifest.emit()
    programs = {name for name in RELEASE_PROGRAMS if name in PROGRAMS}
    assert programs <= collected.keys()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"MANIFEST", "bitnet-v2.1.0.tar.zst"}


def test_answer_computed_here_is_what_the_executable_writes(tmp_path: Path, config: Path) -> None:
    """For a foreign architecture nothing else can be asked."""
    request = Request(
        sealed_program(), config, None, "bitnet", "1.0.0", 1, 0, host_arch(), 42, QUESTION + b"\n"
    )
    draft = prepare(request, {}, tmp_path)
    assert find_answer(draft, tmp_path, None, 60) == ANSWER
    assert find_answer(draft, tmp_path, DEMO_TOKENIZER, 60) == ANSWER


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (b"", "prompt of the self-test is empty"),
        (b"\n", "prompt of the self-test is empty"),
        (b"x" * 31 + b"\n", None),
        (b"x" * 32 + b"\n", "prompt of the self-test is longer than the configuration allows"),
    ],
)
def test_answer_computed_here_is_refused_where_the_executable_refuses(
    tmp_path: Path, prompt: bytes, message: str | None
) -> None:
    """Every machine would install such a release, ask it, get an error, and take it back."""
    config = tmp_path / "config.yaml"
    config.write_text(demo_config(prompt_bytes_max=32), encoding="utf-8")
    executable, arch = sealed_program(), host_arch()
    request = Request(executable, config, None, "bitnet", "1.0.0", 1, 0, arch, 42, prompt)
    draft = prepare(request, {}, tmp_path)
    if message is None:
        computed = find_answer(draft, tmp_path, DEMO_TOKENIZER, 60)
        assert find_answer(draft, tmp_path, None, 60) == computed
        return
    with pytest.raises(BundleError, match="self-test fails with exit code 1"):
        find_answer(draft, tmp_path, None, 60)
    with pytest.raises(UsageError, match=message):
        find_answer(draft, tmp_path, DEMO_TOKENIZER, 60)


def spoilt(kind: str) -> str:
    """A configuration for the demo that no machine would run with."""
    text = demo_config()
    foreign = ISA_NAMES[FOREIGN][1]
    old, new = {
        "unknown key": ("kv_cache:", "kv_cash: f32\nkv_cache:"),
        "missing key": ("verify: full\n", ""),
        "key twice": ("verify: full\n", "verify: full\nverify: full\n"),
        "model elsewhere": ("model: sealed", "model: model.bin"),
        "kernels of another processor": ("isa: auto", f"isa: {foreign}"),
        "layer that does not exist": ("accept_missing: [", 'accept_missing: ["mseel", '),
        "top_k beyond the vocabulary": ("top_k: 0", "top_k: 5000"),
        "context beyond the model": ("context: ", "context: 9"),
        "number in words": ("context: ", "context: many # "),
        "nested beyond any depth": ("stop: []", "stop: " + "[" * 5000),
    }[kind]
    assert old in text
    changed = text.replace(old, new)
    return changed.replace('["mseel", ]', '["mseel"]')


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unknown key", "configuration key is unknown: `kv_cash`"),
        ("missing key", "configuration key is missing: `verify`"),
        ("key twice", "configuration key stands twice: `verify`"),
        ("model elsewhere", "configuration does not fit the release: `model`"),
        ("kernels of another processor", "configuration does not fit the release: `isa`"),
        ("layer that does not exist", "configuration value is not of the key's kind"),
        ("top_k beyond the vocabulary", "configuration does not fit the release: `top_k`"),
        ("context beyond the model", "argument is out of range: `context`"),
        ("number in words", "configuration value is not of the key's kind: `context`"),
        ("nested beyond any depth", "configuration value is not of the key's kind: `stop`"),
    ],
)
def test_configuration_is_refused_as_the_executable_would(
    tmp_path: Path, kind: str, message: str
) -> None:
    """Broken, a release for the other architecture is signed, and no machine takes it."""
    config = tmp_path / "config.yaml"
    config.write_text(spoilt(kind), encoding="utf-8")
    executable, arch = sealed_program(), host_arch()
    request = Request(executable, config, None, "bitnet", "1.0.0", 1, 0, arch, 42, QUESTION)
    draft = prepare(request, {}, tmp_path)
    with pytest.raises(UsageError) as caught:
        find_answer(draft, tmp_path, DEMO_TOKENIZER, 60)
    assert caught.value.message.startswith(message)
    with pytest.raises(BundleError, match="self-test fails with exit code"):
        find_answer(draft, tmp_path, None, 60)


def test_defect_of_the_engine_is_told_as_one(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken, a builder looks for a mistake in a configuration that has none."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("inside")

    monkeypatch.setattr(Engine, "generate", fail)
    request = Request(
        sealed_program(), config, None, "bitnet", "1.0.0", 1, 0, host_arch(), 42, QUESTION
    )
    with pytest.raises(KeyError, match="inside"):
        find_answer(prepare(request, {}, tmp_path), tmp_path, DEMO_TOKENIZER, 60)


def test_model_beside_the_executable_must_be_named_as_it_lies_there(tmp_path: Path) -> None:
    """The machine asks the release before anything points to it: no other path leads there."""
    config = tmp_path / "config.yaml"
    model, arch = demo_model(), host_arch()
    for name in ("model.bin", str(model)):
        config.write_text(demo_config(model=name), encoding="utf-8")
        request = Request(
            unsealed_program(), config, model, "bitnet", "1.0.0", 1, 0, arch, 42, QUESTION
        )
        draft = prepare(request, {}, tmp_path)
        if name == "model.bin":
            assert find_answer(draft, tmp_path, DEMO_TOKENIZER, 60) == ANSWER
            continue
        with pytest.raises(UsageError, match="does not fit the release: `model`"):
            find_answer(draft, tmp_path, DEMO_TOKENIZER, 60)


def test_selftest_is_given_the_time_that_the_gap_gives(tmp_path: Path) -> None:
    """Broken, a release is signed and carried that every machine ends and takes back."""
    source = (engine_root() / "release" / "store.h").read_text()
    found = re.search(r"kSelftestMs = (\d+);", source)
    assert found is not None
    assert int(found[1]) == 1000 * selftest.SELFTEST_S
    defaults = inspect.signature(bundle_command.bundle).parameters
    assert defaults["selftest_timeout"].default == selftest.SELFTEST_S


@pytest.mark.parametrize(("limit_s", "told"), [(300, ""), (0.001, "warning: self-test took 0 s")])
def test_selftest_of_more_than_half_the_time_is_told(
    tmp_path: Path,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limit_s: float,
    told: str,
) -> None:
    """A machine in the gap may be half as fast as the builder's."""
    monkeypatch.setattr(selftest_answer, "SELFTEST_S", limit_s)
    request = Request(
        sealed_program(), config, None, "bitnet", "1.0.0", 1, 0, host_arch(), 42, QUESTION
    )
    assert find_answer(prepare(request, {}, tmp_path), tmp_path, None, 60) == ANSWER
    assert capsys.readouterr().err.split(",")[0] == told


@pytest.mark.parametrize("tokenizer", [None, DEMO_TOKENIZER])
def test_answer_longer_than_the_gap_accepts_is_refused(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Path | None
) -> None:
    """The release would be signed, carried, and then refused where it is to be installed."""
    source = (engine_root() / "release" / "store.h").read_text()
    found = re.search(r"kAnswerBytesMax = (\d+);", source)
    assert found is not None
    assert int(found[1]) == selftest.ANSWER_BYTES_MAX
    prompt = QUESTION + b"\n"
    request = Request(
        sealed_program(), config, None, "bitnet", "1.0.0", 1, 0, host_arch(), 42, prompt
    )
    draft = prepare(request, {}, tmp_path)
    monkeypatch.setattr(selftest, "ANSWER_BYTES_MAX", len(ANSWER) - 1)
    with pytest.raises(BundleError, match="answers nothing, or too much") as caught:
        find_answer(draft, tmp_path, tokenizer, 60)
    assert caught.value.where == (f"{len(ANSWER)} bytes, limit {len(ANSWER) - 1}",)


def test_bundle_with_the_model_beside_the_executable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Engine and model.bin may travel as two files; the self-test finds the model, too."""
    config = tmp_path / "config.yaml"
    config.write_text(demo_config(model="model.bin"), encoding="utf-8")
    arguments = ("--model", demo_model(), "--json")
    assert bundle(tmp_path, config, *arguments, executable=unsealed_program()) == 0
    assert "model.bin" in json.loads(capsys.readouterr().out)["files"]


@pytest.mark.parametrize("sealed", [True, False])
def test_bundle_of_a_model_that_is_not_as_its_format_says_is_refused(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], sealed: bool
) -> None:
    """A model with code 3, well digested, would enter a release that answers as the CPU likes."""
    data = bytearray(demo_model().read_bytes())
    header_bytes, data_bytes = struct.unpack_from("<QQ", data, 128)
    offset = struct.unpack_from("<Q", data, 512 + 64 * 3 + 24)[0]
    data[offset] = 0xFF
    model = tmp_path / "model.bin"
    model.write_bytes(model_bin.seal(data, header_bytes, data_bytes))
    executable, more = unsealed_program(), ("--model", model)
    if sealed:
        executable, more = tmp_path / "bitnet-infer", ()
        seal(unsealed_program(), model, executable)
    assert bundle(tmp_path, config, *more, executable=executable) == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "error: model.bin tensor holds a value that cannot be: `layers.0.q`"
    )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--version", "2.1"), 2, "version is not of the form X.Y.Z: `2.1`"),
        (("--counter", -1), 2, "counter is out of range: `-1`"),
        (("--counter", 0), 2, "counter is out of range: `0`"),
        (("--minimum-counter", 8), 2, "minimum counter is above the counter: `8`"),
        (("--product", "a/b"), 2, "product is not a name: `a/b`"),
        (("--arch", "mips"), 2, "architecture is not supported: `mips`"),
        (("--arch", FOREIGN), 2, "executable is for another architecture"),
        (("--split", "1.5GB"), 2, "size is not understood: `1.5GB`"),
        (("--config", "absent"), 1, "self-test fails with exit code"),
        (("--executable", "absent"), 1, "absent"),
        (("--model", "absent"), 1, "executable carries a model already"),
        (("--selftest-prompt", "absent"), 1, "prompt of the self-test cannot be read"),
        (("--selftest-timeout", 0.000001), 1, "self-test takes too long"),
        (("--checkpoint", "absent"), 1, "checkpoint cannot be read: `absent`"),
        (("--output", "absent"), 2, "folder does not exist: `absent`"),
        (("--existing", "absent"), 2, "`--existing` and `--executable` exclude each other"),
    ],
)
def test_bundle_that_cannot_be_made_leaves_nothing(
    tmp_path: Path,
    config: Path,
    more: tuple[object, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A half-made release in the folder would be signed one day."""
    assert bundle(tmp_path, config, *more) == code
    assert message in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("change", ["another tokenizer", "no tokenizer", "another model"])
def test_bundle_of_a_checkpoint_that_the_model_is_not_from_is_refused(
    tmp_path: Path, config: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a signed bill of materials names files that have nothing to do with the release."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(DEMO, checkpoint)
    tokenizer = checkpoint / "tokenizer.json"
    expected = hashlib.sha384(tokenizer.read_bytes()).hexdigest()
    found = "no such file"
    if change == "another tokenizer":
        tokenizer.write_bytes(tokenizer.read_bytes() + b"\n")
        found = hashlib.sha384(tokenizer.read_bytes()).hexdigest()
    elif change == "no tokenizer":
        tokenizer.unlink()
    else:  # what only a rebuild finds
        (checkpoint / "model.safetensors").write_bytes(b"x")
        assert bundle(tmp_path, config, "--checkpoint", checkpoint) == 0
        return
    assert bundle(tmp_path, config, "--checkpoint", checkpoint) == 3
    assert capsys.readouterr().err == (
        f"error: checkpoint is not the one that the model was made from: `{checkpoint}`\n"
        f"  tokenizer.json  {found}\n"
        f"  model's own     {expected}\n"
        "\n"
        "hint: pass the checkpoint that was given to `bitnet.quantize`\n"
    )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["outside", "device", "pipe", "nowhere"])
def test_checkpoint_file_that_is_not_of_the_checkpoint_is_refused(
    tmp_path: Path, kind: str
) -> None:
    """Broken, the digest of a private file is published, or the command never ends."""
    (tmp_path / "secret").write_bytes(b"secret")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    path = checkpoint / "config.json"
    message = "checkpoint file leads out of its directory: `config.json`"
    if kind == "outside":
        path.symlink_to("../secret")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
        message = "not a regular file: `config.json`"
    else:
        path.symlink_to("nowhere")
        message = "cannot open `config.json`"
    with pytest.raises(CheckpointError) as caught:
        digest_checkpoint(checkpoint)
    assert caught.value.message == message


def test_checkpoint_link_inside_the_folder_is_its_file(tmp_path: Path) -> None:
    """A folder that holds its files itself may name them twice."""
    (tmp_path / "blob").write_bytes(b"{}")
    (tmp_path / "config.json").symlink_to("blob")
    (tmp_path / "folder.model").mkdir()
    assert digest_checkpoint(tmp_path) == {"config.json": hashlib.sha384(b"{}").hexdigest()}


def test_bundle_of_an_engine_without_a_model_is_refused(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would install and then not run."""
    assert bundle(tmp_path, config, executable=unsealed_program()) == 1
    assert "executable carries no model" in capsys.readouterr().err


def test_bundle_described_too_little_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counter and version have no sensible default."""
    assert run("bundle", "--executable", sealed_program(), "--output", tmp_path) == 2
    assert capsys.readouterr().err.startswith(
        "error: bundle is not described: `--config`, `--version`, `--counter` missing\n"
    )


def test_existing_bundle_is_split_and_described(tmp_path: Path) -> None:
    """Splitting and printing come after signing, on another day."""
    path, statement = make_bundle(tmp_path)
    signatures, sheet = tmp_path / "update.sig", tmp_path / "sheet.html"
    signatures.write_bytes(sign_all(statement.emit(), make_key("alice")).emit())
    what = ("--existing", path, "--split", 2048, "--sheet", sheet, "--signatures", signatures)
    assert run("bundle", *what, "--output", tmp_path) == 0
    assert len(list(tmp_path.glob("*.part-*"))) == 2
    shown = f"in the file, not verified: key {make_key('alice').public.key_id[:16]}<"
    assert shown.encode() in sheet.read_bytes()
    assert b"Signed by" not in sheet.read_bytes()


@pytest.mark.parametrize("kind", ["enough", "forged", "too few", "root not signed"])
def test_sheet_names_only_those_whose_signatures_verify(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paper is trusted more than the media: it must not name who has not signed."""
    alice, bob = make_key("alice"), make_key("bob")
    path, statement = make_bundle(tmp_path)
    container = sign_all(statement.emit(), alice, bob)
    if kind == "forged":  # bob's name over what he did not sign
        other = sign_all(statement.emit() + b"x\n", bob).signatures
        container = Container(
            container.statement,
            tuple(
                other[0] if each.key_id == bob.public.key_id else each
                for each in container.signatures
            ),
        )
    signatures, root = tmp_path / "update.sig", tmp_path / "trust.root"
    signatures.write_bytes(container.emit())
    needed = 3 if kind == "too few" else 2
    keys = (alice, bob, make_key("carol"))
    trust = make_root(4, root=(2, keys), release=(needed, keys))
    approved = sign_all(trust.emit(), *([] if kind == "root not signed" else (alice, bob)))
    root.write_bytes(approved.emit())
    sheet = tmp_path / "sheet.html"
    what = ("--existing", path, "--sheet", sheet, "--signatures", signatures)
    code = run("bundle", *what, "--root", root, "--output", tmp_path)
    if kind != "enough":
        assert code == 3
        assert "error: too few valid signatures" in capsys.readouterr().err
        assert not sheet.exists()
        return
    assert code == 0
    names = sorted((alice, bob), key=lambda key: key.public.key_id)
    people = ", ".join(f"{key.name} ({key.custodian})" for key in names)
    shown = f"<th>Signed by</th><td>{people}; enough for trust.root version 4</td>"
    assert shown.encode() in sheet.read_bytes()


def test_root_without_signatures_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever passes it believes that something is verified."""
    path, _ = make_bundle(tmp_path)
    assert run("bundle", "--existing", path, "--root", path, "--output", tmp_path) == 2
    assert "`--root` verifies nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bundle", "update.sig"])
def test_bundle_that_would_replace_what_it_reads_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a slip of the hand replaces a release, or its signatures, by a sheet of paper."""
    path, statement = make_bundle(tmp_path)
    signatures = tmp_path / "update.sig"
    signatures.write_bytes(sign_all(statement.emit(), make_key("alice")).emit())
    before = {each: each.read_bytes() for each in (path, signatures)}
    sheet = {"bundle": path, "update.sig": signatures}[name]
    what = ("--existing", path, "--sheet", sheet, "--signatures", signatures)
    assert run("bundle", *what, "--output", tmp_path) == 2
    assert "error: output is one of the inputs" in capsys.readouterr().err
    assert {each: each.read_bytes() for each in before} == before


def test_bundle_whose_manifest_would_replace_the_prompt_is_refused(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of a release is made of what is already there, such as an old MANIFEST."""
    prompt = tmp_path / "out" / "MANIFEST"
    prompt.parent.mkdir()
    prompt.write_bytes(QUESTION)
    more = ("--selftest-prompt", prompt)
    assert bundle(tmp_path, config, *more, executable=config) == 2
    assert f"error: output is one of the inputs: `{prompt}`" in capsys.readouterr().err
    assert prompt.read_bytes() == QUESTION


@pytest.mark.parametrize("kind", ["damaged", "missing", "foreign signatures"])
def test_existing_bundle_that_does_not_fit_is_refused(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sheet is trusted more than the media: it must not describe something else."""
    path, _ = make_bundle(tmp_path)
    more: tuple[object, ...] = ()
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "missing":
        path.unlink()
    else:
        _, other = make_bundle(tmp_path / "files", version="3.0.0")
        (tmp_path / "sig").write_bytes(sign_all(other.emit(), make_key("alice")).emit())
        more = ("--signatures", tmp_path / "sig")
    sheet = tmp_path / "sheet.html"
    code = run("bundle", "--existing", path, "--sheet", sheet, *more, "--output", tmp_path)
    assert code == (3 if more else 1)
    assert capsys.readouterr().err.startswith("error: ")
    assert not sheet.exists()


def test_program_that_this_version_has_not_is_refused() -> None:
    """A rebuild of a newer release must say so."""
    with pytest.raises(BundleError, match="program is not one of this version: `bitnet-new`"):
        build_programs(host_arch(), names=("bitnet-new",))
