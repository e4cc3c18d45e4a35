"""Every way in which the builder side can refuse, as one family of exceptions.

A public function of the package raises nothing else on bad input; `ToolkitError` catches them all.
The table in `docs/errors.md` names each class with its exit code.
"""

__all__ = [
    "BundleError",
    "CheckpointError",
    "EvaluationError",
    "FormatError",
    "IntegrityError",
    "NotTrustedError",
    "QuantizationError",
    "RollbackError",
    "SignatureError",
    "TokenizerError",
    "ToolchainError",
    "ToolkitError",
    "UsageError",
]


class ToolkitError(Exception):
    """Something that the caller can put right.

    Args:
        message: What failed and which thing, lower case, no full stop, literals in backticks.
        where: Facts that locate it (file, byte offset, limit crossed), one per item.
        hint: One action that puts it right.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, where: tuple[str, ...] | str = (), hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = (where,) if isinstance(where, str) else tuple(where)
        self.hint = hint


class UsageError(ToolkitError):
    """A command line or an argument is not usable."""

    exit_code = 2


class CheckpointError(ToolkitError):
    """A published checkpoint is damaged, incomplete, or of a kind that is not supported."""


class FormatError(ToolkitError):
    """A file of our own format does not keep to it."""


class QuantizationError(ToolkitError):
    """A checkpoint cannot be turned into 1-bit or ternary weights faithfully."""


class TokenizerError(ToolkitError):
    """A tokenizer file holds something that the compiled tables cannot express."""


class ToolchainError(ToolkitError):
    """The compiler, the linker, or something they need is missing or failed."""

    exit_code = 5


class BundleError(ToolkitError):
    """A release bundle is malformed."""


class EvaluationError(ToolkitError):
    """An evaluation or a generation cannot be carried out."""


class NotTrustedError(ToolkitError):
    """Something is not what was signed; nothing was done with it."""

    exit_code = 3


class SignatureError(NotTrustedError):
    """A signature is missing or does not match."""


class IntegrityError(NotTrustedError):
    """Bytes do not match their digest."""


class RollbackError(NotTrustedError):
    """A trust root is not the next version after the installed one."""
