"""The list of llama-server's behaviours names tests that exist, here or in a file named beside them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
LIST = ROOT / "docs" / "llama-server-compatibility.md"
NAME = re.compile(r"`(test_\w+)`")
FILE = re.compile(r"`(tests/[\w/]+\.py)`")


def names_in(paths: list[Path]) -> set[str]:
    return {
        node.name
        for path in paths
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_test_it_names_exists() -> None:
    in_dialect = names_in(sorted(HERE.glob("test_*.py")))
    named, missing = 0, []
    for line in LIST.read_text("utf-8").splitlines():
        # The first cell of a row is upstream's.
        ours = line.split("|", 2)[2] if line.startswith("| ") else line
        known = in_dialect | names_in([ROOT / path for path in FILE.findall(ours)])
        names = NAME.findall(ours)
        named += len(names)
        missing += [name for name in names if name not in known]

    assert named > 50
    assert missing == []
