"""The self-test's answer: from the executable itself, or computed by the engine in Python."""

from pathlib import Path
from typing import Any, Final

import yaml

from bitnet.errors import UsageError
from bitnet.files import read_bounded
from bitnet.release.assemble import Draft
from bitnet.release.contents import copy_payload
from bitnet.release.selftest import check_answer, run_selftest
from bitnet.seal.toolchain import host_arch

__all__ = ["find_answer"]

_CONFIG_BYTES_MAX: Final = 65536


def find_answer(draft: Draft, staging: Path, tokenizer: Path | None, timeout_s: float) -> bytes:
    """Returns selftest.answer of a release.

    With a tokenizer the engine computes it here, which gives the same bytes for every architecture;
    without one the executable is run.

    Raises:
        UsageError: The executable is for another architecture and no tokenizer is given, or the
            configuration or the prompt is not usable.
        ToolkitError: The self-test fails, or its answer is longer than the gap accepts.
    """
    request = draft.request
    if tokenizer is not None:
        return check_answer(_compute(draft, staging, tokenizer))
    if draft.contents.arch != host_arch():
        raise UsageError(
            f"executable does not run on this host: `{request.executable}`",
            where=f"it is for {draft.contents.arch}, this is {host_arch()}",
            hint="pass `--tokenizer` with the tokenizer.json of the model",
        )
    directory = staging / "run"
    directory.mkdir()
    if request.model is not None:
        (directory / "model.bin").symlink_to(request.model.resolve())
    return run_selftest(
        request.executable,
        request.config,
        request.selftest_seed,
        request.prompt,
        directory=directory,
        timeout_s=timeout_s,
    )


def _compute(draft: Draft, staging: Path, tokenizer: Path) -> bytes:
    from bitnet.engine import Engine

    request = draft.request
    values = _load_values(request.config)
    model = request.model
    if model is None:
        model = staging / "payload.bin"
        copy_payload(request.executable, model)
    try:
        prompt = _read_prompt(request.prompt, int(values["prompt_bytes_max"]))
        with Engine(
            model,
            tokenizer,
            threads=min(4, int(values["threads"])),
            context=int(values["context"]),
            kv_cache=values["kv_cache"],
            prefill_chunk=int(values["prefill_chunk"]),
        ) as engine:
            generation = engine.generate(
                prompt,
                max_new_tokens=int(values["max_new_tokens"]),
                chat=values["prompt"] == "chat",
                system=str(values["system"]),
                temperature=float(values["temperature"]),
                top_k=int(values["top_k"]),
                top_p=float(values["top_p"]),
                repetition_penalty=float(values["repetition_penalty"]),
                seed=request.selftest_seed,
                stop=[str(word) for word in values["stop"]],
            )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"configuration is not complete: `{request.config}`",
            where=str(error),
            hint="write one with `bitnet config`",
        ) from None
    return generation.data + b"\n"


def _read_prompt(data: bytes, bytes_max: int) -> bytes:
    """Returns the request that bitnet-infer would read from these bytes, or refuses as it does."""
    prompt = data.removesuffix(b"\n")
    if not prompt:
        raise UsageError(
            "prompt of the self-test is empty",
            hint="pass `--selftest-prompt` with a file that holds a request",
        )
    if len(data) > bytes_max:
        raise UsageError(
            "prompt of the self-test is longer than the configuration allows",
            where=f"{len(data)} bytes, `prompt_bytes_max` {bytes_max}",
            hint="shorten it, or raise `prompt_bytes_max`",
        )
    return prompt


def _load_values(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(read_bounded(path, "configuration", _CONFIG_BYTES_MAX))
    except yaml.YAMLError as error:
        raise UsageError(
            f"configuration is not YAML: `{path}`", where=str(error).splitlines()[0]
        ) from None
    if not isinstance(values, dict):
        raise UsageError(f"configuration is not complete: `{path}`")
    return values
