"""From checkpoint to answers: the engine's text against that of transformers and its tokenizer."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from bitnet import Engine
from bitnet.checkpoint import open_checkpoint
from bitnet.quantize import write_model
from bitnet.seal.executable import seal_model
from bitnet.seal.run_config import default_values, emit_config
from bitnet.seal.toolchain import Target, host_arch
from tests.support.infer import missing_layers
from tests.support.oracle import Oracle

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
REQUESTS = [
    *(DEMO / "prompts.txt").read_text(encoding="utf-8").splitlines()[:12],
    "extract a tar.gz archive into a directory",
    "show failed systemd units",
    "what is cryptsetup?",
    "tar xzf backup.tar.gz -C /tmp",
    "zażółć gęślą jaźń \U0001f600",
    "x",
    "<|end|> ls",  # text that looks like a control token stays text
    "  list   files\n\nnow\t",
]


@pytest.fixture(scope="module")
def answers() -> list[str]:
    """What transformers answers, greedy, float32, in the model's own template and tokenizer."""
    oracle = Oracle(DEMO).model
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # the text of a user holds no control tokens
    result = []
    for request in REQUESTS:
        ids = [1, *tokenizer.encode(request.strip()).ids, 3, 2]
        with torch.no_grad():
            out = oracle.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=64,
                do_sample=False,
            )[0].tolist()
        answer = out[len(ids) :]
        result.append(tokenizer.decode([token for token in answer if token != 3]))
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with its embedding kept as it is: what the answers can be compared with."""
    path = tmp_path_factory.mktemp("pipeline") / "model.bin"
    with open_checkpoint(DEMO) as checkpoint:
        write_model(checkpoint, path, embedding="f32", tokenizer=DEMO / "tokenizer.json")
    return path


def test_engine_demo_requests_answers_as_transformers_does(model: Path, answers: list[str]) -> None:
    """The whole way of the builder would be wrong somewhere between checkpoint and text."""
    with Engine(model, tokenizer=DEMO / "tokenizer.json", kv_cache="f32") as engine:
        own = [engine.generate(request, max_new_tokens=64).text for request in REQUESTS]
    assert own == answers


def test_sealed_executable_demo_requests_answers_as_transformers_does(
    model: Path, answers: list[str], tmp_path: Path
) -> None:
    """The executable that crosses the gap would not be the model that was tested."""
    executable = tmp_path / "bitnet-infer"
    seal_model(model, DEMO / "tokenizer.json", executable, Target(host_arch()))
    with Engine(model) as engine:
        # Keys and values as transformers keeps them here; f16, the default, answers "x" otherwise.
        values = default_values(engine.spec) | {"max_new_tokens": 64, "kv_cache": "f32"}
    values["accept_missing"] = list(missing_layers())
    config = tmp_path / "config.yaml"
    config.write_text(emit_config(values), encoding="utf-8")
    for request, answer in zip(REQUESTS, answers, strict=True):
        result = subprocess.run(
            [executable, "--config", config, "--seed", "42", "--stats"],
            input=request.encode(),
            capture_output=True,
            check=True,
        )
        assert result.stdout.decode() == answer + "\n"
        stats = json.loads(result.stderr.decode().splitlines()[-1])
        assert stats["finish"] in {"stop_token", "length"}
