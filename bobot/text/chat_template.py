"""Chat templates: Jinja as published with the models, in a sandbox, with the variables transformers gives.

Same text as transformers' apply_chat_template (utils/chat_template_utils.py): trim_blocks, lstrip_blocks,
its tojson, raise_exception, strftime_now, loop controls and the {% generation %} tag.

A template comes from the network. The sandbox lets it see the conversation and plain Python values only,
change nothing but lists it appends to, and stops it after MAX_STEPS loop turns and macro calls,
MAX_SECONDS, or MAX_CHARACTERS in its output or in one string. It does not stop: a few hundred MB of memory
in many strings that are each within the limit; a single slow call within the limits (sorting, a JSON dump);
the time the Jinja compiler takes on MAX_SOURCE characters; a template that writes a misleading prompt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from bobot.errors import TemplateError

MAX_SOURCE = 1 << 20
MAX_CHARACTERS = 1 << 26
MAX_STEPS = 1_000_000
MAX_SECONDS = 10.0
_MAX_PADDING = 1000

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
    "format",
    "format_map",
    "translate",
}
_PADDING_FILTERS = ("center", "format", "lipsum", "wordwrap", "filesizeformat", "pprint", "xmlattr")


class ChatTemplate:
    """One template. `tool_source` replaces `source` when the conversation has tools."""

    def __init__(
        self, source: str, variables: dict[str, object], tool_source: str | None = None
    ) -> None:
        self.source = source
        self._tool_source = tool_source or source
        self._variables = variables

    @cached_property
    def _environment(self) -> _Sandbox:
        return _Sandbox()

    def render(self, messages: list, tools: list | None, **variables: Any) -> str:
        """The prompt. `now` (a callable) is the clock of strftime_now; the rest are template variables.

        Raises TemplateError when the template refuses the conversation, fails or exceeds its limits.
        """
        now: Callable[[], datetime] = variables.pop("now")
        budget = _Budget()
        try:
            template = self._environment.compiled(self._tool_source if tools else self.source)
            chunks = template.generate(
                {
                    "messages": _copied(messages),
                    "tools": _copied(tools),
                    "documents": None,
                    "strftime_now": lambda form: now().strftime(form),
                    _BUDGET: budget,
                    **self._variables,
                    **variables,
                }
            )
            return "".join(budget.counted(chunks))
        except _FAILURES as error:
            raise TemplateError(
                "The chat template refuses this conversation: {problem}",
                problem=_first_line(error),
            ) from error


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
    """Jinja's immutable sandbox with size limits, list.append, and a counter in every loop and macro."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing of a template runs while it is compiled
            extensions=[_GenerationTag, loopcontrols],
        )
        for name in _PADDING_FILTERS:
            self.filters.pop(name, None)
        self.globals.pop("lipsum")
        self.globals["raise_exception"] = _raise_exception
        plain_join, plain_replace = self.filters["join"], self.filters["replace"]
        plain_indent, plain_batch = self.filters["indent"], self.filters["batch"]
        self.filters["tojson"] = _to_json
        self.filters["bobot_step"] = _step
        self.filters["bobot_concat"] = _concat
        self.filters["join"] = _limited(plain_join, jinja2.pass_eval_context)
        self.filters["replace"] = _limited(plain_replace, jinja2.pass_eval_context, _check_replace)
        self.filters["indent"] = _limited(plain_indent, None, _check_padding)
        self.filters["batch"] = _limited(plain_batch, None, _check_padding)

    def compiled(self, source: str) -> jinja2.Template:
        if len(source) > MAX_SOURCE:
            raise jinja2.TemplateSyntaxError(f"it has more than {MAX_SOURCE} characters", 1)
        return self.from_string(source)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Counting().visit(source), *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, list) and attr == "append":
            return True
        if isinstance(obj, str) and attr in _PADDING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            _check_replace(owner, *args)
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, str):
            _check_size(len(result))
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [
            len(value) if isinstance(value, str | list | tuple) else None for value in (left, right)
        ]
        if operator == "+" and None not in sizes:
            _check_size(sum(sizes))
        elif operator == "*" and sizes != [None, None]:
            count = left if sizes[0] is None else right
            size = sizes[1] if sizes[0] is None else sizes[0]
            _check_size(size * count if isinstance(count, int) else 0)
        elif operator == "%" and isinstance(left, str):
            raise jinja2.TemplateRuntimeError("string formatting with % is not allowed")
        elif operator in ("*", "**") and any(isinstance(value, int) for value in (left, right)):
            _check_power(operator, left, right)
        return super().call_binop(context, operator, left, right)


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
    """{% generation %} ... {% endgeneration %} marks what the model wrote; here it changes nothing."""

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
        _check_padding(None, indent)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _limited(
    function: Callable, decorate: Callable | None, check: Callable | None = None
) -> Callable:
    """A filter whose arguments pass `check` first and whose text stays within the size limit."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        if check is not None:
            check(*(args[1:] if decorate else args), **kwargs)
        result = function(*args, **kwargs)
        if isinstance(result, str):
            _check_size(len(result))
        return result

    return decorate(limited) if decorate else limited


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise jinja2.TemplateRuntimeError(
            f"it makes a text of more than {MAX_CHARACTERS} characters"
        )


def _check_replace(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    _check_size(len(text) + text.count(old) * len(new))


def _check_padding(_: Any, width: Any = 0, *__: Any, **kwargs: Any) -> None:
    for value in (width, *kwargs.values()):
        if isinstance(value, int) and value > _MAX_PADDING:
            raise jinja2.TemplateRuntimeError(f"a width of {value}; allowed: up to {_MAX_PADDING}")


def _check_power(operator: str, left: Any, right: Any) -> None:
    bits = [value.bit_length() if isinstance(value, int) else 64 for value in (left, right)]
    if (sum(bits) if operator == "*" else bits[0] * abs(right)) > 4096:
        raise jinja2.TemplateRuntimeError("it computes with numbers of more than 4096 bits")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _copied(data: Any) -> Any:
    """Plain lists and dicts, so that nothing a template appends to belongs to the caller."""
    if isinstance(data, dict):
        return {key: _copied(value) for key, value in data.items()}
    return [_copied(item) for item in data] if isinstance(data, list | tuple) else data


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0][:300]
