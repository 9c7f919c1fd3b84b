"""The shape of the source: who may import whom, and a few habits that no linter knows.

Each rule is a function from a source tree and one of its modules to the sentences that say what is
wrong there; each has a test of its own, run on every module under `src`. The last test runs every
rule on a small tree that breaks it, so that a rule which has gone blind is noticed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

PACKAGE = "ragsocket"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

# What a layer may import of ragsocket beside itself; the longest name that fits a module rules.
MAY_IMPORT = {
    "ragsocket": (),
    "ragsocket.errors": (),
    "ragsocket.settings": ("errors",),
    "ragsocket.protocol": ("errors",),
    "ragsocket.engine": ("engine.base", "engine.documents", "errors", "settings"),
    "ragsocket.engine.base": ("errors",),
    # What a door asks of files and vector stores; who answers, it does not know.
    "ragsocket.engine.documents": ("engine.base", "errors"),
    "ragsocket.responses": ("protocol", "engine.base", "errors", "settings"),
    "ragsocket.web": (),
    "ragsocket.transports": (
        "protocol",
        "responses",
        "engine.base",
        "engine.documents",
        "errors",
        "settings",
    ),
    "ragsocket.app": ("transports", "protocol", "responses", "engine", "errors", "settings"),
    "ragsocket.server": ("transports", "protocol", "responses", "errors", "settings"),
    "ragsocket.cli": (
        "app",
        "server",
        "transports",
        "protocol",
        "responses",
        "engine",
        "errors",
        "settings",
    ),
    "ragsocket.__main__": ("cli",),
}
# Everything from outside that a layer may import; layers that are not named are free to choose.
ONLY_OUTSIDE = {
    "ragsocket": (),
    "ragsocket.errors": (),
    "ragsocket.protocol": ("pydantic", "msgspec"),
    "ragsocket.engine.base": (),
    "ragsocket.engine.documents": (),
}
# Modules without an event loop, a server or a database: plain functions of their input.
PURE = (
    "ragsocket.protocol",
    "ragsocket.responses.lifecycle",
    "ragsocket.engine.base",
    "ragsocket.engine.documents",
)
IMPURE = ("asyncio", "anyio", "fastapi", "starlette", "uvicorn", "sqlalchemy", "aiohttp")
WEB = ("fastapi", "starlette", "uvicorn")

# `create_app` takes LlamaIndex's objects, so the types of its arguments may be named there.
TAKES_LLAMA_INDEX = "ragsocket.app"

NAMES_THAT_SAY_NOTHING = {"core", "helper", "helpers", "manager", "managers", "util", "utils"}
TASKS_WITHOUT_OWNER = {"create_task", "ensure_future", "gather"}
LINES_IN_ONE_SITTING = 400
REASON_TO_BE_LONGER = "Over 400 lines because"


When = Literal["loaded", "run", "type-checked"]


@dataclass(frozen=True)
class Import:
    """One imported module, and what happens to the code around it when it is imported."""

    name: str
    line: int
    when: When


@dataclass(frozen=True)
class Module:
    """A source file, parsed."""

    name: str
    path: Path
    text: str = field(repr=False)
    syntax: ast.Module = field(repr=False)


Tree = Mapping[str, Module]
Rule = Callable[[Tree, Module], Iterator[str]]


def read_tree(root: Path) -> Tree:
    """Parse every Python file of the package at `root`; the keys are dotted module names."""
    tree = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        tree[name] = Module(name, path, text, ast.parse(text, str(path)))
    return tree


def is_within(name: str, package: str) -> bool:
    """True if `name` is `package` or stands below it."""
    return name == package or name.startswith(package + ".")


def layer_of(name: str, table: Mapping[str, tuple[str, ...]]) -> str | None:
    """The longest key of `table` that `name` stands in. The package's own key is for it alone."""
    fits = [key for key in table if name == key or (key != PACKAGE and is_within(name, key))]
    return max(fits, key=len, default=None)


def imports_of(tree: Tree, module: Module) -> Iterator[Import]:
    """Every import in a module: relative ones, those in functions, and `import_module("…")` too."""

    def visit(node: ast.AST, when: When) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, when)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield Import(submodule if submodule in tree else base, node.lineno, when)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield Import(str(node.args[0].value), node.lineno, when)
        inside: When = when
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside = "run" if when == "loaded" else when
        for_checkers: list[ast.stmt] = []
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for_checkers = node.body
        for child in ast.iter_child_nodes(node):
            yield from visit(child, "type-checked" if child in for_checkers else inside)

    return visit(module.syntax, "loaded")


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The module that a `from … import` names, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    package = module.name.split(".")
    up = node.level - (module.path.name == "__init__.py")
    return ".".join([*package[: len(package) - up], *([node.module] if node.module else [])])


def called(node: ast.Call) -> str:
    """The last name of what is called: `c` for `a.b.c(…)`."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)


def imports_down(tree: Tree, module: Module) -> Iterator[str]:
    """Imports of ragsocket that MAY_IMPORT does not name."""
    layer = layer_of(module.name, MAY_IMPORT)
    if layer is None:
        yield f"{module.name} belongs to no layer of MAY_IMPORT"
        return
    allowed = [f"{PACKAGE}.{name}" for name in MAY_IMPORT[layer]]
    for imported in imports_of(tree, module):
        # The bare package holds the version and nothing else; anybody may ask for that.
        if imported.name.startswith(PACKAGE + ".") and not (
            layer_of(imported.name, MAY_IMPORT) == layer
            or any(is_within(imported.name, name) for name in allowed)
        ):
            yield f"{module.name}:{imported.line} imports {imported.name}"


def imports_only_its_libraries(tree: Tree, module: Module) -> Iterator[str]:
    """Libraries that ONLY_OUTSIDE does not name."""
    layer = layer_of(module.name, ONLY_OUTSIDE)
    if layer is None:
        return
    for imported in imports_of(tree, module):
        top = imported.name.partition(".")[0]
        if top != PACKAGE and top not in sys.stdlib_module_names and top not in ONLY_OUTSIDE[layer]:
            yield f"{module.name}:{imported.line} imports {imported.name}"


def imports_no_loop_when_pure(tree: Tree, module: Module) -> Iterator[str]:
    """Loops, servers and databases in PURE modules."""
    if any(is_within(module.name, pure) for pure in PURE):
        for imported in imports_of(tree, module):
            if imported.name.partition(".")[0] in IMPURE:
                yield f"{module.name}:{imported.line} imports {imported.name}"


def engine_knows_no_web(tree: Tree, module: Module) -> Iterator[str]:
    """Web frameworks in the engine."""
    if is_within(module.name, f"{PACKAGE}.engine"):
        for imported in imports_of(tree, module):
            if imported.name.partition(".")[0] in WEB:
                yield f"{module.name}:{imported.line} imports {imported.name}"


def only_the_engine_knows_llama_index(tree: Tree, module: Module) -> Iterator[str]:
    """LlamaIndex outside the engine, wherever it is imported."""
    if is_within(module.name, f"{PACKAGE}.engine"):
        return
    for imported in imports_of(tree, module):
        named = module.name == TAKES_LLAMA_INDEX and imported.when == "type-checked"
        if is_llama_index(imported) and not named:
            yield f"{module.name}:{imported.line} imports {imported.name}"


def is_llama_index(imported: Import) -> bool:
    """True for LlamaIndex's core and every package that extends it."""
    return imported.name.partition(".")[0].startswith("llama_index")


def loads_no_llama_index(tree: Tree, module: Module) -> Iterator[str]:
    """Ways by which loading a module loads LlamaIndex, through any number of others."""
    engine = f"{PACKAGE}.engine"
    light = (engine, f"{engine}.base", f"{engine}.documents")
    if is_within(module.name, engine) and module.name not in light:
        return
    seen: set[str] = set()
    todo = [(module.name, module.name)]
    while todo:
        name, way = todo.pop()
        if name in seen or name not in tree:
            continue
        seen.add(name)
        if parent := name.rpartition(".")[0]:
            todo.append((parent, f"{way} -> {parent}"))
        for imported in imports_of(tree, tree[name]):
            if imported.when != "loaded":
                continue
            if is_llama_index(imported):
                yield f"{way} -> {imported.name}"
            else:
                todo.append((imported.name, f"{way} -> {imported.name}"))


def name_says_something(tree: Tree, module: Module) -> Iterator[str]:
    """Modules whose name would fit any other."""
    if module.name.rpartition(".")[2].strip("_") in NAMES_THAT_SAY_NOTHING:
        yield f"{module.name} is named after nothing in particular"


def reads_no_environment(tree: Tree, module: Module) -> Iterator[str]:
    """Reads of the environment."""
    banned = {"environ", "environb", "getenv", "getenvb"}
    for node in ast.walk(module.syntax):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
            names = {node.attr}
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names = {alias.name for alias in node.names}
        else:
            continue
        for name in sorted(names & banned):
            yield f"{module.name}:{node.lineno} reads os.{name}"


def is_read_in_one_sitting(tree: Tree, module: Module) -> Iterator[str]:
    """Files that are long without a reason in their docstring."""
    lines = len(module.text.splitlines())
    docstring = " ".join((ast.get_docstring(module.syntax) or "").split())
    if lines > LINES_IN_ONE_SITTING and REASON_TO_BE_LONGER not in docstring:
        yield f'{module.name} has {lines} lines and does not say "{REASON_TO_BE_LONGER} …"'


def tasks_have_owners(tree: Tree, module: Module) -> Iterator[str]:
    """Tasks of asyncio itself, or of a loop."""
    for node in ast.walk(module.syntax):
        if isinstance(node, ast.Call) and called(node) in TASKS_WITHOUT_OWNER:
            receiver = ast.unparse(node.func).rpartition(".")[0]
            if not receiver or receiver == "asyncio" or "loop" in receiver:
                yield f"{module.name}:{node.lineno} calls {ast.unparse(node.func)}"


TREE = read_tree(SOURCE)
every_module = pytest.mark.parametrize("module", TREE.values(), ids=TREE.keys())


@every_module
def test_layers_import_only_what_lies_below_them(module: Module) -> None:
    """Protocol, responses, transports, app and cli know each other in this direction alone."""
    assert not list(imports_down(TREE, module))


@every_module
def test_the_lowest_layers_import_only_the_libraries_named_for_them(module: Module) -> None:
    """The wire is pydantic and msgspec; errors and the engine's interface are plain Python."""
    assert not list(imports_only_its_libraries(TREE, module))


@every_module
def test_pure_modules_import_no_event_loop_server_or_database(module: Module) -> None:
    """The protocol, the lifecycle and the engine's interface can be run and read without a loop."""
    assert not list(imports_no_loop_when_pure(TREE, module))


@every_module
def test_the_engine_knows_no_web_framework(module: Module) -> None:
    """An engine answers questions, whoever carries them."""
    assert not list(engine_knows_no_web(TREE, module))


@every_module
def test_only_the_engine_imports_llama_index(module: Module) -> None:
    """LlamaIndex can be replaced by changing one package."""
    assert not list(only_the_engine_knows_llama_index(TREE, module))


@every_module
def test_loading_anything_but_the_engine_loads_no_llama_index(module: Module) -> None:
    """LlamaIndex takes seconds to load, so the port is bound and help is shown before that."""
    assert not list(loads_no_llama_index(TREE, module))


@every_module
def test_a_module_is_named_after_what_it_holds(module: Module) -> None:
    """Names that fit anything hold anything."""
    assert not list(name_says_something(TREE, module))


@every_module
def test_no_module_reads_the_environment(module: Module) -> None:
    """Settings are the one way in for what an operator chooses."""
    assert not list(reads_no_environment(TREE, module))


@every_module
def test_a_long_file_says_at_its_head_why(module: Module) -> None:
    """A file is read in one sitting unless there is a reason that a reader can weigh."""
    assert not list(is_read_in_one_sitting(TREE, module))


@every_module
def test_tasks_are_born_in_task_groups(module: Module) -> None:
    """A task that nobody owns is a task whose failure nobody sees."""
    assert not list(tasks_have_owners(TREE, module))


@pytest.mark.parametrize(
    ("rule", "file", "text"),
    [
        (imports_down, "protocol/events.py", "from ragsocket.settings import Settings"),
        (imports_down, "protocol/events.py", "from ..responses import runner"),
        (imports_down, "engine/chat.py", "import ragsocket.protocol.ids"),
        (imports_down, "engine/base.py", "from ragsocket.engine import chat"),
        (imports_down, "responses/runner.py", "from ragsocket.engine import chat"),
        (imports_down, "responses/runner.py", "from ragsocket import engine"),
        (imports_down, "responses/runner.py", "from ragsocket import app"),
        (
            imports_down,
            "transports/door.py",
            "def f():\n    from ragsocket.engine.chat import Chat",
        ),
        (imports_down, "app.py", "from ragsocket.cli import main"),
        (imports_down, "settings.py", "from .protocol import events"),
        (imports_down, "__init__.py", "from ragsocket.errors import ConfigError"),
        (imports_down, "extra.py", ""),
        (imports_only_its_libraries, "protocol/events.py", "import orjson"),
        (imports_only_its_libraries, "engine/base.py", "from pydantic import BaseModel"),
        (imports_no_loop_when_pure, "protocol/events.py", "import asyncio"),
        (imports_no_loop_when_pure, "responses/lifecycle.py", "from anyio.abc import TaskGroup"),
        (engine_knows_no_web, "engine/chat.py", "from starlette.websockets import WebSocket"),
        (only_the_engine_knows_llama_index, "app.py", "def f():\n    import llama_index.core"),
        (
            only_the_engine_knows_llama_index,
            "cli.py",
            "if TYPE_CHECKING:\n    from llama_index.core.llms import LLM",
        ),
        (
            only_the_engine_knows_llama_index,
            "app.py",
            "import importlib\nimportlib.import_module('llama_index.core')",
        ),
        (loads_no_llama_index, "app.py", "from ragsocket.engine.chat import Chat"),
        (loads_no_llama_index, "engine/__init__.py", "from .chat import Chat"),
        (name_says_something, "responses/utils.py", ""),
        (name_says_something, "engine/core/__init__.py", ""),
        (reads_no_environment, "app.py", "import os\nHOME = os.environ['HOME']"),
        (reads_no_environment, "app.py", "from os import getenv"),
        (is_read_in_one_sitting, "app.py", '"""Long."""\n' + "x = 1\n" * 400),
        (tasks_have_owners, "app.py", "import asyncio\nasyncio.create_task(f())"),
        (tasks_have_owners, "app.py", "from asyncio import gather\nawait gather(a, b)"),
        (tasks_have_owners, "app.py", "asyncio.get_running_loop().create_task(f())"),
    ],
)
def test_each_rule_sees_a_tree_that_breaks_it(
    tmp_path: Path, rule: Rule, file: str, text: str
) -> None:
    """Each rule finds its fault in a sound tree with one bad module, and finds none without it."""
    root = tmp_path / PACKAGE
    sound = {
        "__init__.py": "",
        "errors.py": "",
        "settings.py": "from ragsocket.errors import ConfigError",
        "protocol/__init__.py": "",
        "protocol/events.py": "import json\nimport msgspec\nfrom . import ids",
        "protocol/ids.py": "",
        "engine/__init__.py": "",
        "engine/base.py": "from typing import Protocol",
        "engine/chat.py": "import llama_index.core\nfrom ragsocket.engine import base",
        "responses/__init__.py": "",
        "responses/lifecycle.py": "from ragsocket.engine import base as engine",
        "responses/runner.py": "import anyio\nfrom ..protocol import events",
        "transports/__init__.py": "",
        "transports/door.py": "import ragsocket\nfrom ragsocket.responses import runner",
        "app.py": (
            "if TYPE_CHECKING:\n    from llama_index.core.llms import LLM\n"
            "def f():\n    from ragsocket.engine.chat import Chat\n    group.start_soon(f)"
        ),
        "cli.py": "from ragsocket.app import f",
        "__main__.py": "from ragsocket.cli import main",
    }

    def faults() -> list[str]:
        tree = read_tree(root)
        return [fault for module in tree.values() for fault in rule(tree, module)]

    for name, content in sound.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    assert faults() == []

    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text, encoding="utf-8")
    assert faults() != []


def test_a_long_file_with_a_reason_is_accepted(tmp_path: Path) -> None:
    """The reason may be broken over lines of the docstring."""
    text = '"""Long.\n\nOver 400\nlines because it is read together.\n"""\n' + "x = 1\n" * 400
    module = Module("ragsocket.app", tmp_path, text, ast.parse(text))
    assert list(is_read_in_one_sitting({module.name: module}, module)) == []
