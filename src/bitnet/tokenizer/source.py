"""Reads tokenizer.json of byte-level BPE; refuses by name what the tables cannot express."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Final

from bitnet.checkpoint.directory import TOKENIZER_BYTES_MAX
from bitnet.errors import TokenizerError
from bitnet.files import read_bounded
from bitnet.limits import VOCAB_SIZE_MAX
from bitnet.tokenizer.byte_level import CHARACTER_OF_BYTE, bytes_of_token
from bitnet.tokenizer.json_nodes import (
    Node,
    parse_json,
    read_beside,
)
from bitnet.tokenizer.patterns import SplitRule, parse_split_rule
from bitnet.tokenizer.post_processor import parse_prefix_tokens

__all__ = [
    "ADDED_BYTES_MAX",
    "AddedToken",
    "TokenizerSource",
    "find_tokenizer",
    "load_tokenizer",
    "parse_tokenizer",
]

# Finding added tokens costs at most this many steps a byte of text.
ADDED_BYTES_MAX: Final = 256
MERGE_COUNT_MAX: Final = 1 << 22

_TOP_KEYS: Final = (
    "version", "truncation", "padding", "added_tokens", "normalizer",
    "pre_tokenizer", "post_processor", "decoder", "model",
)  # fmt: skip
_MODEL_KEYS: Final = (
    "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
    "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class AddedToken:
    """One entry of `$.added_tokens`, with the flags of the `tokenizers` library.

    Attributes:
        id: Its token id.
        content: Its text.
        single_word: Found only between characters that are not word characters.
        lstrip: Takes the white space before it along.
        rstrip: Takes the white space after it along.
        normalized: Looked for after normalisation (its own text is normalised too).
        special: A control token, not shown in an answer.
    """

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


@dataclasses.dataclass(frozen=True, slots=True)
class TokenizerSource:
    """What a tokenizer.json says, checked.

    Attributes:
        file: Where it came from; for messages alone.
        data_sha256: Digest of the file's bytes.
        data_sha384: Digest of the file's bytes, as model.bin carries it.
        vocabulary: Entry to id, as in the file.
        merges: Pairs of entries, lowest rank first.
        ignore_merges: A piece that is an entry as a whole is not merged.
        normalizes_nfc: Text is put into NFC first.
        split: How text is cut into pieces.
        added_tokens: In the order of the file.
        prefix_ids: Ids that the post-processor puts before a text (a BOS).
    """

    file: Path
    data_sha256: bytes
    data_sha384: bytes
    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    ignore_merges: bool
    normalizes_nfc: bool
    split: SplitRule
    added_tokens: tuple[AddedToken, ...]
    prefix_ids: tuple[int, ...]


def find_tokenizer(path: Path) -> Path:
    """Returns the file that is meant: `path`, or the `tokenizer.json` in that directory."""
    return path / "tokenizer.json" if path.is_dir() else path


def load_tokenizer(path: Path) -> TokenizerSource:
    """Reads and checks a tokenizer.json.

    Args:
        path: The file, or a directory that holds `tokenizer.json`.

    Raises:
        TokenizerError: The file cannot be read, is no such JSON, or asks for something that the
            tables cannot express; `where` names the place as a JSON path.
    """
    file = find_tokenizer(path)
    data = None
    if file != path:  # a file that nobody named but the folder
        data = read_beside(file, file.name, bytes_max=TOKENIZER_BYTES_MAX)
    if data is None:
        data = read_bounded(file, "tokenizer file", TOKENIZER_BYTES_MAX, error=TokenizerError)
    return parse_tokenizer(data, file=file)


def parse_tokenizer(data: bytes, *, file: Path) -> TokenizerSource:
    """As `load_tokenizer`, from the bytes of the file.

    Raises:
        TokenizerError: As for `load_tokenizer`.
    """
    root = Node(parse_json(data, file=file), "$", file)
    root.object(_TOP_KEYS, ("model",))
    _check_fixed_members(root)
    model = root.get("model").object(_MODEL_KEYS, ("vocab", "merges"))
    vocabulary = _parse_vocabulary(model.get("vocab"))
    _check_model_options(model, vocabulary)
    merges = _parse_merges(model.get("merges"), vocabulary)
    added_tokens = _parse_added_tokens(root.get("added_tokens"), vocabulary)
    _check_specials_apart(root.get("added_tokens"), added_tokens, vocabulary, merges)
    ids = {**vocabulary, **{token.content: token.id for token in added_tokens}}
    ignore = model.get("ignore_merges")
    return TokenizerSource(
        file=file,
        data_sha256=hashlib.sha256(data).digest(),
        data_sha384=hashlib.sha384(data).digest(),
        vocabulary=vocabulary,
        merges=merges,
        ignore_merges=False if ignore.value is None else ignore.truth(),
        normalizes_nfc=_parse_normalizer(root.get("normalizer")),
        split=parse_split_rule(root.get("pre_tokenizer")),
        added_tokens=added_tokens,
        prefix_ids=parse_prefix_tokens(root.get("post_processor"), ids),
    )


def _check_fixed_members(root: Node) -> None:
    if root.get("version").value not in ("1.0", None):
        raise root.get("version").refuse(f"version is not 1.0: {root.get('version').shown()}")
    for key in ("truncation", "padding"):
        if root.get(key).value is not None:
            raise root.get(key).refuse(
                f"`{key}` is not supported", hint=f"set `{key}` to null: the engine never does it"
            )
    decoder = root.get("decoder")
    if not isinstance(decoder.value, dict) or decoder.value.get("type") != "ByteLevel":
        raise decoder.refuse("decoder is not ByteLevel", hint="only byte-level BPE is supported")
    decoder.object(("type", "add_prefix_space", "trim_offsets", "use_regex"))


def _parse_normalizer(node: Node) -> bool:
    """True for NFC, False for none; a Sequence may wrap either."""
    if node.value is None:
        return False
    if isinstance(node.value, dict) and node.value.get("type") == "NFC":
        node.object(("type",))
        return True
    if isinstance(node.value, dict) and node.value.get("type") == "Sequence":
        node.object(("type", "normalizers"), ("normalizers",))
        steps = node.get("normalizers").items()
        if len(steps) == 0:
            return False
        # NFC of NFC is NFC, so any number of it is one.
        if all(isinstance(step.value, dict) and step.value == {"type": "NFC"} for step in steps):
            return True
    raise node.refuse(f"normalizer is not supported: {node.shown()}", hint="supported: none, NFC")


def _check_model_options(model: Node, vocabulary: dict[str, int]) -> None:
    if model.get("type").value not in ("BPE", None):
        raise model.get("type").refuse(f"model is not BPE: {model.get('type').shown()}")
    dropout = model.get("dropout")
    if dropout.value is not None and (
        isinstance(dropout.value, bool)
        or not isinstance(dropout.value, int | float)
        or dropout.value != 0
    ):
        raise dropout.refuse(f"`dropout` is not supported: {dropout.shown()}")
    for key in ("fuse_unk", "byte_fallback"):
        if model.get(key).value not in (None, False):
            raise model.get(key).refuse(f"`{key}` is not supported")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key).value not in (None, ""):
            raise model.get(key).refuse(f"`{key}` is not supported: {model.get(key).shown()}")
    unknown = model.get("unk_token")
    if unknown.value is not None and not all(byte in vocabulary for byte in CHARACTER_OF_BYTE):
        # With all 256 bytes in the vocabulary nothing is unknown and the entry has no effect.
        raise unknown.refuse("`unk_token` is not supported where a byte is not in the vocabulary")


def _parse_vocabulary(node: Node) -> dict[str, int]:
    if not isinstance(node.value, dict):
        raise node.refuse("not an object")
    if not 0 < len(node.value) <= VOCAB_SIZE_MAX:
        raise node.refuse(f"number of entries is out of range: limit {VOCAB_SIZE_MAX}")
    seen: dict[int, str] = {}
    for token, index in node.value.items():
        entry = Node(index, f"{node.path}[{ascii(token)[:64]}]", node.file)
        entry.index(VOCAB_SIZE_MAX)
        Node(token, entry.path, node.file).text()
        if token == "":
            raise entry.refuse("vocabulary entry is empty")
        if index in seen:
            raise entry.refuse(f"id stands twice: {index}")
        seen[index] = token
    vocabulary: dict[str, int] = node.value
    return vocabulary


def _parse_merges(node: Node, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The merges in either form, each with both parts and its result in the vocabulary."""
    if not isinstance(node.value, list):
        raise node.refuse("not an array")
    if len(node.value) > MERGE_COUNT_MAX:
        raise node.refuse(f"number of merges is out of range: limit {MERGE_COUNT_MAX}")
    merges: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()
    for rank, merge in enumerate(node.value):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(parts, list)
            or len(parts) != 2
            or not all(isinstance(part, str) for part in parts)
            or (isinstance(merge, str) and merge.startswith("#version"))
        ):
            raise node.item(rank).refuse("merge is not a pair of entries")
        left, right = parts
        for part in (left, right, left + right):
            if part not in vocabulary:
                raise node.item(rank).refuse(f"merge names no vocabulary entry: {ascii(part)[:64]}")
        if (left, right) in seen:
            raise node.item(rank).refuse("merge stands twice")
        seen.add((left, right))
        merges.append((left, right))
    return merges


def _parse_added_tokens(node: Node, vocabulary: dict[str, int]) -> tuple[AddedToken, ...]:
    if node.value is None:
        return ()
    tokens: list[AddedToken] = []
    seen: set[str] = set()
    entry_of_id = {index: token for token, index in vocabulary.items()}
    # The library gives ids by itself: that of the vocabulary entry, else the next free one.
    next_id = len(vocabulary)
    for entry in node.items():
        token = _parse_added_token(entry)
        if token.content in seen:
            raise entry.refuse(f"added token stands twice: {ascii(token.content)[:64]}")
        seen.add(token.content)
        expected = vocabulary.get(token.content, next_id)
        if expected == next_id:
            next_id += 1
        if token.id != expected or entry_of_id.get(token.id, token.content) != token.content:
            raise entry.refuse(
                f"added token has another id than the `tokenizers` library gives it: {token.id}",
                hint=f"the library gives it {expected}",
            )
        tokens.append(token)
    _check_white_space_tokens(node, tokens)
    return tuple(tokens)


def _parse_added_token(entry: Node) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    entry.object(("id", "content", *flags), ("id", "content", *flags))
    content = entry.get("content").text()
    if not 0 < len(content.encode()) <= ADDED_BYTES_MAX:
        raise entry.get("content").refuse(f"length is out of range: limit {ADDED_BYTES_MAX} bytes")
    return AddedToken(
        entry.get("id").index(VOCAB_SIZE_MAX),
        content,
        *(entry.get(flag).truth() for flag in flags),
    )


def _check_white_space_tokens(node: Node, tokens: list[AddedToken]) -> None:
    """Refuses the one case in which the library's own spans overlap."""
    if not any(token.rstrip for token in tokens):
        return
    for index, token in enumerate(tokens):
        if token.content[0].isspace():
            raise node.item(index).refuse(
                "added token begins with white space while another one takes white space along"
            )


def _check_specials_apart(
    node: Node,
    tokens: tuple[AddedToken, ...],
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
) -> None:
    """A control token must not be reachable from ordinary text: no merge and no byte gives it."""
    made = {left + right for left, right in merges}
    for index, token in enumerate(tokens):
        if not token.special or token.content not in vocabulary:
            continue
        if token.content in made:
            raise node.item(index).refuse("special token is also the result of a merge")
        data = bytes_of_token(token.content)
        if data is not None and len(data) == 1:
            raise node.item(index).refuse("special token is also a byte of the alphabet")
