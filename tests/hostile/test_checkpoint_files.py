"""Malformed checkpoints: one maker per way of being wrong, and the error that each must give."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet.checkpoint import open_checkpoint
from bitnet.errors import CheckpointError
from bitnet.quantize import write_model
from tests.support.checkpoints import (
    TinyCheckpoint,
    as_tensor,
    encode_file,
    encode_header,
    make_checkpoint,
    pack_rows,
)

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBED = "model.embed_tokens.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def convert(directory: Path, output: Path) -> None:
    """Opens and converts, as the command does."""
    with open_checkpoint(directory) as checkpoint:
        write_model(checkpoint, output)


def expect(tmp_path: Path, directory: Path, message: str, fact: str = "") -> None:
    """Checks that the conversion ends in that CheckpointError and leaves no output."""
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckpointError) as caught:
        convert(directory, out / "m.bin")
    assert type(caught.value) is CheckpointError
    assert caught.value.message == message
    assert fact in "\n".join(caught.value.where)
    assert list(out.iterdir()) == []


# The bytes of one safetensors file.


def entries_of(tiny: TinyCheckpoint) -> tuple[dict[str, Any], bytes]:
    data = encode_file(tiny.tensors)
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def with_entry(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A file whose header entry of the embedding has been changed."""
    entries, body = entries_of(make_checkpoint())
    replaced = change(entries[EMBED])
    if replaced is not None:
        entries[EMBED] = replaced
    return encode_header(entries) + body


def with_header_text(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(64)


def with_span(name: str, shift: int) -> bytes:
    """A file in which one tensor lies `shift` bytes from where it should."""
    entries, body = entries_of(make_checkpoint())
    entries[name]["data_offsets"] = [offset + shift for offset in entries[name]["data_offsets"]]
    return encode_header(entries) + body + bytes(max(0, shift))


def good_bytes() -> bytes:
    return encode_file(make_checkpoint().tensors)


ENTRY = f"safetensors header entry is malformed: `{EMBED}`"
NOT_JSON = "safetensors header is not valid JSON"
LENGTH = f"safetensors header length is out of range: `{SINGLE}`"

FILES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", f"not a safetensors file: `{SINGLE}`", "0 bytes"),
    "seven bytes": (lambda: bytes(7), f"not a safetensors file: `{SINGLE}`", "7 bytes"),
    "header length 0": (lambda: bytes(64), LENGTH, "value 0"),
    "header length 1": (lambda: (1).to_bytes(8, "little") + b"{}", LENGTH, "value 1"),
    "header beyond the file": (lambda: (65).to_bytes(8, "little") + bytes(64), LENGTH, "limit 64"),
    "header length 2^64 - 1": (lambda: b"\xff" * 8 + bytes(64), LENGTH, f"value {2**64 - 1}"),
    "not an object": (
        lambda: with_header_text(b"[1, 2]"),
        f"safetensors header does not start with an object: `{SINGLE}`",
        "offset 8",
    ),
    "leading space": (
        lambda: with_header_text(b" {}"),
        f"safetensors header does not start with an object: `{SINGLE}`",
        "offset 8",
    ),
    "cut JSON": (lambda: with_header_text(b'{"a": {'), NOT_JSON, "offset 7"),
    "two values": (lambda: with_header_text(b"{} {}"), NOT_JSON, "Extra data"),
    "not UTF-8": (lambda: with_header_text(b'{"\xff": 1}'), NOT_JSON, "codec"),
    "NaN": (lambda: with_header_text(b'{"a": NaN}'), NOT_JSON, "NaN is not a JSON number"),
    "1e999": (lambda: with_header_text(b'{"a": 1e999}'), NOT_JSON, "out of range"),
    "endless digits": (lambda: with_header_text(b'{"a": ' + b"9" * 5000 + b"}"), NOT_JSON, ""),
    "key twice": (lambda: with_header_text(b'{"a": 1, "a": 2}'), NOT_JSON, "'a' stands twice"),
    "deep nesting": (
        lambda: with_header_text(b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        "safetensors header is nested too deeply",
        "file ",
    ),
    "metadata not texts": (
        lambda: with_header_text(b'{"__metadata__": {"format": 1}}'),
        "safetensors header entry is malformed: `__metadata__`",
        "names to texts",
    ),
    "entry is a number": (lambda: with_entry(lambda _: 5), ENTRY, "exactly the keys"),
    "entry without shape": (lambda: with_entry(lambda e: e.pop("shape") and None), ENTRY, "exact"),
    "entry with more": (lambda: with_entry(lambda e: e | {"x": 1}), ENTRY, "exactly the keys"),
    "unknown dtype": (lambda: with_entry(lambda e: e | {"dtype": "F4"}), ENTRY, "'F4' is unknown"),
    "dtype is a list": (lambda: with_entry(lambda e: e | {"dtype": ["F32"]}), ENTRY, "is unknown"),
    "negative size": (lambda: with_entry(lambda e: e | {"shape": [-37, 24]}), ENTRY, "shape"),
    "size is true": (lambda: with_entry(lambda e: e | {"shape": [True, 24]}), ENTRY, "shape"),
    "size is a float": (lambda: with_entry(lambda e: e | {"shape": [37.0, 24]}), ENTRY, "shape is"),
    "shape is a number": (lambda: with_entry(lambda e: e | {"shape": 888}), ENTRY, "shape is not"),
    "nine dimensions": (
        lambda: with_entry(lambda e: e | {"shape": [37, 24] + [1] * 7}), ENTRY, "limit 8"
    ),
    "sizes overflow": (
        lambda: with_entry(lambda e: e | {"shape": [1 << 61, 1 << 61]}), ENTRY, "do not span"
    ),
    "offsets reversed": (
        lambda: with_entry(lambda e: e | {"data_offsets": e["data_offsets"][::-1]}), ENTRY, "span"
    ),
    "one offset": (lambda: with_entry(lambda e: e | {"data_offsets": [0]}), ENTRY, "pair"),
    "negative offset": (lambda: with_entry(lambda e: e | {"data_offsets": [-8, 0]}), ENTRY, "pair"),
    "offset beyond 2^62": (
        lambda: with_entry(lambda e: e | {"data_offsets": [1 << 62, (1 << 62) + 3552]}),
        ENTRY, "pair",
    ),
    "overlap": (
        lambda: with_span("model.norm.weight", -96),
        "safetensors tensors overlap: `model.norm.weight`", "expected",
    ),
    "gap": (
        lambda: with_span("model.norm.weight", 96),
        "safetensors tensors leave a gap: `model.norm.weight`", "expected",
    ),
    "truncated": (
        lambda: good_bytes()[:-1], f"safetensors file is truncated: `{SINGLE}`", "describes"
    ),
    "bytes after the end": (
        lambda: good_bytes() + b"x",
        f"safetensors file has bytes after its last tensor: `{SINGLE}`", "describes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_safetensors_malformed_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Broken, a crafted weight file could crash the reader or be read as something else."""
    make, message, fact = FILES[name]
    directory = make_checkpoint().write(tmp_path / "c")
    (directory / SINGLE).write_bytes(make())
    expect(tmp_path, directory, message, fact)


def test_safetensors_too_many_tensors_are_refused(tmp_path: Path) -> None:
    """Broken, a header of empty tensors could take all memory."""
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = encode_header({f"t{index}": empty for index in range(65537)})
    directory = make_checkpoint().write(tmp_path / "c")
    (directory / SINGLE).write_bytes(header)
    expect(tmp_path, directory, f"safetensors file has too many tensors: `{SINGLE}`", "limit 65536")


def test_safetensors_header_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    """Broken, a header of gigabytes would be read into memory."""
    directory = make_checkpoint().write(tmp_path / "c")
    with (directory / SINGLE).open("wb") as stream:
        stream.write(((16 << 20) + 1).to_bytes(8, "little"))
        stream.truncate(1 << 30)
    expect(tmp_path, directory, LENGTH, f"limit {16 << 20}")


# The tensors of a well-formed file.


def replace_tensor(name: str, tensor: Any) -> Callable[[TinyCheckpoint], None]:
    def change(tiny: TinyCheckpoint) -> None:
        tiny.tensors[name] = tensor

    return change


def remove_tensor(name: str) -> Callable[[TinyCheckpoint], None]:
    def change(tiny: TinyCheckpoint) -> None:
        del tiny.tensors[name]

    return change


def put_code_three(tiny: TinyCheckpoint) -> None:
    packed = pack_rows(tiny.codes["up", 0])
    packed[2, 7] |= 3 << 4
    tiny.tensors[UP] = as_tensor(packed)


F32_ROW = as_tensor(np.ones(24, np.float32))
SHAPE = "tensor does not have the shape that the configuration gives: "
TYPE = "tensor is not of the type that the configuration gives: "
EXTRA = "checkpoint holds an unexpected tensor: "
SCALE = f"scale of a matrix is not usable: `{UP}_scale`"


def scale_of(value: float) -> Callable[[TinyCheckpoint], None]:
    return replace_tensor(f"{UP}_scale", as_tensor(np.array([value], np.float32)))


TENSORS: dict[str, tuple[Callable[[TinyCheckpoint], None], str, str]] = {
    "missing norm": (
        remove_tensor("model.norm.weight"),
        "checkpoint lacks a tensor: `model.norm.weight`", "needs",
    ),
    "missing scale": (
        remove_tensor(f"{UP}_scale"), f"checkpoint lacks a tensor: `{UP}_scale`", "needs"
    ),
    "bias": (
        replace_tensor("model.layers.0.self_attn.q_proj.bias", F32_ROW),
        EXTRA + "`model.layers.0.self_attn.q_proj.bias`", "offset",
    ),
    "norm before a linear": (
        replace_tensor("model.layers.1.mlp.up_proj.rms_norm.weight", F32_ROW),
        EXTRA + "`model.layers.1.mlp.up_proj.rms_norm.weight`", "offset",
    ),
    "one layer too many": (
        replace_tensor("model.layers.2.input_layernorm.weight", F32_ROW),
        EXTRA + "`model.layers.2.input_layernorm.weight`", "offset",
    ),
    "wrong width": (
        replace_tensor("model.norm.weight", as_tensor(np.ones(25, np.float32))),
        SHAPE + "`model.norm.weight`", "expected [24]",
    ),
    "unpacked matrix": (
        replace_tensor(UP, as_tensor(np.ones((20, 24), np.float32))), SHAPE + f"`{UP}`", "[5, 24]"
    ),
    "matrix of floats": (
        replace_tensor(UP, as_tensor(np.ones((5, 24), np.float32))), TYPE + f"`{UP}`", "expected U8"
    ),
    "norm of bytes": (
        replace_tensor("model.norm.weight", as_tensor(np.ones(24, np.uint8))),
        TYPE + "`model.norm.weight`", "a float type",
    ),
    "norm of integers": (
        replace_tensor("model.norm.weight", ("I32", [24], bytes(96))),
        TYPE + "`model.norm.weight`", "a float type",
    ),
    "scale of two": (
        replace_tensor(f"{UP}_scale", as_tensor(np.ones(2, np.float32))),
        SHAPE + f"`{UP}_scale`", "expected [1]",
    ),
    "scale zero": (scale_of(0.0), SCALE, "value 0.0"),
    "scale negative": (scale_of(-0.5), SCALE, "value -0.5"),
    "scale infinite": (
        scale_of(np.inf), f"tensor holds a value that is not finite: `{UP}_scale`", "row 0"
    ),
    "code 3": (
        put_code_three, f"packed weight code 3 does not exist: `{UP}`", "packed row 2, column 7"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_checkpoint_wrong_tensor_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Broken, a checkpoint of another model would be converted into nonsense."""
    change, message, fact = TENSORS[name]
    tiny = make_checkpoint()
    change(tiny)
    expect(tmp_path, tiny.write(tmp_path / "c"), message, fact)


@pytest.mark.parametrize("value", [1e-45, 0.0, -1.0])
def test_checkpoint_divisor_that_overflows_is_refused(tmp_path: Path, value: float) -> None:
    """Broken, a multiplier could be infinite."""
    tiny = make_checkpoint(form="bitlinear")
    scale_of(value)(tiny)
    expect(tmp_path, tiny.write(tmp_path / "c"), SCALE, "multiplier")


def test_checkpoint_untied_without_head_is_refused_with_a_hint(tmp_path: Path) -> None:
    """Broken, a random head would be taken, as some loaders do."""
    tiny = make_checkpoint(tied=False)
    del tiny.tensors["lm_head.weight"]
    with pytest.raises(CheckpointError, match="lacks a tensor: `lm_head.weight`") as caught:
        open_checkpoint(tiny.write(tmp_path))
    assert caught.value.hint is not None
    assert "tie_word_embeddings" in caught.value.hint


# The directory: index, shards, links.


def edit_index(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        index = json.loads((directory / INDEX).read_text())
        change(index)
        (directory / INDEX).write_text(json.dumps(index))

    return apply


def name_shard(name: Any) -> Callable[[Path], None]:
    return edit_index(lambda index: index["weight_map"].update({EMBED: name}))


PLAIN = "index names a shard that is not a plain file name: "
SHARD_1, SHARD_2 = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2))

INDEXES: dict[str, tuple[Callable[[Path], None], str]] = {
    "parent directory": (name_shard("../x.safetensors"), PLAIN + "`../x.safetensors`"),
    "absolute path": (name_shard("/etc/x.safetensors"), PLAIN + "`/etc/x.safetensors`"),
    "folder": (name_shard("a/b.safetensors"), PLAIN + "`a/b.safetensors`"),
    "backslash": (name_shard("..\\x.safetensors"), PLAIN + "`..\\x.safetensors`"),
    "hidden": (name_shard("..safetensors"), PLAIN + "`..safetensors`"),
    "no suffix": (name_shard("passwd"), PLAIN + "`passwd`"),
    "NUL": (name_shard("a\x00.safetensors"), PLAIN + "`a\x00.safetensors`"),
    "not a text": (name_shard(5), PLAIN + "`5`"),
    "not there": (name_shard("absent.safetensors"), "cannot open `absent.safetensors`"),
    "other shard": (
        name_shard(SHARD_2),
        f"shard holds a tensor that the index does not place in it: `{EMBED}`",
    ),
    "tensor nowhere": (
        edit_index(lambda index: index["weight_map"].update({"ghost": SHARD_1})),
        "shard lacks a tensor of the index: `ghost`",
    ),
    "no map": (edit_index(lambda index: index.pop("weight_map")), "index has no `weight_map`"),
    "empty map": (
        edit_index(lambda index: index.update(weight_map={})), "index has no `weight_map`"
    ),
    "map is a list": (
        edit_index(lambda index: index.update(weight_map=[1])), "index has no `weight_map`"
    ),
    "unknown key": (edit_index(lambda index: index.update(x=1)), "index has an unknown key: `x`"),
    "both forms": (
        lambda directory: (directory / SINGLE).write_bytes(good_bytes()) and None,
        f"checkpoint holds both `{SINGLE}` and `{INDEX}`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEXES)
def test_index_malformed_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Broken, an index could make the reader open files elsewhere, or mix up shards."""
    change, message = INDEXES[name]
    directory = make_checkpoint().write_sharded(tmp_path / "c")
    change(directory)
    expect(tmp_path, directory, message)


def test_index_with_too_many_shards_is_refused(tmp_path: Path) -> None:
    """Broken, an index could exhaust the descriptors of the process."""
    directory = make_checkpoint().write_sharded(tmp_path / "c")
    weight_map = {f"t{index}": f"{index}.safetensors" for index in range(4097)}
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    expect(tmp_path, directory, "index names too many shards", "limit 4096")


@pytest.mark.parametrize("name", [SINGLE, "config.json"])
def test_checkpoint_link_out_of_the_directory_is_not_followed(tmp_path: Path, name: str) -> None:
    """Broken, a checkpoint could make the reader open any file of the host."""
    directory = make_checkpoint().write(tmp_path / "c")
    outside = (directory / name).rename(tmp_path / "outside")
    (directory / name).symlink_to(outside)
    expect(tmp_path, directory, f"checkpoint file leads out of its directory: `{name}`", "outside")


def test_checkpoint_link_within_the_directory_is_followed(tmp_path: Path) -> None:
    """Broken, a checkpoint that links to its own blobs could not be read."""
    directory = make_checkpoint().write(tmp_path / "c")
    (directory / SINGLE).rename(directory / "blob")
    (directory / SINGLE).symlink_to("blob")
    open_checkpoint(directory).close()


def make_pipe(file: Path) -> None:
    os.mkfifo(file)


def make_folder(file: Path) -> None:
    file.mkdir()


def make_loop(file: Path) -> None:
    file.symlink_to(file)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [SINGLE, "config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_pipe, "not a regular file: `{}`"),
        (make_folder, "not a regular file: `{}`"),
        (make_loop, "cannot open `{}`"),
    ],
)
def test_checkpoint_special_file_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    """Broken, a named pipe in a checkpoint would hang the reader."""
    directory = make_checkpoint().write(tmp_path / "c")
    (directory / name).unlink(missing_ok=True)
    make(directory / name)
    expect(tmp_path, directory, message.format(name))


CONFIGS = {
    "empty": (b"", "`config.json` is not valid JSON"),
    "array": (b"[]", "`config.json` is not a JSON object"),
    "key twice": (
        b'{"model_type": "bitnet", "model_type": "llama"}',
        "`config.json` is not valid JSON",
    ),
    "deep": (b'{"a":' * 200_000, "`config.json` is nested too deeply"),
    "too large": (b'{"a": "' + b"x" * (1 << 20) + b'"}', "`config.json` is too large"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_malformed_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Broken, a crafted config.json could crash the reader."""
    data, message = CONFIGS[name]
    directory = make_checkpoint().write(tmp_path / "c")
    (directory / "config.json").write_bytes(data)
    expect(tmp_path, directory, message)


def test_checkpoint_without_files_is_refused(tmp_path: Path) -> None:
    """Broken, a mistyped path would show a traceback."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match="cannot open `config.json`"):
        open_checkpoint(empty)
    with pytest.raises(CheckpointError, match="not a directory"):
        open_checkpoint(tmp_path / "none")
    make_checkpoint().write_configs(empty)
    with pytest.raises(CheckpointError, match="checkpoint has no weights"):
        open_checkpoint(empty)


def test_checkpoint_file_cut_while_open_is_refused(tmp_path: Path) -> None:
    """Broken, a file that shrinks would kill the process or give zeros."""
    directory = make_checkpoint().write(tmp_path / "c")
    with open_checkpoint(directory) as checkpoint:
        with (directory / SINGLE).open("r+b") as stream:
            stream.truncate(3000)
        with pytest.raises(CheckpointError, match="became shorter while it was read"):
            write_model(checkpoint, tmp_path / "m.bin")
    assert not (tmp_path / "m.bin").exists()
