"""The shape of the package, read from its source: imports, forbidden calls, lengths.

Every file of bobot/ is parsed, imports inside functions too. Each test reports all places at once.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "bobot"

# A unit imports only units of a lower row; units of one row never import each other.
ROWS = [
    {"errors", "paths", "log", "hardware", "messages", "database"},
    {"kernels", "text", "hub"},
    {"quant"},
    {"ops"},
    {"layers", "checkpoints"},
    {"models"},
    {"weights", "distributed"},
    {"engine", "training"},
    {"chat"},
    {"gateway", "audit"},
    {"server"},
    {"cli"},
    {"__init__", "__main__"},
]
ROW_OF = {unit: row for row, units in enumerate(ROWS) for unit in units}

# Every unit may raise our errors; the front door and the command line meet in version and start,
# and the server tells its version.
ALLOWED_BESIDE = {("cli", "__init__"), ("__main__", "__init__"), ("server", "__init__")}
ALLOWED_BESIDE |= {(unit, "errors") for unit in ROWS[0] - {"errors"}}
# The engine speaks in ids, never in text.
FORBIDDEN = {("engine", "text")}

# The only places with an import inside a function, beside a dependency that may be absent.
LAZY = ("cli/", "models/registry.py", "quant/registry.py", "__init__.py", "__main__.py")
OPTIONAL: set[str] = set()

WITHOUT_TORCH = ROWS[0] | {"text", "hub", "gateway", "cli", "__init__", "__main__"}
LIGHT_IMPORTS = (
    "import bobot, bobot.cli, bobot.text, bobot.hub, bobot.hardware, bobot.messages, bobot.gateway"
)

RUNS_CODE = {
    "eval", "exec", "pickle.load", "pickle.loads", "marshal.load", "marshal.loads",
    "shelve.open", "yaml.load", "yaml.unsafe_load", "numpy.load", "np.load",
}  # fmt: skip
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Import(NamedTuple):
    """One imported module by its full name, and where it stands."""

    module: str
    line: int
    in_function: bool


@cache
def sources() -> dict[str, ast.Module]:
    """Path below bobot/ -> its syntax tree."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {
        file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
        for file in files
    }


def unit_of(path: str) -> str:
    """text/bpe.py -> text, errors.py -> errors, __init__.py -> __init__."""
    return path.split("/")[0].removesuffix(".py")


def imports(path: str) -> Iterator[Import]:
    """Every import of one file; `from bobot import x` counts as bobot.x."""
    stack: list[tuple[ast.AST, bool]] = [(sources()[path], False)]
    while stack:
        node, inside = stack.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, inside)
        elif isinstance(node, ast.ImportFrom):
            package = ["bobot", *path.split("/")[:-1]]
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{module}.{alias.name}" if module == "bobot" else module
                yield Import(name, node.lineno, inside)
        inside = inside or isinstance(node, FUNCTIONS)
        stack.extend((child, inside) for child in ast.iter_child_nodes(node))


def imported_units(path: str) -> Iterator[tuple[str, int]]:
    """(unit, line) of each import from another unit of bobot."""
    for imported in imports(path):
        parts = imported.module.split(".")
        if parts[0] == "bobot":
            known = len(parts) > 1 and parts[1] in ROW_OF
            unit = parts[1] if known else "__init__"
            if unit != unit_of(path):
                yield unit, imported.line


def calls(path: str) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, node) of each call."""
    for node in ast.walk(sources()[path]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def report(violations: list[str]) -> str:
    return f"{len(violations)} violations:\n" + "\n".join(violations)


def test_every_unit_has_a_row():
    unknown = sorted({unit_of(path) for path in sources()} - set(ROW_OF))
    assert not unknown, f"give these units a row in DESIGN and here: {unknown}"


def test_imports_go_down_and_never_sideways():
    wrong = []
    for path in sources():
        here = unit_of(path)
        for unit, line in imported_units(path):
            is_down = ROW_OF[unit] < ROW_OF[here] or (here, unit) in ALLOWED_BESIDE
            if not is_down or (here, unit) in FORBIDDEN:
                wrong.append(
                    f"{path}:{line} {here} (row {ROW_OF[here]}) imports {unit} (row {ROW_OF[unit]})"
                )
    assert not wrong, report(wrong)


def test_imports_inside_functions_stand_only_where_they_are_allowed():
    wrong = [
        f"{path}:{imported.line} imports {imported.module} inside a function"
        for path in sources()
        if not path.startswith(LAZY)
        for imported in imports(path)
        if imported.in_function and imported.module.split(".")[0] not in OPTIONAL
    ]
    assert not wrong, report(wrong)


def test_light_units_do_not_name_torch_when_they_load():
    wrong = [
        f"{path}:{imported.line} imports {imported.module}"
        for path in sources()
        if unit_of(path) in WITHOUT_TORCH
        for imported in imports(path)
        if not imported.in_function and "torch" in imported.module.split(".")
    ]
    assert not wrong, report(wrong)


def test_importing_the_light_units_leaves_torch_out():
    script = (
        f"{LIGHT_IMPORTS}\nimport sys\nprint([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stdout, f"loaded: {done.stdout}"


def test_only_the_command_line_prints():
    wrong = [
        f"{path}:{node.lineno}"
        for path in sources()
        if unit_of(path) != "cli"
        for name, node in calls(path)
        if name == "print"
    ]
    assert not wrong, report(wrong)


def test_nothing_runs_code_from_a_file():
    wrong = []
    for path in sources():
        for name, node in calls(path):
            arguments = {k.arg: ast.unparse(k.value) for k in node.keywords}
            safe_torch = name == "torch.load" and arguments.get("weights_only") == "True"
            if name in RUNS_CODE or (name == "torch.load" and not safe_torch):
                wrong.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, report(wrong)


def test_no_exception_is_swallowed():
    wrong = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                is_broad = caught in ("", "Exception", "BaseException")
                is_silent = all(isinstance(s, (ast.Pass, ast.Continue)) for s in node.body)
                if caught == "" or (is_broad and is_silent):
                    wrong.append(f"{path}:{node.lineno} except {caught}")
    assert not wrong, report(wrong)


def test_no_function_rebinds_a_global():
    wrong = [
        f"{path}:{node.lineno} global {', '.join(node.names)}"
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
    ]
    assert not wrong, report(wrong)


def test_files_and_functions_stay_short():
    wrong = []
    for path, tree in sources().items():
        num_lines = len((PACKAGE / path).read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_FILE_LINES:
            wrong.append(f"{path} has {num_lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    place = f"{path}:{node.lineno} {node.name}"
                    wrong.append(f"{place} has {length} lines, at most {MAX_FUNCTION_LINES}")
    assert not wrong, report(wrong)
