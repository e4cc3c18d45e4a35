"""`make demo`: quantises the bundled model, seals it for this host, and asks it three questions."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

MODEL: Final = Path("models/demo")
OUTPUT: Final = Path("build/demo")
QUESTIONS: Final = (
    "extract a tar.gz archive into a directory",
    "show failed systemd units",
    "what is cryptsetup?",
)

CONSOLE: Final = Console(highlight=False, soft_wrap=True)


def run_bitnet(*arguments: str) -> bytes:
    """Runs one `bitnet` command, shown as a user would type it; stops the demo if it fails."""
    CONSOLE.print(f"[dim]$ bitnet {escape(' '.join(arguments))}[/dim]")
    code = "from bitnet.cli.app import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, check=False
    )
    if result.returncode != 0:
        sys.exit(result.returncode)
    return result.stdout


def build() -> None:
    """Leaves bitnet-infer, config.yaml and model.bin in build/demo."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    model = str(OUTPUT / "model.bin")
    tokenizer = str(MODEL / "tokenizer.json")
    choice = ("--bits", "1", "--format", "bin")
    run_bitnet("quantize", *choice, "--model", str(MODEL), "--output", model)
    executable = str(OUTPUT / "bitnet-infer")
    run_bitnet("seal", "--model", model, "--tokenizer", tokenizer, "--output", executable)
    config = run_bitnet("config", "--model", model).decode("utf-8")
    (OUTPUT / "config.yaml").write_text(config, encoding="utf-8")
    missing = missing_layers()
    if missing:
        config = config.replace("accept_missing: []", f"accept_missing: {json.dumps(missing)}")
        (OUTPUT / "config.yaml").write_text(config, encoding="utf-8")


def missing_layers() -> list[str]:
    """Says what the lock-down has on this host; returns the layers that it does not have."""
    command = [str(OUTPUT / "bitnet-infer"), "--config", str(OUTPUT / "config.yaml")]
    command += ["--hardening-report", "--json"]
    result = subprocess.run(command, capture_output=True, check=False)
    if not result.stdout:
        sys.stderr.buffer.write(result.stderr)
        sys.exit(result.returncode)
    layers = json.loads(result.stdout)["layers"]
    missing = {name: layer for name, layer in layers.items() if layer["state"] == "missing"}
    CONSOLE.print(
        f"\n[bold]locked down[/bold]  {len(layers) - len(missing)} of {len(layers)} layers on"
    )
    for name, layer in missing.items():
        CONSOLE.print(
            f"[yellow]not on this host: {name}, errno {layer['errno']}; {escape(layer['remedy'])}."
            " The demo's config.yaml accepts that.[/yellow]"
        )
    return list(missing)


def ask(question: str) -> tuple[str, dict[str, Any]]:
    """Returns the answer of the sealed executable and its statistics."""
    command = [
        str(OUTPUT / "bitnet-infer"),
        *("--config", str(OUTPUT / "config.yaml"), "--seed", "42", "--stats"),
    ]
    result = subprocess.run(command, input=question.encode(), capture_output=True, check=False)
    if result.returncode != 0:
        sys.stderr.buffer.write(result.stderr)
        sys.exit(result.returncode)
    stats = json.loads(result.stderr.decode().splitlines()[-1])
    return result.stdout.decode("utf-8", "replace").strip(), stats


def show_answers() -> None:
    """Asks the three questions, worded as the model was trained."""
    for question in QUESTIONS:
        answer, stats = ask(question)
        speed = (
            f"{stats['decode_tokens_per_second']:.0f} tokens/s, first token after "
            f"{stats['first_token_ms']:.1f} ms, {stats['isa']}, threads: {stats['threads']}"
        )
        CONSOLE.print(f"\n[bold]question[/bold]  {escape(question)}")
        CONSOLE.print(f"[bold]answer[/bold]    [green]{escape(answer)}[/green]")
        CONSOLE.print(f"[dim]          {speed}[/dim]")


def show_executable() -> None:
    """Prints what was built: size, how `file` describes it, digest."""
    path = OUTPUT / "bitnet-infer"
    data = path.read_bytes()
    if shutil.which("file"):
        line = subprocess.run(
            ["file", "--brief", str(path)], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
    else:
        line = "not shown: the program `file` is not installed"
    CONSOLE.print(f"\n[bold]built[/bold]     {path}")
    CONSOLE.print(f"[bold]size[/bold]      {len(data) / 1e6:.2f} MB ({len(data)} bytes)")
    CONSOLE.print(f"[bold]file[/bold]      {escape(line)}")
    CONSOLE.print(f"[bold]sha384[/bold]    {hashlib.sha384(data).hexdigest()}")


def main() -> None:
    """Builds, asks, shows."""
    build()
    show_answers()
    show_executable()
    CONSOLE.print(
        "\nThis small model recalls command lines, it does not reason: read what it prints before"
        " you use it. Ask it yourself:\n"
        f'  echo "{QUESTIONS[1]}" | {OUTPUT}/bitnet-infer --config {OUTPUT}/config.yaml --seed 42'
    )


if __name__ == "__main__":
    main()
