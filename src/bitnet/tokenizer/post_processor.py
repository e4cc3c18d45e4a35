"""The post-processor of tokenizer.json: nothing, or ids (a BOS) before the text."""

from typing import Final

from bitnet.tokenizer.json_nodes import Node

__all__ = ["parse_prefix_tokens"]

_HINT: Final = (
    "supported: none, ByteLevel, and a TemplateProcessing that puts tokens before the text"
)


def parse_prefix_tokens(node: Node, ids: dict[str, int]) -> tuple[int, ...]:
    """Ids that `$.post_processor` puts before a text when special tokens are asked for.

    Args:
        node: The member; null is none.
        ids: Token text to id, vocabulary and added tokens.

    Raises:
        TokenizerError: It does anything else.
    """
    if node.value is None:
        return ()
    if not isinstance(node.value, dict):
        raise node.refuse("not an object")
    kind = node.get("type").value
    if kind == "ByteLevel":
        # It moves offsets, never ids.
        node.object(("type", "add_prefix_space", "trim_offsets", "use_regex"))
        return ()
    if kind == "TemplateProcessing":
        return _parse_template(node, ids)
    if kind == "Sequence":
        node.object(("type", "processors"), ("processors",))
        found = [parse_prefix_tokens(_flat(step), ids) for step in node.get("processors").items()]
        if sum(bool(prefix) for prefix in found) > 1:
            raise node.refuse("more than one template is not supported", hint=_HINT)
        return next((prefix for prefix in found if prefix), ())
    raise node.refuse(f"post-processor is not supported: {ascii(kind)[:64]}", hint=_HINT)


def _flat(step: Node) -> Node:
    if isinstance(step.value, dict) and step.value.get("type") == "Sequence":
        raise step.refuse("sequence inside a sequence is not supported", hint=_HINT)
    return step


def _parse_template(node: Node, ids: dict[str, int]) -> tuple[int, ...]:
    node.object(("type", "single", "pair", "special_tokens"), ("single", "special_tokens"))
    prefix: list[int] = []
    sequence_seen = False
    for piece in node.get("single").items():
        piece.object(("SpecialToken", "Sequence"))
        if len(piece.value) != 1:
            raise piece.refuse("piece is not one of SpecialToken and Sequence")
        if "Sequence" in piece.value:
            sequence = piece.get("Sequence").object(("id", "type_id"), ("id",))
            if sequence_seen or sequence.get("id").value != "A":
                raise piece.refuse("template must hold the text exactly once", hint=_HINT)
            sequence_seen = True
            continue
        if sequence_seen:
            raise piece.refuse("token after the text is not supported", hint=_HINT)
        name = piece.get("SpecialToken").object(("id", "type_id"), ("id",)).get("id").text()
        prefix.extend(_ids_of(node.get("special_tokens"), name, ids))
    if not sequence_seen:
        raise node.get("single").refuse("template must hold the text exactly once", hint=_HINT)
    return tuple(prefix)


def _ids_of(specials: Node, name: str, ids: dict[str, int]) -> list[int]:
    """Ids of one entry of `special_tokens`; they must be those of the vocabulary."""
    if not isinstance(specials.value, dict) or name not in specials.value:
        raise specials.refuse(f"template names no special token: {ascii(name)[:64]}")
    entry = specials.get(name).object(("id", "ids", "tokens"), ("ids", "tokens"))
    known = set(ids.values())
    found = [item.index(1 << 32) for item in entry.get("ids").items()]
    if len(found) != 1 or found[0] not in known or found[0] != ids.get(name, found[0]):
        raise entry.refuse("template token is not one token of the vocabulary")
    return found
