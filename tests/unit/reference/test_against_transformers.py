"""The reference against transformers in float32: the trained model, and random tiny ones.

An activation code may differ only where tests/support/agreement.py shows a rounding tie.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from bitnet.checkpoint import Checkpoint, open_checkpoint
from bitnet.quantize import ModelFile, open_model, write_model
from bitnet.reference import Reference
from tests.support.agreement import WithoutMasterTies, check_agreement
from tests.support.oracle import Oracle
from tests.support.tiny_models import (
    PACKINGS,
    MemoryWeights,
    TinyModel,
    tiny_models,
    write_checkpoint,
)

SMALL = TinyModel(
    architecture="bitnet",
    packing="bitlinear",
    activation="relu2",
    tied=True,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=10,
    hidden=40,
    intermediate=52,
    vocab=60,
    seed=1,
)

DEMO = Path(__file__).parents[3] / "models" / "demo"
ANSWER_TOKENS = 64

USER_TEXTS = (
    "extract a tar.gz archive into a directory",
    "show failed systemd units",
    "list open network ports",
    "find files larger than 100 megabytes",
    "change the owner of a directory recursively",
    "show the disk usage of a directory",
    "verify the checksums in a file",
    "follow the log of a service",
    "restart a service",
    "what is cryptsetup?",
    "tar xzf path/to/source.tar.gz",
    "sha384sum --check path/to/file.sha384",
    "ls -l | sort -k5 -n | tail -3",
    "rm -rf /",
    "Zeige die größten Dateien im Verzeichnis",
    "パスワードを変更する",
    "показать свободное место на диске",
    "🦙 e\u0301 \t\n  12345",
    "x",
    "",
)


@pytest.fixture(scope="module")
def demo_oracle() -> Oracle:
    return Oracle(DEMO)


@pytest.fixture(scope="module")
def demo_weights() -> Checkpoint:
    return open_checkpoint(DEMO)


@pytest.fixture(scope="module")
def demo_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def _prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(f"<|user|>{text}<|end|><|assistant|>").ids
    return ids


@pytest.mark.parametrize("text", USER_TEXTS)
def test_reference_on_the_trained_model_gives_the_tokens_and_logits_of_transformers(
    text: str,
    demo_oracle: Oracle,
    demo_weights: Checkpoint,
    demo_tokenizer: Tokenizer,
    record_property: Callable[[str, object], None],
) -> None:
    """64 greedy tokens, also past the stop token, and every logit, but for proven rounding ties."""
    run = demo_oracle.greedy(_prompt(demo_tokenizer, text), ANSWER_TOKENS)
    agreement = check_agreement(demo_weights, run)
    record_property("agreement", str(agreement))


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFile]:
    """The trained model as model.bin, by kind of embedding."""
    models = {}
    with open_checkpoint(DEMO) as checkpoint:
        for kind in ("f32", "int8"):
            path = tmp_path_factory.mktemp(kind) / "model.bin"
            write_model(checkpoint, path, embedding=kind)  # type: ignore[arg-type]
            models[kind] = open_model(path)
    return models


def test_reference_on_the_model_file_with_f32_rows_gives_the_bits_of_the_checkpoint(
    demo_model: dict[str, ModelFile], demo_weights: Checkpoint, demo_tokenizer: Tokenizer
) -> None:
    """Padding, tiling and the stored scales lose nothing."""
    # The file holds the frequencies and not the base that they were made from.
    spec = dataclasses.replace(demo_model["f32"].spec, rope_theta=demo_weights.spec.rope_theta)
    assert spec == demo_weights.spec
    for text in USER_TEXTS[::5]:
        ids = _prompt(demo_tokenizer, text)
        from_file = Reference(demo_model["f32"]).logits(ids)
        assert from_file.tobytes() == Reference(demo_weights).logits(ids).tobytes()


def test_reference_on_the_model_file_with_int8_rows_keeps_most_answers(
    demo_model: dict[str, ModelFile], demo_oracle: Oracle, demo_tokenizer: Tokenizer
) -> None:
    """int8 rows are an approximation, so tokens may differ; an error in their scales would show."""
    same = []
    for text in USER_TEXTS:
        run = demo_oracle.greedy(_prompt(demo_tokenizer, text), 16)
        logits = Reference(demo_model["int8"]).logits(run.ids)
        same += (logits.argmax(axis=-1) == run.logits.argmax(axis=-1)).tolist()
        # 8-bit rows carry a relative error of 1 / 254 of a row's largest weight.
        error = np.sqrt(np.mean((logits - run.logits) ** 2) / np.mean(run.logits**2))
        assert error < 0.05, text
    assert np.mean(same) > 0.95


def test_oracle_loop_on_the_trained_model_is_transformers_own_greedy_generation(
    demo_oracle: Oracle, demo_tokenizer: Tokenizer
) -> None:
    """The token loop of the oracle is what `generate` does."""
    prompt = _prompt(demo_tokenizer, USER_TEXTS[0])
    out = demo_oracle.model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=20, min_new_tokens=20
    )
    # `min_new_tokens` forbids the stop token, so only the tokens before it can be compared.
    answer = demo_oracle.greedy(prompt, 20).answer
    before_stop = answer[: answer.index(3)] if 3 in answer else answer
    assert len(before_stop) > 5
    assert out[0, len(prompt) :].tolist()[: len(before_stop)] == before_stop


def test_reference_greedy_on_the_trained_model_answers_as_trained(
    demo_weights: Checkpoint, demo_tokenizer: Tokenizer
) -> None:
    """The loop over one's own answers, end to end, stops before the stop token."""
    prompt = _prompt(demo_tokenizer, "what is cryptsetup?")
    answer = Reference(demo_weights).greedy(prompt, 40, stop=demo_weights.spec.eos_ids)
    assert demo_tokenizer.decode(answer).startswith("Manage plain dm-crypt and LUKS")
    assert len(answer) < 40
    assert 3 not in answer


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("architecture", ["bitnet", "llama"])
def test_reference_on_random_models_gives_the_tokens_and_logits_of_transformers(
    architecture: str, packing: str
) -> None:
    """All heads, groupings, head sizes, paddings, activations and ties of head and embedding."""

    # A seed for each case, so that they do not all draw the same geometries.
    @seed(PACKINGS.index(packing) + len(PACKINGS) * (architecture == "llama"))
    @settings(max_examples=15, database=None)
    @given(tiny_models(architecture, packing), st.integers(1, 16))
    def check(model, prompt_length) -> None:  # type: ignore[no-untyped-def]
        rng = np.random.default_rng(model.seed)
        prompt = rng.integers(0, model.vocab, prompt_length).tolist()
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            write_checkpoint(directory, model)
            oracle = Oracle(directory)
            run = oracle.greedy(prompt, ANSWER_TOKENS)
            with open_checkpoint(directory) as weights:
                check_agreement(WithoutMasterTies(weights, oracle), run)

    check()


class _OtherMasters:
    """An oracle with one master at exactly half the mean, and one flipped ternary value."""

    def __init__(self, weights: MemoryWeights, flipped: tuple[int, int]) -> None:
        self.weights = weights
        self.flipped = flipped

    def masters(
        self, role: str, layer: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        masters = self.weights.masters(role, layer).astype(np.float64)
        others = np.abs(masters).sum() - abs(masters[2, 3])
        masters[2, 3] = 0.5 * others / (masters.size - 0.5)
        ternary = self.weights.matrix(role, layer).weights.copy()
        ternary[self.flipped] = 1 if ternary[self.flipped] < 1 else 0
        return masters.astype(np.float32), ternary


def test_master_at_a_rounding_tie_is_settled_and_no_other() -> None:
    """A ternary weight that is simply wrong must not pass for a tie."""
    weights = MemoryWeights(dataclasses.replace(SMALL, packing="online"))
    tie = WithoutMasterTies(weights, _OtherMasters(weights, (2, 3)))  # type: ignore[arg-type]
    assert tie.matrix("v", 0).weights[2, 3] != weights.matrix("v", 0).weights[2, 3]
    assert tie.replaced == {("v", 0, 2, 3)}
    wrong = WithoutMasterTies(weights, _OtherMasters(weights, (2, 4)))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        wrong.matrix("v", 0)


def test_agreement_check_with_wrong_weights_fails(tmp_path: Path) -> None:
    """The check can fail: one ternary weight, one norm weight, or the rotary base is enough."""
    write_checkpoint(tmp_path, SMALL)
    run = Oracle(tmp_path).greedy([1, 2, 3], ANSWER_TOKENS)
    check_agreement(MemoryWeights(SMALL), run)

    class OneWeight(MemoryWeights):
        def matrix(self, role, layer):  # type: ignore[no-untyped-def]
            matrix = super().matrix(role, layer)
            if (role, layer) == ("v", 1):
                matrix.weights[0, 0] = -1 if matrix.weights[0, 0] >= 0 else 1
            return matrix

    class OneNorm(MemoryWeights):
        def vector(self, role, layer):  # type: ignore[no-untyped-def]
            vector = super().vector(role, layer).copy()
            if (role, layer) == ("post_attention_norm", 0):
                vector[3] *= np.float32(1.001)
            return vector

    for wrong in (
        OneWeight(SMALL),
        OneNorm(SMALL),
        MemoryWeights(dataclasses.replace(SMALL, rope_theta=SMALL.rope_theta * 1.01)),
        MemoryWeights(dataclasses.replace(SMALL, norm_eps=1e-2)),
    ):
        with pytest.raises(AssertionError):
            check_agreement(wrong, run)
