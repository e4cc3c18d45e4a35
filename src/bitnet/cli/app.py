"""The `bitnet` command: every subcommand is a module of this package with a `register` function."""

import importlib
from typing import Final, NoReturn

import typer

from bitnet.cli import render

__all__ = ["SUBCOMMANDS", "create", "main"]

SUBCOMMANDS: Final = (
    "quantize",
    "inspect",
    "tokenizer2cpp",
    "seal",
    "elf",
    "config",
    "vocabulary",
    "bench",
    "keys",
    "sign",
    "bundle",
    "rebuild",
)

_HELP: Final = """Seals 1-bit language models into static executables for machines with no network.

[bold]The way of a model[/bold]: [cyan]quantize[/cyan] turns a published checkpoint into
model.bin, [cyan]tokenizer2cpp[/cyan] compiles its tokenizer, [cyan]seal[/cyan] joins both with
the engine into one executable, [cyan]config[/cyan] writes the commented configuration that the
executable asks for. [cyan]inspect[/cyan] shows what a model.bin holds, [cyan]elf[/cyan] how an
executable is linked and hardened. [cyan]bench[/cyan] measures speed beside what the machine can
do at most.

[bold]The way of a release[/bold]: [cyan]keys[/cyan] makes the keys of signers and says whom
a machine believes, [cyan]bundle[/cyan] makes one file of everything that travels,
[cyan]sign[/cyan] gathers the signatures of several people, [cyan]rebuild[/cyan] makes a bundle
again and compares every byte.
"""


def create() -> typer.Typer:
    """Returns the application with all its subcommands."""
    app = render.create_app(_HELP)
    for name in SUBCOMMANDS:
        importlib.import_module(f"bitnet.cli.{name}").register(app)

    @app.callback()
    def _root() -> None:
        """Holds the help text; a single subcommand stays a subcommand."""

    return app


def main() -> NoReturn:
    """Runs `bitnet`."""
    render.run_program(create(), "bitnet")
