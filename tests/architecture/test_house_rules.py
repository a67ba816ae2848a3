"""The rules that no single file can keep alone. Each test says in its failure which file breaks which rule."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "edgeserver", ROOT / "transports")
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
WIRES = {"serial", "tnc", "meshtastic", "udp", "dtls", "memory"}
PURE = ("edgeserver/matrix", "edgeserver/thin", "transports/framing", "transports/coap", "transports/lowband")
WORLDLY = {
    *("aiosqlite", "asyncio", "datetime", "httpcore", "logging", "os", "random", "secrets", "select", "serial"),
    *("socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "trio", "trio_asyncio", "uuid"),
}
SQL = re.compile(
    r"^\s*(SELECT\s.+|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|PRAGMA\s+\w+"
    r"|(CREATE|DROP|ALTER)\s+(UNIQUE\s+)?(TABLE|INDEX|VIEW|TRIGGER)\s|WITH\s+(RECURSIVE\s+)?\w+.*\sAS\s*\()",
    re.DOTALL,
)


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _sources(*, but: str = "") -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not (but and name.startswith(but)):
                yield name, ast.parse(path.read_text(encoding="utf-8"), filename=name)


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every imported name in full, `a.b.c` for `from a.b import c` too, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _without_type_checking(tree: ast.Module) -> ast.Module:
    """The same module without the imports that only a type checker sees."""
    hidden = [
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in node.body
    ]
    kept = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node not in hidden]
    return ast.Module([node for node in kept if isinstance(node, ast.Import | ast.ImportFrom)], [])


def _is_prose(tree: ast.Module) -> set[int]:
    """The ids of constants that stand alone as a statement: docstrings."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def test_every_module_imports_only_from_the_floors_below_it() -> None:
    _run(_tool("lint-imports"), "--no-logo")


def test_ruff_has_nothing_to_say() -> None:
    _run(sys.executable, "-m", "ruff", "check", "--quiet")


def test_mypy_is_strictly_content() -> None:
    _run(sys.executable, "-m", "mypy", "--no-error-summary")


def test_only_the_store_imports_sqlite() -> None:
    found = [
        f"{name}:{line} imports {module}"
        for name, tree in _sources(but="edgeserver/store/")
        for module, line in _imports(tree)
        if module.partition(".")[0] in {"sqlite3", "aiosqlite"}
    ]
    assert not found, "\n".join(found)


def test_pure_modules_import_no_io_clock_randomness_or_logging() -> None:
    """The import contracts follow chains of imports from modules that exist; this also sees single files and new ones."""
    found = [
        f"{name}:{line} imports {module}"
        for name, tree in _sources()
        if name.startswith(tuple(f"{pure}{end}" for pure in PURE for end in ("/", ".py")))
        for module, line in _imports(_without_type_checking(tree))
        if module.partition(".")[0] in WORLDLY
    ]
    assert not found, "\n".join(found)


def test_only_app_picks_concrete_wires() -> None:
    found = [
        f"{name}:{line} imports {module}"
        for name, tree in _sources(but="edgeserver/app")
        for module, line in _imports(_without_type_checking(tree))
        if name.startswith("edgeserver/") and module.startswith("transports.") and module.split(".")[1] in WIRES
        if name != "edgeserver/demo.py"  # a program of its own, whose radio is simulated
    ]
    assert not found, "\n".join(found)


def test_sql_is_written_in_the_store_alone() -> None:
    found = []
    for name, tree in _sources(but="edgeserver/store/"):
        prose = _is_prose(tree)
        found += [
            f"{name}:{node.lineno} {node.value[:60]!r}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if id(node) not in prose and SQL.match(node.value)
        ]
    assert not found, "\n".join(found)


def test_no_module_is_a_grab_bag_by_name() -> None:
    found = [name for name, _ in _sources() if BANNED_NAMES & set(Path(name).with_suffix("").parts)]
    assert not found, "\n".join(found)


def test_the_sql_test_knows_sql_from_english() -> None:
    for text in ("SELECT 1", "INSERT OR IGNORE INTO t VALUES (?)", "UPDATE t SET a = 1", "CREATE TABLE t (a)"):
        assert SQL.match(text), text
    for text in ("Select a room", "update the outbox", "With the room's state as (it is)"):
        assert not SQL.match(text), text
