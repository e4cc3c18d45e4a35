"""Finds the chat template of a tokenizer; renders it as transformers does, at build time only."""

import contextlib
import dataclasses
import gc
import inspect
import json
import math
import resource
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from bitnet.errors import TokenizerError
from bitnet.files import read_bounded
from bitnet.tokenizer.json_nodes import Node, parse_json, read_beside

__all__ = [
    "NO_TEMPLATE_HINT",
    "ChatTemplate",
    "files_beside",
    "find_chat_template",
    "load_chat_template",
]

_TEMPLATE_NAME: Final = "chat_template.jinja"
_CONFIG_NAME: Final = "tokenizer_config.json"
NO_TEMPLATE_HINT: Final = (
    f"put a simpler `{_TEMPLATE_NAME}` beside the tokenizer.json, where it wins over any other; "
    "or an empty one, to go without and set `prompt: raw`"
)
_CONFIG_BYTES_MAX: Final = 4 << 20
_TEMPLATE_BYTES_MAX: Final = 1 << 20
_SPECIAL_NAMES: Final = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
# Published templates take some hundred steps for two messages, and less than a second in all. A
# step may be a filter over all the memory that there is, so steps alone bound nothing.
_STEPS_MAX: Final = 1_000_000
_SECONDS_MAX: Final = 10.0
_RENDERED_CHARACTERS_MAX: Final = 1 << 20
_REPEAT_MAX: Final = 1 << 16
_MEMORY_BYTES_MAX: Final = 128 << 20
_MEMORY_LOCK: Final = threading.Lock()
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja template and the names of control tokens that it may use.

    Attributes:
        text: The template.
        origin: Where it came from, for messages.
        special_tokens: Such as `bos_token`; only those that the configuration sets.
    """

    text: str
    origin: str
    special_tokens: dict[str, str]


def files_beside(tokenizer_file: Path) -> tuple[Path, ...]:
    """The files beside a tokenizer.json that a template may come from; they need not exist."""
    return tuple(tokenizer_file.parent / name for name in (_TEMPLATE_NAME, _CONFIG_NAME))


def load_chat_template(template_file: Path, tokenizer_file: Path) -> ChatTemplate | None:
    """The template of a file that the caller names, with token names of the tokenizer.

    A template without text is none: an empty file is how one goes without.

    Raises:
        TokenizerError: A file cannot be read.
    """
    data = read_bounded(template_file, "chat template", _TEMPLATE_BYTES_MAX, error=TokenizerError)
    text = _decode_template(data, template_file)
    return _make_template(text, f"file {template_file}", _load_config(tokenizer_file))


def find_chat_template(tokenizer_file: Path) -> ChatTemplate | None:
    """The template that lies beside a tokenizer.json, or None if there is none.

    `chat_template.jinja` wins over `chat_template` in `tokenizer_config.json`, as in transformers.

    Raises:
        TokenizerError: A file cannot be read or is malformed.
    """
    config = _load_config(tokenizer_file)
    data = read_beside(tokenizer_file, _TEMPLATE_NAME, bytes_max=_TEMPLATE_BYTES_MAX)
    if data is not None:
        file = tokenizer_file.parent / _TEMPLATE_NAME
        return _make_template(_decode_template(data, file), f"file {file}", config)
    if config is None:
        return None
    text = _config_template(config)
    if text is None:
        return None
    return _make_template(text, f"file {config.file}, $.chat_template", config)


def _make_template(text: str, origin: str, config: Node | None) -> ChatTemplate | None:
    return ChatTemplate(text, origin, _special_tokens(config)) if text.strip() else None


def _decode_template(data: bytes, file: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            "chat template is not UTF-8", where=f"file {file}, offset {error.start}"
        ) from None


def _load_config(tokenizer_file: Path) -> Node | None:
    file = tokenizer_file.parent / _CONFIG_NAME
    data = read_beside(tokenizer_file, _CONFIG_NAME, bytes_max=_CONFIG_BYTES_MAX)
    if data is None:
        return None
    value = parse_json(data, file=file)
    node = Node(value, "$", file)
    if not isinstance(value, dict):
        raise node.refuse("not an object")
    if value.get("add_prefix_space") is True:
        raise node.get("add_prefix_space").refuse("`add_prefix_space` is not supported")
    return node


def _config_template(config: Node) -> str | None:
    node = config.get("chat_template")
    if node.value is None:
        return None
    if isinstance(node.value, str):
        return node.text()
    for entry in node.items():
        entry.object(("name", "template"), ("name", "template"))
        if entry.get("name").value == "default":
            return entry.get("template").text()
    raise node.refuse("none of the chat templates is named `default`", hint=NO_TEMPLATE_HINT)


def _special_tokens(config: Node | None) -> dict[str, str]:
    """Names that a template may use; a token is written as text or as an object with its text."""
    found: dict[str, str] = {}
    if config is None:
        return found
    for name in _SPECIAL_NAMES:
        node = config.get(name)
        if isinstance(node.value, dict):
            node = node.get("content")
        if node.value is not None:
            found[name] = node.text()
    return found


class _RefusedTemplateError(BaseException):
    """The template does what cannot be fixed at build time; its text goes into the error.

    Not an `Exception`: Jinja drops any of those that a filter raises while it folds constants.
    """


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks text for training and renders as what it holds."""

    tags = {"generation"}  # noqa: RUF012 - the base class has it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, and no operator that builds a huge value in one step."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, int) and abs(one) > _REPEAT_MAX and not isinstance(other, float):
                raise _RefusedTemplateError(f"operand of `{operator}` is too large")
        return super().call_binop(context, operator, left, right)


def _refuse_exception(message: object) -> None:
    raise _RefusedTemplateError(f"template refuses: {str(message)[:200]}")


def _refuse_clock(_format: object = None) -> str:
    raise _RefusedTemplateError("template asks for the date of today (`strftime_now`)")


def _to_json(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _environment() -> _Environment:
    """Set up like transformers' own, less the clock."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse_exception
    environment.globals["strftime_now"] = _refuse_clock
    return environment


class Renderer:
    """One template, compiled, ready to be rendered with different messages.

    Raises:
        TokenizerError: The text is no template.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._budget = _Budget()
        try:
            # What is constant is computed already here. Steps grow with the text, which is bounded.
            with _memory_budget():
                self._compiled = self._budget.spend(
                    math.inf, lambda: _environment().from_string(template.text)
                )
        except _RefusedTemplateError as error:
            raise self._refuse_unfixed(error) from None
        except (
            jinja2.TemplateError,
            RecursionError,
            SyntaxError,
            ValueError,
            MemoryError,
        ) as error:
            raise self.refuse(f"chat template is malformed: {str(error)[:200]}") from None

    def refuse(self, message: str, *facts: str) -> TokenizerError:
        """An error that names the template; the caller raises it."""
        return TokenizerError(message, where=(self._template.origin, *facts), hint=NO_TEMPLATE_HINT)

    @property
    def exhausted(self) -> bool:
        """Whether the template has used up what it may take, rather than refused the messages."""
        return self._budget.exhausted

    def _refuse_unfixed(self, error: _RefusedTemplateError) -> TokenizerError:
        return self.refuse(f"chat template cannot be fixed at build time: {error}")

    def render(self, messages: list[dict[str, str]]) -> str:
        """Text of a conversation followed by the generation prompt.

        Raises:
            TokenizerError: The template fails, never ends, or asks for the clock.
        """
        try:
            with _memory_budget():
                return self._budget.spend(_STEPS_MAX, lambda: self._collect(messages))
        except _RefusedTemplateError as error:
            raise self._refuse_unfixed(error) from None
        except Exception as error:  # noqa: BLE001 - a template is code and may raise anything
            raise self.refuse(
                f"chat template fails: {type(error).__name__}: {str(error)[:200]}"
            ) from None

    def _collect(self, messages: list[dict[str, str]]) -> str:
        pieces: list[str] = []
        length = 0
        for piece in self._compiled.generate(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self._template.special_tokens,
        ):
            pieces.append(piece)
            length += len(piece)
            if length > _RENDERED_CHARACTERS_MAX:
                raise _RefusedTemplateError("text has no end")
        text = "".join(pieces)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise _RefusedTemplateError("text holds a lone surrogate") from None
        return text


@contextlib.contextmanager
def _memory_budget() -> Iterator[None]:
    """Limits what the process may take beyond what it has: Jinja's `~`, filters and lists grow.

    The soft limit on data is the process's own, so no two templates are rendered at once, and
    another thread has no more room than the template in these milliseconds. Only a template
    that would take the machine down comes near it.
    """
    with _MEMORY_LOCK:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = _data_bytes() + _MEMORY_BYTES_MAX
        bounds = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([limit, *bounds]), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Returns what RLIMIT_DATA counts of this process; see proc(5), statm."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[5]
    except OSError as error:
        raise _RefusedTemplateError(f"/proc/self/statm cannot be read: {error}") from None
    return int(pages) * resource.getpagesize()


class _Budget:
    """What one template may take: lines for each rendering, and processor time for all of them.

    Time is that of this thread, whatever else the machine does, and is looked at with every step.
    Python stops tracing for good when a trace function raises, so nothing may drop that error. It
    drops those of generators that are being closed, of the end of an iteration, and of finalizers:
    nothing is raised but at a line of the template and at the call of a function, and the garbage
    of the rest of the process is left until afterwards.
    """

    def __init__(self) -> None:
        self._left_s = _SECONDS_MAX
        self.exhausted = False

    def spend(self, steps_max: float, work: Callable[[], T]) -> T:
        """Returns what `work` does, or stops it with `_RefusedTemplateError` in the middle.

        No context manager: the call of its end would be a step that may be refused, too.
        """
        self._steps_left = steps_max
        self._end_s = time.thread_time() + self._left_s
        before = sys.gettrace()
        collects = gc.isenabled()
        gc.disable()
        sys.settrace(self._trace)
        try:
            return work()
        finally:
            sys.settrace(before)
            if collects:
                gc.enable()
            self._left_s = self._end_s - time.thread_time()

    def _trace(self, frame: types.FrameType, event: str, _argument: object) -> Any:
        self._steps_left -= 1
        self.exhausted = self._steps_left < 0 or time.thread_time() > self._end_s
        begins = event == "call" and not frame.f_code.co_flags & inspect.CO_GENERATOR
        if self.exhausted and (event == "line" or begins):
            reason = "does not end" if self._steps_left < 0 else "takes too long"
            raise _RefusedTemplateError(f"template {reason}")
        # Lines are counted in the template alone; calls of Jinja's own functions count as one step
        # each.
        if event == "call" and frame.f_code.co_filename != "<template>":
            return None
        return self._trace
