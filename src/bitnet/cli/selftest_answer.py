"""The self-test's answer: from the executable itself, or computed by the engine in Python."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bitnet.cli import render
from bitnet.errors import UsageError
from bitnet.release.assemble import MODEL_NAME, Draft
from bitnet.release.contents import copy_payload
from bitnet.release.selftest import SELFTEST_S, check_answer, run_selftest
from bitnet.seal.run_config import ISA_NAMES
from bitnet.seal.toolchain import host_arch

if TYPE_CHECKING:  # loading the engine takes time that other commands need not spend
    from bitnet.engine.configuration import Configuration

__all__ = ["find_answer"]

_THREADS_MAX: Final = 4


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
        (directory / MODEL_NAME).symlink_to(request.model.resolve())
    begun_s = time.monotonic()
    answer = run_selftest(
        request.executable,
        request.config,
        request.selftest_seed,
        request.prompt,
        directory=directory,
        timeout_s=timeout_s,
    )
    _warn_slow(time.monotonic() - begun_s)
    return answer


def _warn_slow(took_s: float) -> None:
    """Warns where a machine of half this one's speed would end the self-test, and the update."""
    if took_s > SELFTEST_S / 2:
        render.print_warning(
            f"self-test took {took_s:.0f} s, and every machine ends it after {SELFTEST_S} s",
            hint="lower `max_new_tokens` in the configuration, or choose a prompt whose answer is "
            "shorter",
        )


def _compute(draft: Draft, staging: Path, tokenizer: Path) -> bytes:
    """Returns what bitnet-infer would write, after the refusals that it would end with."""
    from bitnet.engine import Engine
    from bitnet.engine.configuration import load_configuration

    request = draft.request
    configuration = load_configuration(request.config)
    _check_fit(configuration, draft)
    prompt = _read_prompt(request.prompt, configuration.prompt_bytes_max)
    model = request.model
    if model is None:
        model = staging / "payload.bin"
        copy_payload(request.executable, model)
    with Engine(
        model,
        tokenizer,
        threads=min(_THREADS_MAX, configuration.threads),
        context=configuration.context,
        kv_cache=configuration.kv_cache,
        prefill_chunk=configuration.prefill_chunk,
    ) as engine:
        generation = engine.generate(
            prompt,
            max_new_tokens=configuration.max_new_tokens,
            chat=configuration.chat,
            system=configuration.system,
            temperature=configuration.temperature,
            top_k=configuration.top_k,
            top_p=configuration.top_p,
            repetition_penalty=configuration.repetition_penalty,
            seed=request.selftest_seed,
            stop=configuration.stop,
        )
    return generation.data + b"\n"


def _check_fit(configuration: "Configuration", draft: Draft) -> None:
    """Refuses settings that are well formed, but that no machine could run this release with."""
    contents = draft.contents
    place = "sealed" if contents.sealed else MODEL_NAME
    isas = ("auto", *ISA_NAMES[contents.arch])
    for key, found, fits, wanted in (
        ("model", configuration.model, configuration.model == place, place),
        ("isa", configuration.isa, configuration.isa in isas, ", ".join(isas)),
        (
            "top_k",
            configuration.top_k,
            configuration.top_k <= contents.model.spec.vocab_size,
            f"at most {contents.model.spec.vocab_size}",
        ),
        (
            "system",
            f"{len(configuration.system)} bytes",
            configuration.chat or not configuration.system,
            "none, with `prompt: raw`",
        ),
    ):
        if not fits:
            raise UsageError(
                f"configuration does not fit the release: `{key}`",
                where=(f"found     {found}", f"expected  {wanted}"),
                hint="write one with `bitnet config`",
            )


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
