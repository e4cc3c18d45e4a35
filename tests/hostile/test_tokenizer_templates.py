"""What lies beside a tokenizer.json: links that lead elsewhere, templates that cost too much."""

import gc
import json
import os
import resource
import sys
import time
from pathlib import Path

import pytest

from bitnet.errors import TokenizerError
from bitnet.tokenizer import chat_template, compile_tokenizer
from tests.support.tokenizer_small import small_json

USER = "{{ messages[-1].content }}"


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../secret", "leads out of its directory"),
        ("/dev/zero", "leads out of its directory"),
        ("pipe", "not a regular file"),
        ("nowhere", "cannot open"),
        ("", "not a regular file"),
    ],
)
def test_compile_with_a_link_beside_that_leads_elsewhere_is_refused(
    tmp_path: Path, name: str, target: str, message: str
) -> None:
    """Broken, a checkpoint puts a private file of the builder's into what everybody gets."""
    (tmp_path / "secret").write_text("<|user|>{{ messages[-1].content }}")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(small_json()))
    os.mkfifo(folder / "pipe")
    if target:
        (folder / name).symlink_to(target)
    else:
        (folder / name).mkdir()
    with pytest.raises(TokenizerError) as caught:
        compile_tokenizer(folder)
    assert message in caught.value.message
    assert f"`{name}`" in caught.value.message


def test_compile_with_a_link_inside_the_folder_takes_the_file(tmp_path: Path) -> None:
    """A folder that holds its files itself may name them twice."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(small_json()))
    (tmp_path / "real.jinja").write_text("<|user|>" + USER)
    (tmp_path / "chat_template.jinja").symlink_to("real.jinja")
    assert len(compile_tokenizer(tmp_path).chat_user) == 2 * 3


LONG = "{% set ns = namespace(x='ab' * 60000) %}" + "{% set ns.x = ns.x ~ ns.x %}" * 7
LISTED = "{% set y = ('ab' * 60000) | upper | reverse | list | length %}"
SLOW_TEMPLATES = {
    "rendered": LONG + "{% for i in range(9999) %}{% set y = ns.x | reverse %}{% endfor %}" + USER,
    "in filters": "{{ ('ab' * 60000) | wordwrap(1) | length }}" * 2000 + USER,
    "in constants": ("{{ '" + "ab" * 100_000 + "' | wordwrap(1) | length }}") * 4 + USER,
    "for a system message": USER
    + "{% if messages[0].role == 'system' %}{% for i in range(9999) %}"
    + LISTED
    + "{% endfor %}{% endif %}",
}


@pytest.mark.parametrize("name", SLOW_TEMPLATES)
def test_compile_of_a_template_with_costly_steps_ends(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few steps, each over megabytes, would keep a builder's machine busy for hours."""
    monkeypatch.setattr(chat_template, "_SECONDS_MAX", 0.3)
    (tmp_path / "tokenizer.json").write_text(json.dumps(small_json()))
    (tmp_path / "chat_template.jinja").write_text(SLOW_TEMPLATES[name])
    begun_s = time.process_time()
    with pytest.raises(TokenizerError) as caught:
        compile_tokenizer(tmp_path)
    assert "template takes too long" in caught.value.message
    assert time.process_time() - begun_s < 2


# What makes Python drop an error: a generator that is closed (Jinja's own, the template's), and the
# end of an iteration.
DROPS = {
    "generator of a filter": "{{ [1, 2] | map('string') | first }}",
    "generator of the template": "{% for x in [1, 2] if x %}{% break %}{% endfor %}",
    "end of an iteration": "{% for x in [1, 2] %}{{ loop.index }}{% endfor %}",
    "macro": "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(1) }}",
}


@pytest.mark.parametrize("name", DROPS)
def test_render_of_a_loop_ends_wherever_its_steps_run_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python drops what is raised where it has an error of its own, and then no longer traces."""
    template = chat_template.ChatTemplate(
        DROPS[name] * 3
        + "{% for i in range(100) %}{% for k in range(100) %}{% endfor %}{% endfor %}"
        + USER,
        "test",
        {},
    )
    renderer = chat_template.Renderer(template)
    messages = [{"role": "user", "content": "x"}]
    assert renderer.render(messages).endswith("x")
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    for steps in range(250):  # all of the beginning, and some of the loop behind it
        monkeypatch.setattr(chat_template, "_STEPS_MAX", steps)
        with pytest.raises(TokenizerError, match="template does not end") as caught:
            renderer.render(messages)
        # With the error still at hand nothing is held.
        assert caught.value.__context__ is not None
        assert gc.isenabled()
        assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert not chat_template._MEMORY_LOCK.locked()


def test_render_that_only_just_ends_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last steps are those in which a context manager would end."""
    renderer = chat_template.Renderer(chat_template.ChatTemplate(USER, "test", {}))
    messages = [{"role": "user", "content": "x"}]
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    refused: list[bool] = []
    for steps in range(200):
        monkeypatch.setattr(chat_template, "_STEPS_MAX", steps)
        try:
            refused.append(renderer.render(messages) != "x")
        except TokenizerError as error:
            refused.append(error.message != "")
            assert gc.isenabled()
            assert not chat_template._MEMORY_LOCK.locked()
            assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert refused == sorted(refused, reverse=True)
    assert {True, False} == set(refused)


def test_render_leaves_the_garbage_of_others_until_afterwards() -> None:
    """A finalizer that runs while a template does would take the error for its own."""
    template = chat_template.ChatTemplate(
        "{% for i in range(100) %}{% set pair = [[i], [i]] %}{% endfor %}" + USER, "test", {}
    )
    renderer = chat_template.Renderer(template)
    before = sys.gettrace()
    collected: list[bool] = []

    def note(_phase: str, _counts: dict[str, int]) -> None:
        collected.append(sys.gettrace() is before)

    threshold = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(20)
    try:
        renderer.render([{"role": "user", "content": "x"}])
        garbage = [[number] for number in range(100)]
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(note)
    assert len(garbage) == 100
    assert collected
    assert all(collected)


def test_time_of_a_template_is_that_of_all_its_renderings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty conversations are rendered: forty times the budget would be no budget."""
    monkeypatch.setattr(chat_template, "_SECONDS_MAX", 1.0)
    loop = "{% for i in range(COUNT) %}{% endfor %}" + USER
    used_s = {}
    for count in (1000, 99999):  # Jinja's sandbox allows 100,000
        template = chat_template.ChatTemplate(loop.replace("COUNT", str(count)), "test", {})
        begun_s = time.thread_time()
        renderer = chat_template.Renderer(template)
        messages = [{"role": "user", "content": "x"}]
        try:
            for _ in range(40):
                assert renderer.render(messages) == "x"
        except TokenizerError as error:
            assert "template takes too long" in error.message
            assert renderer.exhausted
        used_s[count] = time.thread_time() - begun_s
    assert used_s[1000] < 1.0 <= used_s[99999] < 2.0
