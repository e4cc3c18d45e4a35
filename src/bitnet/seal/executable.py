"""From model.bin and tokenizer.json to one sealed executable: compile, link, embed, check."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from bitnet.checkpoint.directory import TOKENIZER_BYTES_MAX
from bitnet.errors import FormatError
from bitnet.files import check_output, read_bounded, replace_file
from bitnet.quantize import Progress, open_model
from bitnet.seal.embed import Sealed, seal
from bitnet.seal.sources import build_root
from bitnet.seal.toolchain import Target, build_program, make_folder
from bitnet.tokenizer import compile_tokenizer, emit_cpp, tokenizer_files

__all__ = ["build_engine", "check_belonging", "seal_model"]


def check_belonging(model: Path, tokenizer: Path, *, progress: Progress | None = None) -> None:
    """Refuses a model.bin that is not as its format says, or was made with another tokenizer.json.

    Every byte is looked at: digests say what the bytes are, not that they are right, and a kernel
    takes it for granted that code 3 does not occur and that padding is what it has to be. With
    another code the instruction sets would not give the same answer.

    Args:
        model: The model.bin.
        tokenizer: The tokenizer.json.
        progress: Called with a label, the bytes looked at and their total, for digests and values.

    Raises:
        FormatError, IntegrityError: The model is not whole, or the two do not belong together.
    """
    with open_model(model) as opened:
        _check_tokenizer(model, opened.header.tokenizer_sha384, tokenizer)
        opened.verify(progress)


def _check_tokenizer(model: Path, expected: bytes | None, tokenizer: Path) -> None:
    found = hashlib.sha384(read_bounded(tokenizer, "tokenizer", TOKENIZER_BYTES_MAX)).digest()
    if expected is not None and expected != found:
        raise FormatError(
            f"model and tokenizer do not belong together: `{model}`, `{tokenizer}`",
            where=(
                f"model was made with      {expected.hex()}",
                f"SHA-384 of tokenizer     {found.hex()}",
            ),
            hint="pass the tokenizer.json of the checkpoint that the model was made from",
        )


def build_engine(
    tokenizer: Path,
    target: Target,
    *,
    build: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Compiles a tokenizer into the engine and returns the program, which carries no model yet.

    Args:
        tokenizer: tokenizer.json; the chat template is looked for beside it.
        target: What it is built for.
        build: Root of objects and outputs; `build_root()` if None.
        progress: Called with a label before each step that is not already done.

    Raises:
        TokenizerError: The tokenizer holds something that the tables cannot express.
        ToolchainError: The compiler is missing or fails.
    """
    text = emit_cpp(compile_tokenizer(tokenizer))
    digest = hashlib.sha256(text.encode()).hexdigest()[:20]
    build = build or build_root()
    directory = build / "tokenizer" / digest
    compiled = directory / "tokenizer.inc"
    if not compiled.is_file():
        make_folder(directory)
        replace_file(compiled, text.encode())
    return build_program(
        "bitnet-infer", target, tokenizer_directory=directory, build=build, progress=progress
    )


def seal_model(
    model: Path,
    tokenizer: Path,
    output: Path,
    target: Target,
    *,
    build: Path | None = None,
    check_progress: Progress | None = None,
    build_progress: Callable[[str], None] | None = None,
    copy_progress: Callable[[int, int], None] | None = None,
) -> Sealed:
    """Writes the executable that carries a model and its tokenizer.

    Same model, tokenizer, target and version of this package: same bytes, on any host.

    Raises:
        ToolkitError: As `check_belonging`, `build_engine` and `seal`; no partial output stays.
    """
    check_output(output, (model, *tokenizer_files(tokenizer)))
    check_belonging(model, tokenizer, progress=check_progress)
    engine = build_engine(tokenizer, target, build=build, progress=build_progress)
    return seal(engine, model, output, progress=copy_progress)
