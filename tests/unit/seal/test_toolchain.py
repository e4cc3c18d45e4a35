"""The plan of compiler commands as data, and what running it does on failure."""

import importlib.metadata
import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from bitnet.errors import ToolchainError
from bitnet.seal import toolchain
from bitnet.seal.sources import Program
from bitnet.seal.toolchain import OUTPUT, Command, Target, host_arch, plan, run

PROGRAM = Program("tool", "programs/tool.cc", ("base", "crypto", "kernels"))

# What the contracts of the engine ask of every C++ file of a product build.
COMPILE_FLAGS = [
    *("-std=c++20", "-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-fPIE"),
    *("-fno-sanitize=all", "-fstack-protector-strong", "-ffile-prefix-map=.=."),
    *("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"),
]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A small engine: a main file, a Zig file, and one kernel per architecture."""
    root = tmp_path / "engine"
    files = {
        "programs/tool.cc": "int main() { return 0; }\n",
        "crypto/crypto.zig": "",
        "kernels/op_avx2.cc": "int op_avx2;\n",
        "kernels/op_neon.cc": "int op_neon;\n",
        "kernels/sources.json": json.dumps(
            {"x86_64": {"op_avx2.cc": ["-mavx2"]}, "aarch64": {"op_neon.cc": ["-march=armv8.2-a"]}}
        ),
        "base/status.def": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def planned(engine: Path, target: Target, **options: tuple[Path, ...]) -> list[Command]:
    return plan(PROGRAM, target, engine=engine, build=Path("/build"), compiler="zig", **options)


@pytest.mark.parametrize(
    ("arch", "kernel", "flag"),
    [("x86_64", "op_avx2", "-mavx2"), ("aarch64", "op_neon", "-march=armv8.2-a")],
)
def test_plan_executable_flags_of_each_command(
    engine: Path, arch: str, kernel: str, flag: str
) -> None:
    """The flags carry promises: no contraction, hardening, one instruction set per file."""
    main, zig, op, link = planned(engine, Target(arch))
    triple = ("-target", f"{arch}-linux-musl")
    assert main.argv[:4] == ("zig", "c++", *triple)
    for wanted in COMPILE_FLAGS:
        assert wanted in main.argv
        assert wanted in op.argv
    assert "-Os" in main.argv  # a program waits; a kernel runs
    assert "-O3" in op.argv
    assert main.argv[-3:] == ("programs/tool.cc", "-o", OUTPUT)
    assert flag in op.argv
    assert flag not in main.argv
    assert op.label == f"compile kernels/{kernel}.cc"
    assert zig.argv[:4] == ("zig", "build-obj", *triple)
    assert {"-O", "ReleaseSafe", "-fPIC", "-fstrip", "crypto/crypto.zig"} <= set(zig.argv)
    assert link.argv[:6] == ("zig", "cc", *triple, "-static", "-pie")
    wanted = {"-s", "-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack", "-Wl,--build-id=none"}
    assert wanted <= set(link.argv)
    objects = tuple(str(command.output) for command in (main, zig, op))
    assert link.argv[-5:] == (*objects, "-o", OUTPUT)


def test_plan_without_pie_shares_the_objects(engine: Path) -> None:
    usual, plain = planned(engine, Target("x86_64")), planned(engine, Target("x86_64", pie=False))
    assert plain[:-1] == usual[:-1]
    assert "-no-pie" in plain[-1].argv
    assert "-pie" not in plain[-1].argv
    assert plain[-1].output != usual[-1].output


def test_plan_library_is_shared_for_old_glibc(engine: Path) -> None:
    main, *_, link = planned(engine, Target("aarch64", library=True))
    assert "aarch64-linux-gnu.2.28" in main.argv
    assert "-fPIC" in main.argv
    assert "-shared" in link.argv
    assert "-static" not in link.argv


def test_plan_sanitizers_name_both(engine: Path) -> None:
    main, *_, link = planned(engine, Target(host_arch(), sanitize=True))
    assert "-fsanitize=address" in main.argv
    assert "-fsanitize=undefined" in main.argv
    assert link.argv[:2] == ("g++", "-fsanitize=address,undefined")


def test_plan_include_folder_is_no_part_of_the_names(engine: Path, tmp_path: Path) -> None:
    """Two builders with different folders must find the same objects, and write the same bytes."""
    outputs = []
    for name in ("one", "another"):
        folder = tmp_path / name
        folder.mkdir()
        main, *rest = planned(engine, Target("x86_64"), include=(folder,))
        assert f"-I{folder}" in main.argv
        assert f"-ffile-prefix-map={folder}=." in main.argv
        outputs.append([command.output for command in (main, *rest)])
    assert outputs[0] == outputs[1]


def test_target_unknown_architecture_refused() -> None:
    with pytest.raises(ToolchainError, match="`riscv64`"):
        Target("riscv64")


def test_target_sanitizers_for_another_machine_refused() -> None:
    other = "aarch64" if host_arch() == "x86_64" else "x86_64"
    with pytest.raises(ToolchainError, match="this host only"):
        Target(other, sanitize=True)


def test_compiler_version_is_the_one_that_is_locked() -> None:
    """Two versions in one repository would give two different executables."""
    root = Path(__file__).parents[3]
    pin = f"ziglang=={toolchain.COMPILER_VERSION}"
    assert f'"{pin}"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("runtime.txt", "test.txt"):
        lines = (root / "requirements" / name).read_text(encoding="utf-8").splitlines()
        assert any(line.startswith(f"{pin} ") for line in lines)


def test_build_requirements_are_those_of_the_test_lock() -> None:
    """`make demo` and `make test` must install the same build tools."""
    folder = Path(__file__).parents[3] / "requirements"
    locked = set((folder / "test.txt").read_text(encoding="utf-8").splitlines())
    assert set((folder / "build.txt").read_text(encoding="utf-8").splitlines()) <= locked


def test_find_compiler_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolchainError) as caught:
        toolchain.find_compiler()
    assert caught.value.hint == "install it with `python -m pip install ziglang==0.17.1`"


def test_find_compiler_other_version_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.14.0")
    with pytest.raises(ToolchainError, match=r"`0\.14\.0`"):
        toolchain.find_compiler()


def test_run_failing_command_shows_output_and_leaves_nothing(tmp_path: Path) -> None:
    script = f"echo partial > {OUTPUT}; echo 'x.cc:1: error: boom' >&2; exit 1"
    command = Command("compile x.cc", ("sh", "-c", script), tmp_path / "out" / "x.o")
    with pytest.raises(ToolchainError) as caught:
        run([command], directory=tmp_path)
    assert caught.value.message == "compiler failed: `compile x.cc`"
    assert caught.value.where == ("x.cc:1: error: boom",)
    assert list((tmp_path / "out").iterdir()) == []


def test_run_compiler_that_cannot_start_is_an_environment_error(tmp_path: Path) -> None:
    command = Command("link x", (str(tmp_path / "none"), OUTPUT), tmp_path / "x")
    with pytest.raises(ToolchainError) as caught:
        run([command], directory=tmp_path)
    assert caught.value.exit_code == 5


def test_run_existing_outputs_are_not_made_again(tmp_path: Path) -> None:
    """The second seal of a day takes a copy of the model, not a compilation."""
    commands = [
        Command(name, ("sh", "-c", f"date +%N > {OUTPUT}"), tmp_path / name) for name in ("a", "b")
    ]
    labels: list[str] = []
    assert run(commands, directory=tmp_path, progress=labels.append) == tmp_path / "b"
    before = (tmp_path / "b").read_bytes()
    run(commands, directory=tmp_path, progress=labels.append)
    assert labels == ["a", "b"]
    assert (tmp_path / "b").read_bytes() == before


def test_run_environment_hides_what_could_change_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPATH", "/somewhere")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "123456789")
    command = Command("env", ("sh", "-c", f"env > {OUTPUT}"), tmp_path / "env")
    names = dict(
        line.split("=", 1)
        for line in run([command], directory=tmp_path).read_text(encoding="utf-8").splitlines()
    )
    assert "CPATH" not in names
    assert names["SOURCE_DATE_EPOCH"] == "0"


def test_sanitizer_build_stops_at_a_heap_overflow(engine: Path, tmp_path: Path) -> None:
    """If the instrumentation were silently left out, the sanitizer tests would test nothing."""
    (engine / "programs" / "tool.cc").write_text(
        "#include <stdlib.h>\n"
        "int main(int count, char**) {\n"
        "  volatile char* bytes = static_cast<char*>(malloc(16));\n"
        "  return bytes[15 + count];\n"
        "}\n",
        encoding="utf-8",
    )
    commands = plan(
        Program("tool", "programs/tool.cc", ()),
        Target(host_arch(), sanitize=True),
        engine=engine,
        build=tmp_path / "build",
        compiler=str(toolchain.find_compiler()),
    )
    executable = run(commands, directory=engine)
    result = subprocess.run([executable], capture_output=True, check=False)
    assert result.returncode != 0
    assert b"AddressSanitizer: heap-buffer-overflow" in result.stderr
