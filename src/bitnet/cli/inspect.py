"""`bitnet inspect`: what a model.bin holds."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bitnet.cli import render
from bitnet.quantize import ModelFile, open_model
from bitnet.quantize.layout import KIND_NAMES, KIND_TERNARY, TensorPlace

__all__ = ["register"]

_HELP: Final = """Shows what a model.bin holds: geometry, tensors, sizes, zeros, Merkle root.

The header, the tensor table and the root are always checked; with `--verify` every byte is, too.

Examples:

\b
  bitnet inspect model.bin
  bitnet inspect model.bin --verify
  bitnet inspect model.bin --json
"""


def _geometry(model: ModelFile) -> dict[str, Any]:
    spec = model.spec
    return {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "layer_count": spec.layer_count,
        "head_count": spec.head_count,
        "kv_head_count": spec.kv_head_count,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "context_max": spec.context_max,
        "activation": spec.activation,
        "norm_eps": float(f"{spec.norm_eps:.9g}"),
        "attn_sub_norm": spec.attn_sub_norm,
        "ffn_sub_norm": spec.ffn_sub_norm,
        "tied_head": spec.tied_head,
        "bos_id": spec.bos_id,
        "eos_ids": list(spec.eos_ids),
    }


def _tensor(model: ModelFile, place: TensorPlace) -> dict[str, Any]:
    ternary = place.kind == KIND_TERNARY
    weights = place.rows * place.cols
    return {
        "name": place.name,
        "kind": KIND_NAMES[place.kind],
        "rows": place.rows,
        "cols": place.cols,
        "offset": place.offset,
        "bytes": place.byte_count,
        "scale": float(model.header.scales[place]) if ternary else None,
        "zero_fraction": round(model.zero_count(place) / weights, 6) if ternary else None,
    }


def _describe(model: ModelFile, verified: bool) -> dict[str, Any]:
    """Returns everything that the command can say, in the order in which it says it."""
    layout = model.header.layout
    tensors = [_tensor(model, place) for place in layout.tensors]
    weights = sum(place.rows * place.cols for place in layout.tensors)
    ternary = [place for place in layout.tensors if place.kind == KIND_TERNARY]
    ternary_weights = sum(place.rows * place.cols for place in ternary)
    tokenizer = model.header.tokenizer_sha384
    return {
        "file": str(model.path),
        "file_bytes": layout.file_bytes,
        "verified": verified,
        "root": model.root.hex(),
        "tokenizer_sha384": tokenizer.hex() if tokenizer is not None else None,
        "weights": weights,
        "ternary_weights": ternary_weights,
        "zero_fraction": round(sum(map(model.zero_count, ternary)) / ternary_weights, 6),
        "bits_per_weight": round(8 * layout.file_bytes / weights, 4),
        "bits_per_ternary_weight": round(
            8 * sum(place.byte_count for place in ternary) / ternary_weights, 4
        ),
        "geometry": _geometry(model),
        "tensors": tensors,
    }


def _print_human(facts: dict[str, Any]) -> None:
    geometry = facts["geometry"]
    checked = "every byte" if facts["verified"] else "header, table and root; `--verify` for all"
    render.print_facts([
        ("file", facts["file"]),
        ("size", render.format_bytes(facts["file_bytes"])),
        ("checked", checked),
        ("root", facts["root"]),
        ("tokenizer", facts["tokenizer_sha384"] or "none"),
        ("weights", f"{facts['weights']}, {facts['bits_per_weight']} bits each in this file"),
        ("ternary", f"{facts['ternary_weights']}, {facts['bits_per_ternary_weight']} bits each"),
        ("zeros", f"{facts['zero_fraction']:.1%} of the ternary weights"),
        *[(name, "none" if value is None else str(value)) for name, value in geometry.items()],
    ])  # fmt: skip
    print()
    rows = [
        [
            tensor["name"],
            tensor["kind"],
            str(tensor["rows"]),
            str(tensor["cols"]),
            str(tensor["offset"]),
            str(tensor["bytes"]),
            "" if tensor["scale"] is None else f"{tensor['scale']:.6g}",
            "" if tensor["zero_fraction"] is None else f"{tensor['zero_fraction']:.3f}",
        ]
        for tensor in facts["tensors"]
    ]
    header = ["tensor", "kind", "rows", "cols", "offset", "bytes", "scale", "zeros"]
    render.print_columns(header, rows, left=2)


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model.bin to look at.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute every digest and check every value.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    with open_model(model) as opened:
        if verify:
            with render.progress_bar("verifying") as progress:
                opened.verify(progress)
        facts = _describe(opened, verify)
    if as_json:
        render.print_json(facts)
    else:
        _print_human(facts)


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("inspect", help=render.reflow_text(_HELP), no_args_is_help=True)(inspect)
