"""Chat templates: Jinja as published with the models, in a sandbox.

Same text as transformers' apply_chat_template (tokenization_utils_base.py,
chat_template_utils.py): trim_blocks, lstrip_blocks, its tojson, raise_exception, strftime_now,
loop controls, {% generation %}; keys of a message that are None are left out; reasoning is given
under the names templates use.

A template comes from the network. The sandbox shows it the conversation as plain data, lets it
change nothing but lists of its own, and stops it after MAX_STEPS loop turns and macro calls,
MAX_SECONDS, or MAX_CHARACTERS in its output or in one string. It does not stop: memory, when a
list holds one long text many times and is then joined or dumped; a single slow call (a sort, a
JSON dump); the time the Jinja compiler takes on MAX_SOURCE characters; a template that writes a
misleading prompt.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from bobot.errors import TemplateError
from bobot.text.parts import reasoning_of

MAX_SOURCE = 1 << 20
MAX_CHARACTERS = 1 << 24
MAX_STEPS = 200_000
MAX_SECONDS = 5.0
_MAX_WIDTH = 1000
_MAX_BITS = 4096

_BUDGET = "the budget"  # a name with a space: no template can spell it
_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
_PADDING_METHODS = {
    "center",
    "ljust",
    "rjust",
    "zfill",
    "expandtabs",
    "translate",
}
_LIST_METHODS = {"append", "pop"}
_TEXT_ARGUMENTS = re.compile(r"""arguments['"\]]*\s+is\s+(not\s+)?string""")


class ChatTemplate:
    """One template; `tool_source` takes the place of `source` when the conversation has tools."""

    def __init__(
        self, source: str, variables: dict[str, object], tool_source: str | None = None
    ) -> None:
        self.source = source
        self.published: str | None = source
        self._tool_source = tool_source or source
        self._variables = variables
        self._compiled: dict[str, jinja2.Template] = {}
        self.takes_argument_text = bool(_TEXT_ARGUMENTS.search(self._tool_source))

    def takes(self, variable: str) -> bool:
        """Whether the template names this variable."""
        return bool(re.search(rf"\b{re.escape(variable)}\b", self.source + self._tool_source))

    def render(self, messages: list, tools: list | None, **variables: Any) -> str:
        """The prompt. `now` (a callable) is strftime_now's clock; the rest are template variables.

        Raises TemplateError when the template refuses the conversation, fails or meets a limit.
        """
        now: Callable[[], datetime] = variables.pop("now")
        budget = _Budget()
        try:
            shown = {
                "messages": [_as_shown(message) for message in messages],
                "tools": _plain(tools),
                "documents": None,
                **_plain(self._variables),
                **_plain(variables),
                "strftime_now": lambda form: now().strftime(form),
                _BUDGET: budget,
            }
            template = self._template(self._tool_source if tools else self.source)
            return "".join(budget.counted(template.generate(shown)))
        except _FAILURES as error:
            raise TemplateError(
                "The chat template refuses this conversation: {problem}",
                problem=(str(error) or type(error).__name__)[:300],
            ) from error

    def _template(self, source: str) -> jinja2.Template:
        if len(source) > MAX_SOURCE:
            raise ValueError(f"it has more than {MAX_SOURCE} characters")
        if source not in self._compiled:
            self._compiled[source] = _Sandbox().from_string(source)
        return self._compiled[source]


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self.steps = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS or (not self.steps % 100 and time.monotonic() > self.deadline):
            raise jinja2.TemplateRuntimeError(
                f"it runs longer than {MAX_STEPS} loop turns or {MAX_SECONDS:.0f} seconds"
            )

    def counted(self, chunks: Iterator[str]) -> Iterator[str]:
        written = 0
        for chunk in chunks:
            written += len(chunk)
            _check_size(written)
            yield chunk


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with size limits, and a counter in every loop and macro."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing of a template runs while it is compiled
            extensions=[_GenerationTag, loopcontrols],
        )
        for name in ("center", "format"):
            self.filters.pop(name)
        self.globals.pop("lipsum")
        self.globals.update(raise_exception=_raise_exception, dict=_dict, namespace=_Namespace)
        self.filters.update(tojson=_to_json, bobot_step=_step, bobot_concat=_concat)
        self.filters["replace"] = _checked(self.filters["replace"], _check_replace)
        for name in ("indent", "batch", "slice"):
            self.filters[name] = _checked(self.filters[name], _check_width)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Counting().visit(source), *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, list) and attr in _LIST_METHODS:
            return True
        if isinstance(obj, str) and attr in _PADDING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's safe str.format, without fields that are padded to a computed or huge width."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and re.search(r"\d{4}|:[^}]*{", value.__self__):
            raise jinja2.TemplateRuntimeError("a format field of huge or computed width")
        return wrapped

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            _check_replace(owner, *args)
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, str):
            _check_size(len(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateRuntimeError("string formatting with % is not allowed")
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)


class _Namespace(jinja2.utils.Namespace):
    """namespace() without underscore names, through which Python's internals could be reached."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may name an attribute `self`
        self, initial = args[0], dict(*args[1:], **kwargs)
        jinja2.utils.Namespace.__init__(self)
        for name, value in initial.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"namespace attribute {name!r}")
        jinja2.utils.Namespace.__setitem__(self, name, value)


class _Counting(NodeTransformer):
    """Adds a counter to the body of each loop and macro, and a size check to each `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        return self._with_step(node)

    visit_Macro = visit_CallBlock = visit_For

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        items = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(items, "bobot_concat", [], [], None, None, lineno=node.lineno)

    def _with_step(self, node: Any) -> Any:
        self.generic_visit(node)
        call = nodes.Filter(
            nodes.Const(None, lineno=node.lineno),
            "bobot_step",
            [],
            [],
            None,
            None,
            lineno=node.lineno,
        )
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
        return node


class _GenerationTag(Extension):
    """{% generation %} marks what the model wrote, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  (the name and form jinja2 asks for)

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


@jinja2.pass_context
def _step(context: jinja2.runtime.Context, value: None) -> None:
    context.parent[_BUDGET].step()


def _concat(items: list) -> str:
    texts = [str(item) for item in items]
    _check_size(sum(map(len, texts)))
    return "".join(texts)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' tojson: plain json.dumps, no HTML escapes."""
    if isinstance(indent, int):
        _check_width(None, indent)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _checked(function: Callable, check: Callable) -> Callable:
    """A built-in filter whose arguments pass `check` first."""
    takes_context = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)  # keeps the mark that makes jinja2 pass its context first
    def checked(*args: Any, **kwargs: Any) -> Any:
        check(*args[takes_context:], **kwargs)
        return function(*args, **kwargs)

    return checked


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise jinja2.TemplateRuntimeError(f"it makes something larger than {MAX_CHARACTERS}")


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    _check_size(len(text) + text.count(old) * len(new))


def _check_width(_: Any, width: Any = 0, *__: Any, **kwargs: Any) -> None:
    for value in (width, *kwargs.values()):
        if isinstance(value, int) and value > _MAX_WIDTH:
            raise jinja2.TemplateRuntimeError(f"a width of {value}; allowed: up to {_MAX_WIDTH}")


def _check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuses +, * and ** whose result would be huge: sequences by length, integers by bits."""
    sizes = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
    counts = [value for value in (left, right) if isinstance(value, int)]
    if operator == "+":
        _check_size(sum(sizes))
    elif operator == "*" and sizes and counts:
        _check_size(sizes[0] * counts[0])
    elif len(counts) == 2:
        bits = abs(left).bit_length() * max(1, abs(right) if operator == "**" else 1)
        if operator != "%" and bits + abs(right).bit_length() > _MAX_BITS:
            raise jinja2.TemplateRuntimeError(f"a number of more than {_MAX_BITS} bits")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _dict(**items: Any) -> dict:
    return items


def _as_shown(message: Mapping) -> dict:
    shown = {key: value for key, value in _plain(message).items() if value is not None}
    reasoning = reasoning_of(shown)
    if reasoning is None:
        return shown
    return {"thinking": reasoning, **shown, "reasoning_content": reasoning}


def _plain(data: Any) -> Any:
    """A copy made of dicts, lists and exact scalars: the template sees no other type's methods."""
    if isinstance(data, Mapping):
        return {_plain(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(item) for item in data]
    for kind in (bool, int, float, str):
        if isinstance(data, kind):
            return kind(data)
    if data is None:
        return None
    raise TypeError(f"a value of type {type(data).__name__}; allowed: JSON values")
