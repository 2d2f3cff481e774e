"""A person at work, keystroke by keystroke: the same session every time.

Type at the end, take some of it back, type something else than was suggested, edit in the middle, return.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).resolve().parent / "traces"
LANGUAGES = ("en", "ru")

Phase = Literal["open", "type", "delete", "reject", "edit_middle", "return"]


@dataclass(frozen=True, slots=True)
class Keystroke:
    """What the editor would send after one key.

    text: everything before the caret. suffix: what stands after it, sent only while editing in the middle.
    """

    document_id: str
    revision: int
    phase: Phase
    text: str
    suffix: str = ""


def typing_session(language: str) -> list[Keystroke]:
    """Return the session in `language`."""
    script = read_script(language)
    return [
        Keystroke(f"trace-{language}", revision, phase, text, suffix)
        for revision, (phase, text, suffix) in enumerate(_moves(script))
    ]


def read_script(language: str) -> dict[str, Any]:
    """Return the texts of a session; the names are explained in the file."""
    return tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8"))


def _moves(script: dict[str, Any]) -> Iterator[tuple[Phase, str, str]]:
    text = script["before"]
    yield "open", text, ""
    for character in script["typed"]:
        text += character
        yield "type", text, ""
    for _ in range(script["n_deleted"]):
        text = text[:-1]
        yield "delete", text, ""
    for character in script["instead"]:
        text += character
        yield "reject", text, ""
    caret = text.index(script["insert_after"]) + len(script["insert_after"])
    head, tail = text[:caret], text[caret:]
    for character in script["inserted"]:
        head += character
        yield "edit_middle", head, tail
    text = head + tail
    for character in script["resumed"]:
        text += character
        yield "return", text, ""
