"""config.yaml: the engine's parser against PyYAML, and every way in which it refuses."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet.seal.run_config import ISA_NAMES, KEYS, default_values, emit_config
from tests.support.engine import (
    PROTECTIONS,
    REPOSITORY,
    Failure,
    ParsedConfig,
    example_count,
    parse_config,
)
from tests.support.tiny_models import TinyModel

SPEC = TinyModel(
    architecture="bitnet", packing="online", activation="relu2", tied=True, layers=1, heads=1,
    kv_heads=1, head_dim=20, hidden=20, intermediate=20, vocab=24, context=512,
).spec  # fmt: skip
NUMBERS = ("temperature", "top_p", "repetition_penalty")
# Inclusive limits from docs/formats/config.md that do not depend on the model or on another key.
COUNT_LIMITS = {
    "context": (16, 1 << 20),
    "max_new_tokens": (1, 1 << 20),
    "prompt_bytes_max": (1, 1 << 26),
    "prefill_chunk": (1, 512),
    "threads": (1, 64),
    "top_k": (0, 1 << 20),
}


def lines_of(**changes: str) -> list[str]:
    """The lines of a valid file, one a key; `changes` are values as they stand in the text."""
    values = {
        "model": "sealed", "context": "512", "kv_cache": "f16", "max_new_tokens": "128",
        "prompt_bytes_max": "8192", "prefill_chunk": "64", "threads": "1", "cores": "any",
        "weights": "mapped", "lock": "all", "accept_missing": "[]", "verify": "full",
        "log": "off", "log_text": "no", "isa": "auto", "prompt": "chat", "system": '""',
        "temperature": "0", "top_k": "0", "top_p": "1", "repetition_penalty": "1", "stop": "[]",
    } | changes  # fmt: skip
    return [f"{key}: {value}" for key, value in values.items()]


def line_number(key: str) -> int:
    return [each.name for each in KEYS].index(key) + 1


def parse_lines(lines: list[str]) -> ParsedConfig | Failure:
    return parse_config("\n".join(lines).encode() + b"\n")


def parse_with(**changes: str) -> ParsedConfig | Failure:
    return parse_lines(lines_of(**changes))


def as_engine_value(key: str, value: Any) -> Any:
    """One value that PyYAML read, in the type of the engine."""
    if key in NUMBERS:
        return float(np.float32(float(value)))
    if key == "accept_missing":
        return tuple(name.encode() for name in PROTECTIONS if name in value)
    if key == "cores":
        return () if value == "any" else tuple(value)
    # Readers of YAML 1.1 take the plain words `off`, `yes` and `no` for truth values.
    if key in ("log", "verify") and value is False:
        return b"off"
    if isinstance(value, str):
        return value.encode()
    return tuple(word.encode() for word in value) if isinstance(value, list) else value


def as_engine_values(loaded: dict[str, Any]) -> ParsedConfig:
    """What PyYAML read, in the types of the engine."""
    assert {key.name for key in KEYS} == loaded.keys()
    return ParsedConfig(**{key: as_engine_value(key, value) for key, value in loaded.items()})


# Valid files: any spelling that docs/formats/config.md allows.

PRINTABLE = st.characters(
    exclude_categories=("Cs", "Cc", "Cn", "Co"), exclude_characters="\x85\u2028\u2029\ufeff"
)
STRING_CHARACTERS = st.one_of(
    PRINTABLE, st.sampled_from('"\\\n\t #:,]['), st.characters(max_codepoint=0x7F)
)


@st.composite
def quoted(draw: st.DrawFn, min_size: int = 0, max_size: int = 12) -> str:
    """A double-quoted string in one of its spellings."""
    out = []
    for character in draw(st.lists(STRING_CHARACTERS, min_size=min_size, max_size=max_size)):
        code = ord(character)
        spellings = {'"': ['\\"'], "\\": ["\\\\"], "\n": ["\\n"], "\t": ["\\t"]}.get(character, [])
        if code < 0x80:
            spellings = [*spellings, f"\\x{code:02x}"]
        if 0x20 <= code != 0x7F and character not in '"\\':
            spellings = [*spellings, character]
        out.append(draw(st.sampled_from(spellings)))
    return '"' + "".join(out) + '"'


@st.composite
def numbers(draw: st.DrawFn, high: int, zero: bool) -> str:
    """A decimal number of at most nine digits, 0 … high or above 0 … high."""
    digits = draw(st.integers(0, 9 - len(str(high))))
    scaled = draw(st.integers(0 if zero else 1, high * 10**digits))
    text = f"{scaled // 10**digits}.{scaled % 10**digits:0{digits}d}" if digits else str(scaled)
    return text


@st.composite
def config_texts(draw: st.DrawFn) -> str:
    context = draw(st.integers(16, 1 << 20))
    words = draw(st.lists(quoted(min_size=1), max_size=16))
    gap = st.sampled_from(["", " ", "   "])
    separator = "," + draw(gap)
    plain_path = st.from_regex(r"[A-Za-z0-9_.+-]*/[A-Za-z0-9_./+-]*", fullmatch=True)
    threads = draw(st.integers(1, 64))
    cores = draw(st.none() | st.lists(st.integers(0, 1023), min_size=threads, max_size=threads))
    layers = draw(st.lists(st.sampled_from(PROTECTIONS).map('"{}"'.format), max_size=12))

    def listed(items: list[str]) -> str:
        return "[" + draw(gap) + (draw(gap) + separator).join(items) + draw(gap) + "]"

    values = {
        "model": draw(st.just("sealed") | plain_path | quoted(min_size=1)),
        "context": str(context),
        "kv_cache": draw(st.sampled_from(["f32", "f16", "int8"])),
        "max_new_tokens": str(draw(st.integers(1, context))),
        "prompt_bytes_max": str(draw(st.integers(1, 1 << 26))),
        "prefill_chunk": str(draw(st.integers(1, 512))),
        "threads": str(threads),
        "cores": "any" if cores is None else listed([str(core) for core in cores]),
        "weights": draw(st.sampled_from(["mapped", "resident"])),
        "lock": draw(st.sampled_from(["all", "arena"])),
        "accept_missing": listed(layers),
        "verify": draw(st.sampled_from(["full", "lazy", "off"])),
        "log": draw(st.just("off") | plain_path | quoted(min_size=1)),
        "log_text": draw(st.sampled_from(["yes", "no"])),
        "isa": draw(st.sampled_from(["auto", "ref", "avx2", "avx512vnni", "neon", "i8mm"])),
        "prompt": draw(st.sampled_from(["chat", "raw"])),
        "system": draw(quoted()),
        "temperature": draw(numbers(100, True)),
        "top_k": str(draw(st.integers(0, 1 << 20))),
        "top_p": draw(numbers(1, False)),
        "repetition_penalty": draw(numbers(10, False)),
        "stop": listed(words),
    }
    comment = st.text(PRINTABLE, max_size=8).map("#{}".format)
    lines = []
    for key in draw(st.permutations(list(values))):
        lines += draw(st.lists(st.just("") | comment, max_size=2))
        end = draw(gap) if draw(st.booleans()) else " " + draw(gap) + draw(comment)
        lines.append(f"{key}: {draw(gap)}{values[key]}{end}")
    return "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n", "\n# end"]))


@settings(max_examples=example_count(600))
@given(config_texts())
def test_parser_any_spelling_reads_what_pyyaml_reads(text: str) -> None:
    """If this fails, another reader of the file sees other settings than the run has."""
    assert parse_config(text.encode()) == as_engine_values(yaml.safe_load(text))


# Paths that a YAML reader would take for something else if they stood without quotes.
AMBIGUOUS = (
    "sealed", "12", "yes", "null", "1e5", "0x10", "m.bin", "a/b", "~", "a b", "2001-01-01", ".5",
)  # fmt: skip


@settings(max_examples=example_count(300))
@given(
    st.text(st.characters(exclude_categories=("Cs",), min_codepoint=0x20), max_size=20),
    st.sampled_from(AMBIGUOUS),
    st.lists(st.text("ab\n\t\"\\# é✓", min_size=1, max_size=9), max_size=4),
    st.integers(0, 100_000_000),
)  # fmt: skip
def test_emitted_config_any_values_come_back(
    system: str, model: str, stop: list[str], millionths: int
) -> None:
    """If this fails, `bitnet config` writes a file that means something else, or none at all."""
    system = re.sub("[\x80-\x9f\u2028\u2029\ufeff\ufffe\uffff]", "", system)
    values = default_values(SPEC, model=model) | {
        "system": system, "stop": stop, "temperature": millionths / 1e6,
    }  # fmt: skip
    text = emit_config(values)
    parsed = parse_config(text.encode())
    assert isinstance(parsed, ParsedConfig), parsed
    assert parsed == as_engine_values(yaml.safe_load(text))
    assert parsed.model == model.encode()
    assert parsed.system == system.encode()
    assert parsed.stop == tuple(word.encode() for word in stop)
    assert parsed.temperature == np.float32(f"{millionths / 1e6:.6f}")


def test_keys_everywhere_are_the_same() -> None:
    """If this fails, the page, the writer and the parser disagree about what a file must hold."""
    page = (REPOSITORY / "docs/formats/config.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \|", page.split("## Keys")[1], re.MULTILINE)
    assert rows[0] == ("key", "kind")
    kinds = {"`any` or `[0, 1]`": "cores"}
    assert [(key, kinds.get(kind, kind)) for key, kind in rows[1:]] == [
        (key.name, key.kind) for key in KEYS
    ]
    layers = re.search(r"^\| accept_missing .*", page, re.MULTILINE)
    assert layers is not None
    assert tuple(re.findall(r"`(\w+)`", layers[0])) == PROTECTIONS
    assert isinstance(parse_lines(lines_of()), ParsedConfig)


@pytest.mark.parametrize("index", range(len(KEYS)), ids=[key.name for key in KEYS])
def test_parser_key_missing_names_it(index: int) -> None:
    """If this fails, a run starts with a setting that nobody wrote down."""
    lines = lines_of()
    del lines[index]
    assert parse_lines(lines) == Failure("kConfigMissingKey", KEYS[index].name, len(KEYS) - 1, 0, 0)


@pytest.mark.parametrize("index", range(len(KEYS)), ids=[key.name for key in KEYS])
def test_parser_key_twice_names_it(index: int) -> None:
    """If this fails, one of two contradicting lines wins silently."""
    lines = lines_of()
    failure = parse_lines([*lines, "# again", lines[index]])
    assert failure == Failure("kConfigDuplicateKey", KEYS[index].name, len(KEYS) + 2, 0, 0)


@pytest.mark.parametrize("key", ["temprature", "a", "_", "models", "contex", "k" * 64])
def test_parser_unknown_key_names_it(key: str) -> None:
    """If this fails, a misspelt setting is ignored."""
    failure = parse_lines(["", f"{key}: 1", *lines_of()])
    assert failure == Failure("kConfigUnknownKey", key, 2, 0, 0)


@pytest.mark.parametrize(
    "line",
    [
        "context", "context 512", " context: 512", "\tcontext: 512", "Context: 512",
        "context : 512",
        "context:512", ": 512", "- context: 512", "top-k: 1", "---", "context: 512\r", "  ",
        "k" * 65 + ": 1", "{context: 512}", '"context": 512', "context: 512\x00", "cöntext: 1",
        'system: "a\x7fb"', "# \x7f", "# \x1b[2J",
        "%YAML 1.2",
        "\ufeffcontext: 512",
    ],
)  # fmt: skip
def test_parser_line_without_key_names_the_line(line: str) -> None:
    """If this fails, YAML beyond the subset is read, and perhaps to something else."""
    failure = parse_lines(["# first", line, *lines_of()])
    assert failure == Failure("kConfigSyntax", "", 2, 0, 0)


@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        # A word or a number that holds what no word may.
        ("context", "512,", "kConfigSyntax"),
        ("context", "512 513", "kConfigSyntax"),
        ("context", "512# comment", "kConfigSyntax"),
        ("context", "# comment", "kConfigSyntax"),
        ("context", "'512'", "kConfigSyntax"),
        ("model", "a:b", "kConfigSyntax"),
        ("model", "a b", "kConfigSyntax"),
        ("model", "mödel.bin", "kConfigSyntax"),
        ("model", "'model.bin'", "kConfigSyntax"),
        ("prompt", '"chat"', "kConfigSyntax"),
        # Strings that do not end, or with an escape that is not one.
        ("system", '"', "kConfigSyntax"),
        ("system", '"abc', "kConfigSyntax"),
        ("system", '"abc\\', "kConfigSyntax"),
        ("system", '"abc\\"', "kConfigSyntax"),
        ("system", '"\\r"', "kConfigSyntax"),
        ("system", '"\\x8', "kConfigSyntax"),
        ("system", '"\\x80"', "kConfigSyntax"),
        ("system", '"\\x7F"', "kConfigSyntax"),
        ("system", '"\\xg0"', "kConfigSyntax"),
        ("system", '"\\u0041"', "kConfigSyntax"),
        ("system", '"a" "b"', "kConfigSyntax"),
        ("system", '"a"b', "kConfigSyntax"),
        ("system", '"a"# comment', "kConfigSyntax"),
        ("stop", '["a"', "kConfigSyntax"),
        ("stop", '["a" "b"]', "kConfigSyntax"),
        ("stop", '["a",', "kConfigValue"),
        ("stop", '["a",]', "kConfigValue"),
        ("stop", '["a"]]', "kConfigSyntax"),
        # Values of another kind.
        ("context", "", "kConfigValue"),
        ("context", "0x10", "kConfigValue"),
        ("context", "-16", "kConfigValue"),
        ("context", "+16", "kConfigValue"),
        ("context", "016", "kConfigValue"),
        ("context", "16.0", "kConfigValue"),
        ("context", "1e3", "kConfigValue"),
        ("context", "auto", "kConfigValue"),
        ("context", "99999999999", "kConfigValue"),
        ("temperature", "", "kConfigValue"),
        ("temperature", ".5", "kConfigValue"),
        ("temperature", "1.", "kConfigValue"),
        ("temperature", "-0", "kConfigValue"),
        ("temperature", "1.0.0", "kConfigValue"),
        ("temperature", "1e-1", "kConfigValue"),
        ("temperature", "010", "kConfigValue"),
        ("temperature", "00.5", "kConfigValue"),
        ("temperature", "0.123456789", "kConfigValue"),
        ("temperature", "nan", "kConfigValue"),
        ("prompt", "Chat", "kConfigValue"),
        ("prompt", "chat.", "kConfigValue"),
        ("prompt", "", "kConfigValue"),
        ("isa", "", "kConfigValue"),
        ("kv_cache", "", "kConfigValue"),
        ("kv_cache", "F16", "kConfigValue"),
        ("kv_cache", "f3", "kConfigValue"),
        ("kv_cache", "int8.", "kConfigValue"),
        ("model", "", "kConfigValue"),
        ("model", '""', "kConfigValue"),
        ("system", "", "kConfigValue"),
        ("system", "hello", "kConfigValue"),
        ("stop", "", "kConfigValue"),
        ("stop", '"a"', "kConfigValue"),
        ("stop", "[", "kConfigValue"),
        ("stop", "[a]", "kConfigValue"),
        ("stop", "[['a']]", "kConfigValue"),
        # Processors.
        ("cores", "", "kConfigValue"),
        ("cores", "Any", "kConfigValue"),
        ("cores", "0", "kConfigValue"),
        ("cores", '"any"', "kConfigSyntax"),
        ("cores", "any, 0", "kConfigSyntax"),
        ("cores", "[]", "kConfigValue"),
        ("cores", "[any]", "kConfigValue"),
        ("cores", "[-1]", "kConfigValue"),
        ("cores", "[01]", "kConfigValue"),
        ("cores", '["0"]', "kConfigValue"),
        ("cores", "[99999999999]", "kConfigValue"),
        ("cores", "[0,]", "kConfigValue"),
        ("cores", "[,0]", "kConfigValue"),
        ("cores", "[0", "kConfigSyntax"),
        ("cores", "[0 0]", "kConfigSyntax"),
        ("cores", "[0.5]", "kConfigSyntax"),
        ("cores", "[0x1]", "kConfigSyntax"),
        ("cores", "[0-1]", "kConfigSyntax"),
        ("cores", "[0]]", "kConfigSyntax"),
        # Lock-down, verification, log.
        ("weights", "", "kConfigValue"),
        ("weights", "Mapped", "kConfigValue"),
        ("weights", "residen", "kConfigValue"),
        ("weights", '"mapped"', "kConfigSyntax"),
        ("lock", "", "kConfigValue"),
        ("lock", "none", "kConfigValue"),
        ("lock", "alll", "kConfigValue"),
        ("accept_missing", "", "kConfigValue"),
        ("accept_missing", "mseal", "kConfigValue"),
        ("accept_missing", "all", "kConfigValue"),
        ("accept_missing", "[mseal]", "kConfigValue"),
        ("accept_missing", '["all"]', "kConfigValue"),
        ("accept_missing", '["Mseal"]', "kConfigValue"),
        ("accept_missing", '["mseal "]', "kConfigValue"),
        ("accept_missing", '[""]', "kConfigValue"),
        ("accept_missing", '["mseal", "landlok"]', "kConfigValue"),
        ("accept_missing", '["mseal",]', "kConfigValue"),
        ("accept_missing", '["mseal"', "kConfigSyntax"),
        ("accept_missing", '["mseal" "mdwe"]', "kConfigSyntax"),
        ("verify", "", "kConfigValue"),
        ("verify", "no", "kConfigValue"),
        ("verify", "fully", "kConfigValue"),
        ("log", "", "kConfigValue"),
        ("log", '""', "kConfigValue"),
        ("log", "a b", "kConfigSyntax"),
        ("log", "a:b", "kConfigSyntax"),
        ("log_text", "", "kConfigValue"),
        ("log_text", "maybe", "kConfigValue"),
        ("log_text", "true", "kConfigValue"),
        ("log_text", "Yes", "kConfigValue"),
        ("log_text", '"yes"', "kConfigSyntax"),
    ],
)
def test_parser_value_malformed_names_key_and_line(key: str, value: str, status: str) -> None:
    """If this fails, something that is not a value of the key's kind is taken for one."""
    failure = parse_with(**{key: value})
    assert failure == Failure(status, key, line_number(key), 0, 0)


@pytest.mark.parametrize("key", COUNT_LIMITS)
def test_parser_count_limits_are_inclusive(key: str) -> None:
    """If this fails, a documented limit is off by one."""
    low, high = COUNT_LIMITS[key]
    wide = {"context": str(1 << 20)} if key == "max_new_tokens" else {}
    narrow = {"max_new_tokens": "1"} if key == "context" else {}
    for value in (low, high):
        parsed = parse_with(**(wide | narrow | {key: str(value)}))
        assert isinstance(parsed, ParsedConfig)
        assert getattr(parsed, key) == value
    line = line_number(key)
    above = parse_with(**{key: str(high + 1)})
    assert above == Failure("kConfigRange", key, line, high + 1, high)
    if low > 0:
        below = parse_with(**{key: str(low - 1)})
        assert below == Failure("kConfigRange", key, line, low - 1, low)


@pytest.mark.parametrize(
    ("key", "value", "found", "limit"),
    [
        ("temperature", "100.000001", 101, 100),
        ("temperature", "101", 101, 100),
        ("temperature", "999999999", 999999999, 100),
        ("top_p", "0", 0, 0),
        ("top_p", "0.0000000", 0, 0),
        ("top_p", "1.00000001", 2, 1),
        ("repetition_penalty", "0", 0, 0),
        ("repetition_penalty", "10.5", 11, 10),
    ],
)
def test_parser_number_out_of_range_names_the_limit(
    key: str, value: str, found: int, limit: int
) -> None:
    """If this fails, a sampling value without meaning reaches the sampler."""
    assert parse_with(**{key: value}) == Failure(
        "kConfigRange", key, line_number(key), found, limit
    )


def test_parser_number_at_its_limit_is_taken() -> None:
    """If this fails, a documented limit is refused."""
    parsed = parse_with(temperature="100", top_p="0.00000001", repetition_penalty="10.0000")
    assert isinstance(parsed, ParsedConfig)
    assert parsed.temperature == 100
    assert parsed.top_p == np.float32(1e-8)
    assert parsed.repetition_penalty == 10


def test_parser_answer_longer_than_context_is_refused() -> None:
    """If this fails, a configuration that no prompt fits is accepted; the line is the answer's."""
    failure = parse_with(context="100", max_new_tokens="101")
    assert failure == Failure("kConfigRange", "max_new_tokens", 4, 101, 100)


@pytest.mark.parametrize(("threads", "count"), [(1, 2), (2, 1), (64, 63), (3, 64)])
def test_parser_cores_other_than_one_for_each_thread_are_refused(threads: int, count: int) -> None:
    """If this fails, a thread runs where no list says, or the list is read past its end."""
    cores = "[" + ", ".join(map(str, range(count))) + "]"
    failure = parse_with(threads=str(threads), cores=cores)
    assert failure == Failure("kConfigRange", "cores", line_number("cores"), count, threads)


def test_parser_cores_limits_are_inclusive() -> None:
    """If this fails, a processor that cannot exist is asked for, or too many are stored."""
    line = line_number("cores")
    assert parse_with(cores="[1024]") == Failure("kConfigRange", "cores", line, 1024, 1023)
    many = "[" + ",".join(["7"] * 65) + "]"
    assert parse_with(threads="64", cores=many) == Failure("kConfigRange", "cores", line, 65, 64)
    parsed = parse_with(threads="64", cores="[" + ",".join(["1023"] * 64) + "]")
    assert isinstance(parsed, ParsedConfig)
    assert parsed.cores == (1023,) * 64
    free = parse_with(threads="64")
    assert isinstance(free, ParsedConfig)
    assert free.cores == ()


@pytest.mark.parametrize("layer", PROTECTIONS)
def test_parser_accept_missing_sets_that_layer_alone(layer: str) -> None:
    """If this fails, a file that gives up one protection gives up another."""
    parsed = parse_with(accept_missing=f'["{layer}", "{layer}"]')
    assert isinstance(parsed, ParsedConfig)
    assert parsed.accept_missing == (layer.encode(),)


def test_parser_stop_strings_beyond_a_limit_are_refused() -> None:
    """If this fails, a stop string is cut or overflows the buffer that it is looked for in."""
    line = line_number("stop")
    many = "[" + ", ".join(['"x"'] * 17) + "]"
    assert parse_with(stop=many) == Failure("kConfigRange", "stop", line, 17, 16)
    assert parse_with(stop='["a", ""]') == Failure("kConfigRange", "stop", line, 0, 1)
    long = '["' + "y" * 257 + '"]'
    assert parse_with(stop=long) == Failure("kConfigRange", "stop", line, 257, 256)
    fits = parse_with(stop="[" + ", ".join(['"' + "z" * 256 + '"'] * 16) + "]")
    assert isinstance(fits, ParsedConfig)
    assert fits.stop == (b"z" * 256,) * 16


def test_parser_empty_file_misses_the_first_key() -> None:
    """If this fails, an empty file is taken for settings."""
    for text in (b"", b"\n", b"# nothing\n\n"):
        failure = parse_config(text)
        assert isinstance(failure, Failure)
        assert (failure.status, failure.subject) == ("kConfigMissingKey", "model")


def test_default_weights_large_model_is_copied_small_one_is_mapped() -> None:
    """If this fails, a large model is read through small pages, or a demo is copied for nothing."""
    large = dataclasses.replace(
        SPEC, hidden_size=2560, intermediate_size=6912, layer_count=30, head_count=20,
        kv_head_count=5, head_dim=128,
    )  # fmt: skip
    assert default_values(large)["weights"] == "resident"
    assert default_values(SPEC)["weights"] == "mapped"


def test_names_of_kernel_tables_are_those_of_the_engine() -> None:
    """A release for another architecture is held against them: nothing else can be asked here."""
    source = (REPOSITORY / "engine" / "kernels" / "table.cc").read_text(encoding="utf-8")
    rows = re.search(
        r"kLevels\[\] = \{(.*?)#if defined\(__x86_64__\)(.*?)#else(.*?)#endif", source, re.DOTALL
    )
    assert rows is not None
    both, intel, arm = (re.findall(r'\{"(\w+)"', part) for part in rows.groups())
    assert {"x86_64": (*both, *intel), "aarch64": (*both, *arm)} == ISA_NAMES
