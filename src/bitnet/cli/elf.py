"""`bitnet elf`: what an auditor asks of an executable."""

from pathlib import Path
from typing import Annotated, Final

import typer

from bitnet.cli import render
from bitnet.seal.elf_checks import inspect_executable

__all__ = ["register"]

_HELP: Final = """Shows how an executable is linked and hardened, and which model it carries.

Everything is read from the file's own bytes; nothing in it is run. Exit code 1 if something is not
as it should be for an executable of this project, and that line is marked.

Examples:

\b
  bitnet elf bitnet-infer
  bitnet elf bitnet-infer --json
"""


def elf(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The executable to look at.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    facts = inspect_executable(path)
    hardened = all(fact.ok for fact in facts)
    if as_json:
        rows = {fact.name.replace(" ", "_"): {"value": fact.value, "ok": fact.ok} for fact in facts}
        render.print_json({"file": str(path), "hardened": hardened, "facts": rows})
    else:
        marked = [
            (fact.name, fact.value if fact.ok else f"{fact.value}  <- not as it should be")
            for fact in facts
        ]
        render.print_facts([("file", str(path)), *marked])
    return 0 if hardened else 1


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("elf", help=render.reflow_text(_HELP), no_args_is_help=True)(elf)
