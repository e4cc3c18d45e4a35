"""The tables: classes of characters, digests, sizes, and the descriptions of one struct."""

import hashlib
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from bitnet.seal.sources import engine_root
from bitnet.tokenizer import compile_tokenizer, emit_cpp, encode, load_tokenizer, unicode_classes
from bitnet.tokenizer import tables as tables_module
from bitnet.tokenizer.tables import ID_NONE, hash_bytes
from tests.support import vocabularies
from tests.support.tokenizer_small import compile_json, small_json

# Characters that have been in Unicode, with these categories, since before any table in use.
OLD = [chr(c) for c in range(0x20, 0x500) if unicodedata.category(chr(c)) != "Cn"]


@pytest.mark.parametrize(
    ("flag", "category"),
    [(unicode_classes.LETTER, "L"), (unicode_classes.NUMBER, "N"), (unicode_classes.MARK, "M")],
)
def test_character_flags_of_old_characters_equal_unicodedata(flag: int, category: str) -> None:
    """A probe that asks the library wrongly would put every character into a wrong class."""
    flags = unicode_classes.character_flags(flag)
    for c in OLD:
        assert bool(flags[ord(c)]) == unicodedata.category(c).startswith(category), (
            f"U+{ord(c):04X}"
        )
    assert not flags[0xD800:0xE000].any()


def test_character_flags_of_white_space_and_words_are_those_of_old_characters() -> None:
    """The same for the classes that flags of added tokens use."""
    flags = unicode_classes.character_flags(0xFF)
    for c in (*OLD, "\ue000", "\ue001"):
        space = c in " \u0085\u00a0"
        word = c == "_" or unicodedata.category(c)[0] in "LM" or unicodedata.category(c) == "Nd"
        if unicodedata.category(c) in ("No", "Nl", "So"):
            continue
        assert bool(flags[ord(c)] & unicode_classes.SPACE) == space, f"U+{ord(c):04X}"
        assert bool(flags[ord(c)] & unicode_classes.STRIP_SPACE) == space, f"U+{ord(c):04X}"
        assert bool(flags[ord(c)] & unicode_classes.WORD) == word, f"U+{ord(c):04X}"


def test_composition_of_old_characters_equals_unicodedata() -> None:
    """Normal form tables that are made by probing must say what Unicode says."""
    data = unicode_classes.composition()
    for (first, second), composed in data.pairs.items():
        assert unicodedata.normalize("NFC", chr(first) + chr(second)) == chr(composed)
    for point, parts in data.decompositions.items():
        assert unicodedata.normalize("NFD", chr(point)) == "".join(map(chr, parts))
    marks = [c for c in range(0x300, 0x370) if c not in data.decompositions]
    classes = {c: unicodedata.combining(chr(c)) for c in marks}
    for a, class_a in classes.items():
        for b, class_b in classes.items():
            assert (data.order[a] < data.order[b]) == (class_a < class_b)


def test_compile_of_the_demo_finds_each_token_whole() -> None:
    """A word that its own table does not find would be merged each time anew, or wrongly."""
    tables = compile_tokenizer(vocabularies.DEMO)
    offsets, data = tables.token_offsets.tolist(), tables.token_data.tobytes()
    slots = tables.word_slots.tolist()
    found = 0
    for index in filter(lambda slot: slot != ID_NONE, slots):
        word = data[offsets[index] : offsets[index + 1]]
        place = hash_bytes(word) >> (64 - tables.word_slot_bits)
        while slots[place] != index:
            assert slots[place] != ID_NONE
            place = (place + 1) % len(slots)
        found += 1
    assert found > 0.95 * tables.vocab_size


def test_whole_words_are_a_short_cut_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that would take too long to merge are left out: that must change no id."""
    value = small_json()
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    whole = compile_json(value)
    monkeypatch.setattr(tables_module, "_WORD_STEPS_MAX", 280)  # the bytes, and few others
    few = compile_json(value)
    assert few.word_bytes_max < whole.word_bytes_max
    for text in ("hello world", "the 123 aaaa", "\n\n hello's aaaaaaa", "é " * 9):
        expected = library.encode(text, add_special_tokens=False).ids
        assert encode(few, text.encode()) == encode(whole, text.encode()) == expected


@pytest.mark.timeout(60)
def test_whole_words_of_huge_entries_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging is quadratic: an entry of a megabyte would take hours, and one is enough."""
    merged: list[int] = []

    def merge(symbols: list[int], _merges: object) -> list[int]:
        merged.append(len(symbols))
        return symbols

    monkeypatch.setattr(tables_module, "merge_symbols", merge)
    value = small_json()
    value["added_tokens"] = []
    vocabulary, word = value["model"]["vocab"], "aaaa"
    while len(word) < 1 << 20:
        value["model"]["merges"].append([word, word])
        word += word
        vocabulary[word] = len(vocabulary)
    compile_json(value)
    assert sum(length**2 for length in merged) <= 1 << 28
    assert max(merged) == 8192  # 16384 squared is all that there is, and some is spent


def test_compile_carries_the_digests_of_the_file() -> None:
    """The engine compares the SHA-384 with the one in model.bin."""
    data = vocabularies.DEMO.read_bytes()
    tables = compile_tokenizer(vocabularies.DEMO)
    assert tables.source_sha256 == hashlib.sha256(data).digest()
    assert tables.source_sha384 == hashlib.sha384(data).digest()
    assert str(list(tables.source_sha384))[1:-1] in emit_cpp(tables)


def test_compile_of_the_demo_is_small_and_llama3_bounded() -> None:
    """Tables are part of every executable."""
    assert compile_tokenizer(vocabularies.DEMO).nbytes() < 200_000
    llama3 = compile_tokenizer(vocabularies.vocabulary("llama3"), chat=False)
    assert llama3.nbytes() < 6_500_000


def test_prefix_ids_of_a_template_equal_the_library(tmp_path: Path) -> None:
    """Some tokenizer files put a BOS before the text when special tokens are asked for."""
    value = small_json()
    begin = len(value["model"]["vocab"])
    value["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": False,
                "use_regex": True,
            },
            {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<|begin|>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {
                    "<|begin|>": {"id": "<|begin|>", "ids": [begin], "tokens": ["<|begin|>"]}
                },
            },
        ],
    }
    tables = compile_json(value)
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with_prefix = library.encode("hello", add_special_tokens=True).ids
    without = library.encode("hello", add_special_tokens=False).ids
    assert tables.prefix_ids.tolist() + without == with_prefix


def test_load_of_legacy_forms_equals_the_current_ones(tmp_path: Path) -> None:
    """Older files write merges as text, leave members out and wrap a single step in a sequence."""
    value = small_json("gpt2")
    current = compile_json(value)
    value["model"]["merges"] = [" ".join(merge) for merge in value["model"]["merges"]]
    value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [value["pre_tokenizer"]]}
    value["normalizer"] = {"type": "Sequence", "normalizers": []}
    for key in ("type", "dropout", "fuse_unk", "byte_fallback", "ignore_merges", "unk_token"):
        del value["model"][key]
    value["model"]["continuing_subword_prefix"] = value["model"]["end_of_word_suffix"] = ""
    legacy = compile_json(value)
    for name in ("token_data", "merge_entries", "merge_ids", "word_slots", "class_blocks"):
        assert np.array_equal(getattr(current, name), getattr(legacy, name))
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    assert load_tokenizer(tmp_path).split.name == "gpt2"


def test_emit_of_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    """A text with a path or a date in it would make builds differ."""
    texts = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((vocabularies.DEMO.parent / name).read_bytes())
        texts.append(emit_cpp(compile_tokenizer(folder / "tokenizer.json")))
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]
    header = texts[0].splitlines()[1]
    assert header == (
        f"// tokenizer.json SHA-256 {hashlib.sha256(vocabularies.DEMO.read_bytes()).hexdigest()}"
    )


def test_emit_names_every_member_of_the_struct_in_order() -> None:
    """A member that the generator leaves out would be zero in the engine."""
    header = (engine_root() / "tokenizer/tables.h").read_text()
    body = header[header.index("struct Tables {") :]
    body = re.sub(r"//[^\n]*", "", body[: body.index("};")])
    members = re.findall(r"[ *](\w+)(?:\[48\])?;", body)
    value = small_json()
    value["normalizer"] = {"type": "NFC"}
    text = emit_cpp(compile_json(value))
    assert re.findall(r"^    \.(\w+) = ", text, re.MULTILINE) == members


def test_format_page_lists_every_member_of_the_struct_in_order() -> None:
    """The page is what an auditor reads beside the generated file."""
    page = (vocabularies.ROOT / "docs/formats/tokenizer.md").read_text()
    section = page[page.index("## Tables") : page.index("Hashes multiply")]
    rows = re.findall(r"^\| (\w+) \| ", section, re.MULTILINE)
    value = small_json()
    text = emit_cpp(compile_json(value))
    assert rows[1:] == re.findall(r"^    \.(\w+) = ", text, re.MULTILINE)
