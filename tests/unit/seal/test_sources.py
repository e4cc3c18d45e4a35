"""Which sources make a program, and the digests that decide what is compiled again."""

import json
from pathlib import Path

import pytest

from bitnet.errors import ToolchainError
from bitnet.seal.sources import (
    PROGRAMS,
    Program,
    Source,
    engine_root,
    list_sources,
    source_digest,
)

PROGRAM = Program("tool", "programs/tool.cc", ("base", "kernels"))


def make_engine(root: Path, kernels: object = None) -> Path:
    """Writes a small tree of sources: a main, a header chain, kernels for two architectures."""
    files = {
        "programs/tool.cc": '#include "base/a.h"\nint main() { return kA; }\n',
        "base/a.h": '#pragma once\n#include "base/b.h"\n',
        "base/b.h": "#pragma once\nconstexpr int kA = 0;\n",
        "base/unused.h": "#pragma once\n",
        "base/z.cc": "",
        "base/a.cc": "",
        "base/a_test.cc": "",
        "kernels/op_ref.cc": "",
        "kernels/op_avx2.cc": "",
        "kernels/op_neon.cc": "",
    }
    table = {
        "x86_64": {"op_avx2.cc": ["-mavx2"], "op_ref.cc": []},
        "aarch64": {"op_neon.cc": [], "op_ref.cc": []},
    }
    files["kernels/sources.json"] = json.dumps(table if kernels is None else kernels)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_list_sources_each_architecture_gets_its_kernels(tmp_path: Path) -> None:
    """A foreign kernel would not compile; a missing one would be slow or would not link."""
    engine = make_engine(tmp_path)
    shared = [Source("programs/tool.cc"), Source("base/a.cc"), Source("base/z.cc")]
    assert list_sources(engine, PROGRAM, "x86_64") == [
        *shared,
        Source("kernels/op_avx2.cc", ("-mavx2",)),
        Source("kernels/op_ref.cc"),
    ]
    assert list_sources(engine, PROGRAM, "aarch64") == [
        *shared,
        Source("kernels/op_neon.cc"),
        Source("kernels/op_ref.cc"),
    ]


@pytest.mark.parametrize(
    "kernels", [[], {"x86_64": []}, {"x86_64": {"op_avx2.cc": 1}}, {"x86_64": {"op_sse.cc": []}}]
)
def test_list_sources_bad_kernel_list_refused(tmp_path: Path, kernels: object) -> None:
    with pytest.raises(ToolchainError):
        list_sources(make_engine(tmp_path, kernels), PROGRAM, "x86_64")


def test_list_sources_missing_main_named(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    with pytest.raises(ToolchainError, match=r"`programs/none\.cc`"):
        list_sources(engine, Program("none", "programs/none.cc", ("base",)), "x86_64")


def test_source_digest_follows_includes_and_nothing_else(tmp_path: Path) -> None:
    """A stale object after the change of a header would be linked into a release."""
    engine = make_engine(tmp_path)
    before = source_digest(engine, "programs/tool.cc", ())
    (engine / "base" / "unused.h").write_text("// changed\n", encoding="utf-8")
    assert source_digest(engine, "programs/tool.cc", ()) == before
    (engine / "base" / "b.h").write_text("constexpr int kA = 1;\n", encoding="utf-8")
    assert source_digest(engine, "programs/tool.cc", ()) != before


def test_source_digest_same_in_two_directories(tmp_path: Path) -> None:
    first, second = make_engine(tmp_path / "one"), make_engine(tmp_path / "other")
    digests = {source_digest(engine, "programs/tool.cc", ()) for engine in (first, second)}
    assert len(digests) == 1


def test_source_digest_includes_generated_file(tmp_path: Path) -> None:
    """Another tokenizer must give another object."""
    engine = make_engine(tmp_path / "engine")
    main = engine / "programs" / "tool.cc"
    main.write_text('#include "tokenizer.inc"\nint main() {}\n', encoding="utf-8")
    generated = tmp_path / "generated"
    generated.mkdir()
    digests = set()
    for text in ("int a;", "int b;"):
        (generated / "tokenizer.inc").write_text(text, encoding="utf-8")
        digests.add(source_digest(engine, "programs/tool.cc", (generated,)))
    assert len(digests) == 2


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_programs_of_this_engine_have_their_sources(arch: str) -> None:
    for program in PROGRAMS.values():
        paths = [source.path for source in list_sources(engine_root(), program, arch)]
        assert paths[0] == program.main
        assert "crypto/crypto.zig" in paths
