"""The house rules as tests: who may import whom, what is pure, what has a parent, what is written down.

Each rule is a function from modules (or texts) to findings, one line each. The project must have none; a small bad
sample beside each rule proves that it would be found.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "rules", "shadow", "devices", "functions", "edge", "cloud", "tidegate")

# The table of docs/architecture.md: a package may import itself and these packages or modules of ours.
PURE = {"core.message", "core.topics", "core.errors"}
LOWER = {"core", "rules", "shadow", "devices", "functions"}
MAY_IMPORT = {
    "core": set(),
    "rules": PURE,
    "shadow": PURE,
    "devices": {"core"},
    "functions": {"core"},
    "edge": LOWER,
    "cloud": LOWER,
    "tidegate": LOWER | {"edge", "cloud"},
}

# Decisions are values in, values out: no I/O, no clock, no randomness, no concurrency.
IMPURE_MODULES = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "signal", "subprocess", "sys", "threading", "uvloop"),
    *("http", "select", "selectors", "socket", "socketserver", "ssl", "urllib"),
    *("fcntl", "io", "logging", "os", "pathlib", "shutil", "sqlite3", "tempfile"),
    *("random", "secrets", "time"),
}
IMPURE_CALLS = {"open", "input", "print", "__import__", "now", "utcnow", "today", "uuid1", "uuid4"}
PURE_PACKAGES = ("rules", "shadow")

# What a running daemon must not carry in its memory.
KEPT_OUT = {
    "edge.daemon": {"typer", "click", "rich", "boto3", "botocore", "prometheus_client", "starlette", "uvicorn"},
    "cloud.daemon": {"typer", "click", "rich"},
}

TASK_MAKERS = {"create_task", "ensure_future"}
MAKES_TASKS = "core.service"  # the one module that could be trusted with a task of its own
MARKERS = re.compile("|".join(rf"\b{marker}\b" for marker in ("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")))
TEXTS = {".py", ".md", ".toml", ".yaml", ".json", ".service", ".sysusers", ".tmpfiles", ""}

FUNCTION_LINES_MAX = 60  # what a screen shows, the docstring not counted
MODULE_LINES_MAX = 400  # blank lines not counted; most modules have 100 to 300

# Test files that are named after a theme that crosses modules, and not after one module.
THEMES = {
    "attacks", "bad_days", "conformance", "corpus", "demo", "documentation", "end_to_end", "entrance", "exactly_once",
    "functions_end_to_end", "functions_greengrass", "functions_kills",
    "house_rules", "interoperability", "intruders", "kills", "outages", "persistent_sessions", "power_cuts",
    "processes", "soak", "systemd",
}  # fmt: skip

# A module may have a second test file: its command as a user types it, or its comparison with a simple model.
KINDS = {"command", "model"}

Modules = Mapping[str, ast.Module]


def project() -> dict[str, ast.Module]:
    """Every module of ours, by dotted name; a package is named like its `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(), str(path))
    return found


def sample(**sources: str) -> dict[str, ast.Module]:
    """Modules made up for a test of a rule: `edge__daemon="import x"` is the module edge.daemon."""
    return {name.replace("__", "."): ast.parse(source) for name, source in sources.items()}


def imports(modules: Modules, name: str) -> Iterator[str]:
    """The dotted names that a module imports anywhere in it; `from core import store` names core.store."""
    for node in ast.walk(modules[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: counted from the package that the module is in, or that it is
                is_package = any(other.startswith(f"{name}.") for other in modules)
                parts = name.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, node.module] if node.module else parents)
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base


def is_below(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def forbidden_imports(modules: Modules) -> list[str]:
    findings = []
    for name in modules:
        package = name.split(".")[0]
        ours = [imported for imported in imports(modules, name) if is_below(imported, set(PACKAGES))]
        allowed = MAY_IMPORT[package] | {package}
        findings += [f"{name} imports {imported}" for imported in ours if not is_below(imported, allowed)]
    return findings


def import_cycles(modules: Modules) -> list[str]:
    graph = {name: sorted(set(imports(modules, name)) & modules.keys() - {name}) for name in modules}
    findings, done = [], set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            findings.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for imported in graph[name]:
                visit(imported, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return findings


def impurities(modules: Modules) -> list[str]:
    findings = []
    for name, tree in modules.items():
        if name.split(".")[0] in PURE_PACKAGES:
            findings += [f"{name} imports {x}" for x in imports(modules, name) if x.split(".")[0] in IMPURE_MODULES]
            findings += [f"{name} calls {called(node)}" for node in ast.walk(tree) if called(node) in IMPURE_CALLS]
    return findings


def called(node: ast.AST) -> str:
    """The last part of the name that a call is made on, or nothing."""
    if isinstance(node, ast.Call):
        match node.func:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return name
    return ""


def without_docstring(modules: Modules) -> list[str]:
    return [name for name, tree in modules.items() if not (ast.get_docstring(tree) or "").strip()]


def tasks_without_parent(modules: Modules) -> list[str]:
    """Calls of asyncio.create_task, loop.create_task and the like; a TaskGroup's create_task is the way."""
    findings = []
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if name == MAKES_TASKS or called(node) not in TASK_MAKERS:
                continue
            assert isinstance(node, ast.Call)
            owner = ast.unparse(node.func).rpartition(".")[0]
            if called(node) == "ensure_future" or owner in {"", "asyncio"} or "loop" in owner:
                findings.append(f"{name}:{node.lineno} {ast.unparse(node.func)}")
    return findings


def long_functions(modules: Modules) -> list[str]:
    findings = []
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > FUNCTION_LINES_MAX:
                    findings.append(f"{name}.{node.name} has {lines} lines")
    return findings


def long_modules(sources: Mapping[str, str]) -> list[str]:
    counted = {name: sum(bool(line.strip()) for line in source.splitlines()) for name, source in sources.items()}
    return [f"{name} has {lines} lines" for name, lines in counted.items() if lines > MODULE_LINES_MAX]


def carried(modules: Modules, start: str) -> set[str]:
    """Every top-level package outside the project that importing `start` can bring in, however deep."""
    seen: set[str] = set()
    outside: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported in imports(modules, name):
            ancestors = {imported.rsplit(".", cut)[0] for cut in range(imported.count(".") + 1)}
            waiting += ancestors & modules.keys()
            if imported.split(".")[0] not in PACKAGES:
                outside.add(imported.split(".")[0])
    return outside


def unmapped_tests(files: list[str], modules: Modules) -> list[str]:
    """Test files named neither after a module or package (its last words, perhaps with a kind), nor a theme."""
    endings = {"_".join(name.split(".")[cut:]) for name in modules for cut in range(name.count(".") + 1)}
    known = THEMES | endings | {f"{ending}_{kind}" for ending in endings for kind in KINDS}
    names = [Path(file).stem.removeprefix("test_") for file in files]
    return [name for name in names if name not in known]


def marked(texts: Mapping[str, str]) -> list[str]:
    return [f"{name}: {found[0]}" for name, text in texts.items() for found in MARKERS.finditer(text)]


def texts() -> dict[str, str]:
    """Every text of the project that a person reads, without what tools leave behind."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:  # an unpacked archive
        paths = [path for path in ROOT.rglob("*") if not is_left_behind(path.relative_to(ROOT))]
    wanted = [path for path in paths if path.suffix in TEXTS and path.name != "LICENSE" and path.is_file()]
    return {str(path.relative_to(ROOT)): path.read_text(errors="replace") for path in wanted}


def is_left_behind(path: Path) -> bool:
    return any((part[0] == "." and part != ".ci") or part in {"build", "dist", "__pycache__"} for part in path.parts)


MODULES = project()


@pytest.mark.parametrize(
    "rule",
    [forbidden_imports, import_cycles, impurities, without_docstring, tasks_without_parent, long_functions],
)
def test_the_project_keeps_the_rule(rule: Callable[[Modules], list[str]]) -> None:
    assert rule(MODULES) == []


def test_no_module_is_too_long() -> None:
    sources = {str(path): path.read_text() for top in PACKAGES for path in (ROOT / top).rglob("*.py")}
    assert long_modules(sources) == []


def test_nothing_is_left_marked_for_later() -> None:
    assert marked(texts()) == []


def test_every_test_file_is_named_after_what_it_tests() -> None:
    assert unmapped_tests([path.name for path in (ROOT / "tests").glob("test_*.py")], MODULES) == []


@pytest.mark.parametrize("daemon", KEPT_OUT)
def test_a_daemon_can_reach_nothing_that_it_must_not_carry(daemon: str) -> None:
    assert carried(MODULES, daemon) & KEPT_OUT[daemon] == set()


@pytest.mark.parametrize("daemon", KEPT_OUT)
def test_a_daemon_loads_nothing_that_it_must_not_carry(daemon: str) -> None:
    script = f"import sys, {daemon}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} & KEPT_OUT[daemon] == set()


def test_the_edge_has_no_way_to_boto3() -> None:
    for name in MODULES:
        if name.split(".")[0] in {"edge", *MAY_IMPORT["edge"]}:
            assert not carried(MODULES, name) & {"boto3", "botocore"}, name


def test_every_daemon_has_a_unit() -> None:
    daemons = [name.split(".")[0] for name in MODULES if name.endswith(".daemon")]
    assert sorted(daemons) == ["cloud", "edge"]
    assert all((ROOT / "systemd" / f"tidegate-{side}.service").is_file() for side in daemons)


def test_the_readme_says_how_to_start() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def test_every_package_is_installed() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    here = {".".join(path.parent.relative_to(ROOT).parts) for top in PACKAGES for path in (ROOT / top).rglob("*.py")}
    assert sorted(named) == sorted(here)


# The rules themselves: each finds the fault in a small bad sample, and nothing in the good one beside it.


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("core__x", "import edge.uplink"),
        ("core__x", "from rules import sql"),
        ("rules__x", "from core.store import Store"),
        ("rules__x", "from core import store"),
        ("shadow__x", "def f():\n    import devices"),
        ("functions__x", "from devices.access import Access"),
        ("edge__x", "from cloud import inbox"),
        ("cloud__x", "import edge"),
        ("cloud__x", "from tidegate.main import main"),
    ],
)
def test_a_forbidden_import_is_found(importer: str, statement: str) -> None:
    modules = sample(**{importer: statement, "core__store": ""})
    assert len(forbidden_imports(modules)) == 1


def test_allowed_imports_are_not_reported() -> None:
    modules = sample(
        rules__x="from core.message import Message\nfrom core import topics\nfrom rules import sql\nimport json",
        core__topics="", rules__sql="", edge__x="from core import store\nimport rules.sql, asyncio",
        core__store="", tidegate__x="import edge.x, cloud.x",
    )  # fmt: skip
    assert forbidden_imports(modules) == []


def test_a_relative_import_is_resolved() -> None:
    modules = sample(
        core__mqtt="from .a import x", core__mqtt__a="from . import b\nfrom .. import store\nfrom ..store import y",
        core__mqtt__b="", core__store="",
    )  # fmt: skip
    assert list(imports(modules, "core.mqtt")) == ["core.mqtt.a"]
    assert list(imports(modules, "core.mqtt.a")) == ["core.mqtt.b", "core.store", "core.store"]


def test_a_cycle_is_found() -> None:
    bad = sample(core__a="from core import b", core__b="def f():\n    import core.c", core__c="from core.a import x")
    assert import_cycles(bad) == ["core.a -> core.b -> core.c -> core.a"]
    assert import_cycles(sample(core__a="import core.b, core.c", core__b="import core.c", core__c="")) == []


@pytest.mark.parametrize(
    "source",
    ["import os.path", "from time import monotonic", "import asyncio", "open('x')", "x = datetime.datetime.now(UTC)",
     "from random import random", "uuid.uuid4()", "print('x')"],
)  # fmt: skip
def test_an_impurity_is_found_in_a_pure_package_only(source: str) -> None:
    assert len(impurities(sample(rules__x=source))) == 1
    assert len(impurities(sample(shadow__x=source))) == 1
    assert impurities(sample(edge__x=source)) == []


def test_a_missing_docstring_is_found() -> None:
    modules = sample(core__a="x = 1", core__b='"""Something."""', core__c='""" """')
    assert without_docstring(modules) == ["core.a", "core.c"]


@pytest.mark.parametrize(
    "source",
    ["asyncio.create_task(f())", "from asyncio import create_task\ncreate_task(f())", "self._loop.create_task(f())",
     "asyncio.get_running_loop().create_task(f())", "asyncio.ensure_future(f())"],
)  # fmt: skip
def test_a_task_without_a_parent_is_found(source: str) -> None:
    assert len(tasks_without_parent(sample(edge__x=source))) == 1
    assert tasks_without_parent(sample(core__service=source, edge__x="group.create_task(f())")) == []


def test_a_long_function_is_found_and_its_docstring_not_counted() -> None:
    body = "    x = 1\n" * FUNCTION_LINES_MAX
    assert long_functions(sample(core__a=f"def f():\n    '''{body}'''\n{body}")) == []
    assert long_functions(sample(core__a=f"def f():\n{body}    x = 2\n")) == ["core.a.f has 61 lines"]


def test_a_long_module_is_found() -> None:
    assert long_modules({"a": "x = 1\n\n" * MODULE_LINES_MAX}) == []
    assert long_modules({"a": "x = 1\n" * (MODULE_LINES_MAX + 1)}) == ["a has 401 lines"]


def test_what_a_daemon_carries_is_followed_through_packages_and_functions() -> None:
    modules = sample(
        edge="import yaml", edge__daemon="from edge import a", edge__a="def f():\n    from core.b.c import x",
        core__b="import rich.table", core__b__c="import json", core__cli="import typer",
    )  # fmt: skip
    assert carried(modules, "edge.daemon") == {"yaml", "rich", "json"}


def test_a_test_file_without_a_subject_is_found() -> None:
    modules = sample(core__mqtt__packets="", rules="", rules__sql="", tidegate__buffer="")
    named = ["packets", "mqtt_packets", "rules", "rules_sql", "sql", "buffer_command", "sql_model", "house_rules"]
    files = [f"test_{name}.py" for name in [*named, "sq", "things", "sq_command"]]
    assert unmapped_tests(files, modules) == ["sq", "things", "sq_command"]


def test_a_marker_is_found() -> None:
    marker = "TO" + "DO"
    good, bad = f"{marker.lower()} s, {marker}S", f"x = 1  # {marker}: later"
    assert marked({"a.md": good, "b.py": bad}) == [f"b.py: {marker}"]
