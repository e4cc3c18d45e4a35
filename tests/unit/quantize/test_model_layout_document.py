"""docs/formats/model.md is normative: its tables and the Python layout are the same."""

import re
from pathlib import Path

import numpy as np

from bitnet.quantize import layout

PAGE = Path(__file__).parents[3] / "docs" / "formats" / "model.md"


def read_tables() -> list[list[tuple[int, int, str, str]]]:
    """(offset, bytes, type, name) of each table of fields of the page, in order."""
    tables: list[list[tuple[int, int, str, str]]] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[:4] == ["offset", "bytes", "type", "name"]:
            tables.append([])
        elif len(cells) >= 5 and cells[0].isdigit():
            tables[-1].append((int(cells[0]), int(cells[1]), cells[2], cells[3]))
    return tables


def as_rows(fields: tuple[layout.Field, ...]) -> list[tuple[int, int, str, str]]:
    return [(field.offset, field.byte_count, field.type, field.name) for field in fields]


def test_layout_header_table_equals_the_page() -> None:
    """Broken, the page would describe another header than the one that is written."""
    assert read_tables()[0] == as_rows(layout.HEADER_FIELDS)


def test_layout_tensor_table_equals_the_page() -> None:
    """Broken, the page would describe another tensor table."""
    assert read_tables()[1] == as_rows(layout.TENSOR_FIELDS)
    assert len(read_tables()) == 2


def test_layout_tables_leave_no_byte_undescribed() -> None:
    """Broken, a byte could carry something that nobody checks."""
    for rows, size in zip(read_tables(), (512, 64), strict=True):
        position = 0
        for offset, byte_count, _, _ in rows:
            assert offset == position
            position += byte_count
        assert position == size


def test_layout_roles_and_kinds_equal_the_page() -> None:
    """Broken, role or kind numbers of the page would mean other tensors."""
    text = PAGE.read_text()
    order = text[text.index("Order (role number") : text.index("## Kinds")]
    found = {name: int(number) for number, name in re.findall(r"\b(\d+) `(\w+)`", order)}
    assert found == layout.ROLES
    kinds = {
        name: int(number) for name, number in re.findall(r"\* \*\*([\w ]+)\*\* \((\d)\)", text)
    }
    assert kinds == {name: number for number, name in layout.KIND_NAMES.items()}


def test_layout_constants_stand_on_the_page() -> None:
    """Broken, magic, leaf size or page size would differ from the page."""
    text = PAGE.read_text()
    assert f"`{layout.MAGIC.decode()}`" in text
    assert f"| leaf_bytes | {layout.LEAF_BYTES} |" in text
    assert f"multiple of {layout.PAGE_BYTES}" in text


# Hidden, intermediate, layers, heads, heads of keys and values, head dimension, vocabulary, tables
# (1 where the head is tied), of the models' own config.json.
README_MODELS = {
    "the demo": (384, 1024, 4, 6, 2, 64, 4096, 1),
    "BitNet b1.58 2B-4T": (2560, 6912, 30, 20, 5, 128, 128256, 1),
    "Falcon3-7B-Base-1.58bit": (3072, 23040, 28, 12, 4, 256, 131072, 2),
}


def test_readme_sizes_are_those_of_the_format() -> None:
    """Broken, who plans memory and media by the README plans with wrong numbers.

    Two bits a ternary weight; a row of a table is a byte a column and two values of four bytes.
    """
    text = (PAGE.parents[2] / "README.md").read_text(encoding="utf-8")
    for name, (hidden, middle, layers, heads, kv, head, vocab, tables) in README_MODELS.items():
        ternary = layers * hidden * ((2 * heads + 2 * kv) * head + 3 * middle)
        sizes = (ternary / 4, tables * vocab * (hidden + 8))
        shown = [f"{size / 1e6:,.1f}" if size < 1e7 else f"{size / 1e6:,.0f}" for size in sizes]
        count = f"{ternary / 1e6:.1f} million" if ternary < 1e9 else f"{ternary / 1e9:.2f} billion"
        assert f"| {name} | {count} | {shown[0]} | {shown[1]} |" in text


def test_attention_scale_is_that_of_the_models() -> None:
    """Broken, scores would be scaled by another number than `head_dim ** -0.5`."""
    for head_dim in range(2, 1025, 2):
        assert layout.attention_scale(head_dim) == np.float32(head_dim**-0.5)
