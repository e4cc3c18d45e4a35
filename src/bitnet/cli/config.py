"""`bitnet config`: a complete, commented config.yaml for a model."""

from pathlib import Path
from typing import Annotated

import typer

from bitnet.cli import render
from bitnet.limits import THREAD_COUNT_MAX
from bitnet.quantize import open_model
from bitnet.seal.run_config import default_values, emit_config

__all__ = ["register"]

_HELP = """Writes a complete, commented config.yaml for a model to standard output.

bitnet-infer reads no other settings and has no defaults: every key stands in the file. The values
written
here fit the model; edit them as you need.

Examples:

\b
  bitnet config --model model.bin > config.yaml
  bitnet config --model model.bin --threads 2 --model-path /opt/models/model.bin > config.yaml
"""


def config(
    model: Annotated[
        Path, typer.Option("--model", help="The model.bin that the settings are for.")
    ],
    threads: Annotated[
        int, typer.Option("--threads", min=1, max=THREAD_COUNT_MAX, help="Threads to use.")
    ] = 1,
    model_path: Annotated[
        str,
        typer.Option(
            "--model-path", help="`sealed`, or where the model.bin will lie on the target."
        ),
    ] = "sealed",
    raw: Annotated[
        bool, typer.Option("--raw", help="For a tokenizer without a chat template.")
    ] = False,
) -> None:
    with open_model(model) as opened:
        values = default_values(opened.spec, model=model_path, threads=threads, chat=not raw)
    typer.echo(emit_config(values), nl=False)


def register(app: typer.Typer) -> None:
    """Adds the command to an application."""
    app.command("config", help=render.reflow_text(_HELP), no_args_is_help=True)(config)
