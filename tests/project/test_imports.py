"""Which modules of the package may import which, read from their source.

test_emitter.py also checks what is loaded when a program runs.
"""

import ast
import io
import os
import sys

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(sys.version_info < (3, 9), reason="the daemon needs Python 3.9")


def find_modules():
    """Return {name: (path, is_package)} of all modules of the package."""
    modules = {}
    for directory, _, files in os.walk(os.path.join(ROOT, "benchmarkai")):
        for file in files:
            if file.endswith(".py"):
                path = os.path.join(directory, file)
                parts = os.path.relpath(path, ROOT)[: -len(".py")].split(os.sep)
                is_package = parts[-1] == "__init__"
                modules[".".join(parts[:-1] if is_package else parts)] = (path, is_package)
    return modules


def is_type_checking(test):
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def import_statements(node):
    """Yield the statements in the node and its children, but not what only type checkers see."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and is_type_checking(node.test):
        children = node.orelse
    for child in children:
        for statement in import_statements(child):
            yield statement


def names_in(statement, module, is_package):
    """Yield the absolute name of each module, or member of a module, that is imported."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield alias.name
        return
    base = statement.module or ""
    if statement.level:
        parts = module.split(".")
        parts = parts[: len(parts) - statement.level + is_package]
        base = ".".join(parts + [base] if base else parts)
    for alias in statement.names:
        yield base + "." + alias.name


def imports_of(source, module, is_package, modules):
    """Return the names of the modules that the source imports.

    A name in the package is that of one of the modules. The packages above a module, which
    Python also imports, are left out.
    """
    imported = set()
    for statement in import_statements(ast.parse(source)):
        for name in names_in(statement, module, is_package):
            if name not in modules and name.rpartition(".")[0] in modules:
                name = name.rpartition(".")[0]  # from benchmarkai.fifo import FifoSink
            imported.add(name)
    return imported


def read_imports():
    modules = find_modules()
    result = {}
    for module, (path, is_package) in modules.items():
        with io.open(path, encoding="utf-8") as file:
            result[module] = imports_of(file.read(), module, is_package, modules)
    return result


def find_cycle(imports):
    """Return a path of modules in which the last one imports the first; [] if there is none."""
    finished = set()

    def visit(module, path):
        if module in path:
            return path[path.index(module) :]
        if module in finished:
            return []
        for imported in sorted(imports.get(module, ())):
            cycle = visit(imported, path + [module])
            if cycle:
                return cycle
        finished.add(module)
        return []

    for module in sorted(imports):
        cycle = visit(module, [])
        if cycle:
            return cycle
    return []


def belongs_to(name, package):
    return name == package or name.startswith(package + ".")


def part_of(module):
    for part in ("command", "daemon"):
        if belongs_to(module, "benchmarkai." + part):
            return part
    return "entry point" if module == "benchmarkai.__main__" else "library"


def test_the_imports_of_the_modules_have_no_cycle():
    cycle = find_cycle(read_imports())
    assert not cycle, " -> ".join(cycle + cycle[:1])


@pytest.mark.parametrize(
    "part, package",
    [
        ("library", "benchmarkai.command"),
        ("library", "benchmarkai.daemon"),
        ("command", "benchmarkai.daemon"),
        ("daemon", "benchmarkai.command"),
    ],
)
def test_no_part_imports_what_it_must_not(part, package):
    importers = {
        module: names for module, names in read_imports().items() if part_of(module) == part
    }
    assert importers
    offenders = [
        "%s imports %s" % (module, name)
        for module, names in sorted(importers.items())
        for name in sorted(names)
        if belongs_to(name, package)
    ]
    assert not offenders, "\n".join(offenders)


def test_only_the_options_and_the_daemon_import_click():
    importers = {
        module
        for module, names in read_imports().items()
        if any(belongs_to(name, "click") for name in names)
    }
    assert "benchmarkai.command.options" in importers
    offenders = {module for module in importers if part_of(module) != "daemon"}
    offenders.remove("benchmarkai.command.options")
    assert not offenders, "modules that import click: %s" % ", ".join(sorted(offenders))


MODULES = {"p": ("", True), "p.a": ("", False), "p.q": ("", True), "p.q.b": ("", False)}


@pytest.mark.parametrize(
    "source, names",
    [
        ("import os, p.a", {"os", "p.a"}),
        ("import p.q.b as b", {"p.q.b"}),
        ("from p import a, member", {"p.a", "p"}),
        ("from p.a import member", {"p.a"}),
        ("from p.q.b import *", {"p.q.b"}),
        ("from click.types import Path", {"click.types.Path"}),
        ("from . import b", {"p.q.b"}),
        ("from .b import member", {"p.q.b"}),
        ("from .. import a", {"p.a"}),
        ("from ..a import member", {"p.a"}),
        ("def f():\n    if x:\n        import p.a", {"p.a"}),
        ("try:\n    import p.a\nexcept ImportError:\n    import p.q", {"p.a", "p.q"}),
        ("if TYPE_CHECKING:\n    import p.a", set()),
        ("if typing.TYPE_CHECKING:\n    import p.a\nelse:\n    import p.q", {"p.q"}),
        ("if not TYPE_CHECKING:\n    import p.a", {"p.a"}),
    ],
)
@pytest.mark.parametrize("module", ["p.q", "p.q.c"])
def test_imports_are_found_in_all_their_forms(module, source, names):
    assert imports_of(source, module, module == "p.q", MODULES) == names


@pytest.mark.parametrize(
    "imports, cycle",
    [
        ({"a": {"b", "c"}, "b": {"c", "os"}, "c": set()}, []),
        ({"a": {"a"}}, ["a"]),
        ({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}}, ["b", "c"]),
    ],
)
def test_cycles_are_found(imports, cycle):
    assert find_cycle(imports) == cycle
