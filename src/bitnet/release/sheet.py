"""The transfer sheet: one printed page that travels beside the media, with lines to sign.

Digests stand in groups of hex digits and as words; what arrives is compared with the paper, by eye
or over a telephone. One HTML file without anything from outside; it prints on one A4 page.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bitnet.release.archive import BundleDigest, bundle_name
from bitnet.release.manifest import Manifest
from bitnet.release.words import group_hex, to_words

__all__ = ["SheetPart", "emit_sheet"]

PARTS_SHOWN_MAX: Final = 8

_STYLE: Final = """
@page { size: A4; margin: 14mm 14mm 12mm 14mm; }
* { box-sizing: border-box; }
body { font: 9.5pt/1.35 "DejaVu Sans", Helvetica, Arial, sans-serif; color: #000;
       margin: 0 auto; max-width: 180mm; }
h1 { font-size: 15pt; margin: 0 0 1mm; overflow-wrap: anywhere; }
h2 { font-size: 10.5pt; margin: 4mm 0 1mm; border-bottom: 0.4mm solid #000; }
p { margin: 0 0 1.5mm; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.4mm 2mm 0.4mm 0; }
th { font-weight: normal; width: 32mm; white-space: nowrap; }
.hex, .words td { font-family: "DejaVu Sans Mono", "Liberation Mono", Courier, monospace; }
.hex { font-size: 11pt; word-spacing: 1mm; }
.words { margin-top: 1mm; table-layout: fixed; }
.words td { font-size: 8.2pt; padding: 0.2mm 0.6mm 0.2mm 0; overflow-wrap: anywhere; }
.words td:first-child { width: 7mm; font-weight: bold; }
.parts td, .parts .hex { font-size: 7.6pt; }
.box { display: inline-block; width: 3.2mm; height: 3.2mm; border: 0.3mm solid #000;
       margin-right: 1.5mm; vertical-align: -0.4mm; }
.sign td { border: 0.3mm solid #000; width: 50%; height: 25mm; padding: 1.5mm 2mm; }
.line { border-bottom: 0.2mm solid #000; height: 9mm; font-size: 8pt; }
"""


_INTRODUCTION: Final = (
    "<p>Compare every digest with what arrived: <b>sha384sum FILE</b> shows it. One digit or one "
    "word that differs: stop, and keep the media. This paper comes by another way than the "
    "media.</p>"
)


@dataclass(frozen=True)
class SheetPart:
    """One file of a split bundle: its name and the SHA-384 of the whole part file, in hex."""

    name: str
    digest: str


def emit_sheet(
    manifest: Manifest,
    bundle: BundleDigest,
    *,
    signers: Sequence[str] = (),
    root_version: int | None = None,
    parts: Sequence[SheetPart] = (),
) -> bytes:
    """Returns the page as HTML.

    Args:
        manifest: What is released.
        bundle: The bundle's digest.
        signers: Who has signed; a line to fill in where it is empty.
        root_version: Version of the trust root under which the signatures were found to be enough;
            None where nobody has verified them, which the page then says.
        parts: The files on the media where the bundle is split.
    """
    sections = [
        f"<h1>Transfer sheet: {_escape(bundle_name(manifest))}</h1>",
        _INTRODUCTION,
        _facts(manifest, _signed(signers, root_version)),
        _digest_section(f"the bundle, {bundle.size} bytes", bundle.digest),
        _digest_section("MANIFEST", manifest.digest),
        _parts_section(parts),
        _steps(manifest, parts),
        _signature_lines(),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Transfer sheet {_escape(bundle_name(manifest))}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    ).encode("ascii", "xmlcharrefreplace")


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _signed(signers: Sequence[str], root_version: int | None) -> tuple[str, str]:
    """Returns name and value of the row about signatures."""
    names = ", ".join(signers)
    if not signers:
        return "Signed by", "." * 80
    if root_version is None:
        return "Signatures", f"in the file, not verified: {names}"
    return "Signed by", f"{names}; enough for trust.root version {root_version}"


def _facts(manifest: Manifest, signed: tuple[str, str]) -> str:
    rows = [
        ("Product, version", f"{manifest.product} {manifest.version}, {manifest.architecture}"),
        ("Counter, floor", f"{manifest.counter}, {manifest.minimum_counter}"),
        ("Files", f"{len(manifest.files)}, {sum(each.size for each in manifest.files)} bytes"),
        signed,
    ]
    cells = "".join(f"<tr><th>{name}</th><td>{_escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _digest_section(title: str, digest: str) -> str:
    groups = group_hex(digest)
    lines = "<br>".join(" ".join(groups[at : at + 6]) for at in (0, 6))
    words = to_words(bytes.fromhex(digest))
    rows = "".join(
        f"<tr><td>{at + 1}</td>"
        + "".join(f"<td>{_escape(word)}</td>" for word in words[at : at + 8])
        + "</tr>"
        for at in range(0, len(words), 8)
    )
    return (
        f'<h2>SHA-384 of {_escape(title)}</h2>\n<p class="hex">{lines}</p>\n'
        f'<table class="words">{rows}</table>'
    )


def _parts_section(parts: Sequence[SheetPart]) -> str:
    """Returns the table of parts: first sixteen digits where there are few, else a remark."""
    if not parts:
        return ""
    if len(parts) > PARTS_SHOWN_MAX:
        return (
            f"<h2>{len(parts)} parts</h2><p>Each part checks itself; the digest of the bundle "
            "covers them all.</p>"
        )
    rows = "".join(
        f'<tr><td><span class="box"></span>{_escape(part.name)}</td>'
        f'<td class="hex">{" ".join(group_hex(part.digest)[:4])} &hellip;</td></tr>'
        for part in parts
    )
    return f'<h2>Parts, first digits of SHA-384</h2><table class="parts">{rows}</table>'


def _steps(manifest: Manifest, parts: Sequence[SheetPart]) -> str:
    media = "all parts" if parts else "the bundle"
    boxes = '<span class="box"></span>'
    return (
        "<h2>On arrival</h2>\n"
        f"<p>{boxes}Media scanned by the rules of the site <br>{boxes}Digests compared with "
        f"this paper <br>{boxes}<b>bitnet-update apply</b> {media}, update.sig beside "
        f"<br>{boxes}<b>bitnet-update status</b> shows counter {manifest.counter}</p>"
    )


def _signature_lines() -> str:
    cell = (
        '<td><b>{role}</b><div class="line">Name</div>'
        '<div class="line">Signature</div><div class="line">Date, time</div></td>'
    )
    return (
        '<h2>Handed over and received</h2>\n<table class="sign"><tr>'
        + cell.format(role="Handed over: the digests above are those of what was signed")
        + cell.format(role="Received: the digests above are those of what arrived")
        + "</tr></table>"
    )
