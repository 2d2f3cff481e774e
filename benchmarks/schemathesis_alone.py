"""`python -P benchmarks/schemathesis_alone.py` is schemathesis' command line, in which threads parse Python one at a time.

Hypothesis parses sources to describe its strategies. Before Python 3.11.8 and 3.12.2 two threads that parse at once fail
with "AST constructor recursion depth mismatch" (https://github.com/python/cpython/issues/106905), and the route that
was being tested is given up.
"""

from __future__ import annotations

import ast
import threading
from typing import Any


def parse_one_at_a_time() -> None:
    """Put a lock around `ast.parse`, for every thread of this process."""
    parse, lock = ast.parse, threading.RLock()

    def parse_alone(*arguments: Any, **named: Any) -> Any:
        with lock:
            return parse(*arguments, **named)

    ast.parse = parse_alone


if __name__ == "__main__":
    from schemathesis.cli import schemathesis

    parse_one_at_a_time()
    schemathesis()
