"""The engine's tests once more, against a build with address and undefined-behaviour checks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet.seal.toolchain import build_library
from tests.support.engine import REPOSITORY

# What is generated is scaled down; what is enumerated runs whole.
EXAMPLES = "0.1"
SUITES = {
    "hostile": ("tests/hostile/test_engine_model_file.py", "tests/hostile/test_engine_config.py"),
    "engine": (
        "tests/engine/test_config.py",
        "tests/engine/test_engine.py",
        "tests/engine/test_kv_cache.py",
        "tests/engine/test_sampler.py",
        "tests/engine/test_stop_strings.py",
    ),
}


def runtime_library(name: str) -> str:
    """The path of a sanitizer's run-time library, as the system's compiler knows it."""
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    assert Path(found).is_absolute(), f"{name} is not installed"
    return found


def sanitized(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python against the sanitized library; a finding ends the process."""
    environment = dict(os.environ) | {
        "BITNET_TEST_LIBRARY": str(build_library(sanitize=True)),
        "BITNET_TEST_EXAMPLES": EXAMPLES,
        # The first library must be the address sanitizer's; C++ exceptions of other extension
        # modules need their own library resolved before it looks for it.
        "LD_PRELOAD": f"{runtime_library('libasan.so')} {runtime_library('libstdc++.so.6')}",
        # Every buffer that Python hands over is then an allocation of its own, with guards around.
        "PYTHONMALLOC": "malloc",
        # Python keeps memory until it exits; nothing is learnt from that.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("suite", SUITES)
def test_engine_suites_with_sanitizers_find_nothing(suite: str) -> None:
    """If this fails, some input reaches out of bounds, or computes what C++ leaves undefined."""
    # Without -s pytest would keep what a sanitizer writes when it ends the process.
    result = sanitized("-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *SUITES[suite])
    report = re.search(r"^.*(runtime error|ERROR: AddressSanitizer)", result.stdout, re.MULTILINE)
    assert report is None, result.stdout[report.start() :][:4000]
    assert result.returncode == 0, result.stdout[-8000:]
    passed = re.search(r"^(\d+) passed in ", result.stdout, re.MULTILINE)
    assert passed is not None, result.stdout[-2000:]
    assert int(passed[1]) > 100


OVERRUN = """
import ctypes
from tests.support.engine import engine_library
from bitnet.engine import library
text = (ctypes.c_uint8 * 64)(*b"#" * 64)
engine_library().bitnet_parse_config(
    text, 4096, ctypes.byref(library.Config()), ctypes.byref(library.new_error())
)
"""


def test_sanitizers_do_find_an_overrun() -> None:
    """If this fails, the run above finds nothing because it looks for nothing."""
    result = sanitized("-c", OVERRUN)
    assert result.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in result.stdout
