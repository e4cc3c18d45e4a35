"""Published flaws of local model runtimes: one crafted input a class, refused, never a crash.

docs/threat_model.md holds the table: which flaw, what it was, which test here, why it cannot be.
"""

import json
import math
import re
import resource
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.errors import CheckpointError, TokenizerError, ToolkitError
from bitnet.seal.toolchain import host_arch
from bitnet.tokenizer import compile_tokenizer
from bitnet.tokenizer.source import parse_tokenizer
from scripts import audit
from tests.support import model_bin
from tests.support.attacks import Attack, run_attack, system_calls
from tests.support.engine import DEMO, REPOSITORY, demo_model, small_model, small_model_parts
from tests.support.infer import (
    Result,
    ask,
    sealed_program,
    traced,
    unsealed_program,
    write_config,
)
from tests.support.status_table import status_rows

PAGE = REPOSITORY / "docs" / "threat_model.md"
RELEASES = REPOSITORY / "tests" / "conformance" / "test_update_attacks.py"
HUGE = (0xFFFFFFFF, 0x80000000, 0x7FFFFFFF)
HUGE_WIDE = (2**64 - 1, 2**63, 2**64 - 4096, 2**32)


def offsets(section: str) -> dict[str, tuple[int, str]]:
    """Offset and struct code of each field, from docs/formats/model.md."""
    page = (REPOSITORY / "docs/formats/model.md").read_text(encoding="utf-8")
    part = page.split(f"## {section}")[1].split("\n## ")[0]
    codes = {"u32": "<I", "u64": "<Q", "f32": "<f", "u32[8]": "<I"}
    rows = re.findall(r"^\| (\d+) \| \d+ \| (\S+) \| (\w+) \|", part, re.MULTILINE)
    return {name: (int(at), codes[kind]) for at, kind, name in rows if kind in codes}


HEADER = offsets("Header")
ENTRY = offsets("Tensor table")
COUNTS = [name for name, (_, code) in HEADER.items() if code == "<I" and name != "eos_ids"]
SIZES = [name for name, (_, code) in HEADER.items() if code == "<Q"]


def status_of(result: Result) -> str:
    """The name of the status that a program told of; it must have ended by itself."""
    assert result.returncode > 0, result
    assert result.stdout == b""
    line = result.stderr.decode("ascii").splitlines()[0].removeprefix("error: ").split(": `")[0]
    return next(row.name for row in status_rows().values() if row.text == line)


def status_of_model(tmp_path: Path, data: bytes) -> str:
    """How bitnet-infer refuses a model.bin."""
    path = tmp_path / "crafted.bin"
    path.write_bytes(data)
    config = write_config(tmp_path, model=str(path), context=16, max_new_tokens=1)
    return status_of(ask(config, program=unsealed_program()))


def with_number(at: int, code: str, value: float) -> bytes:
    """The small model with one number changed and the root that then belongs to it.

    Whoever makes a file writes its root too, so only the check of the number itself can refuse.
    """
    data = bytearray(small_model())
    header_bytes, data_bytes = struct.unpack_from("<QQ", data, HEADER["data_offset"][0])
    struct.pack_into(code, data, at, value)
    return model_bin.seal(data, header_bytes, data_bytes)


# Files of weights.


@pytest.mark.parametrize("name", COUNTS)
def test_model_counts_without_bound_are_refused(tmp_path: Path, name: str) -> None:
    """If this fails, a count from a file sizes a loop or a buffer."""
    # All ones say of the token at the begin that there is none.
    for value in HUGE if name != "bos_id" else HUGE[1:]:
        at, code = HEADER[name]
        status = status_of_model(tmp_path, with_number(at, code, value))
        assert status == ("kModelVersion" if name == "version" else "kModelField")


@pytest.mark.parametrize("name", SIZES)
def test_model_sizes_that_overflow_are_refused(tmp_path: Path, name: str) -> None:
    """If this fails, a sum or product of sizes wraps around and passes a check."""
    for value in HUGE_WIDE:
        at, code = HEADER[name]
        status = status_of_model(tmp_path, with_number(at, code, value))
        assert status == ("kModelTruncated" if name == "file_bytes" else "kModelField")


@pytest.mark.parametrize("name", [name for name in ENTRY if name != "reserved"])
def test_model_tensor_outside_the_file_is_refused(tmp_path: Path, name: str) -> None:
    """If this fails, a tensor is read from beyond the file: memory of the process leaks."""
    at, code = ENTRY[name]
    values = HUGE_WIDE if code == "<Q" else (math.inf, math.nan) if code == "<f" else HUGE
    for index in range(4):
        # Embedding, frequencies and a norm; the first matrix is the one with a multiplier.
        expected = "kModelValue" if (index, name) == (3, "scale") else "kModelTensor"
        for value in values:
            data = with_number(512 + 64 * index + at, code, value)
            # A tensor of no layer has this number already.
            assert data == small_model() or status_of_model(tmp_path, data) == expected


@pytest.mark.parametrize("name", ["head_count", "kv_head_count", "head_dim", "layer_count"])
def test_model_zero_as_divisor_is_refused(tmp_path: Path, name: str) -> None:
    """If this fails, a zero from a file is divided by."""
    at, code = HEADER[name]
    assert status_of_model(tmp_path, with_number(at, code, 0)) == "kModelField"


def test_model_token_number_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    """If this fails, a number from a file indexes an array beyond its end."""
    for name in ("bos_id", "eos_ids"):
        at, code = HEADER[name]
        assert status_of_model(tmp_path, with_number(at, code, 19)) == "kModelField"


@pytest.mark.parametrize("length", [0, 1, 23, 511, 512, 4095, 4096, 5000])
def test_model_cut_or_empty_is_refused(tmp_path: Path, length: int) -> None:
    """If this fails, something that is not there is read."""
    assert status_of_model(tmp_path, small_model()[:length]) == "kModelTruncated"
    zeros = "kModelTruncated" if length < 512 else "kModelMagic"
    assert status_of_model(tmp_path, bytes(length)) == zeros


def test_model_that_asks_for_more_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    """If this fails, a small file makes the machine run out of memory."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (64 << 20, 64 << 20))

    path = tmp_path / "crafted.bin"
    path.write_bytes(small_model_parts(context_max=1 << 20))
    assert path.stat().st_size < 1 << 17
    for program, settings in (
        (unsealed_program(), {"model": str(path), "context": 1 << 20}),
        (sealed_program(), {"prompt_bytes_max": 1 << 26}),
    ):
        result = subprocess.run(
            [program, "--config", write_config(tmp_path, **settings), "--seed", "1"], input=b"x",
            capture_output=True, timeout=30, check=False, preexec_fn=limited,
        )  # fmt: skip
        assert status_of(result) == "kNoMemory"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/random", "/dev/stdin", "/proc/self/mem", "/"])
def test_model_path_that_is_no_file_is_refused(tmp_path: Path, path: str) -> None:
    """If this fails, a name makes the program read for ever, or from a device."""
    config = write_config(tmp_path, model=path)
    expected = "kModelTruncated" if path.startswith("/proc") else "kModelMissing"
    assert status_of(ask(config, program=unsealed_program())) == expected


def test_model_changed_after_sealing_is_refused(tmp_path: Path) -> None:
    """If this fails, an executable that somebody changed on its way runs."""
    data = bytearray(sealed_program().read_bytes())
    model = demo_model().read_bytes()
    place = data.index(model[:4096])
    for offset in (24, 216, 600, len(model) - 1):
        changed = bytearray(data)
        changed[place + offset] ^= 1
        program = tmp_path / "changed"
        program.write_bytes(changed)
        program.chmod(0o755)
        result = ask(write_config(tmp_path), program=program)
        assert status_of(result) == "kModelDigest"


# Tokenizers and templates.


def test_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    """If this fails, token numbers and texts of two models are mixed, beyond one's arrays."""
    assert status_of_model(tmp_path, small_model()) == "kModelTokenizer"


TOKENS: dict[str, Callable[[dict[str, object]], object]] = {
    "number": lambda vocab: vocab.update({"crafted": 2**31}),
    "negative": lambda vocab: vocab.update({"crafted": -1}),
    "twice": lambda vocab: vocab.update({"crafted": 0}),
    "text": lambda vocab: vocab.update({"crafted": "7"}),
    "fraction": lambda vocab: vocab.update({"crafted": 7.5}),
}


@pytest.mark.parametrize("name", TOKENS)
def test_vocabulary_crafted_is_refused(name: str) -> None:
    """If this fails, a token's number is taken for one that fits."""
    root = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    TOKENS[name](root["model"]["vocab"])
    with pytest.raises(TokenizerError):
        parse_tokenizer(json.dumps(root).encode(), file=Path("crafted"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
        "{{ self.__init__.__globals__ }}",
        "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
        "{{ messages[0].content.__init__.__globals__ }}",
    ],
)
def test_template_with_code_is_not_run(
    tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, a checkpoint's chat template runs commands on the builder's machine."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    config = {"chat_template": template.replace("MARK", str(tmp_path / "mark"))}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(TokenizerError):
        compile_tokenizer(tmp_path / "tokenizer.json")
    assert not (tmp_path / "mark").exists()


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    """If this fails, brackets in a file use up the stack."""
    deep = 60_000
    path = write_config(tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("stop: []", "stop: " + "[" * deep), encoding="utf-8")
    assert status_of(ask(path)) == "kConfigValue"
    for text in ("[" * deep, '{"a":' * deep):
        with pytest.raises(TokenizerError):
            parse_tokenizer(text.encode(), file=Path("crafted"))
    shutil.copytree(DEMO, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.json").write_text("[" * deep, encoding="utf-8")
    with pytest.raises(ToolkitError):
        open_checkpoint(tmp_path / "checkpoint")


# Prompts and settings.


@pytest.mark.parametrize(
    "prompt", [b"a" * 4097, b"\xff" * 5000, b"<|end|>" * 600, "é".encode() * 3000, bytes(5000)]
)
def test_prompt_beyond_its_limit_is_refused(tmp_path: Path, prompt: bytes) -> None:
    """If this fails, the length of a prompt overflows the tokenizer's memory."""
    config = write_config(tmp_path, prompt_bytes_max=4096)
    assert status_of(ask(config, question=prompt)) == "kPromptTooLong"
    fits = ask(config, question=prompt[:4096])
    assert fits.returncode in (0, 1)
    assert fits.returncode == 0 or status_of(fits) in ("kContextOverflow", "kPromptEmpty")


@pytest.mark.parametrize("key", ["context", "max_new_tokens", "top_k", "temperature", "threads"])
@pytest.mark.parametrize("value", ["-1", "-2147483648", "18446744073709551616", "1e9", "0x7f"])
def test_number_negative_or_huge_in_settings_is_refused(
    tmp_path: Path, key: str, value: str
) -> None:
    """If this fails, a negative number becomes an index."""
    path = write_config(tmp_path)
    text = re.sub(rf"(?m)^{key}: .*$", f"{key}: {value}", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    assert status_of(ask(path)) in ("kConfigValue", "kConfigRange")


def test_prompt_cannot_ask_about_files(tmp_path: Path) -> None:
    """If this fails, what a user types decides which files are looked at."""
    calls = traced(
        write_config(tmp_path), question=b"/etc/shadow ../../etc/passwd file:///etc/hosts"
    )
    reading = next(index for index, call in enumerate(calls) if call.startswith("read(0,"))
    assert {call.name for call in calls[reading:]} <= {"read", "write", "exit_group"}


# Names.


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "a/../../outside.safetensors", "sub/../x", ".."],
)
def test_names_in_a_checkpoint_never_leave_it(tmp_path: Path, name: str) -> None:
    """If this fails, a name in a file reads or writes another one."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(DEMO, folder)
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)


# What is not there at all.


def test_program_has_no_network_and_starts_no_program() -> None:
    """If this fails, there is something to connect to, to log in to, or to leak a token to."""
    names = {each.name for each in audit.symbols_of(audit.named_program(host_arch()))}
    assert not names & set(audit.FORBIDDEN)
    number = system_calls(host_arch())
    for call in ("socket", "connect", "bind", "listen", "accept4", "sendto", "execve"):
        assert run_attack(Attack("network", call, ("call", str(number[call]), "2", "1", "0"))).died


# The page.


def table_rows() -> list[list[str]]:
    part = PAGE.read_text(encoding="utf-8").split("## Published flaws")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_page_names_a_test_for_every_flaw() -> None:
    """If this fails, the page claims something that nothing shows."""
    own = {name for name in globals() if name.startswith("test_") and "page" not in name}
    rows = table_rows()
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row[3])}
    assert all(re.search(r"`test_\w+`", row[3]) for row in rows)
    of_releases = set(re.findall(r"^def (test_\w+)\(", RELEASES.read_text(), re.MULTILINE))
    assert own <= named <= own | of_releases
    flaws = {flaw for row in rows for flaw in re.findall(r"(?:CVE|GO)-\d{4}-\d+", row[0])}
    assert len(flaws) >= 25
    assert all(row[4] for row in rows)
