"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [
    "adapters",
    "api",
    "audio",
    "daemon",
    "indexer",
    "pushkin_runtime",
    "quality",
    "sandbox",
    "training",
    "usage",
]
SOURCES = sorted(
    path for folder in (*PACKAGES, "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_have_at_most_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): n_lines
        for path in SOURCES
        if (n_lines := len(path.read_text("utf-8").splitlines())) > 400
    }

    assert not long


def test_functions_have_at_most_60_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in functions(ast.parse(path.read_text("utf-8")))
        if node.end_lineno and node.end_lineno - node.lineno + 1 > 60
    ]

    assert not long


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_name_is_ours_alone(name: str) -> None:
    """python-daemon installs `daemon`, AdapterHub `adapters`: neither may stand in our place."""
    claimed_by = set(importlib.metadata.packages_distributions().get(name, []))
    spec = importlib.util.find_spec(name)

    assert claimed_by <= {"pushkin"}
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


def test_versions_agree() -> None:
    from daemon import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert project["version"] == __version__
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_serving_never_unpickles() -> None:
    """No pickle, no torch.load, no marshal in anything that serves; messages may speak of them."""
    unpickler = "(pickle|marshal|shelve|dill)"
    forbidden = re.compile(
        rf"\b(import|from) +{unpickler}\b|\b{unpickler}\.\w|\b(torch|np|numpy)\.load\b|allow_pickle"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] not in ("training", "tests", "benchmarks")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if forbidden.search(line)
    ]

    assert not found
