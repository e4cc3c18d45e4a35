"""bitnet-infer as a black box: the real static executable, its streams and its exit codes."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.quantize import write_model
from bitnet.seal.run_config import KEYS
from tests.support.engine import (
    DEMO,
    DEMO_TOKENIZER,
    REPOSITORY,
    available_isas,
    demo_model,
    open_engine,
    small_model_parts,
)
from tests.support.infer import (
    ANSWER,
    QUESTION,
    Result,
    ask,
    assert_refused,
    demo_config,
    sealed_program,
    unsealed_program,
    write_config,
)
from tests.support.status_table import told


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


# Answers.

SAMPLED = {"temperature": 1.5, "top_k": 40, "top_p": 0.9}


def test_infer_answer_alone_stands_on_standard_output(config: Path) -> None:
    """If this fails, a script that reads the answer reads something else with it."""
    result = ask(config)
    assert (result.stdout, result.stderr, result.returncode) == (ANSWER, b"", 0)


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [
        ({"temperature": 0.7}, {"temperature": 0.7}),
        (SAMPLED, SAMPLED),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"prompt": "raw"}, {"chat": False}),
        ({"stop": [" --"]}, {"stop": [" --"]}),
        ({"threads": 3, "prefill_chunk": 4}, {}),
        ({"max_new_tokens": 5}, {"max_new_tokens": 5}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_infer_any_settings_answer_as_the_library(
    tmp_path: Path, changes: dict[str, Any], arguments: dict[str, Any], seed: int
) -> None:
    """If this fails, what was evaluated through Python is not what runs inside the gap."""
    result = ask(write_config(tmp_path, **changes), seed=str(seed))
    with open_engine(demo_model(), tokenizer=DEMO_TOKENIZER) as engine:
        expected = engine.generate(QUESTION, **({"max_new_tokens": 64} | arguments), seed=seed)
    assert result.stdout == expected.data + b"\n"
    cut = b"note: the answer was cut at `max_new_tokens` = %d\n" % (
        arguments.get("max_new_tokens", 64)
    )
    assert result.stderr == (cut if expected.finish == "length" else b"")
    assert result.returncode == 0


def test_infer_seed_changes_a_sampled_answer_only(tmp_path: Path) -> None:
    """If this fails, the seed does nothing, or greedy answers depend on it."""
    sampled = write_config(tmp_path, temperature=2)
    answers = {ask(sampled, seed=str(seed)).stdout for seed in range(6)}
    assert len(answers) > 3
    greedy = write_config(tmp_path)
    assert {ask(greedy, seed=str(seed)).stdout for seed in range(3)} == {ANSWER}


def test_infer_line_break_at_the_end_is_not_part_of_the_prompt(config: Path) -> None:
    """If this fails, `echo` and `printf` get different answers."""
    assert ask(config, question=QUESTION + b"\n").stdout == ANSWER
    stats = ask(config, "--stats", question=QUESTION + b"\n\n").stderr
    assert (
        json.loads(stats)["prompt_tokens"]
        == json.loads(ask(config, "--stats").stderr)["prompt_tokens"]
    )


def test_infer_model_from_a_path_answers_as_the_sealed_one(tmp_path: Path) -> None:
    """If this fails, trying a model before sealing it shows something else."""
    shutil.copy(demo_model(), tmp_path / "mödel 1.bin")
    config = write_config(tmp_path, model=str(tmp_path / "mödel 1.bin"))
    for program in (unsealed_program(), sealed_program()):
        assert ask(config, program=program).stdout == ANSWER


def test_infer_every_isa_gives_the_same_answer(tmp_path: Path) -> None:
    """If this fails, the processor decides what the user reads, or `--isa` is not heard."""
    config = write_config(tmp_path, isa="ref", temperature=1)
    answers = set()
    for isa in available_isas():
        result = ask(config, "--isa", isa, "--stats")
        assert json.loads(result.stderr)["isa"] == isa
        answers.add(result.stdout)
        from_file = ask(write_config(tmp_path, isa=isa, temperature=1), "--stats")
        assert json.loads(from_file.stderr)["isa"] == isa
        answers.add(from_file.stdout)
    assert len(answers) == 1
    automatic = json.loads(ask(write_config(tmp_path), "--stats").stderr)
    assert automatic["isa"] == available_isas()[-1]


def test_infer_stats_are_one_line_of_json(tmp_path: Path) -> None:
    """If this fails, measurements cannot be collected by a script."""
    result = ask(write_config(tmp_path, threads=2), "--stats")
    assert result.stdout == ANSWER
    assert result.stderr.count(b"\n") == 1
    stats = json.loads(result.stderr)
    with open_engine(demo_model(), tokenizer=DEMO_TOKENIZER) as engine:
        expected = engine.generate(QUESTION, max_new_tokens=64)
    assert list(stats) == [
        "prompt_tokens", "new_tokens", "finish", "isa", "threads", "first_token_ms", "prefill_ms",
        "decode_ms", "decode_tokens", "decode_tokens_per_second", "head_rows_exact", "head_bytes",
        "arena_bytes",
    ]  # fmt: skip
    assert stats["prompt_tokens"] == expected.prompt_tokens
    assert stats["new_tokens"] == len(expected.ids)
    assert stats["finish"] == "stop_token"
    assert stats["threads"] == 2
    assert stats["head_bytes"] == expected.head_bytes // expected.choices
    assert stats["head_rows_exact"] == pytest.approx(expected.head_rows / expected.choices, abs=0.1)
    assert 0 < stats["prefill_ms"] <= stats["first_token_ms"] < 10_000
    rate = 1000 * stats["decode_tokens"] / stats["decode_ms"]
    assert stats["decode_tokens_per_second"] == pytest.approx(rate, rel=0.01)
    cut = json.loads(
        ask(write_config(tmp_path, max_new_tokens=3), "--stats").stderr.splitlines()[1]
    )
    assert (cut["finish"], cut["new_tokens"], cut["decode_tokens"]) == ("length", 3, 2)


# Command line.


def test_infer_help_and_version_exit_cleanly() -> None:
    """If this fails, the first thing that a user tries fails."""
    shown = ask(None, "--help", seed=None)
    assert (shown.returncode, shown.stderr) == (0, b"")
    text = shown.stdout.decode("ascii")
    assert text.startswith("usage: bitnet-infer --config FILE --seed N ")
    options = ("--config", "--seed", "--isa", "--stats", "--debug-vocab", "--version")
    assert all(re.search(rf"^  {option}\b.*  \w", text, re.MULTILINE) for option in options)
    assert "\nexample: echo " in text
    version = ask(None, "--version", seed=None)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert version.stdout.decode() == project["project"]["version"] + "\n"
    assert version.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "subject"),
    [
        (["--config", "c", "--seed", "1", "--verbose"], "kUsage", "--verbose"),
        (["--config", "c", "--seed", "1", "question"], "kUsage", "question"),
        (["--config=c", "--seed", "1"], "kUsage", "--config=c"),
        (["-h"], "kUsage", "-h"),
        ([""], "kUsage", ""),
        ([], "kOptionMissing", "--config"),
        (["--seed", "1"], "kOptionMissing", "--config"),
        (["--config", "c"], "kOptionMissing", "--seed"),
        (["--config"], "kOptionValue", "--config"),
        (["--config", "c", "--seed"], "kOptionValue", "--seed"),
        (["--config", "c", "--config", "c", "--seed", "1"], "kOptionValue", "--config"),
        (["--config", "c", "--seed", "1", "--seed", "1"], "kOptionValue", "--seed"),
        (["--config", "c", "--seed", "1", "--isa"], "kOptionValue", "--isa"),
        (["--config", "c", "--seed", "1", "--isa", "ref", "--isa", "ref"], "kOptionValue", "--isa"),
        (["--config", "c", "--seed", "1", "--debug-vocab"], "kOptionValue", "--debug-vocab"),
    ],
)
def test_infer_arguments_not_usable_are_named(
    arguments: list[str], status: str, subject: str
) -> None:
    """If this fails, a mistyped command runs with something that was not meant."""
    assert_refused(ask(None, *arguments, seed=None), status, subject)


@pytest.mark.parametrize(
    "seed",
    [
        "",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1.5",
        "0x1",
        "1e3",
        "18446744073709551616",
        "9" * 400,
        "1\n",
        "١",
    ],
)
def test_infer_seed_not_a_number_is_refused(config: Path, seed: str) -> None:
    """If this fails, a seed is cut silently and an answer cannot be reproduced."""
    assert_refused(ask(config, seed=seed), "kOptionValue", "--seed")


@pytest.mark.parametrize("seed", ["0", "18446744073709551615", "000000000000000000000000000042"])
def test_infer_seed_at_the_limits_is_taken(config: Path, seed: str) -> None:
    """If this fails, a documented seed is refused."""
    assert ask(config, seed=seed).stdout == ANSWER


def test_infer_control_characters_are_escaped(tmp_path: Path) -> None:
    """If this fails, a path or an argument writes to the operator's terminal."""
    result = ask(None, "--co\x1b[31mnfig\x07\n\x7f\\é", seed=None)
    assert result.stderr == (
        b"error: option is unknown: `--co\\x1b[31mnfig\\x07\\x0a\\x7f\\x5c\\xc3\\xa9`\n"
        b"\n"
        b"hint: run with `--help`\n"
    )
    path = tmp_path / "a\x1b]0;b\x07"
    result = ask(path)
    shown = f"{tmp_path}/a\\x1b]0;b\\x07"
    assert result.stderr.decode() == told("kConfigMissing", shown, 0, 2)
    config = write_config(tmp_path, model="x")
    config.write_text(demo_config(model="x").replace('model: "x"', 'model: "/\\x1b[2J\\x7f"'))
    assert_refused(ask(config), "kModelMissing", "/\\x1b[2J\\x7f", 0, 2)


def test_infer_long_argument_is_cut_in_the_message() -> None:
    """If this fails, an argument overflows the line that the message is put together in."""
    result = ask(None, "--" + "\x1b" * 100_000, seed=None)
    assert_refused(result, "kUsage", "--" + "\\x1b" * 254)


# Configuration.


def test_infer_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """If this fails, the program starts with settings from nowhere, or waits for a FIFO."""
    os.mkfifo(tmp_path / "fifo")
    for name, number in (("missing.yaml", 2), (".", 21), ("fifo", 22)):
        path = tmp_path / name
        assert_refused(ask(path), "kConfigMissing", str(path), 0, number)


def test_infer_configuration_size_has_a_limit(tmp_path: Path) -> None:
    """If this fails, a file is cut in the middle of a setting."""
    path = tmp_path / "config.yaml"
    text = demo_config().encode()
    path.write_bytes(text + b"#" * (65536 - len(text)))
    assert ask(path).stdout == ANSWER
    path.write_bytes(text + b"#" * (65537 - len(text)))
    assert_refused(ask(path), "kConfigTooLarge", str(path), 0, 65537, 65536)


def line_of(key: str) -> int:
    """The line on which `bitnet config` writes a key: three for each, after two of comment."""
    return 2 + 3 * [each.name for each in KEYS].index(key) + 3


LAST = line_of(KEYS[-1].name)
ANSWER_LINE = line_of("max_new_tokens")


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


def appended(line: str) -> Callable[[str], str]:
    return lambda text: text + line


@pytest.mark.parametrize(
    ("edit", "status", "facts"),
    [
        (replaced("top_k: 0\n", ""), "kConfigMissingKey", ("top_k", 0)),
        (appended("seed: 1\n"), "kConfigUnknownKey", ("seed", LAST + 1)),
        (appended("threads: 1\n"), "kConfigDuplicateKey", ("threads", LAST + 1)),
        (appended("stop\n"), "kConfigSyntax", ("", LAST + 1)),
        (replaced("\n", "\r\n"), "kConfigSyntax", ("", 1)),
        (lambda text: text[:0], "kConfigMissingKey", ("model", 0)),
        (replaced("threads: 1", "threads: one"), "kConfigValue", ("threads", line_of("threads"))),
        (
            replaced("threads: 1", "threads: 65"),
            "kConfigRange",
            ("threads", line_of("threads"), 65, 64),
        ),
        (
            replaced("tokens: 64", "tokens: 513"),
            "kConfigRange",
            ("max_new_tokens", ANSWER_LINE, 513, 512),
        ),
        (replaced("context: 512", "context: 513"), "kConfigConflict", ("context", 0, 513, 512)),
        (replaced("top_k: 0", "top_k: 4097"), "kConfigConflict", ("top_k", 0, 4097, 4096)),
        (replaced("isa: auto", "isa: sse"), "kIsaUnavailable", ("isa",)),
    ],
)
def test_infer_configuration_not_usable_is_named(
    config: Path, edit: Callable[[str], str], status: str, facts: tuple[Any, ...]
) -> None:
    """If this fails, a wrong setting is ignored or blamed on another line."""
    text = demo_config()
    assert edit(text) != text
    config.write_text(edit(text), newline="")
    assert_refused(ask(config), status, *facts)


def test_infer_error_has_exactly_this_form(config: Path) -> None:
    """If this fails, messages have lost the form that users and scripts know."""
    config.write_text(demo_config().replace("threads: 1", "threads: 65"))
    assert ask(config).stderr.decode() == (
        "error: configuration value is out of range: `threads`\n"
        "  line 23, found 65, limit 64\n"
        "\n"
        "hint: choose a value within the limit; `cores` names one processor for each thread\n"
    )
    config.write_text(demo_config(top_p=None))
    assert ask(config).stderr.decode() == (
        "error: configuration key is missing: `top_p`\n\nhint: there are no defaults: add the key\n"
    )


def test_infer_isa_of_another_processor_is_refused(config: Path) -> None:
    """If this fails, a forced kernel table is another one, or an illegal instruction."""
    foreign = {"neon", "dotprod"} if "avx2" in available_isas() else {"avx2", "avx512vnni"}
    for isa in (*foreign, "", "auto ", "REF"):
        assert_refused(ask(config, "--isa", isa), "kIsaUnavailable", "isa")
    assert ask(config, "--isa", "auto").stdout == ANSWER


# Model.


def test_infer_sealed_model_in_an_unsealed_program_is_refused(config: Path) -> None:
    """If this fails, an executable that carries nothing reads whatever lies behind its end."""
    result = ask(config, program=unsealed_program())
    assert_refused(result, "kModelNotSealed", "executable")


def test_infer_model_file_not_usable_is_refused(tmp_path: Path) -> None:
    """If this fails, a run starts with a model that is missing, changed, or not its own."""
    path = tmp_path / "m.bin"
    config = write_config(tmp_path, model=str(path))
    assert_refused(ask(config), "kModelMissing", str(path), 0, 2)
    good = demo_model().read_bytes()
    path.write_bytes(good[:-1])
    assert_refused(ask(config), "kModelTruncated", "file_bytes", 16, len(good) - 1, len(good))
    path.write_bytes(good[:700] + bytes([good[700] ^ 1]) + good[701:])
    assert_refused(ask(config), "kModelDigest", "header", 216)
    path.write_bytes(b"GGUF" + good[4:])
    assert_refused(ask(config), "kModelMagic", "magic")
    other = tmp_path / "tokenizer.json"
    other.write_bytes(DEMO_TOKENIZER.read_bytes() + b" ")
    path.unlink()
    with open_checkpoint(DEMO) as checkpoint:
        write_model(checkpoint, path, tokenizer=other)
    assert_refused(ask(config), "kModelTokenizer", "tokenizer_sha384")
    # Without a digest of a tokenizer; 19 tokens cannot be those of the compiled vocabulary.
    path.write_bytes(small_model_parts(context_max=512))
    assert_refused(ask(config), "kModelTokenizer", "vocab_size")


def test_infer_sealed_payload_changed_is_not_trusted(config: Path, tmp_path: Path) -> None:
    """If this fails, a model inside an executable can be changed and still answers."""
    changed = bytearray(sealed_program().read_bytes())
    at = changed.rindex(b"BNAGMODL")
    changed[at + 700] ^= 1
    path = tmp_path / "bitnet-infer"
    path.write_bytes(changed)
    path.chmod(0o755)
    assert_refused(ask(config, program=path), "kModelDigest", "header", 216)


# Prompt and streams.


@pytest.mark.parametrize("question", [b"", b"\n"])
def test_infer_empty_prompt_is_refused(config: Path, question: bytes) -> None:
    """If this fails, an answer is made up from nothing."""
    assert_refused(ask(config, question=question), "kPromptEmpty", "standard input")


def test_infer_prompt_beyond_its_bytes_is_refused(tmp_path: Path) -> None:
    """If this fails, a prompt is cut silently, or an endless one is read for ever."""
    config = write_config(tmp_path, prompt_bytes_max=len(QUESTION))
    assert ask(config).stdout == ANSWER
    expected = ("kPromptTooLong", "standard input", 0, 0, len(QUESTION))
    assert_refused(ask(config, question=QUESTION + b"!"), *expected)
    # The line break counts: it is among the bytes that were read.
    assert_refused(ask(config, question=QUESTION + b"\n"), *expected)
    with Path("/dev/zero").open("rb") as endless:
        result = subprocess.run(
            [sealed_program(), "--config", config, "--seed", "1"], stdin=endless,
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
    assert_refused(result, *expected)


def test_infer_prompt_that_does_not_fit_the_context_is_refused(tmp_path: Path) -> None:
    """If this fails, the beginning of a long request is dropped without a word."""
    config = write_config(tmp_path, context=20, max_new_tokens=10)
    assert_refused(ask(config), "kContextOverflow", "prompt", 10, 11, 20)
    result = ask(config)
    assert result.stderr.decode() == (
        "error: prompt and answer do not fit the context: `prompt`\n"
        "  answer tokens 10, prompt tokens 11, context 20\n"
        "\n"
        "hint: shorten the prompt, lower `max_new_tokens`, or raise `context`\n"
    )
    fits = ask(write_config(tmp_path, context=21, max_new_tokens=10))
    assert ANSWER.startswith(fits.stdout[:-1])
    assert fits.returncode == 0


def test_infer_system_message_without_a_place_is_refused(tmp_path: Path) -> None:
    """If this fails, a system message is dropped without a word."""
    config = write_config(tmp_path, system="be brief")
    assert_refused(ask(config), "kNoChatTemplate", "system message")
    raw = write_config(tmp_path, system="be brief", prompt="raw")
    assert_refused(ask(raw), "kConfigRange", "system", 0, 8, 0)
    assert ask(write_config(tmp_path, prompt="raw")).returncode == 0


@pytest.mark.parametrize(
    "question",
    [
        b"\0", b"\xff\xfe", "naïve ✓ 漢字 \U0001f600".encode(), b"<|end|><|assistant|>", b"a" * 300,
        b"\r\n\t",
    ],
)  # fmt: skip
def test_infer_any_bytes_are_a_prompt(config: Path, question: bytes) -> None:
    """If this fails, some text stops the program, or writes its own control tokens."""
    result = ask(config, "--stats", question=question)
    assert result.returncode == 0, result.stderr
    with open_engine(demo_model(), tokenizer=DEMO_TOKENIZER) as engine:
        expected = engine.generate(question, max_new_tokens=64)
        count = len(engine.tokenize_chat(question))
    assert result.stdout == expected.data + b"\n"
    assert json.loads(result.stderr.splitlines()[-1])["prompt_tokens"] == count


def test_infer_streams_that_fail_are_reported(config: Path, tmp_path: Path) -> None:
    """If this fails, an answer that nobody received counts as given."""
    command = [str(sealed_program()), "--config", str(config), "--seed", "1"]

    def run(redirection: str) -> Result:
        return subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command], input=QUESTION,
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip

    assert_refused(run(">/dev/full"), "kWriteFailed", "", 0, 28)
    assert_refused(run(">&-"), "kStreamClosed", "standard output")
    assert_refused(run("<&-"), "kStreamClosed", "standard input")
    assert_refused(run(f"<{tmp_path}"), "kReadFailed", "", 0, 21)
    silent = run("2>&-")
    assert (silent.stdout, silent.returncode) == (b"", 5)
