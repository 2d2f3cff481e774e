"""`pushkin serve` in a process that ends at once, with 86, when anything is unpickled. Run by the tests."""

from __future__ import annotations

import os
import sys


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        os._exit(86)


if __name__ == "__main__":
    sys.addaudithook(watch)
    from daemon.cli import run

    sys.exit(run(["serve", "--json", *sys.argv[1:]]))
