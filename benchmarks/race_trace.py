"""A long document and what a person does to it, as the texts an editor sends: always all that stands before the caret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.peers import documents
from benchmarks.peers_servers import Prompt
from benchmarks.true_shape import Rig
from benchmarks.typing_trace import LANGUAGES, read_script

Phase = Literal["open", "type", "switch", "back", "delete_word", "return", "edited_end"]
"""open: the document, new. type: a character at its end. switch: the same text under an adapter. back: without it
again. delete_word: the caret in the middle, a word taken back. return: to the end of the document as it was.
edited_end: at its end, a word fewer on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """n_tokens: of the document. n_keys: typed. n_deletions: words taken back in the middle. tail_tokens: how far
    before the end the edit is that `edited_end` has to read past."""

    n_tokens: int
    n_keys: int
    n_deletions: int
    tail_tokens: int


@dataclass(frozen=True, slots=True)
class LongDocument:
    """The texts of a trace, in order within each phase."""

    opened: str
    typed: tuple[str, ...]
    deleted: tuple[str, ...]
    edited: str


def long_document(rig: Rig, options: TraceOptions) -> LongDocument:
    """Return the trace over a document of about `n_tokens` tokens, the same every time."""
    opened = documents(rig, options.n_tokens, 1)[0].text.rstrip() + " "
    keys = read_script(LANGUAGES[0])["typed"]
    keys = (keys * (1 + options.n_keys // len(keys)))[: options.n_keys]
    typed = tuple(opened + keys[: n + 1] for n in range(len(keys)))
    deleted = []
    head = opened[: opened.rfind(" ", 0, len(opened) // 2)]
    for _ in range(options.n_deletions):
        head = _without_last_word(head)
        deleted.append(head + " ")
    per_token = len(opened) / options.n_tokens
    at = typed[-1].rfind(" ", 0, len(opened) - round(options.tail_tokens * per_token))
    edited = _without_last_word(typed[-1][:at]) + typed[-1][at:]
    return LongDocument(opened, typed, tuple(deleted), edited)


def as_prompt(text: str) -> Prompt:
    """A prompt that every server reads with its own tokenizer."""
    return Prompt((), text)


def _without_last_word(text: str) -> str:
    return text.rpartition(" ")[0]
