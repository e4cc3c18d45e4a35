"""Bill of materials, provenance, transfer sheet: complete, valid, the same every time."""

import hashlib
import html.parser
import json
import re
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bitnet.errors import BundleError
from bitnet.quantize import open_model
from bitnet.release.archive import BundleDigest
from bitnet.release.contents import (
    COMPILER_WHEELS,
    MUSL_VERSION,
    Contents,
    Model,
    engine_digest,
)
from bitnet.release.manifest import FileEntry, Manifest
from bitnet.release.provenance import emit_provenance, parse_provenance
from bitnet.release.sbom import emit_sbom
from bitnet.release.sheet import SheetPart, emit_sheet
from bitnet.release.words import to_words
from bitnet.seal.sources import engine_root
from bitnet.seal.toolchain import COMPILER_VERSION, find_compiler
from tests.support.engine import demo_model
from tests.support.release import make_manifest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def contents() -> Contents:
    with open_model(demo_model()) as opened:
        spec = opened.spec
    model = Model(BundleDigest("1" * 96, 3_242_336), "2" * 96, "3" * 96, "int8", spec)
    return Contents("x86_64", True, True, model)


def test_sbom_is_valid_cyclonedx_with_all_components(contents: Contents) -> None:
    """Who imports it must find model, tokenizer, data, engine and compiler with their digests."""
    manifest = make_manifest()
    text = emit_sbom("bitnet", "2.1.0", contents, manifest.files, ["tldr-pages"]).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {each["bom-ref"]: each for each in json.loads(text)["components"]}
    found = {ref: (each["type"], each["name"]) for ref, each in components.items()}
    assert found["model"] == ("machine-learning-model", "model.bin")
    assert found["tokenizer"] == ("data", "tokenizer.json")
    assert found["training-data-1"] == ("data", "tldr-pages")
    assert found["engine"] == ("library", "bitnet-engine")
    assert found["compiler"] == ("application", "ziglang")
    assert components["compiler"]["version"] == COMPILER_VERSION
    assert components["model"]["hashes"] == [{"alg": "SHA-384", "content": "1" * 96}]
    assert components["tokenizer"]["hashes"] == [{"alg": "SHA-384", "content": "3" * 96}]
    assert components["model"]["modelCard"]["modelParameters"]["datasets"] == [
        {"ref": "training-data-1"}
    ]
    for entry in manifest.files:
        listed = components[f"file-{entry.name}"]["hashes"]
        assert listed == [{"alg": "SHA-384", "content": entry.digest}]


def test_sbom_without_stated_data_says_so(contents: Contents) -> None:
    """Unknown is not the same as none."""
    document = json.loads(emit_sbom("bitnet", "2.1.0", contents, (), []))
    data = [each for each in document["components"] if each["bom-ref"] == "training-data-1"]
    assert data[0]["description"] == "not stated by who made this release"


def test_sbom_twice_is_the_same_and_knows_no_time(contents: Contents) -> None:
    """A serial number or a time would make every bundle another one."""
    one, other = (emit_sbom("b", "1.0.0", contents, make_manifest().files, []) for _ in range(2))
    assert one == other
    assert b"serialNumber" not in one
    assert b"timestamp" not in one


def test_compiler_wheels_are_those_of_the_lock() -> None:
    """The bill of materials must name the compiler that is really installed."""
    lock = (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8")
    block = lock[lock.index(f"ziglang=={COMPILER_VERSION}") :]
    block = block[: block.index("\n", block.rindex("--hash=sha256:"))]
    entry = re.match(r"ziglang==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+", block)
    assert entry is not None
    assert tuple(re.findall("[0-9a-f]{64}", entry[0])) == COMPILER_WHEELS


def test_musl_version_is_that_of_the_compiler() -> None:
    """It is linked into every program of the gap."""
    header = find_compiler().parent / "lib" / "libc" / "musl" / "src" / "internal" / "version.h"
    assert f'"{MUSL_VERSION}"' in header.read_text(encoding="ascii")


def test_engine_digest_is_that_of_a_sorted_listing() -> None:
    """An auditor must be able to compute it with coreutils."""
    root = engine_root()
    paths = [path for path in root.rglob("*") if path.suffix != ".md" and path.is_file()]
    lines = [
        f"{hashlib.sha384(path.read_bytes()).hexdigest()}  {path.relative_to(root).as_posix()}\n"
        for path in paths
    ]
    lines.sort(key=lambda line: line[98:])
    assert engine_digest() == hashlib.sha384("".join(lines).encode()).hexdigest()


def provenance(contents: Contents) -> bytes:
    manifest = make_manifest()
    checkpoint = {"config.json": "4" * 96, "model.safetensors": "5" * 96}
    return emit_provenance(
        manifest, manifest.files, contents, training_data=["x"], checkpoint=checkpoint
    )


def test_provenance_is_an_in_toto_statement_with_slsa(contents: Contents) -> None:
    """Tools of others read these fields."""
    statement = json.loads(provenance(contents))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    manifest = make_manifest()
    assert statement["subject"] == [
        {"name": entry.name, "digest": {"sha384": entry.digest}} for entry in manifest.files
    ]
    definition = statement["predicate"]["buildDefinition"]
    assert {"buildType", "externalParameters", "resolvedDependencies"} <= definition.keys()
    for dependency in definition["resolvedDependencies"]:
        assert re.match(r"[a-z]+:", dependency["uri"]) and dependency["digest"]
    assert ":" in statement["predicate"]["runDetails"]["builder"]["id"]


def test_provenance_gives_the_choices_back(contents: Contents) -> None:
    """A rebuild makes the same choices again."""
    choices = parse_provenance(provenance(contents))
    assert choices.embedding == "int8" and choices.pie and choices.sealed
    assert choices.programs == ("bitnet-infer", "bitnet-verify")
    assert choices.training_data == ("x",)
    assert choices.checkpoint == {"config.json": "4" * 96, "model.safetensors": "5" * 96}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(b"bundle-v1", b"bundle-v2"), "provenance is of another kind"),
        (lambda text: text.replace(b'"tokenizers"', b'"tokeniser"'), "does not hold"),
        (lambda text: text.replace(b'"embedding"', b'"embeddings"'), "does not hold"),
        (lambda _text: b"[]", "does not hold"),
        (lambda _text: b'{"a": 1, "a": 2}', "`provenance.json` is not valid JSON"),
    ],
)
def test_provenance_of_another_form_is_refused(
    contents: Contents, change: object, message: str
) -> None:
    """It comes from a bundle that nobody has vouched for."""
    with pytest.raises(BundleError) as caught:
        parse_provenance(change(provenance(contents)))  # type: ignore[operator]
    assert message in caught.value.message


class Page(html.parser.HTMLParser):
    """Collects text and everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(data: bytes) -> Page:
    page = Page()
    page.feed(data.decode("ascii"))
    return page


def test_sheet_shows_every_digit_and_word() -> None:
    """What is not on the paper is not compared."""
    manifest = make_manifest()
    bundle = BundleDigest(hashlib.sha384(b"bundle").hexdigest(), 12345)
    page = read_page(emit_sheet(manifest, bundle))
    digits = "".join(page.text).replace(" ", "").replace("\n", "")
    for digest in (bundle.digest, manifest.digest):
        assert digest in digits
        words = to_words(bytes.fromhex(digest))
        start = page.text.index(words[0])
        shown = [text for text in page.text[start:] if re.fullmatch("[a-z]{4,12}", text)]
        assert shown[:48] == words
    assert "Name" in page.text and page.text.count("Signature") == 2


def test_sheet_needs_nothing_from_outside() -> None:
    """It is printed on a machine without a network."""
    data = emit_sheet(make_manifest(), BundleDigest("a" * 96, 1))
    assert read_page(data).fetched == []
    assert b"url(" not in data and b"<script" not in data and b"@import" not in data


def test_sheet_with_parts_lists_few_and_counts_many() -> None:
    """It stays one page."""
    manifest, bundle = make_manifest(), BundleDigest("a" * 96, 1)
    parts = [SheetPart(f"b.part-{index:03}-of-009", "c" * 96) for index in range(1, 10)]
    few = "".join(read_page(emit_sheet(manifest, bundle, parts=parts[:8])).text)
    assert all(part.name in few for part in parts[:8])
    many = "".join(read_page(emit_sheet(manifest, bundle, parts=parts)).text)
    assert "9 parts" in many and parts[0].name not in many


def test_sheet_escapes_what_it_shows() -> None:
    """A name must not become markup on the page that people trust."""
    entry = FileEntry("model.bin", 0o644, 1, "0" * 96)
    manifest = Manifest("bitnet", "1.0.0", 1, 0, "x86_64", 0, (entry,))
    data = emit_sheet(manifest, BundleDigest("a" * 96, 1), signers=["<b>&"])
    assert b"&lt;b&gt;&amp;" in data
