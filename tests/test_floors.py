"""Imports point strictly downward, and a few more rules of the house that a parser can check."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "guardtok"

# A module, or a package as one, may import what stands on a lower line. The numbers are the design's floors; a fraction
# orders modules within one. `__init__` is the public face, so nothing below may import a name from it.
FLOORS: dict[float, set[str]] = {
    0: {"errors", "extension", "finding", "tokenizer", "violation"},
    0.5: {"dialects", "extended", "named_tokens", "placing", "text", "vocabularies"},
    0.7: {"engines"},
    1: {"adapters", "policy", "views"},
    1.1: {"added_tokens"},
    1.2: {"building"},
    1.3: {"manifest"},
    1.5: {"encodings", "intake"},
    1.7: {"rules"},
    2: {"reference", "reference_views", "ruleset"},
    2.5: {"beginnings", "breaking", "narrow", "reference_text"},
    3: {"decide", "scan"},
    3.3: {"pieces"},
    3.4: {"placement"},
    3.5: {"attribute", "clean", "layout", "lookalikes", "records"},
    3.7: {"edits", "encoded"},
    4: {"encode"},
    4.5: {"sanitize"},
    5: {"chat", "guarded_encoding", "harmony", "hazmat", "prepare", "pretrained", "sinks", "stream"},
    5.5: {"examine"},
    5.7: {"batch", "requests"},
    5.8: {"guarded_bodies"},
    6: {"guard"},
    6.5: {"bundles"},
    7: {"corpus", "explanation", "extending", "fuzz", "gateway", "lint", "policy_test", "resize", "testing"},
    8: {"cli"},
    9: {"__init__", "__main__"},
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}

# The specification must not lean on what it specifies, nor the other way round: only tests and fuzzing read it.
ONLY_IMPORTED_BY = {
    "reference": {"fuzz", "reference_text"},
    "reference_text": {"fuzz"},
    "reference_views": {"fuzz", "reference_text"},
}

MAX_LINES = 400
EMPTY_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import that runs, those inside functions too; types alone do not count."""
    todo = [tree]
    while todo:
        node = todo.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                todo += node.orelse
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom(level=0, module="guardtok"):
                yield from ((node.lineno, f"guardtok.{alias.name}") for alias in node.names)
            case ast.ImportFrom():
                yield node.lineno, "." * node.level + (node.module or "")
            case _:
                todo += ast.iter_child_nodes(node)


def problem_with_import(importer: str, name: str) -> str | None:
    """Return what is wrong with `importer` importing the dotted `name`, or None."""
    if name.startswith("."):
        return "is relative; name the module in full"
    root, _, rest = name.partition(".")
    if root != "guardtok":
        return None
    target = rest.split(".")[0] or "__init__"
    if target == importer:
        return None
    # A name that is no module is an attribute of the public face.
    if FLOOR.get(target, FLOOR["__init__"]) >= FLOOR[importer]:
        return "does not point downward"
    if importer not in ONLY_IMPORTED_BY.get(target, {importer}):
        return "is for tests and fuzzing"
    return None


def problems(package: Path) -> list[str]:
    """Return every breach of the rules in a package, as `file:line: what`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        module = place.parts[0].removesuffix(".py")
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        if EMPTY_NAMES.intersection(place.with_suffix("").parts):
            found.append(f"{place}:1: the name says nothing")
        if len(source.splitlines()) > MAX_LINES:
            found.append(f"{place}:{MAX_LINES + 1}: the file is longer than {MAX_LINES} lines")
        found += [
            f"{place}:{node.lineno}: `assert` is gone under `python -O`; raise"
            for node in ast.walk(tree)
            if isinstance(node, ast.Assert)
        ]
        if module not in FLOOR:
            found.append(f"{place}:1: {module} stands on no floor; place it in FLOORS")
            continue
        for line, name in imported(tree):
            problem = problem_with_import(module, name)
            if problem:
                found.append(f"{place}:{line}: the import of {name} {problem}")
    return found


def test_the_package_keeps_the_rules() -> None:
    """No module of guardtok imports upward or sideways, and none breaks a rule of the house."""
    assert (PACKAGE / "errors.py").is_file()
    assert problems(PACKAGE) == []


def test_a_module_stands_on_one_floor() -> None:
    """No name is on two floors, where the lower one would be forgotten."""
    assert len(FLOOR) == sum(map(len, FLOORS.values()))


@pytest.mark.parametrize(
    ("file", "source", "problem"),
    [
        ("scan.py", "import guardtok.guard\n", "scan.py:1: the import of guardtok.guard does not point downward"),
        (
            "scan.py",
            "from guardtok import decide\n",
            "scan.py:1: the import of guardtok.decide does not point downward",
        ),
        ("scan.py", "from guardtok import Guard\n", "scan.py:1: the import of guardtok.Guard does not point downward"),
        ("scan.py", "import guardtok\n", "scan.py:1: the import of guardtok does not point downward"),
        (
            "text.py",
            "def late():\n    from guardtok.policy.model import Mark\n",
            "text.py:2: the import of guardtok.policy.model does not point downward",
        ),
        (
            "policy/load.py",
            "if TYPE_CHECKING:\n    import re\nelse:\n    import guardtok.lint\n",
            "policy/load.py:4: the import of guardtok.lint does not point downward",
        ),
        ("guard.py", "from . import cli\n", "guard.py:1: the import of . is relative; name the module in full"),
        (
            "guard.py",
            "import guardtok.reference\n",
            "guard.py:1: the import of guardtok.reference is for tests and fuzzing",
        ),
        ("novelty.py", "", "novelty.py:1: novelty stands on no floor; place it in FLOORS"),
        ("cli/utils.py", "", "cli/utils.py:1: the name says nothing"),
        ("guard.py", "\n" * 401, "guard.py:401: the file is longer than 400 lines"),
        ("guard.py", "def f(x):\n    assert x\n", "guard.py:2: `assert` is gone under `python -O`; raise"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, file: str, source: str, problem: str) -> None:
    """Each rule catches what it is there to catch, and says where."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(source, encoding="utf-8")
    assert problems(tmp_path) == [problem]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("scan.py", "from guardtok import errors\nfrom guardtok.policy.model import Mark\n"),
        ("text.py", "if TYPE_CHECKING:\n    from guardtok.guard import Guard\n"),
        ("text.py", "if typing.TYPE_CHECKING:\n    from guardtok.guard import Guard\n"),
        ("policy/model.py", "from guardtok.policy.load import load\n"),
        ("encodings.py", "def late():\n    from guardtok.adapters.tiktoken import adapt\n"),
        ("fuzz/campaign.py", "import guardtok.reference\n"),
        ("guard.py", "import guardtokenizer\n" + "\n" * 399),
    ],
)
def test_what_the_rules_allow_passes(tmp_path: Path, file: str, source: str) -> None:
    """Downward imports, imports for types alone and imports within one package are no breach."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(source, encoding="utf-8")
    assert problems(tmp_path) == []
