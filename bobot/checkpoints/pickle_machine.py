"""A pickle read as data: an own interpreter for the few opcodes that tensors need.

Python's pickle module can call anything; a deny-list always misses something. Here the opposite is
proven: every opcode is in the steps of a machine, every global in its `known_globals`, and none of
them stands for a function. A "call" builds a record of what the file says; no name is imported, no
attribute is set, nothing of the file runs. Whatever else is in the file raises UnsafeFileError,
which names it. Opcodes: Python's pickletools.

What tensors look like is said by a machine per format: tensor_pickle.py (torch), array_pickle.py
(numpy and jax).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickletools import OpcodeInfo
from typing import Any, ClassVar

from bobot.checkpoints.stored import shown
from bobot.errors import CheckpointError, UnsafeFileError


@dataclass(frozen=True)
class Global:
    """The name of an allowed class or function. It is compared, never imported."""

    name: str


_MARK = object()


class Machine:
    """The stack and the memo while one pickle is read."""

    known_globals: ClassVar[Collection[str]]
    """Every name that a pickle of this format may mention."""
    builders: ClassVar[Mapping[str, Callable]]
    """Those that it may call, with what makes the record."""
    steps: ClassVar[Mapping[str, Callable[[Any, Any], None]]]
    """What each opcode does to the machine, given the opcode's argument."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list = []
        self.memo: dict[int, object] = {}

    def run(self, opcodes: Iterable[tuple[OpcodeInfo, Any, int | None]], size: int) -> object:
        """The one value of the pickle, which ends with byte `size`.

        `opcodes` gives opcode, argument and position, as pickletools.genops does, and ends with
        STOP or raises ValueError.
        """
        try:
            for opcode, argument, position in opcodes:
                if opcode.name == "STOP":
                    return self.result(position, size)
                step = self.steps.get(opcode.name)
                if step is None:
                    raise self.unsafe(_offender(opcode.name, argument))
                step(self, argument)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise CheckpointError(
                "{file}: its pickle is damaged: {reason}", file=self.path, reason=shown(error)
            ) from None
        raise AssertionError("the opcodes end with STOP or raise")

    def result(self, stop: int | None, size: int) -> object:
        if stop is None or stop + 1 != size:
            raise self.unsafe("bytes behind the end of the pickle")
        if len(self.stack) != 1:
            raise CheckpointError("{file}: its pickle leaves no single value", file=self.path)
        return self.stack.pop()

    def unsafe(self, what: str) -> UnsafeFileError:
        return UnsafeFileError(
            "{file} contains {what}, which a file of tensors does not need; nothing of it was run",
            hint="Do not open it with another program. Get the model as safetensors.",
            file=self.path,
            what=shown(what),
        )

    def above_mark(self) -> list:
        """Take what was pushed since the last mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                taken = self.stack[index + 1 :]
                del self.stack[index:]
                return taken
        raise ValueError("a mark is missing")

    def pop(self, count: int) -> list:
        if len(self.stack) < count:
            raise ValueError("the stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def push(self, value: object) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.stack.append(_MARK)

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def set_items(self, pairs: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError("items are set on what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str) or key in target:
                raise ValueError("a name that is no text, or is there twice")
            target[key] = value

    def global_name(self, module_and_name: str) -> None:
        if module_and_name not in self.known_globals:
            raise self.unsafe(module_and_name)
        self.push(Global(module_and_name))

    def stack_global(self) -> None:
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global without a name")
        self.global_name(f"{module}.{name}")

    def reduce(self) -> None:
        function, arguments = self.pop(2)
        builder = self.builders.get(function.name) if isinstance(function, Global) else None
        if builder is None:
            raise self.unsafe("a call of " + getattr(function, "name", type(function).__name__))
        if not isinstance(arguments, tuple):
            raise ValueError("a call without arguments")
        self.push(builder(*arguments))


def _offender(opcode_name: str, argument: object) -> str:
    if opcode_name == "INST":
        return str(argument).replace(" ", ".")
    return f"the pickle opcode {opcode_name}"


STEPS: dict[str, Callable[[Any, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.mark(),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BININT": Machine.push,
    "BININT1": Machine.push,
    "BININT2": Machine.push,
    "LONG1": Machine.push,
    "BINUNICODE": Machine.push,
    "SHORT_BINUNICODE": Machine.push,
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.above_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BINGET": Machine.recall,
    "LONG_BINGET": Machine.recall,
    "GLOBAL": lambda machine, value: machine.global_name(str(value).replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "REDUCE": lambda machine, _: machine.reduce(),
}
"""The opcodes of every format; a machine adds those of its own."""
