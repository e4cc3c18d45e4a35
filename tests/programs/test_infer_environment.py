"""bitnet-infer and what is around it: memory, limits, system calls, the file of --debug-vocab."""

import fcntl
import json
import os
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bitnet.seal.toolchain import host_arch
from tests.support.attacks import system_calls
from tests.support.engine import DEMO_TOKENIZER, demo_model, open_engine
from tests.support.host import root_only
from tests.support.infer import (
    ANSWER,
    QUESTION,
    Result,
    ask,
    assert_refused,
    missing_layers,
    sealed_program,
    traced,
    unsealed_program,
    write_config,
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def limited(config: Path, kind: int, value: int, *arguments: str) -> Result:
    """Runs the program under a limit of the kernel."""
    return subprocess.run(
        [sealed_program(), "--config", config, "--seed", "1", *arguments], input=QUESTION,
        capture_output=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(kind, (value, value)),
    )  # fmt: skip


def wait_for_call(process: subprocess.Popen[bytes], name: str, descriptor: int) -> None:
    """Waits until a process waits in a system call on a descriptor."""
    wanted = [str(system_calls(host_arch())[name]), hex(descriptor)]
    end_s = time.monotonic() + 60
    while True:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end_s
        line = Path(f"/proc/{process.pid}/syscall").read_text(encoding="ascii")
        if line.split()[:2] == wanted:
            return
        time.sleep(0.01)


@root_only
def test_infer_waits_for_streams_that_do_not_block(config: Path) -> None:
    """Broken, a terminal that another program left in O_NONBLOCK ends the run with errno 11."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    answer, output = os.pipe()
    room = fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 4096)  # a page, of whatever size
    os.set_blocking(output, False)
    os.write(output, bytes(room))  # full: to go on, the program must wait
    command = [sealed_program(), "--config", config, "--seed", "42"]
    with subprocess.Popen(command, stdin=reader, stdout=output, stderr=subprocess.PIPE) as process:
        os.close(reader)
        os.close(output)
        wait_for_call(process, "read", 0)
        os.write(writer, QUESTION)
        os.close(writer)
        wait_for_call(process, "write", 1)
        with os.fdopen(answer, "rb") as file:
            assert file.read()[room:] == ANSWER
        assert process.wait(120) == 0


def test_infer_resources_refused_are_named(tmp_path: Path) -> None:
    """If this fails, a machine that is too small shows as a crash."""
    # These two need more locked memory than the 8 MiB of a user without rights.
    accepted = ["memory_lock", *missing_layers()]
    config = write_config(tmp_path, prompt_bytes_max=1 << 20, accept_missing=accepted)
    arena = json.loads(ask(config, "--stats").stderr)["arena_bytes"]
    room = sealed_program().stat().st_size + arena // 2
    assert_refused(limited(config, resource.RLIMIT_AS, room), "kNoMemory", "arena", 0, arena)
    config = write_config(tmp_path, threads=64, accept_missing=accepted)
    result = limited(config, resource.RLIMIT_NOFILE, 20)
    assert_refused(result, "kSystem", "pipe2", 0, 24)
    arena = json.loads(ask(config, "--stats").stderr)["arena_bytes"]
    # Room for the arena, and for the stacks of some of the 63 threads.
    room = sealed_program().stat().st_size + arena + (4 << 20)
    result = limited(config, resource.RLIMIT_AS, room)
    assert_refused(result, "kNoThread", "thread", 0, 11)


def test_infer_reads_no_environment(config: Path) -> None:
    """If this fails, something outside arguments and configuration changes a run."""
    names = {
        "LC_ALL": "tr_TR.UTF-8", "LANG": "C", "TZ": "Asia/Tokyo", "MALLOC_ARENA_MAX": "1",
        "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165", "LD_PRELOAD": "/nonexistent.so",
        "LD_LIBRARY_PATH": "/nonexistent", "LD_AUDIT": "/nonexistent.so",
        "GLIBC_TUNABLES": "glibc.malloc.check=3", "OMP_NUM_THREADS": "7", "BITNET_ISA": "ref",
        "BITNET_CONFIG": "/nonexistent", "NO_COLOR": "1", "HOME": "/nonexistent",
        "PATH": "/nonexistent", "LONG": "x" * 100_000,
    }  # fmt: skip
    for environment in ({}, names):
        result = ask(config, environment=environment)
        assert (result.stdout, result.stderr, result.returncode) == (ANSWER, b"", 0)


@root_only
def test_infer_memory_besides_weights_and_cache_is_small(config: Path) -> None:
    """If this fails, the program needs more memory than the README promises."""
    # Standard output is a pipe that is full: the program stops in the write of its first token,
    # when everything that a run touches has been touched.
    reader, writer = os.pipe()
    capacity = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(capacity))
    process = subprocess.Popen(
        [sealed_program(), "--config", config, "--seed", "1"], stdin=subprocess.PIPE, stdout=writer
    )
    assert process.stdin is not None
    process.stdin.write(QUESTION)
    process.stdin.close()
    state = Path(f"/proc/{process.pid}")
    deadline = time.monotonic() + 120
    while (state / "syscall").read_text().split()[0:2] != [str(WRITE), "0x1"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    smaps = (state / "smaps").read_text()
    os.close(writer)
    with open(reader, "rb") as pipe:
        received = pipe.read()
    assert process.wait(120) == 0
    assert received[capacity:] == ANSWER
    resident = {}
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
        fields = block.split("\n", 1)[0].split()
        size = int(re.search(r"^Size: +(\d+) kB", block, re.MULTILINE)[1])  # type: ignore[index]
        rss = int(re.search(r"^Rss: +(\d+) kB", block, re.MULTILINE)[1])  # type: ignore[index]
        holds_weights = len(fields) > 5 and size * 1024 >= demo_model().stat().st_size
        if not holds_weights:
            resident[block.split("\n", 1)[0]] = rss
    assert len(resident) < smaps.count("\nRss:")  # the weights were found
    with open_engine(demo_model()) as engine:
        spec = engine.spec
    cache = spec.layer_count * spec.kv_head_count * 512 * spec.head_dim * 2 * 4
    assert sum(resident.values()) * 1024 <= 8_000_000 + cache, resident


WRITE = 1 if os.uname().machine == "x86_64" else 64


# Debugging.


def vocabulary_lines() -> list[bytes]:
    """The tokens of tokenizer.json as the page of --debug-vocab has them, from the file alone."""
    tokenizer = json.loads(DEMO_TOKENIZER.read_text(encoding="utf-8"))
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible}
    byte_of |= {chr(256 + place): byte for place, byte in enumerate(hidden)}
    tokens = {
        number: bytes(byte_of[character] for character in token)
        for token, number in tokenizer["model"]["vocab"].items()
    }
    tokens |= {added["id"]: added["content"].encode() for added in tokenizer["added_tokens"]}
    assert sorted(tokens) == list(range(len(tokens)))
    return [escape(tokens[number]) for number in range(len(tokens))]


def escape(token: bytes) -> bytes:
    plain = [0x20 <= byte < 0x7F and byte != 0x5C for byte in token]
    parts = (
        bytes([byte]) if keep else b"\\x%02x" % byte
        for byte, keep in zip(token, plain, strict=True)
    )
    return b"".join(parts)


@pytest.fixture(scope="module")
def vocabulary() -> list[bytes]:
    return vocabulary_lines()


def test_infer_debug_vocabulary_shows_every_token(
    config: Path, tmp_path: Path, vocabulary: list[bytes]
) -> None:
    """If this fails, the compiled vocabulary is not the file's, or cannot be looked at."""
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"".join(line + b"\n" for line in vocabulary))
    result = ask(config, "--debug-vocab", str(path))
    assert result.stdout == ANSWER
    with open_engine(demo_model(), tokenizer=DEMO_TOKENIZER) as engine:
        prompt = engine.tokenize_chat(QUESTION)
        answer = engine.generate(prompt, max_new_tokens=64).ids
    shown = [(b"prompt", token) for token in prompt] + [(b"answer", token) for token in answer]
    assert result.stderr == b"".join(
        b'%s %d "%s"\n' % (kind, token, vocabulary[token]) for kind, token in shown
    )


@pytest.mark.parametrize("line", [1, 4, 2000, 4096])
def test_infer_debug_vocabulary_that_differs_is_refused(
    config: Path, tmp_path: Path, vocabulary: list[bytes], line: int
) -> None:
    """If this fails, a vocabulary of another model passes for the one compiled in."""
    path = tmp_path / "vocab.txt"
    lines = list(vocabulary)
    lines[line - 1] += b"x"
    path.write_bytes(b"".join(each + b"\n" for each in lines))
    result = ask(config, "--debug-vocab", str(path))
    assert_refused(result, "kVocabularyFile", str(path), line)


def test_infer_debug_vocabulary_incomplete_or_longer_is_refused(
    config: Path, tmp_path: Path, vocabulary: list[bytes]
) -> None:
    """If this fails, a vocabulary file that was cut passes."""
    path = tmp_path / "vocab.txt"
    whole = b"".join(line + b"\n" for line in vocabulary)
    for content, line in (
        (b"", 1),
        (whole[:-1], 4096),
        (b"".join(line + b"\n" for line in vocabulary[:1777]), 1778),
        (whole + b"\n", 4097),
        (whole.replace(b"\n", b"\r\n"), 1),
    ):
        path.write_bytes(content)
        assert_refused(ask(config, "--debug-vocab", str(path)), "kVocabularyFile", str(path), line)
    missing = str(tmp_path / "missing.txt")
    assert_refused(ask(config, "--debug-vocab", missing), "kReadFailed", missing, 0, 2)


# System calls.

OPENING = {"open", "openat", "openat2", "creat"}
OWN_FILE = "/proc/self/exe"
STEADY = {"read", "write", "exit_group", "clock_gettime"}


def test_infer_opens_its_configuration_and_itself_and_nothing_else(tmp_path: Path) -> None:
    """If this fails, the program reads something that no argument and no setting names."""
    config = write_config(tmp_path, threads=2)
    opened = [call for call in traced(config) if call.name in OPENING]
    assert len(opened) == 2
    assert f'"{config}", O_RDONLY' in opened[0]
    assert f'"{OWN_FILE}", O_RDONLY' in opened[1]
    calls = traced(write_config(tmp_path, threads=2, verify="off"))
    assert len([call for call in calls if call.name in OPENING]) == 1
    model = tmp_path / "m.bin"
    shutil.copy(demo_model(), model)
    calls = traced(write_config(tmp_path, model=str(model)), program=unsealed_program())
    opened = [call for call in calls if call.name in OPENING]
    assert [re.findall(r'"([^"]*)"', call)[0] for call in opened] == [str(config), str(model)]


def test_infer_opens_a_vocabulary_only_when_asked(
    config: Path, tmp_path: Path, vocabulary: list[bytes]
) -> None:
    """If this fails, `--debug-vocab` is not the only way that a vocabulary is ever read."""
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"".join(line + b"\n" for line in vocabulary))
    calls = traced(config, "--debug-vocab", str(path))
    opened = [re.findall(r'"([^"]*)"', call)[0] for call in calls if call.name in OPENING]
    assert opened == [str(config), OWN_FILE, str(path)]


@pytest.mark.parametrize("threads", [1, 3])
def test_infer_after_its_first_read_only_reads_and_writes(tmp_path: Path, threads: int) -> None:
    """If this fails, a prompt can make the program map memory, open files or start threads."""
    changes: dict[str, Any] = {"threads": threads, "temperature": 1, "stop": ["never"]}
    calls = traced(write_config(tmp_path, **changes))
    first = next(i for i, call in enumerate(calls) if call.startswith("read(0,"))
    assert {call.name for call in calls[first:]} <= STEADY
    writes = [call for call in calls[first:] if call.name == "write"]
    assert any(call.startswith("write(1,") for call in writes)
    assert not any(call.startswith("write(2,") for call in writes)
    before = {call.name for call in calls[:first]}
    assert not before & {"socket", "connect", "fork", "vfork", "ptrace", "getrandom"}
    assert [call.name for call in calls].count("execve") == 1
