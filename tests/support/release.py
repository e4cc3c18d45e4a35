"""People, roots and small releases for the tests of the release chain; everything from seeds."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from bitnet.release.archive import BundleDigest, bundle_name, write_bundle
from bitnet.release.container import Container
from bitnet.release.keys import PrivateKey
from bitnet.release.manifest import FileEntry, Manifest
from bitnet.release.statements import UpdateStatement
from bitnet.release.trust import Role, TrustRoot

__all__ = [
    "PASSPHRASE",
    "SMALL_FILES",
    "make_bundle",
    "make_key",
    "make_manifest",
    "make_root",
    "sign_all",
    "write_files",
]

PASSPHRASE = "correct horse battery staple"

# Name → permissions and content; the programs are stand-ins, the formats do not look inside.
SMALL_FILES: Mapping[str, tuple[int, bytes]] = {
    "bitnet-infer": (0o755, b"\x7fELF" + bytes(range(256)) * 40),
    "bitnet-verify": (0o755, b"\x7fELF verify"),
    "config.yaml": (0o644, b"model: sealed\n"),
    "empty": (0o644, b""),
    "selftest.answer": (0o644, b"Paris\n"),
    "selftest.prompt": (0o644, b"capital of France?\n"),
}


@functools.cache
def make_key(name: str, custodian: str | None = None) -> PrivateKey:
    """Returns a key whose seeds are digests of its name."""
    seeds = [hashlib.sha256(f"{half} {name}".encode()).digest() for half in ("ed", "ml")]
    return PrivateKey(name, custodian or f"{name}-person", *seeds)


def make_root(
    version: int = 1,
    *,
    revoked: tuple[PrivateKey, ...] = (),
    **roles: tuple[int, tuple[PrivateKey, ...]],
) -> TrustRoot:
    """Returns a root of roles, each a threshold and its keys; every key used has its line."""
    table = {
        name: Role(threshold, tuple(sorted(key.public.key_id for key in keys)))
        for name, (threshold, keys) in roles.items()
    }
    keys = {key.public.key_id: key.public for _, members in roles.values() for key in members}
    return TrustRoot(
        version,
        table,
        tuple(sorted(key.public.key_id for key in revoked)),
        tuple(keys[key_id] for key_id in sorted(keys)),
    )


def sign_all(statement: bytes, *keys: PrivateKey) -> Container:
    """Returns a statement that all these keys have signed."""
    container = Container(statement)
    for key in keys:
        container = container.signed_by(key)
    return container


def make_manifest(
    files: Mapping[str, tuple[int, bytes]] = SMALL_FILES,
    *,
    version: str = "2.1.0",
    counter: int = 7,
    minimum_counter: int = 3,
) -> Manifest:
    """Returns the manifest of files held in memory."""
    entries = tuple(
        FileEntry(name, mode, len(data), hashlib.sha384(data).hexdigest())
        for name, (mode, data) in sorted(files.items())
    )
    return Manifest("bitnet", version, counter, minimum_counter, "x86_64", 42, entries)


def write_files(
    directory: Path, files: Mapping[str, tuple[int, bytes]] = SMALL_FILES
) -> dict[str, Path]:
    """Writes files and returns where each is."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (mode, data) in files.items():
        (directory / name).write_bytes(data)
        (directory / name).chmod(mode)
    return {name: directory / name for name in files}


def make_bundle(
    directory: Path, files: Mapping[str, tuple[int, bytes]] = SMALL_FILES, **fields: int | str
) -> tuple[Path, UpdateStatement]:
    """Writes a bundle of files into a folder; returns it and the statement to be signed."""
    manifest = make_manifest(files, **fields)  # type: ignore[arg-type]
    paths = write_files(directory / "files", files)
    output = directory / bundle_name(manifest)
    with output.open("wb") as file:
        digest: BundleDigest = write_bundle(manifest, paths, file)
    return output, UpdateStatement(manifest, digest.digest, digest.size)
