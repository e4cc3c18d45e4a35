"""transformers as the oracle: what it answers, and the int8 codes it computed on the way."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# The quantisers of transformers are wrapped in torch.compile, which would call a C++ compiler.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import numpy as np
import numpy.typing as npt
import torch
import torch._dynamo
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.integrations.bitnet import ActQuant, AutoBitLinear, BitLinear, WeightQuant
from transformers.utils import logging as transformers_logging

from tests.support.tiny_models import MATRICES

torch._dynamo.config.disable = True
torch.set_num_threads(1)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

# A matrix that reads the codes of each site.
SITE_ROLES = {"qkv": "q", "o": "o", "gate_up": "gate", "down": "down"}


@dataclasses.dataclass(frozen=True)
class OracleRun:
    """One greedy run.

    ids: the prompt and all answer tokens but the last; logits: float32[len(ids), vocab] after each;
    answer: the chosen tokens; values, codes: [len(ids), n] by (site, layer), what the model's
    quantisers rounded, and to what.
    """

    ids: list[int]
    prompt_length: int
    logits: F32
    answer: list[int]
    values: dict[tuple[str, int], F32]
    codes: dict[tuple[str, int], I8]


class Oracle:
    """A checkpoint in transformers, float32, eager attention.

    Args:
        directory: config.json and model.safetensors.
    """

    def __init__(self, directory: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], count: int) -> OracleRun:
        """Answers `prompt` with the likeliest token, `count` times, past any stop token."""
        cache = DynamicCache(config=self.model.config)
        logits: list[F32] = []
        answer: list[int] = []
        step = list(prompt)
        with self._inputs() as inputs:
            for _ in range(count):
                out = self.model(torch.tensor([step]), past_key_values=cache, use_cache=True)
                logits.append(out.logits[0].numpy())
                answer.append(int(out.logits[0, -1].argmax()))
                step = answer[-1:]
        rounded = {key: self._rounded(key, torch.cat(parts)) for key, parts in inputs.items()}
        return OracleRun(
            ids=[*prompt, *answer[:-1]],
            prompt_length=len(prompt),
            logits=np.concatenate(logits),
            answer=answer,
            values={key: values for key, (values, _) in rounded.items()},
            codes={key: codes for key, (_, codes) in rounded.items()},
        )

    def masters(self, role: str, layer: int) -> tuple[F32, I8] | None:
        """Returns (masters, the ternary values they are rounded to) of a matrix kept as masters."""
        module = self.model.model.layers[layer].get_submodule(MATRICES[role])
        if not isinstance(module, AutoBitLinear) or not module.online_quant:
            return None
        weight = module.weight.detach()
        return weight.numpy(), WeightQuant.apply(weight).sign().to(torch.int8).numpy()

    def _module(self, site: str, layer: int) -> Any:
        return self.model.model.layers[layer].get_submodule(MATRICES[SITE_ROLES[site]])

    @contextlib.contextmanager
    def _inputs(self) -> Iterator[dict[tuple[str, int], list[torch.Tensor]]]:
        """Collects the inputs of the linear layers, one tensor a call."""
        inputs: dict[tuple[str, int], list[torch.Tensor]] = {}
        handles = []
        for layer in range(len(self.model.model.layers)):
            for site in SITE_ROLES:
                calls = inputs.setdefault((site, layer), [])

                def keep(_: object, args: tuple[torch.Tensor], calls: list[Any] = calls) -> None:
                    calls.append(args[0][0].clone())

                handles.append(self._module(site, layer).register_forward_pre_hook(keep))
        yield inputs
        for handle in handles:
            handle.remove()

    def _rounded(self, key: tuple[str, int], x: torch.Tensor) -> tuple[F32, I8]:
        """Returns what the layer's own quantiser makes of x: float32[tokens, n]."""
        module = self._module(*key)
        scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
        values = x * scale
        if isinstance(module, BitLinear):
            codes, used = module.activation_quant(x)
            assert torch.equal(used, scale)
        else:
            codes = values.round()
            assert torch.equal(ActQuant.apply(x), codes / scale)
        return values.numpy(), codes.to(torch.int8).numpy()
