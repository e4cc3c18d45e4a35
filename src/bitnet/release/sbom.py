"""sbom.cdx.json: what a release is made of, as CycloneDX 1.6; the same inputs, the same bytes.

No serial number and no time: both would differ with every run. The model's card is added to what
the library writes, which does not know that part of the standard yet.

Source: CycloneDX 1.6 (ECMA-424).
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from bitnet.release.contents import (
    COMPILER_WHEELS,
    MUSL_VERSION,
    Contents,
    engine_digest,
    package_version,
)
from bitnet.release.manifest import FileEntry
from bitnet.seal.toolchain import COMPILER_VERSION

__all__ = ["emit_sbom"]


def emit_sbom(
    product: str, version: str, contents: Contents, files: Iterable[FileEntry], data: list[str]
) -> bytes:
    """Returns the text of sbom.cdx.json.

    Args:
        product: Name of the release.
        version: Version of the release.
        contents: What the executable is made of.
        files: Files of the release, without the SBOM and the provenance.
        data: What the model was trained on, as its publisher names it; may be empty.
    """
    release = Component(
        name=product, version=version, type=ComponentType.APPLICATION, bom_ref="release"
    )
    parts = [
        *_model_components(contents, data),
        *_code_components(),
        *(_file_component(entry) for entry in files),
    ]
    tool = Component(
        name="bitnet-airgap",
        version=package_version(),
        type=ComponentType.APPLICATION,
        licenses=[LicenseExpression("Apache-2.0")],
    )
    bom = Bom(
        components=parts,
        serial_number=UUID(int=0),
        metadata=BomMetaData(
            component=release,
            tools=ToolRepository(components=[tool]),
            timestamp=datetime.fromtimestamp(0, UTC),
        ),
    )
    bom.register_dependency(release, parts)
    by_name = {str(part.bom_ref.value): part for part in parts}
    bom.register_dependency(by_name["engine"], [by_name["compiler"], by_name["musl"]])
    bom.register_dependency(by_name["model"], [by_name["tokenizer"]])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    _add_model_card(document, contents)
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def _sha384(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_384, content=digest)


def _properties(values: dict[str, object]) -> list[Property]:
    return [Property(name=f"bitnet:{name}", value=str(value)) for name, value in values.items()]


def _model_components(contents: Contents, data: list[str]) -> list[Component]:
    model = contents.model
    facts: dict[str, object] = {
        "root:sha3-384": model.root,
        "size": model.content.size,
        "layers": model.spec.layer_count,
        "hidden-size": model.spec.hidden_size,
        "vocabulary": model.spec.vocab_size,
        "context": model.spec.context_max,
        "embedding": model.embedding,
        "place": "sealed in bitnet-infer" if contents.sealed else "model.bin",
    }
    tokenizer = model.tokenizer_sha384
    components = [
        Component(
            name="model.bin",
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref="model",
            hashes=[_sha384(model.content.digest)],
            properties=_properties(facts),
        ),
        Component(
            name="tokenizer.json",
            type=ComponentType.DATA,
            bom_ref="tokenizer",
            description="compiled into bitnet-infer",
            hashes=[_sha384(tokenizer)] if tokenizer is not None else [],
        ),
    ]
    components += [
        Component(
            name=name,
            type=ComponentType.DATA,
            bom_ref=f"training-data-{index}",
            description="training data, as the publisher of the model names it",
        )
        for index, name in enumerate(data, 1)
    ]
    if not data:
        components.append(
            Component(
                name="training data",
                type=ComponentType.DATA,
                bom_ref="training-data-1",
                description="not stated by who made this release",
            )
        )
    return components


def _code_components() -> list[Component]:
    wheels = [HashType(alg=HashAlgorithm.SHA_256, content=each) for each in COMPILER_WHEELS]
    purl = PackageURL("pypi", name="ziglang", version=COMPILER_VERSION)
    distribution = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        comment="one wheel for each platform; the same compiler and libraries in all",
        hashes=wheels,
    )
    return [
        Component(
            name="bitnet-engine",
            version=package_version(),
            type=ComponentType.LIBRARY,
            bom_ref="engine",
            description="C++ sources; the hash is that of their sorted sha384sum listing",
            hashes=[_sha384(engine_digest())],
            licenses=[LicenseExpression("Apache-2.0")],
        ),
        Component(
            name="ziglang",
            version=COMPILER_VERSION,
            type=ComponentType.APPLICATION,
            bom_ref="compiler",
            description="compiler, linker, and the standard library with the cryptography",
            purl=purl,
            external_references=[distribution],
            licenses=[LicenseExpression("MIT")],
        ),
        Component(
            name="musl",
            version=MUSL_VERSION,
            type=ComponentType.LIBRARY,
            bom_ref="musl",
            description="C library, linked statically; part of the compiler's wheel",
            licenses=[LicenseExpression("MIT")],
        ),
    ]


def _file_component(entry: FileEntry) -> Component:
    program = entry.mode == 0o755
    return Component(
        name=entry.name,
        type=ComponentType.APPLICATION if program else ComponentType.FILE,
        bom_ref=f"file-{entry.name}",
        hashes=[_sha384(entry.digest)],
        properties=_properties({"size": entry.size}),
    )


def _add_model_card(document: dict[str, Any], contents: Contents) -> None:
    data = [
        {"ref": component["bom-ref"]}
        for component in document["components"]
        if component["bom-ref"].startswith("training-data-")
    ]
    for component in document["components"]:
        if component["bom-ref"] == "model":
            component["modelCard"] = {
                "modelParameters": {
                    "task": "text-generation",
                    "architectureFamily": "transformer",
                    "modelArchitecture": (
                        f"decoder of {contents.model.spec.layer_count} layers with weights of "
                        "one bit or one trit"
                    ),
                    "datasets": data,
                    "inputs": [{"format": "text"}],
                    "outputs": [{"format": "text"}],
                }
            }
