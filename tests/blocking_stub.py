"""What a type checker sees of `greenroom.blocking`, made of the async classes' own source.

`python tests/blocking_stub.py` writes `runtime/blocking/__init__.pyi`; a test compares the file with what is made anew.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from greenroom import blocking, functions, options
from greenroom.blocking import mirrors, runtime_mirror, waits
from greenroom.inputs import parameters
from greenroom.structured import adapters, structures

__all__ = ["STUB", "stub"]

STUB = Path(__file__).resolve().parents[1] / "runtime" / "blocking" / "__init__.pyi"
HEAD = '"""Made by tests/blocking_stub.py from the async classes: do not edit."""\n'
OPTIONS = [parameters.ParameterOptions, options.RequestOptions, options.GenerateOptions, options.TokenOptions]
OPTIONS += [options.TurnOptions]
RENAMED = {"AsyncIterable": "Iterable", "AsyncIterator": "Iterator", "OpenRuntime": "Runtime"}
"""Names in annotations that are others here."""
OWN = {"Runtime": ["portal", "call"], "ChatSession": []}
"""What is made by its class here: what it has beside the async one's names."""
FUNCTIONS = [
    *[getattr(functions, name) for name in functions.__all__],
    structures.structures,
    *[getattr(adapters, name) for name in adapters.__all__],
]


def stub() -> str:
    """The text of the stub."""
    classes = {kind: made for kind, made in mirrors.mirrors().items() if made is not mirrors.Iteration}
    local = {made.__name__ for made in classes.values()} | {kind.__name__ for kind in OPTIONS} | {"Iteration"}
    imports = Imports(local)
    body: list[ast.stmt] = [imports.seen(tree_of(kind), kind.__module__) for kind in OPTIONS]
    body += [class_stub(kind, classes[kind], classes, imports) for kind in in_order(classes)]
    body += [own_stub(mirrors.Iteration, imports), *own_stubs(waits.fail_after, imports)]
    for function in FUNCTIONS:
        body += [imports.seen(each, function.__module__) for each in function_stubs(function)]
    shown = [ast.parse(f"__all__ = {sorted(blocking.__all__)!r}").body[0]]
    variables = [ast.parse(f"{name} = TypeVar({name!r})").body[0] for name in sorted(imports.variables)]
    module = ast.Module([*imports.statements(), *shown, *variables, *body], [])
    return formatted(HEAD + ast.unparse(ast.fix_missing_locations(module)))


def formatted(text: str) -> str:
    """As ruff has it, imports in order."""
    ruff = [sys.executable, "-m", "ruff"]
    for command in ([*ruff, "check", "-q", "--fix-only", "--select=I"], [*ruff, "format", "-q"]):
        done = subprocess.run(
            [*command, f"--stdin-filename={STUB}", "-"], input=text, capture_output=True, text=True, check=True
        )
        text = done.stdout
    return text


def in_order(classes: dict[type, type]) -> Iterator[type]:
    """Bases first, else as they were made."""
    yield from sorted(classes, key=lambda kind: len([base for base in kind.__mro__ if base in classes]))


class Imports(ast.NodeVisitor):
    """Where the names in the stub come from."""

    def __init__(self, local: set[str]) -> None:
        self._local = local
        self._found: dict[str, tuple[str, str]] = {"TypeVar": ("typing", "TypeVar")}
        self._module = ""
        self.variables: set[str] = set()

    def seen(self, tree: Any, module: str) -> Any:
        """`tree`, whose names are those of the module."""
        self._module = module
        self.visit(tree)
        return tree

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for each in node.decorator_list:
            if not isinstance(each, ast.Attribute):  # a setter's, which names its property
                self.visit(each)
        self.visit(node.args)
        if node.returns is not None:
            self.visit(node.returns)

    def visit_Name(self, node: ast.Name) -> None:
        name = node.id
        if name in self._local or hasattr(builtins, name):
            return
        if name in RENAMED.values():
            self._found[name] = ("collections.abc", name)
            return
        value = vars(import_module(self._module)).get(name)
        if type(value).__name__ == "TypeVar":
            self.variables.add(name)
            return
        home = origin(self._module, name)
        if self._found.setdefault(name, home) != home:  # two modules have something of that name
            node.id = home[0].rpartition(".")[2].title() + name
            self._found[node.id] = home

    def visit_Constant(self, node: ast.Constant) -> None:
        """A text is a default, or within a `Literal`."""

    def statements(self) -> list[ast.stmt]:
        """Their imports."""
        lines = [
            f"from {module} import {original}" + (f" as {name}" if name != original else "")
            for name, (module, original) in sorted(self._found.items())
        ]
        return ast.parse("\n".join(lines)).body


def origin(module: str, name: str) -> tuple[str, str]:
    """The module that a name of `module` is imported from, and its name there."""
    for node in ast.parse(inspect.getsource(import_module(module))).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module:
                    return node.module, alias.name
    return module, name


def tree_of(thing: Any) -> Any:
    """The syntax tree of a class or function, renamed for here."""
    return Renamed().visit(ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0])


class Renamed(ast.NodeTransformer):
    """An async definition as a blocking one, without its body."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(RENAMED.get(node.id, node.id), ast.Load())

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)  # a union, of which both sides may be one now
        return node.left if ast.dump(node.left) == ast.dump(node.right) else node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.FunctionDef:
        made = ast.FunctionDef(**{field: getattr(node, field) for field in node._fields})
        is_generator = any(isinstance(each, ast.Yield) for each in ast.walk(node))
        shown = self.visit_FunctionDef(made)
        if is_generator and isinstance(shown.returns, ast.Subscript):
            shown.returns.value = ast.Name("Iteration")
        return shown

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.body = [ast.Expr(ast.Constant(...))]
        self.generic_visit(node)
        arguments = node.args
        arguments.defaults = [plain(each) for each in arguments.defaults]
        arguments.kw_defaults = [None if each is None else plain(each) for each in arguments.kw_defaults]
        if node.name == "__await__" and isinstance(node.returns, ast.Subscript):
            node.returns = node.returns.slice.elts[-1]  # type: ignore[attr-defined]  # Generator[Any, Any, T]
        node.name = mirrors.NAMES.get(node.name, node.name)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        node.body = [each for each in node.body if not is_docstring(each)] or [ast.Expr(ast.Constant(...))]
        return node


def plain(default: ast.expr) -> ast.expr:
    """A default that is a constant; of another one the stub says only that it is there."""
    return default if isinstance(default, ast.Constant) else ast.Constant(...)


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def function_stubs(function: Any) -> list[ast.FunctionDef]:
    """A function's overloads, or itself."""
    tree = ast.parse(inspect.getsource(sys.modules[function.__module__]))
    found = [
        Renamed().visit(node)
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function.__name__
    ]
    return list(without_implementations(found))


def without_implementations(found: Iterable[ast.FunctionDef]) -> Iterator[ast.FunctionDef]:
    """Overloads alone, where a function has any."""
    found = list(found)
    overloaded = {each.name for each in found if is_overload(each)}
    for each in found:
        if each.name not in overloaded or is_overload(each):
            yield each


def is_overload(node: ast.FunctionDef) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)


def class_stub(kind: type, made: type, classes: dict[type, type], imports: Imports) -> ast.ClassDef:
    """A blocking class: its methods, properties and public attributes, those of bases without a mirror too."""
    methods: dict[str, list[ast.stmt]] = {}
    for base in mirrors.own_bases(kind):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        here: dict[str, list[ast.stmt]] = {}
        for node in members(tree, base, with_init=made.__name__ in OWN and base is kind):
            here.setdefault(name_of(node), []).append(imports.seen(node, base.__module__))
        methods = {**here, **methods}
    own = ast.parse(inspect.getsource(runtime_mirror.RuntimeMirror)).body[0]
    assert isinstance(own, ast.ClassDef)
    for node in own.body:
        if isinstance(node, ast.FunctionDef) and node.name in OWN.get(made.__name__, ()):
            methods[node.name] = [imports.seen(Renamed().visit(node), runtime_mirror.__name__)]
    header = tree_of(kind)
    kept = {each.__name__ for each in classes.values()} | {"Generic"}
    header.bases = [each for each in header.bases if base_name(each) in kept]
    for each in header.bases:
        imports.seen(each, kind.__module__)
    header.name, header.decorator_list = made.__name__, []
    if made.__name__ == "Runtime":
        add_loop(methods["__init__"][0], imports)
    header.body = [each for name in sorted(methods) for each in methods[name]] or [ast.Expr(ast.Constant(...))]
    assert isinstance(header, ast.ClassDef)
    return header


def base_name(node: ast.expr) -> str:
    return base_name(node.value) if isinstance(node, ast.Subscript) else node.id if isinstance(node, ast.Name) else ""


def members(tree: ast.ClassDef, kind: type, *, with_init: bool) -> Iterator[ast.stmt]:
    """What is public of a class's body, as it is here."""
    definitions = [each for each in tree.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
    names = {each.name for each in definitions}
    init = next((each for each in definitions if each.name == "__init__"), None)
    if init is not None:
        yield from attributes(init)
    shown = []
    for each in definitions:
        is_public = mirrors.is_shown(kind, each.name) or (with_init and each is init)
        if is_public and not (each.name == "__await__" and "wait" in names):
            shown.append(Renamed().visit(each))
    yield from without_implementations(shown)


def attributes(init: Any) -> Iterator[ast.stmt]:
    """The public attributes that an object has of its `__init__`, with their types."""
    given = {each.arg: each.annotation for each in (*init.args.args, *init.args.kwonlyargs)}
    for node in init.body:
        target: Any = (
            node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if is_assignment(node) else None
        )
        if not isinstance(target, ast.Attribute) or target.attr.startswith("_") or base_name(target.value) != "self":
            continue
        if isinstance(node, ast.AnnAssign):
            kind = node.annotation
        elif isinstance(node.value, ast.Name):
            kind = given[node.value.id]
        else:
            kind = ast.Name(type(ast.literal_eval(node.value)).__name__)
        yield ast.AnnAssign(ast.Name(target.attr), Renamed().visit(kind), None, 1)


def is_assignment(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and len(node.targets) == 1


def name_of(node: Any) -> str:
    target: Any = node.target if isinstance(node, ast.AnnAssign) else None
    name: str = node.name if target is None else target.id
    return name


def own_stub(kind: type, imports: Imports) -> ast.ClassDef:
    """A class that is blocking as it stands."""
    tree = tree_of(kind)
    tree.bases = [each for each in tree.bases if base_name(each) != "Mirror"]
    tree.body = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    shown: ast.ClassDef = imports.seen(tree, kind.__module__)
    return shown


def own_stubs(function: Any, imports: Imports) -> list[Any]:
    """A function likewise."""
    return [imports.seen(each, function.__module__) for each in function_stubs(function)]


def add_loop(init: Any, imports: Imports) -> None:
    """The library of the loop, which a blocking runtime is told."""
    argument = ast.parse("def f(*, loop: LoopKind = 'asyncio'): ...").body[0].args  # type: ignore[attr-defined]
    imports.seen(argument, runtime_mirror.__name__)
    init.args.kwonlyargs += argument.kwonlyargs
    init.args.kw_defaults += argument.kw_defaults


if __name__ == "__main__":
    STUB.write_text(stub())
