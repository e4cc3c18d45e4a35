"""`bitnet quantize` and `bitnet inspect` as their users type them."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitnet.cli import app, render
from tests.support.checkpoints import make_checkpoint

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "models" / "demo"
BITS_AND_FORMAT = ["--bits", "1", "--format", "bin"]


def run(*arguments: object) -> int:
    return render.run_app(app.create(), "bitnet", [str(item) for item in arguments])


def convert(tmp_path: Path, *more: object, **geometry: Any) -> Path:
    """A model.bin of a tiny checkpoint."""
    directory = make_checkpoint(**geometry).write(tmp_path / "c")
    output = tmp_path / "m.bin"
    assert run("quantize", *BITS_AND_FORMAT, "--model", directory, "--output", output, *more) == 0
    return output


def test_quantize_demo_prints_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, the first command of the walk-through would not work as written."""
    output = tmp_path / "model.bin"
    assert run("quantize", *BITS_AND_FORMAT, "--model", DEMO, "--output", output) == 0
    data = output.read_bytes()
    tokenizer = hashlib.sha384((DEMO / "tokenizer.json").read_bytes()).hexdigest()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == (
        f"wrote            {output}\n"
        f"size             {len(data) / 1e6:.2f} MB ({len(data)} bytes)\n"
        "tensors          47\n"
        "ternary weights  6291456, 31.7% of them zero\n"
        f"tokenizer        {tokenizer}\n"
        f"root             {data[216:264].hex()}\n"
    )


def test_quantize_json_holds_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, scripts could not read what was written."""
    output = convert(tmp_path, "--json", layers=1, hidden=8, heads=2, intermediate=8)
    facts = json.loads(capsys.readouterr().out)
    data = output.read_bytes()
    assert facts["output"] == str(output)
    assert facts["file_bytes"] == len(data)
    assert facts["root"] == data[216:264].hex()
    assert facts["tokenizer_sha384"] is None
    assert facts["ternary_weights"] == 8 * 8 * 2 + 2 * 4 * 8 + 3 * 8 * 8
    assert 0 < facts["zero_fraction"] < 1


def test_quantize_embedding_f32_and_tokenizer_are_taken(tmp_path: Path) -> None:
    """Broken, the options would be ignored."""
    tokenizer = tmp_path / "t.json"
    tokenizer.write_bytes(b"{}")
    data = convert(tmp_path, "--embedding", "f32", "--tokenizer", tokenizer).read_bytes()
    assert data[72:76] == (4).to_bytes(4, "little")
    assert data[168:216] == hashlib.sha384(b"{}").digest()


def test_quantize_tokenizer_of_the_checkpoint_is_one_of_its_own_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a link in a checkpoint brings the digest of a file of this machine into a model."""
    directory = make_checkpoint().write(tmp_path / "c")
    (tmp_path / "secret").write_bytes(b"secret")
    command = ("quantize", *BITS_AND_FORMAT, "--model", directory, "--output", tmp_path / "m.bin")
    tokenizer = directory / "tokenizer.json"
    for target in (tmp_path / "secret", Path("../secret"), Path("nowhere")):
        tokenizer.symlink_to(target)
        assert run(*command) == 1
        assert "`tokenizer.json`" in capsys.readouterr().err.splitlines()[0]
        assert not (tmp_path / "m.bin").exists()
        tokenizer.unlink()
    (directory / "real.json").write_bytes(b"{}")
    tokenizer.symlink_to("real.json")
    assert run(*command) == 0
    assert (tmp_path / "m.bin").read_bytes()[168:216] == hashlib.sha384(b"{}").digest()


def test_quantize_console_script_equals_the_subcommand(tmp_path: Path) -> None:
    """Broken, `bitnet.quantize` of the documentation would not exist."""
    output = tmp_path / "m.bin"
    code = "from bitnet.cli.quantize import main; main()"
    arguments = [*BITS_AND_FORMAT, "--model", str(DEMO), "--output", str(output)]
    subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, cwd=ROOT, capture_output=True
    )
    expected = tmp_path / "expected.bin"
    assert run("quantize", *BITS_AND_FORMAT, "--model", DEMO, "--output", expected) == 0
    assert output.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--bits", "4", "--format", "bin"],
            (
                "error: number of bits is not supported: `4`\n"
                "  1 means the 1-bit family that the checkpoint was trained for: "
                "binary or ternary\n\n"
                "hint: pass `--bits 1`\n"
            ),
        ),
        (
            ["--bits", "1", "--format", "gguf"],
            "error: format is not supported: `gguf`\n\nhint: pass `--format bin`\n",
        ),
        (
            [*BITS_AND_FORMAT, "--embedding", "int4"],
            (
                "error: embedding kind is unknown: `int4`\n\n"
                "hint: pass `--embedding int8` or `--embedding f32`\n"
            ),
        ),
        (
            ["--format", "bin"],
            (
                "error: missing option `--bits`\n\n"
                "hint: run `bitnet quantize --help` for what it takes\n"
            ),
        ),
    ],
)
def test_quantize_wrong_choice_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    """Broken, `--bits 4` would be taken for something this product does."""
    output = tmp_path / "m.bin"
    assert run("quantize", *arguments, "--model", DEMO, "--output", output) == 2
    assert capsys.readouterr().err == expected
    assert not output.exists()


def test_quantize_plain_float_checkpoint_explains_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a user would seal nonsense, or not learn why it is refused."""
    directory = make_checkpoint(family="llama", form="float").write(tmp_path / "c")
    output = tmp_path / "m.bin"
    arguments = ["quantize", *BITS_AND_FORMAT, "--model", directory, "--output", output]
    assert run(*arguments) == 1
    assert capsys.readouterr().err == (
        f"error: nothing in the checkpoint says 1-bit training: `{directory}`\n"
        "  LlamaForCausalLM with float weights and no `quantization_config`\n"
        "  rounding ordinary weights to -1, 0, +1 gives a model that answers nonsense\n\n"
        "hint: take a checkpoint that was trained so, or insist with `--force`\n"
    )
    assert not output.exists()
    assert run(*arguments, "--force") == 0


def test_quantize_unsupported_checkpoint_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, the error would not say which line of config.json is at fault."""
    tiny = make_checkpoint()
    tiny.config["rope_scaling"] = {"type": "linear\x1b[31m", "factor": 2.0}
    directory = tiny.write(tmp_path / "c")
    output = tmp_path / "m.bin"
    assert run("quantize", *BITS_AND_FORMAT, "--model", directory, "--output", output) == 1
    assert capsys.readouterr().err == (
        "error: configuration is not supported: `rope_scaling.type`\n"
        f"  file {directory / 'config.json'}\n"
        "  value 'linear\\x1b[31m', expected 'default'; scaled positions are not supported\n"
    )


def test_inspect_json_describes_every_tensor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, the audit would look at other facts than the file's."""
    tiny_layers = 2
    output = convert(tmp_path, layers=tiny_layers, tied=False)
    capsys.readouterr()
    assert run("inspect", output, "--json", "--verify") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"] is True
    assert facts["file_bytes"] == output.stat().st_size
    assert facts["root"] == output.read_bytes()[216:264].hex()
    assert [tensor["name"] for tensor in facts["tensors"]][:3] == [
        "embedding", "rope_inv_freq", "layers.0.input_norm",
    ]  # fmt: skip
    assert len(facts["tensors"]) == 2 + 11 * tiny_layers + 2
    assert facts["geometry"]["hidden_size"] == 24
    assert facts["geometry"]["eos_ids"] == [2]
    tiny = make_checkpoint(layers=tiny_layers, tied=False)
    by_name = {tensor["name"]: tensor for tensor in facts["tensors"]}
    for (role, layer), codes in tiny.codes.items():
        zeros = float((codes == 0).mean())
        assert by_name[f"layers.{layer}.{role}"]["zero_fraction"] == pytest.approx(zeros, abs=1e-6)
    weights = sum(tensor["rows"] * tensor["cols"] for tensor in facts["tensors"])
    assert facts["weights"] == weights
    assert facts["bits_per_weight"] == pytest.approx(8 * facts["file_bytes"] / weights, abs=1e-4)


def test_inspect_human_output_is_aligned_and_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a person could not read the table."""
    output = convert(tmp_path, layers=1)
    capsys.readouterr()
    assert run("inspect", output) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = dict(line.split(None, 1) for line in lines[: lines.index("")])
    assert facts["checked"] == "header, table and root; `--verify` for all"
    assert facts["root"] == output.read_bytes()[216:264].hex()
    assert facts["activation"] == "relu2"
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == [
        "tensor",
        "kind",
        "rows",
        "cols",
        "offset",
        "bytes",
        "scale",
        "zeros",
    ]
    assert len(table) == 1 + 14
    row = next(line for line in table if line.startswith("layers.0.gate "))
    assert row.split()[1:4] == ["ternary", "20", "24"]


def test_inspect_damaged_file_is_not_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken, a damaged model would pass an audit."""
    output = convert(tmp_path)
    data = bytearray(output.read_bytes())
    data[5000] ^= 1
    output.write_bytes(data)
    capsys.readouterr()
    assert run("inspect", output) == 0
    assert run("inspect", output, "--verify") == 3
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: model.bin leaf does not match its digest: `{output}`\n  leaf 0, "
    )
