"""`bitnet.Engine` between Python and C++: Ctrl-C, exceptions in callbacks, names of odd bytes."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitnet import Engine
from bitnet.errors import ToolchainError
from tests.support.engine import DEMO_TOKENIZER, demo_model, open_engine

QUESTION = "extract a tar.gz archive into a directory"


@pytest.fixture(scope="module")
def demo() -> Engine:
    return open_engine(demo_model(), tokenizer=DEMO_TOKENIZER)


@pytest.fixture(autouse=True)
def interrupts_raise() -> Iterator[None]:
    """Python's own handler, which it leaves out where a shell started it in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def act_at_the_third_piece(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Does something while Python takes the third piece of text from C++."""
    pieces: list[bytes] = []
    take = ctypes.string_at

    def take_and_act(*arguments: int) -> bytes:
        pieces.append(take(*arguments))
        if len(pieces) == 3:
            act()
        return pieces[-1]

    monkeypatch.setattr(ctypes, "string_at", take_and_act)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_generate_interrupted_raises_and_leaves_the_engine_whole(
    demo: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, Ctrl-C is lost, or an answer without one of its tokens passes for whole."""
    expected = demo.generate(QUESTION, max_new_tokens=16)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        act_at_the_third_piece(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            demo.generate(QUESTION, max_new_tokens=16)
    assert signal.getsignal(signal.SIGINT) is handler
    again = demo.generate(QUESTION, max_new_tokens=16)
    assert (again.ids, again.data) == (expected.ids, expected.data)


def test_generate_interrupted_calls_the_handler_that_was_set(
    demo: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, a program with a handler of its own never hears of Ctrl-C."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    try:
        act_at_the_third_piece(monkeypatch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            demo.generate(QUESTION, max_new_tokens=16)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_generate_where_interrupts_are_ignored_goes_on(
    demo: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, a run in the background ends with the Ctrl-C that is for another program."""
    expected = demo.generate(QUESTION, max_new_tokens=16)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        act_at_the_third_piece(monkeypatch, interrupt)
        assert demo.generate(QUESTION, max_new_tokens=16).ids == expected.ids
    finally:
        signal.signal(signal.SIGINT, before)


def test_generate_in_another_thread_gives_the_same_answer(demo: Engine) -> None:
    """If this fails, only the main thread can generate: it alone may set handlers."""
    expected = demo.generate(QUESTION, max_new_tokens=16)
    found: list[tuple[int, ...]] = []
    thread = threading.Thread(
        target=lambda: found.append(demo.generate(QUESTION, max_new_tokens=16).ids)
    )
    thread.start()
    thread.join()
    assert found == [expected.ids]


@pytest.mark.parametrize("kind", [MemoryError, SystemExit])
def test_generate_exception_inside_the_callback_is_raised(
    demo: Engine, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    """If this fails, ctypes prints it and an answer with a hole comes back."""

    def fail() -> None:
        raise kind("inside")

    act_at_the_third_piece(monkeypatch, fail)
    with pytest.raises(kind, match="inside"):
        demo.generate(QUESTION, max_new_tokens=16)


def test_engine_path_that_is_not_utf8_is_opened(tmp_path: Path) -> None:
    """If this fails, a model under an old file name leaves as UnicodeEncodeError."""
    path = tmp_path / os.fsdecode(b"mod\xe9le.bin")
    path.symlink_to(demo_model())
    with open_engine(path) as engine, open_engine(demo_model()) as expected:
        assert (engine.logits([1, 2]) == expected.logits([1, 2])).all()


def test_engine_isa_of_odd_characters_is_refused() -> None:
    """If this fails, a lone surrogate leaves as UnicodeEncodeError."""
    with pytest.raises(ToolchainError, match="instruction set is not available"):
        open_engine(demo_model(), isa="\ud800")
