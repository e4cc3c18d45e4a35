"""provenance.json: from what, by what and with which choices a release was made.

An in-toto Statement v1 with an SLSA Provenance v1 predicate, unsigned by itself: MANIFEST covers it
and update.sig covers MANIFEST. It holds no time, no host and no path, so that a rebuild gives the
same bytes; and it holds every choice that `bitnet rebuild` has to make again.

Source: in-toto attestation framework v1; SLSA v1.0, provenance.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from bitnet.errors import BundleError
from bitnet.release.contents import COMPILER_WHEELS, Contents, engine_digest, package_version
from bitnet.release.manifest import FileEntry, Manifest
from bitnet.seal.toolchain import COMPILER_VERSION
from bitnet.strict_json import parse_strict_json

__all__ = [
    "BYTE_PACKAGES",
    "PROVENANCE_BYTES_MAX",
    "Choices",
    "emit_provenance",
    "installed_versions",
    "parse_provenance",
]

PROVENANCE_BYTES_MAX: Final = 1 << 20
# Those whose version can change a byte of a release: the SBOM, the chat template, the tokenizer's
# classes of characters, the frame. This package's own version stands for the compiler's, too.
BYTE_PACKAGES: Final = (
    "bitnet-airgap",
    "cyclonedx-python-lib",
    "jinja2",
    "packageurl-python",
    "tokenizers",
    "zstandard",
)
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://slsa.dev/provenance/v1"
_BUILDER: Final = "pkg:pypi/bitnet-airgap"
_BUILD_TYPE: Final = "pkg:pypi/bitnet-airgap#bundle-v1"


@dataclass(frozen=True)
class Choices:
    """What decides the bytes of a release besides checkpoint, configuration and prompt.

    Attributes:
        embedding: Kind of the embedding's rows, `int8` or `f32`.
        pie: Whether the executable is position-independent.
        sealed: Whether the model is in the executable.
        programs: Names of the programs beside it.
        training_data: As named to `bitnet bundle`.
        checkpoint: Name → SHA-384 of the checkpoint's files; empty where none was named.
        versions: Name → version of each of BYTE_PACKAGES.
    """

    embedding: str
    pie: bool
    sealed: bool
    programs: tuple[str, ...]
    training_data: tuple[str, ...]
    checkpoint: dict[str, str]
    versions: dict[str, str]


def installed_versions() -> dict[str, str]:
    """Returns name → version of BYTE_PACKAGES as they are installed here."""
    return {name: metadata.version(name) for name in BYTE_PACKAGES}


def _dependency(name: str, uri: str, digests: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "uri": uri, "digest": digests}


def _dependencies(contents: Contents, checkpoint: dict[str, str]) -> list[dict[str, Any]]:
    model = contents.model
    found = [
        _dependency(f"checkpoint/{name}", f"checkpoint:{name}", {"sha384": digest})
        for name, digest in sorted(checkpoint.items())
    ]
    found.append(_dependency("model.bin", "file:model.bin", {"sha384": model.content.digest}))
    if model.tokenizer_sha384 is not None:
        digest = {"sha384": model.tokenizer_sha384}
        found.append(_dependency("tokenizer.json", "file:tokenizer.json", digest))
    tool = f"{_BUILDER}@{package_version()}"
    found.append(_dependency("bitnet-engine", f"{tool}#engine", {"sha384": engine_digest()}))
    compiler = f"pkg:pypi/ziglang@{COMPILER_VERSION}"
    found += [
        _dependency(f"ziglang-wheel-{index}", compiler, {"sha256": digest})
        for index, digest in enumerate(COMPILER_WHEELS, 1)
    ]
    return found


def emit_provenance(
    manifest_fields: Manifest,
    files: Iterable[FileEntry],
    contents: Contents,
    *,
    training_data: list[str],
    checkpoint: dict[str, str],
) -> bytes:
    """Returns the text of provenance.json.

    Args:
        manifest_fields: Metadata of the release; its list of files is not looked at.
        files: Files of the release without the provenance itself.
        contents: What the executable is made of.
        training_data: As named to `bitnet bundle`.
        checkpoint: Name → SHA-384 of the checkpoint's files.
    """
    listed = sorted(files, key=lambda entry: entry.name)
    fields = manifest_fields
    external = {
        "product": fields.product,
        "version": fields.version,
        "counter": fields.counter,
        "minimum-counter": fields.minimum_counter,
        "architecture": fields.architecture,
        "selftest-seed": fields.selftest_seed,
        "embedding": contents.model.embedding,
        "pie": contents.pie,
        "sealed": contents.sealed,
        "programs": [entry.name for entry in listed if entry.mode == 0o755],
        "training-data": training_data,
    }
    builder = {
        "id": _BUILDER,
        "version": installed_versions(),
    }
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": each.name, "digest": {"sha384": each.digest}} for each in listed],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": external,
                "resolvedDependencies": _dependencies(contents, checkpoint),
            },
            "runDetails": {"builder": builder},
        },
    }
    return (json.dumps(statement, indent=2, ensure_ascii=True) + "\n").encode("ascii")


def parse_provenance(data: bytes) -> Choices:
    """Returns the choices that a provenance.json of this package records.

    Raises:
        BundleError: It is no such file.
    """
    name = Path("provenance.json")
    statement = parse_strict_json(data, file=name, what="`provenance.json`", error=BundleError)
    try:
        definition = statement["predicate"]["buildDefinition"]
        if definition["buildType"] != _BUILD_TYPE or statement["predicateType"] != _PREDICATE:
            raise BundleError("provenance is of another kind", where=f"expected  {_BUILD_TYPE}")
        external = definition["externalParameters"]
        versions = statement["predicate"]["runDetails"]["builder"]["version"]
        prefix = "checkpoint/"
        checkpoint = {
            str(each["name"]).removeprefix(prefix): str(each["digest"]["sha384"])
            for each in definition["resolvedDependencies"]
            if str(each["name"]).startswith(prefix)
        }
        choices = Choices(
            str(external["embedding"]),
            bool(external["pie"]),
            bool(external["sealed"]),
            tuple(map(str, external["programs"])),
            tuple(map(str, external["training-data"])),
            checkpoint,
            {name: str(versions[name]) for name in BYTE_PACKAGES},
        )
    except (KeyError, TypeError, AttributeError):
        raise BundleError("provenance does not hold what a rebuild needs") from None
    return choices
