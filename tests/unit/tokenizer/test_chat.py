"""Chat templates as fixed pieces, against transformers' own rendering."""

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

from transformers import PreTrainedTokenizerFast

from bitnet.tokenizer import TokenizerTables, compile_tokenizer, encode_chat
from tests.support.tokenizer_small import small_json

# Templates of published models, in the small tokenizer's own control tokens.
TEMPLATES = {
    "roles": (
        "{% for message in messages %}{{ message['role'] | capitalize }}: "
        "{{ message['content'] | trim }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
    ),
    "bos": (
        "{{ bos_token }}{% for m in messages %}<|user|>{{ m.role }}\n\n{{ m.content }}"
        "{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|user|>assistant\n\n{% endif %}"
    ),
    "default-system": (
        "{% if messages[0]['role'] != 'system' %}<|begin|>system\nYou are kind.<|end|>\n{% endif %}"
        "{% for m in messages %}<|begin|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "<|begin|>assistant\n"
    ),
    "blocks": (
        "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n"
        "        {{- 'U ' ~ m.content }}\n    {%- else %}\n"
        "        {{- 'S ' ~ m.content.strip() ~ '\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% elif m.role == 'tool' %}{% continue %}{% else %}[{{ m.content }}]"
        "{% endif %}{% endfor %}<|user|>"
    ),
    "tojson": "{{ {'a': 'é'} | tojson }}{% for m in messages %}{{ m.content }}|{% endfor %}",
}
TALKS = [
    ("", "hello"),
    ("", "  hello world \n"),
    ("be brief", "hello's 123"),
    (" be\nbrief ", "\u3000é {{ x }} \x1c"),
]
NAMES = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>", "special": True}}


def compile_with(folder: Path, template: str, **config: object) -> TokenizerTables:
    (folder / "tokenizer.json").write_text(json.dumps(small_json()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**NAMES, "chat_template": template, **config})
    )
    return compile_tokenizer(folder)


def expected(folder: Path, template: str, system: str, user: str) -> list[int]:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|begin|>", eos_token="<|end|>"
    )
    messages = [{"role": "system", "content": system}] if system else []
    rendered = tokenizer.apply_chat_template(
        [*messages, {"role": "user", "content": user}],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_compile_of_published_forms_gives_the_ids_of_transformers(
    name: str, tmp_path: Path
) -> None:
    """A prompt that differs from the training format by one space makes answers worse."""
    tables = compile_with(tmp_path, TEMPLATES[name])
    for system, user in TALKS:
        assert encode_chat(tables, user, system) == expected(
            tmp_path, TEMPLATES[name], system, user
        )


def test_compile_of_a_list_of_templates_takes_the_default(tmp_path: Path) -> None:
    """Some configurations hold several templates."""
    templates = [
        {"name": "tool_use", "template": "{{ 1 / 0 }}"},
        {"name": "default", "template": TEMPLATES["bos"]},
    ]
    listed = compile_with(tmp_path, "", chat_template=templates)
    plain = compile_with(tmp_path, TEMPLATES["bos"])
    assert listed.chat_user.tolist() == plain.chat_user.tolist()


def test_compile_with_a_template_file_prefers_it(tmp_path: Path) -> None:
    """chat_template.jinja wins over the configuration, a file that the caller names over both."""
    in_config = compile_with(tmp_path, "{{ messages[-1].content }}")
    (tmp_path / "chat_template.jinja").write_text("<|user|>{{ messages[-1].content }}")
    beside = compile_tokenizer(tmp_path)
    named = tmp_path / "named.jinja"
    named.write_text("{{ messages[-1].content }}<|end|>")
    own = compile_tokenizer(tmp_path, chat_template=named)
    lengths = [len(encode_chat(tables, "hello")) for tables in (in_config, beside, own)]
    assert lengths[0] + 1 == lengths[1] == lengths[2]
    assert encode_chat(beside, "x")[0] == encode_chat(own, "x")[-1] + 1


def test_compile_of_a_template_that_refuses_a_system_message_takes_none(tmp_path: Path) -> None:
    """The engine must refuse a system message where the template does, and where it is left out."""
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ messages[-1].content }}"
    )
    for template in (refusing, "{{ messages[-1].content }}"):
        tables = compile_with(tmp_path, template)
        assert tables.chat_user.size > 0
        assert tables.chat_system_user.size == 0
