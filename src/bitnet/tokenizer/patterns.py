"""Pre-tokenizers: published patterns, known by their exact text, as parameters of one matcher.

The engine has no regular expressions. `engine/tokenizer/split.cc` and `interpreter.py` hold one
hand-written matcher for the family of patterns below; a file whose pattern is none of them is
refused.
"""

import dataclasses
from typing import Final

from bitnet.tokenizer.json_nodes import Node

__all__ = [
    "GPT2_PATTERN",
    "LLAMA3_PATTERN",
    "QWEN2_PATTERN",
    "QWEN35_PATTERN",
    "SplitRule",
    "parse_split_rule",
]

GPT2_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN: Final = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True, slots=True)
class SplitRule:
    r"""Parameters of the matcher; the fields of the same names in engine/tokenizer/tables.h.

    Attributes:
        name: For people.
        contractions_fold_case: `(?i:'s|'t|...)`; it folds U+017F to s, as the library does.
        letters_after_any: A run of letters may begin with any character but \r, \n, letter,
            number (else with one space).
        letters_with_marks: Marks belong to runs of letters.
        number_run_max: 1 or 3: numbers come in runs of at most so many; 0: runs of any length that
            may begin with one space.
        newline_rules: Newlines stick to the signs before them, and end a run of white space.
        digits_apart: Every numeric character is split off before the pattern is applied.
    """

    name: str
    contractions_fold_case: bool
    letters_after_any: bool
    letters_with_marks: bool
    number_run_max: int
    newline_rules: bool
    digits_apart: bool


_GPT2: Final = SplitRule("gpt2", False, False, False, 0, False, False)
_BY_PATTERN: Final = {
    GPT2_PATTERN: _GPT2,
    LLAMA3_PATTERN: SplitRule("llama3", True, True, False, 3, True, False),
    QWEN2_PATTERN: SplitRule("qwen2", True, True, False, 1, True, False),
    QWEN35_PATTERN: SplitRule("qwen35", True, True, True, 1, True, False),
}
_HINT: Final = "supported: the Llama-3, Qwen2/3, Qwen3.5, GPT-2 and SmolLM2 pre-tokenizers"


def parse_split_rule(node: Node) -> SplitRule:
    """The rule of `$.pre_tokenizer`.

    Raises:
        TokenizerError: It is none of the known ones.
    """
    if not isinstance(node.value, dict):
        raise node.refuse("pre-tokenizer is missing", hint=_HINT)
    kind = node.get("type").value
    if kind == "Sequence":
        node.object(("type", "pretokenizers"), ("pretokenizers",))
        return _parse_sequence(node.get("pretokenizers").items(), node)
    if kind == "ByteLevel":
        _check_byte_level(node, use_regex=True)
        return _GPT2
    raise node.refuse(f"pre-tokenizer is not supported: {ascii(kind)[:64]}", hint=_HINT)


def _parse_sequence(steps: list[Node], node: Node) -> SplitRule:
    kinds = tuple(
        step.value.get("type") if isinstance(step.value, dict) else None for step in steps
    )
    if kinds == ("ByteLevel",):
        _check_byte_level(steps[0], use_regex=True)
        return _GPT2
    if kinds == ("Digits", "ByteLevel"):
        digits = steps[0].object(("type", "individual_digits"), ("individual_digits",))
        if not digits.get("individual_digits").truth():
            raise digits.refuse("runs of digits kept together are not supported", hint=_HINT)
        _check_byte_level(steps[1], use_regex=True)
        return dataclasses.replace(_GPT2, name="smollm2", digits_apart=True)
    if kinds == ("Split", "ByteLevel"):
        rule = _parse_split(steps[0])
        _check_byte_level(steps[1], use_regex=False)
        return rule
    raise node.refuse(
        f"sequence of pre-tokenizers is not supported: {ascii(kinds)[:120]}", hint=_HINT
    )


def _parse_split(node: Node) -> SplitRule:
    node.object(("type", "pattern", "behavior", "invert"), ("pattern", "behavior"))
    if node.get("behavior").value != "Isolated":
        raise node.refuse(
            f"split behaviour is not supported: {node.get('behavior').shown()}", hint=_HINT
        )
    if node.get("invert").value not in (False, None):
        raise node.get("invert").refuse("inverted split is not supported", hint=_HINT)
    pattern = node.get("pattern").object(("Regex",), ("Regex",)).get("Regex")
    rule = _BY_PATTERN.get(pattern.text())
    if rule is None:
        raise pattern.refuse(f"split pattern is not supported: {pattern.shown()}", hint=_HINT)
    return rule


def _check_byte_level(node: Node, *, use_regex: bool) -> None:
    node.object(("type", "add_prefix_space", "trim_offsets", "use_regex"))
    prefix = node.get("add_prefix_space")
    # The library's default for an absent key is true.
    if prefix.value is not False:
        raise prefix.refuse("`add_prefix_space` is not supported", hint=_HINT)
    node.get("trim_offsets").value is None or node.get("trim_offsets").truth()
    pattern = node.get("use_regex")
    if (True if pattern.value is None else pattern.truth()) is not use_regex:
        raise pattern.refuse(f"`use_regex` must be {str(use_regex).lower()} here", hint=_HINT)
