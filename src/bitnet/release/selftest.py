"""The known answer of a release: what its executable writes for a fixed prompt and seed."""

import subprocess
from pathlib import Path
from typing import Final

from bitnet.errors import BundleError

__all__ = ["ANSWER_BYTES_MAX", "DEFAULT_PROMPT", "SELFTEST_S", "check_answer", "run_selftest"]

DEFAULT_PROMPT: Final = b"What is the capital of France?\n"
ANSWER_BYTES_MAX: Final = 65536
# What a machine in the gap waits; kSelftestMs in engine/release/store.h.
SELFTEST_S: Final = 300


def run_selftest(
    executable: Path, config: Path, seed: int, prompt: bytes, *, directory: Path, timeout_s: float
) -> bytes:
    """Returns what the executable writes to standard output.

    Args:
        executable: bitnet-infer of this host's architecture.
        config: Its config.yaml.
        seed: `--seed`.
        prompt: Standard input.
        directory: Where it runs: a relative path of a model in the configuration starts there.
        timeout_s: Seconds that it may take.

    Raises:
        BundleError: It cannot be started, fails, takes too long, or writes nothing or too much.
    """
    command = [str(executable.resolve()), "--config", str(config.resolve()), "--seed", str(seed)]
    command.append("--no-log")
    hint = (
        "run it by hand with this configuration; or pass `--tokenizer` to have the answer computed "
        "without running the executable"
    )
    try:
        result = subprocess.run(
            command,
            cwd=directory,
            input=prompt,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(
            "self-test takes too long", where=f"limit {timeout_s:.0f} s", hint=hint
        ) from None
    except OSError as error:
        raise BundleError(
            f"executable cannot be run: `{executable}`",
            where=error.strerror or str(error),
            hint=hint,
        ) from None
    if result.returncode != 0:
        told = result.stderr.decode("utf-8", "replace").splitlines()[:8]
        raise BundleError(
            f"self-test fails with exit code {result.returncode}", where=tuple(told), hint=hint
        )
    return check_answer(result.stdout)


def check_answer(answer: bytes) -> bytes:
    """Returns an answer that the gap accepts; docs/formats/release.md says how long it may be.

    Raises:
        BundleError: It is empty or too long.
    """
    if not 0 < len(answer) <= ANSWER_BYTES_MAX:
        raise BundleError(
            "self-test answers nothing, or too much",
            where=f"{len(answer)} bytes, limit {ANSWER_BYTES_MAX}",
            hint="lower `max_new_tokens` in the configuration, or choose another prompt",
        )
    return answer
