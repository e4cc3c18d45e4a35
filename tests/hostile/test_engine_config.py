"""config.yaml as an attacker or an unlucky editor would write it: never a crash."""

import contextlib
import gc
import random
import re
import time
from collections.abc import Iterator

import yaml

from bitnet.seal.run_config import default_values, emit_config
from tests.support.engine import Failure, ParsedConfig, parse_config
from tests.support.tiny_models import TinyModel

SPEC = TinyModel(
    architecture="bitnet", packing="online", activation="relu2", tied=True, layers=1, heads=1,
    kv_heads=1, head_dim=20, hidden=20, intermediate=20, vocab=24, context=512,
).spec  # fmt: skip
CONFIG_ERRORS = {
    "kConfigSyntax", "kConfigUnknownKey", "kConfigDuplicateKey", "kConfigMissingKey",
    "kConfigValue", "kConfigRange",
}  # fmt: skip
BYTES_MAX = 65536
# Pieces that mean something to a YAML reader, or to a parser that is careless with lengths.
PIECES = (
    b"\n", b"\r", b"\t", b"\0", b" ", b":", b": ", b" #", b"#", b'"', b"\\", b"\\x", b"\\x7",
    b"\\x7f", b"\\n", b"[", b"]", b",", b"'", b"- ", b"---", b"&a", b"*a", b"!!str ", b"|", b">",
    b"0", b"\x7f",
    b"9" * 12, b"9" * 300, b".", b"-", b"1e9", b"nan", b"\xff", b"\xef\xbb\xbf", "✓".encode(),
    b"model: ", b"stop: [", b"cores: [0, 1]\n", b"1024,", b'"mseal", ', b"off", b"yes",
    b'"' * 40, b"a" * 5000,
)  # fmt: skip
# Characters beyond ASCII that no YAML file may hold (YAML 1.1, 5.1); those of ASCII are refused.
NOT_IN_YAML = re.compile("[\x80-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


def valid_text() -> bytes:
    values = default_values(SPEC) | {
        "model": "a b/model.bin",
        "system": 'Be "brief".\n\tÜber\\all',
        "stop": ["###", "\n\n", "é✓"],
        "temperature": 0.75,
        "threads": 3,
        "cores": [0, 5, 1023],
        "accept_missing": ["mseal", "landlock"],
        "log": "/dev/shm/bitnet log",
        "log_text": "yes",
        "verify": "lazy",
    }
    return emit_config(values).encode()


def mutate(rng: random.Random, text: bytes) -> bytes:
    """One to four changes: bytes, pieces, lines, or a cut."""
    out = bytearray(text)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            out[at:at] = rng.choice(PIECES)
        elif kind == 1:
            del out[at : at + rng.randrange(1, 20)]
        elif kind == 2 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            out[at : at + rng.randrange(1, 8)] = rng.randbytes(rng.randrange(8))
        elif kind == 4:
            lines = out.split(b"\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            out = bytearray(b"\n".join(lines))
        elif kind == 5:
            lines = out.split(b"\n")
            rng.shuffle(lines)
            out = bytearray(b"\n".join(lines))
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out[:BYTES_MAX])


def check(text: bytes) -> ParsedConfig | Failure:
    """Parses; asserts what holds for any input."""
    result = parse_config(text)
    if isinstance(result, Failure):
        assert result.status in CONFIG_ERRORS, result
        assert result.where <= text.count(b"\n") + 1
        return result
    assert result.model
    assert 16 <= result.context <= 1 << 20
    assert result.kv_cache in (b"f32", b"f16", b"int8")
    assert 1 <= result.max_new_tokens <= result.context
    assert 1 <= result.prompt_bytes_max <= 1 << 26
    assert 1 <= result.prefill_chunk <= 512
    assert 1 <= result.threads <= 64
    assert all(core <= 1023 for core in result.cores)
    assert len(result.cores) in (0, result.threads)
    assert result.log
    assert result.isa
    assert 0 <= result.temperature <= 100
    assert result.top_k <= 1 << 20
    assert 0 < result.top_p <= 1
    assert 0 < result.repetition_penalty <= 10
    assert len(result.stop) <= 16
    assert all(1 <= len(word) <= 256 for word in result.stop)
    return result


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keeps Python's collector, which may take long among many modules, out of what is timed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_parser_random_changes_are_refused_or_within_limits() -> None:
    """If this fails, some file stops the process, hangs it, or sets a value beyond its limit."""
    rng = random.Random(20_250_101)
    good = valid_text()
    assert isinstance(check(good), ParsedConfig)
    outcomes: dict[str, int] = {}
    slowest = 0.0
    with uncollected():
        for _ in range(10_000):
            text = mutate(rng, good)
            start = time.process_time()
            result = check(text)
            slowest = max(slowest, time.process_time() - start)
            name = result.status if isinstance(result, Failure) else "read"
            outcomes[name] = outcomes.get(name, 0) + 1
    assert slowest < 0.25
    assert set(outcomes) == CONFIG_ERRORS | {"read"}, outcomes


def test_parser_whatever_it_reads_pyyaml_reads_too() -> None:
    """If this fails, a damaged file is taken for settings that another reader does not see."""
    rng = random.Random(7)
    good = valid_text()
    read = 0
    for _ in range(1500):
        text = mutate(rng, good)
        result = parse_config(text)
        if isinstance(result, Failure):
            continue
        try:
            content = text.decode("utf-8")
        except UnicodeDecodeError:
            continue  # bytes that no YAML may hold stand for themselves here
        if NOT_IN_YAML.search(content):
            continue
        loaded = yaml.safe_load(content)
        read += 1
        assert loaded["context"] == result.context
        assert loaded["threads"] == result.threads
        assert loaded["top_k"] == result.top_k
        if isinstance(loaded["model"], str):
            assert loaded["model"].encode() == result.model
        assert tuple(loaded["cores"]) == (result.cores or tuple("any"))
        assert {name.encode() for name in loaded["accept_missing"]} == set(result.accept_missing)
        if isinstance(loaded["log"], str):
            assert loaded["log"].encode() == result.log
        if isinstance(loaded["log_text"], bool):
            assert loaded["log_text"] == result.log_text
        assert loaded["system"].encode() == result.system
        assert tuple(word.encode() for word in loaded["stop"]) == result.stop
    assert read > 400


def test_parser_every_prefix_is_refused_or_read() -> None:
    """If this fails, a file that was cut off while it was copied is read past its end."""
    good = valid_text()
    complete = [
        length for length in range(len(good)) if not isinstance(check(good[:length]), Failure)
    ]
    # Only the line break at the end, and trailing characters of the last value, may be missing.
    assert complete == [len(good) - 1]


def test_parser_files_of_the_largest_size_take_bounded_time() -> None:
    """If this fails, a file within the limit keeps the program busy for seconds."""
    good = valid_text()
    fillers = [
        b"\n" * BYTES_MAX,
        b"#" * BYTES_MAX,
        b"# \n" * (BYTES_MAX // 3),
        b"a" * BYTES_MAX,
        b"system: " + b'"' + b"\\" * BYTES_MAX,
        b"system: " + b'"' + b"\\x41" * (BYTES_MAX // 4),
        b'stop: ["' + b"a" * BYTES_MAX,
        b"stop: [" + b'"a", ' * (BYTES_MAX // 5),
        b"context: " + b"1" * BYTES_MAX,
        b"temperature: " + b" " * BYTES_MAX,
        b"\xff" * BYTES_MAX,
        b"\0" * BYTES_MAX,
    ]
    with uncollected():
        for filler in fillers:
            start = time.process_time()
            check(filler[:BYTES_MAX])
            check(good + filler[: BYTES_MAX - len(good)])
            assert time.process_time() - start < 0.25
