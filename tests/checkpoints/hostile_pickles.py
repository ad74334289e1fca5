"""Pickles that try to run something, or to exhaust memory, assembled by hand.

Every one that runs creates the file `canary` in the folder.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

START = b"\x80\x02"


def word(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def tensor(kind: str, count: int, shape: bytes, strides: bytes, offset: int = 0) -> bytes:
    storage = word("storage") + name("torch", kind) + word("0") + word("cpu") + number(count)
    hooks = b"\x89" + name("collections", "OrderedDict") + b")R"
    body = b"((" + storage + b"tQ" + number(offset) + shape + strides + hooks + b"t"
    return name("torch._utils", "_rebuild_tensor_v2") + body + b"R"


def table_of(kind: str, count: int, shape: tuple, strides: tuple, offset: int = 0) -> bytes:
    """The pickle of {"w": a view of storage 0}."""
    body = tensor(kind, count, numbers(shape), numbers(strides), offset)
    return START + b"}" + word("w") + body + b"s."


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def _touch(folder: Path) -> str:
    return f"open({str(folder / 'canary')!r}, 'w').close()"


def _shell(folder: Path) -> bytes:
    return word(f"touch '{folder / 'canary'}'")


def _calls(module: str, attribute: str) -> Callable[[Path], bytes]:
    """{"w": module.attribute("touch canary")}"""
    call = name(module, attribute)
    return lambda folder: START + b"}" + word("w") + call + _shell(folder) + b"\x85Rs."


def _python(attribute: str) -> Callable[[Path], bytes]:
    call = name("builtins", attribute)
    return lambda folder: START + b"}" + word("w") + call + word(_touch(folder)) + b"\x85Rs."


def _raw(body: bytes) -> Callable[[Path], bytes]:
    return lambda folder: body


def _system(folder: Path) -> bytes:
    return name("os", "system") + _shell(folder) + b"\x85R"


def _stack_global(module: str, attribute: str) -> Callable[[Path], bytes]:
    head = b"\x80\x04}" + word("w") + word(module) + word(attribute) + b"\x93"
    return lambda folder: head + _shell(folder) + b"\x85Rs."


def _in_shape(folder: Path) -> bytes:
    body = tensor("FloatStorage", 16, _system(folder) + b"\x85", numbers((1,)))
    return START + b"}" + word("w") + body + b"s."


def _in_storage(folder: Path) -> bytes:
    pid = b"(" + word("storage") + _system(folder) + word("0") + word("cpu") + number(4) + b"tQ"
    return START + b"}" + word("w") + pid + b"s."


def _memo(folder: Path) -> bytes:
    """A good tensor first; the call is fetched from the memo later."""
    good = tensor("FloatStorage", 16, numbers((16,)), numbers((1,)))
    hidden = name("os", "system") + b"q\x070"
    return (
        START
        + hidden
        + b"}"
        + word("w")
        + good
        + b"s"
        + word("v")
        + b"h\x07"
        + (_shell(folder) + b"\x85Rs.")
    )


def _memo_overwritten(folder: Path) -> bytes:
    """The slot that held OrderedDict is put again with os.system."""
    first = name("collections", "OrderedDict") + b"q\x010" + name("os", "system") + b"q\x010"
    return START + first + b"}" + word("w") + b"h\x01" + _shell(folder) + b"\x85Rs."


def _second_stream(folder: Path) -> bytes:
    return table_of("FloatStorage", 16, (16,), (1,)) + START + _system(folder) + b"."


def _nested(folder: Path) -> bytes:
    return pickle.dumps({"w": Call(eval, _touch(folder)), "v": Call(Call, print)}, 2)


def _instance(folder: Path) -> bytes:
    return START + b"}" + word("w") + b"(" + _shell(folder) + b"ios\nsystem\ns."


def _object(folder: Path) -> bytes:
    return START + b"}" + word("w") + b"(" + name("os", "system") + _shell(folder) + b"os."


def _new_object(folder: Path) -> bytes:
    return START + b"}" + word("w") + name("subprocess", "Popen") + _shell(folder) + b"\x85\x81s."


def _set_state(folder: Path) -> bytes:
    ordered = name("collections", "OrderedDict") + b")R"
    state = b"}" + word("__class__") + name("collections", "OrderedDict") + b"s"
    return START + ordered + state + b"b."


def _shape_bomb() -> bytes:
    """A shape whose text would have 2**60 words: each tuple holds the one before twice."""
    double = b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    body = tensor("FloatStorage", 16, b")q\x00" + double + b"\x85", numbers((1,)))
    return START + b"}" + word("w") + body + b"s."


def _key_bomb() -> bytes:
    double = b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    return START + b"})q\x00" + double + number(1) + b"s."


PICKLES: dict[str, Callable[[Path], bytes]] = {
    "os.system": _calls("os", "system"),
    "posix.system": _calls("posix", "system"),
    "subprocess.getoutput": _calls("subprocess", "getoutput"),
    "builtins.eval": _python("eval"),
    "builtins.exec": _python("exec"),
    "python 2 name of exec": lambda folder: _python("exec")(folder).replace(
        b"cbuiltins", b"c__builtin__"
    ),
    "runpy": _calls("runpy", "run_path"),
    "torch.load": _calls("torch", "load"),
    "torch.hub.load": _calls("torch.hub", "load"),
    "torch helper that runs a command": _calls("torch.utils.collect_env", "run"),
    "dotted name of a torch module": _stack_global("torch.serialization", "os.system"),
    "stack global": _stack_global("os", "system"),
    "allowed module, other name": _stack_global("torch._utils", "_import_dotted_name"),
    "getattr": _calls("builtins", "getattr"),
    "__reduce__ of print": lambda folder: pickle.dumps({"w": Call(print, "x")}, 2),
    "numpy object array": _calls("numpy.core.multiarray", "_reconstruct"),
    "call inside a shape": _in_shape,
    "call in place of a storage type": _in_storage,
    "call through the memo": _memo,
    "memo slot written twice": _memo_overwritten,
    "second stream": _second_stream,
    "nested calls": _nested,
    "INST": _instance,
    "OBJ": _object,
    "NEWOBJ": _new_object,
    "BUILD": _set_state,
    "extension code": _raw(START + b"\x82\x01."),
    "call of a storage type": _raw(START + name("torch", "FloatStorage") + b")R."),
    "call of a number": _raw(START + number(5) + b")R."),
    "persistent id as text": _raw(START + b"Pos\n."),
    "persistent id of another kind": _raw(START + word("module") + b"Q."),
    "name with a line break": _stack_global("os\n", "system\x1b[2J"),
    "text of 2^60 bytes": _raw(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x."),
    "number of 2^31 bytes": _raw(START + b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x."),
    "frame of 2^60 bytes": _raw(b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}u."),
    "memo slot 2^32 - 1": _raw(START + b"}r\xff\xff\xff\xff" + b"j\xff\xff\xff\xff\x86."),
    "shape that doubles 60 times": _raw(_shape_bomb()),
    "key that doubles 60 times": _raw(_key_bomb()),
    "table that holds itself": _raw(START + b"}q\x00" + word("w") + b"h\x00s."),
    "500 000 marks": _raw(START + b"(" * 500_000 + b"."),
    "pickle over the limit": _raw(START + b"(" * (2 << 20) + b"."),
    "no end": _raw(START + b"}"),
    "empty stack": _raw(START + b"R."),
    "two values": _raw(START + b"}}."),
    "name twice": _raw(START + b"}" + (word("w") + b"Ns") * 2 + b"."),
}
