"""`bitnet.Engine`: logits against the NumPy reference, generation, stopping, and refusals."""

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet import Engine
from bitnet.errors import (
    EvaluationError,
    FormatError,
    IntegrityError,
    TokenizerError,
    ToolchainError,
    ToolkitError,
    UsageError,
)
from bitnet.quantize import open_model
from bitnet.reference import Reference
from bitnet.seal.run_config import default_values
from tests.support.engine import (
    DEMO_TOKENIZER,
    available_isas,
    choose,
    demo_model,
    example_count,
    open_engine,
    scratch_directory,
    small_model_parts,
    write_tiny_model,
)
from tests.support.tiny_models import TinyModel, tiny_models

F32 = npt.NDArray[np.float32]
torch.set_num_threads(1)

QUESTION = "extract a tar.gz archive into a directory"
THREADS = (1, 2, 3)
CHUNKS = (1, 7, 64)


def random_ids(vocab: int, count: int, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, vocab, count)]


def reference_logits(path: Path, ids: Sequence[int]) -> F32:
    with open_model(path) as model:
        return Reference(model).logits(ids)


def assert_bit_equal_everywhere(path: Path, ids: Sequence[int]) -> None:
    """Every kernel table, thread count and chunk size gives the reference's bits."""
    expected = reference_logits(path, ids).view(np.uint32)
    for isa, threads, chunk in itertools.product(available_isas(), THREADS, CHUNKS):
        with open_engine(path, isa=isa, threads=threads, prefill_chunk=chunk) as engine:
            assert engine.isa == isa
            found = engine.logits(ids).view(np.uint32)
        differing = np.argwhere(found != expected)
        assert len(differing) == 0, (isa, threads, chunk, differing[0], len(differing))


# Logits.


@pytest.mark.parametrize("embedding", ["int8", "f32"])
def test_logits_of_the_demo_model_equal_the_reference(embedding: str) -> None:
    """If this fails, the sealed program computes something else than the definition."""
    assert_bit_equal_everywhere(demo_model(embedding), random_ids(4096, 33, 1))


GEOMETRY = TinyModel(
    architecture="llama", packing="bitlinear", activation="silu", tied=False, layers=2, heads=4,
    kv_heads=2, head_dim=12, hidden=40, intermediate=52, vocab=37,
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architecture": "bitnet", "packing": "autobitlinear", "activation": "relu2", "hidden": 48},
        {"tied": True, "activation": "relu2"},
        {"heads": 6, "kv_heads": 1, "head_dim": 2, "packing": "online"},
        {"heads": 1, "kv_heads": 1, "head_dim": 68, "hidden": 16, "intermediate": 16, "vocab": 16},
        {"hidden": 36, "intermediate": 244, "layers": 1, "vocab": 260, "head_dim": 32},
    ],
)
@pytest.mark.parametrize("embedding", ["int8", "f32"])
def test_logits_of_named_geometries_equal_the_reference(
    changes: dict[str, Any], embedding: str, tmp_path: Path
) -> None:
    """If this fails, padding, grouping, tying or the activation is wrong in some combination."""
    model = dataclasses.replace(GEOMETRY, **changes)
    path = write_tiny_model(model, tmp_path, embedding)
    assert_bit_equal_everywhere(path, random_ids(model.vocab, 23, 1))


@pytest.mark.parametrize("flags", [0, 2, 4, 6])
@pytest.mark.parametrize("kind", [3, 4])
def test_logits_with_a_single_sub_norm_equal_the_reference(
    flags: int, kind: int, tmp_path: Path
) -> None:
    """If this fails, a sub-norm is taken for the other one, or used where the model has none."""
    path = tmp_path / "model.bin"
    path.write_bytes(small_model_parts(flags=flags, kind=kind, head_dim=6, activation=2))
    assert_bit_equal_everywhere(path, random_ids(19, 17, flags))


@settings(max_examples=example_count(20))
@given(tiny_models(), st.sampled_from(["int8", "f32"]), st.integers(1, 70))
def test_logits_of_random_geometries_equal_the_reference(
    model: TinyModel, embedding: str, count: int
) -> None:
    """If this fails, some geometry computes other bits on some processor, thread count or chunk."""
    with tempfile.TemporaryDirectory(dir=scratch_directory()) as directory:
        path = write_tiny_model(model, Path(directory), embedding)
        assert_bit_equal_everywhere(path, random_ids(model.vocab, count, model.seed))


def test_logits_a_second_call_does_not_see_the_first(demo: Engine) -> None:
    """If this fails, the cache of an earlier prompt leaks into the next one."""
    ids = random_ids(4096, 30, 3)
    before = demo.logits(ids)
    demo.logits(random_ids(4096, 90, 4))
    demo.generate(QUESTION, max_new_tokens=8)
    assert np.array_equal(demo.logits(ids), before)
    assert np.array_equal(demo.logits(ids[:11]), before[:11])


# Generation.


@pytest.fixture(scope="module")
def demo() -> Iterator[Engine]:
    with open_engine(demo_model(), tokenizer=DEMO_TOKENIZER) as engine:
        yield engine


def test_engine_keeps_keys_and_values_as_the_executable_does(demo: Engine) -> None:
    """If this fails, the same model answers otherwise from Python than from its executable."""
    kind = default_values(demo.spec)["kv_cache"]
    ids = random_ids(4096, 40, 9)
    with Engine(demo_model()) as plain, open_engine(demo_model(), kv_cache=kind) as named:
        found = plain.logits(ids)
        assert np.array_equal(found, named.logits(ids))
    assert not np.array_equal(found, demo.logits(ids))


def test_generate_greedy_is_the_argmax_of_the_logits(demo: Engine) -> None:
    """If this fails, the answer is not what the logits say."""
    eos = demo.spec.eos_ids
    for question in (QUESTION, "list all open tcp ports", "show the size of /var/log"):
        prompt = demo.tokenize_chat(question)
        answer = demo.generate(question, max_new_tokens=64)
        assert answer.prompt_tokens == len(prompt)
        rows = demo.logits([*prompt, *answer.ids])[len(prompt) - 1 :]
        chosen = [int(np.argmax(row)) for row in rows]
        assert tuple(chosen[: len(answer.ids)]) == answer.ids
        assert answer.finish == "stop_token"
        assert chosen[-1] in eos
        assert answer.data == demo.detokenize(answer.ids)
        assert answer.prefill_s > 0
        assert answer.decode_s > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 0.8, "seed": 1},
        {"temperature": 2.0, "top_k": 50, "seed": 2**64 - 1},
        {"temperature": 3.0, "top_p": 0.75, "seed": 3},
        {"temperature": 0.0, "repetition_penalty": 1.5},
        {"temperature": 1.0, "repetition_penalty": 0.75, "top_k": 9, "top_p": 0.9, "seed": 5},
    ],
)
def test_generate_sampled_is_the_choice_from_the_logits(
    demo: Engine, arguments: dict[str, Any]
) -> None:
    """If this fails, the sampler sees other logits, another context or another index."""
    prompt = demo.tokenize_chat(QUESTION)
    answer = demo.generate(prompt, max_new_tokens=30, **arguments)
    rows = demo.logits([*prompt, *answer.ids])[len(prompt) - 1 :]
    for index, token in enumerate(answer.ids):
        seen = [*prompt, *answer.ids[:index]]
        assert choose(rows[index], seen=seen, index=index, **arguments) == token
    again = demo.generate(prompt, max_new_tokens=30, **arguments)
    assert again.ids == answer.ids


def test_generate_any_chunk_threads_and_isa_gives_one_answer(demo: Engine) -> None:
    """If this fails, a speed setting changes what the user reads."""
    prompt = [*random_ids(4096, 61, 9), *demo.tokenize_chat(QUESTION)]
    arguments: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.5, "seed": 4}
    expected = demo.generate(prompt, **arguments).ids
    assert len(expected) > 3
    for isa, threads, chunk in itertools.product(available_isas(), (1, 3), (5, 512)):
        with open_engine(demo_model(), isa=isa, threads=threads, prefill_chunk=chunk) as engine:
            assert engine.generate(prompt, **arguments).ids == expected


def test_generate_text_prompt_is_its_tokens(demo: Engine) -> None:
    """If this fails, chat and raw prompts are not what tokenize_chat and tokenize give."""
    chat = demo.generate(QUESTION, max_new_tokens=6)
    assert chat.ids == demo.generate(demo.tokenize_chat(QUESTION), max_new_tokens=6).ids
    raw = demo.generate(QUESTION, max_new_tokens=6, chat=False)
    assert raw.prompt_tokens == len(demo.tokenize(QUESTION))
    assert raw.ids == demo.generate(demo.tokenize(QUESTION), max_new_tokens=6).ids
    assert demo.generate(QUESTION.encode(), max_new_tokens=6).ids == chat.ids
    assert demo.detokenize(demo.tokenize("naïve ✓ \x00\xff")) == "naïve ✓ \x00\xff".encode()


def test_generate_at_the_limit_finishes_by_length(demo: Engine) -> None:
    """If this fails, an answer is longer or shorter than asked, or the last position is lost."""
    prompt = demo.tokenize_chat(QUESTION)
    whole = demo.generate(prompt, max_new_tokens=64)
    for count in range(1, len(whole.ids) + 1):
        cut = demo.generate(prompt, max_new_tokens=count)
        assert (cut.ids, cut.finish) == (whole.ids[:count], "length")
    # The stop token that comes right after the last allowed token is not waited for.
    more = demo.generate(prompt, max_new_tokens=len(whole.ids) + 1)
    assert (more.ids, more.finish) == (whole.ids, "stop_token")
    with open_engine(demo_model(), context=len(prompt) + 3) as small:
        assert small.generate(prompt, max_new_tokens=3).ids == whole.ids[:3]


@pytest.mark.parametrize("place", [0, 1, 4])
def test_generate_any_eos_of_the_header_ends_the_answer(place: int, tmp_path: Path) -> None:
    """If this fails, a model with several stop tokens talks on."""
    path = tmp_path / "model.bin"
    # Untied: the next token is not simply the last one again.
    path.write_bytes(small_model_parts(flags=6, seed=11, eos_ids=()))
    with open_engine(path) as engine:
        free = engine.generate([3, 4], max_new_tokens=12, temperature=20.0, seed=6).ids
    assert len(free) == 12
    stop = free[place]
    before = free[: free.index(stop)]
    unused = [token for token in range(19) if token not in free]
    path.write_bytes(small_model_parts(flags=6, seed=11, eos_ids=(*unused[:2], stop)))
    with open_engine(path) as engine:
        answer = engine.generate([3, 4], max_new_tokens=12, temperature=20.0, seed=6)
    assert (answer.ids, answer.finish) == (before, "stop_token")
    assert answer.data == b""


# Perplexity.


def test_perplexity_equals_torch_over_the_reference(demo: Engine) -> None:
    """If this fails, the quality that is reported is not the model's."""
    text = "find all files larger than 100 MB under /var and delete them after asking"
    ids = demo.tokenize(text)
    rows = torch.from_numpy(reference_logits(demo_model(), ids)[:-1]).double()
    expected = math.exp(torch.nn.functional.cross_entropy(rows, torch.tensor(ids[1:])).item())
    assert demo.perplexity(text) == pytest.approx(expected, rel=1e-12)
    assert demo.perplexity(ids) == demo.perplexity(text)
    with open_model(demo_model()) as model:
        assert Reference(model).perplexity(ids) == pytest.approx(expected, rel=1e-12)


# Refusals.


def told(call: Callable[[], Any]) -> tuple[type[ToolkitError], str]:
    """The class and the whole text of an error."""
    with pytest.raises(ToolkitError) as caught:
        call()
    error = caught.value
    lines = [error.message, *(f"  {fact}" for fact in error.where)]
    return type(error), "\n".join([*lines, *([f"hint: {error.hint}"] if error.hint else [])])


def test_generate_context_overflow_says_what_does_not_fit(demo: Engine) -> None:
    """If this fails, a prompt is cut, or nobody is told which number to change."""
    prompt = random_ids(4096, 449, 1)
    assert len(demo.generate(prompt, max_new_tokens=63).ids) <= 63
    assert told(lambda: demo.generate(prompt, max_new_tokens=64)) == (
        EvaluationError,
        "prompt and answer do not fit the context: `prompt`\n"
        "  answer tokens 64, prompt tokens 449, context 512\n"
        "hint: shorten the prompt, lower `max_new_tokens`, or raise `context`",
    )
    kind, text = told(lambda: demo.generate(prompt, max_new_tokens=2**32 - 1))
    assert kind is EvaluationError
    assert "answer tokens 4294967295, prompt tokens 449, context 512" in text


def test_logits_beyond_the_context_are_refused(demo: Engine) -> None:
    """If this fails, positions past the cache are computed."""
    assert len(demo.logits(random_ids(4096, 512, 2))) == 512
    assert told(lambda: demo.logits(random_ids(4096, 513, 2))) == (
        EvaluationError,
        "prompt and answer do not fit the context: `ids`\n"
        "  answer tokens 0, prompt tokens 513, context 512\n"
        "hint: shorten the prompt, lower `max_new_tokens`, or raise `context`",
    )


@pytest.mark.parametrize("place", [0, 63, 64, 100])
def test_token_outside_the_vocabulary_is_named(demo: Engine, place: int) -> None:
    """If this fails, memory behind the embedding is read, or the wrong place is blamed."""
    ids = random_ids(4096, 101, 5)
    ids[place] = 4096
    expected = (
        EvaluationError,
        "token id is outside the vocabulary: `token`\n"
        f"  index {place}, id 4096, vocabulary 4096\n"
        "hint: use ids of this model's tokenizer",
    )
    assert told(lambda: demo.logits(ids)) == expected
    assert told(lambda: demo.generate(ids, max_new_tokens=2)) == expected
    ids[place] = -1
    assert told(lambda: demo.logits(ids)) == (
        EvaluationError,
        f"token id is outside the vocabulary\n  index {place}, id -1",
    )
    with pytest.raises(EvaluationError, match="outside the vocabulary"):
        demo.logits([*ids[:place], 2**32])
    with pytest.raises(EvaluationError, match="outside the vocabulary"):
        demo.detokenize([4096])
    with pytest.raises(EvaluationError, match="outside the vocabulary"):
        demo.detokenize([-1])


def test_generate_empty_prompt_is_refused(demo: Engine) -> None:
    """If this fails, an answer is made up from nothing."""
    expected = (
        EvaluationError,
        "prompt is empty: `prompt`\nhint: write a request to standard input",
    )
    assert told(lambda: demo.generate([], max_new_tokens=4)) == expected
    assert told(lambda: demo.generate("", max_new_tokens=4, chat=False)) == expected
    assert demo.logits([]).shape == (0, 4096)


def test_perplexity_of_too_little_text_is_refused(demo: Engine) -> None:
    """If this fails, a perplexity is given that no token stands behind."""
    for ids in ([], [7]):
        kind, text = told(lambda ids=ids: demo.perplexity(ids))
        assert kind is EvaluationError
        assert text == f"text is too short for a perplexity\n  {len(ids)} tokens, at least 2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0), ("max_new_tokens", 2**32), ("max_new_tokens", -1),
        ("temperature", -0.5), ("temperature", 100.5), ("temperature", math.nan),
        ("temperature", math.inf), ("top_k", -1), ("top_k", 2**32), ("top_p", 0.0),
        ("top_p", 1.5), ("top_p", math.nan), ("top_p", 1e-50), ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-50),
        ("repetition_penalty", 10.5), ("repetition_penalty", math.nan), ("seed", -1),
        ("seed", 2**64),
    ],
)  # fmt: skip
def test_generate_argument_out_of_range_is_refused(demo: Engine, name: str, value: float) -> None:
    """If this fails, a value that config.yaml refuses reaches the sampler through Python."""
    arguments: dict[str, Any] = {"max_new_tokens": 4} | {name: value}
    assert told(lambda: demo.generate([1], **arguments)) == (
        UsageError,
        f"argument is out of range: `{name}`\nhint: see docs/formats/config.md for the ranges",
    )


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("threads", 0, 64), ("threads", 65, 64), ("prefill_chunk", 0, 512),
        ("prefill_chunk", 513, 512), ("context", 0, 512), ("context", 513, 512),
    ],
)  # fmt: skip
def test_engine_argument_out_of_range_is_refused(name: str, value: int, limit: int) -> None:
    """If this fails, the memory plan is made for sizes that it was not proven for."""
    arguments: dict[str, Any] = {name: value}
    assert told(lambda: open_engine(demo_model(), **arguments)) == (
        UsageError,
        f"argument is out of range: `{name}`\n  found {value}, limit {limit}",
    )


@pytest.mark.parametrize("isa", ["neon", "avx1024", "", "Auto"])
def test_engine_isa_unavailable_is_refused(isa: str) -> None:
    """If this fails, a forced instruction set is silently another one."""
    if isa == "":
        assert open_engine(demo_model(), isa=isa).isa == available_isas()[-1]
        return
    assert told(lambda: open_engine(demo_model(), isa=isa)) == (
        ToolchainError,
        "instruction set is not available on this processor: `isa`\nhint: set `isa: auto`",
    )


@pytest.mark.parametrize(
    ("stop", "facts"),
    [
        (["x"] * 17, "line 0, found 17, limit 16"),
        ([""], "line 0, found 0, limit 256"),
        (["a", "y" * 257], "line 1, found 257, limit 256"),
    ],
)
def test_generate_stop_strings_beyond_a_limit_are_refused(
    demo: Engine, stop: list[str], facts: str
) -> None:
    """If this fails, a stop string overflows the buffer that it is looked for in."""
    kind, text = told(lambda: demo.generate([1], max_new_tokens=1, stop=stop))
    assert kind is UsageError
    assert text.splitlines()[:2] == [
        "configuration value is out of range: `stop`", f"  {facts}",
    ]  # fmt: skip
    assert len(demo.generate([1], max_new_tokens=1, stop=["z" * 256] * 16).ids) <= 1


def test_engine_closed_refuses_every_call() -> None:
    """If this fails, memory that was given back is used."""
    engine = open_engine(demo_model())
    engine.close()
    engine.close()
    for call in (
        lambda: engine.logits([1]),
        lambda: engine.generate([1], max_new_tokens=1),
        lambda: engine.perplexity([1, 2]),
        lambda: engine.isa,
    ):
        assert told(call) == (UsageError, "engine is closed")


def test_engine_without_tokenizer_refuses_text() -> None:
    """If this fails, text is dropped silently, or stop strings are not looked for."""
    with open_engine(demo_model()) as engine:
        for call in (
            lambda: engine.tokenize("a"),
            lambda: engine.tokenize_chat("a"),
            lambda: engine.detokenize([1]),
            lambda: engine.generate("a", max_new_tokens=1),
            lambda: engine.generate([1], max_new_tokens=1, stop=["a"]),
        ):
            kind, text = told(call)
            assert kind is UsageError
            assert text.startswith("engine was opened without a tokenizer")


def test_engine_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    """If this fails, ids mean other words than the model was trained with."""
    other = tmp_path / "tokenizer.json"
    other.write_bytes(DEMO_TOKENIZER.read_bytes() + b"\n")
    kind, text = told(lambda: open_engine(demo_model(), tokenizer=other))
    assert kind is TokenizerError
    assert text.startswith(f"tokenizer is not the one the model was made with: `{other}`\n")


def test_engine_damaged_file_is_refused(tmp_path: Path) -> None:
    """If this fails, Python computes with a file that the sealed program would refuse."""
    damaged = bytearray(demo_model().read_bytes())
    damaged[300] ^= 1
    path = tmp_path / "model.bin"
    path.write_bytes(damaged)
    with pytest.raises((FormatError, IntegrityError)):
        open_engine(path)
    with pytest.raises(FormatError):
        open_engine(tmp_path / "absent.bin")


def test_generate_system_message_without_a_place_is_refused(demo: Engine) -> None:
    """If this fails, a system message is dropped without a word."""
    assert told(lambda: demo.generate("a", system="be brief", max_new_tokens=2)) == (
        EvaluationError,
        "compiled tokenizer has no chat template for this: `system message`\n"
        "hint: set an empty `system` in the configuration, and `prompt: raw` where there is no "
        "template at all",
    )


@pytest.mark.parametrize("arguments", [("text", False), ([3, 4], True), ([3, 4], False)])
def test_generate_system_message_without_a_template_is_refused(
    demo: Engine, arguments: tuple[str | list[int], bool]
) -> None:
    """Broken, what the caller asks of the model is dropped without a word."""
    prompt, chat = arguments
    with pytest.raises(UsageError, match="`system` is a message for the chat template"):
        demo.generate(prompt, max_new_tokens=4, chat=chat, system="be brief")
