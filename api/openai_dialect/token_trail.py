"""Tokens with their places in the text: what OpenAI's `logprobs` tells, and no more than the text shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from typing_extensions import TypedDict

from pushkin_runtime.tokenizer import StreamDetokenizer, TextTokenizer
from pushkin_runtime.types import TokenLogprob


class LogprobsAnswer(TypedDict):
    """Parallel lists, an entry a token. `text_offset`: in code points, from the start of the choice's text.

    A token that is part of a character is written `bytes:\\x..`, as OpenAI writes it. `top_logprobs` has the
    chosen token too.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


def joined(first: LogprobsAnswer, second: LogprobsAnswer) -> LogprobsAnswer:
    """The tokens of two answers, one after the other."""
    return {
        "tokens": first["tokens"] + second["tokens"],
        "token_logprobs": first["token_logprobs"] + second["token_logprobs"],
        "top_logprobs": first["top_logprobs"] + second["top_logprobs"],
        "text_offset": first["text_offset"] + second["text_offset"],
    }


@dataclass(frozen=True, slots=True)
class _Placed:
    """A token and the code points of the text before it and up to its end."""

    entry: TokenLogprob
    start: int
    end: int


class TokenTrail:
    """The tokens of one choice, given out when their text has been shown.

    A token whose text is still held back, or is cut off by a stop string, would tell what the text does not.
    start: code points of the text before the first token.
    """

    def __init__(self, tokenizer: TextTokenizer, start: int = 0) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = StreamDetokenizer(tokenizer)
        self._waiting: deque[_Placed] = deque()
        self._end = start

    def push(self, tokens: Iterable[TokenLogprob]) -> None:
        """Append tokens; those without text (`<bos>`, `<eos>`, control codes) leave no trace."""
        for entry in tokens:
            if not self._tokenizer.token_bytes(entry.token):
                continue
            start = self._end
            self._end += len(self._detokenizer.push(entry.token))
            self._waiting.append(_Placed(entry, start, self._end))

    def take(self, n_shown: int, *, is_last: bool = False) -> LogprobsAnswer:
        """The tokens not yet given out whose text is within the first `n_shown` code points.

        is_last: nothing more will be shown; a token of which a part is shown counts.
        """
        found: LogprobsAnswer = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        while self._waiting and self._is_shown(self._waiting[0], n_shown, is_last):
            placed = self._waiting.popleft()
            found["tokens"].append(self._name(placed.entry.token))
            found["token_logprobs"].append(placed.entry.logprob)
            found["top_logprobs"].append(self._alternatives(placed.entry))
            found["text_offset"].append(placed.start)
        return found

    def _is_shown(self, placed: _Placed, n_shown: int, is_last: bool) -> bool:
        return placed.start < n_shown and (is_last or placed.end <= n_shown)

    def _alternatives(self, entry: TokenLogprob) -> dict[str, float] | None:
        if entry.logprob is None:
            return None
        found = {self._name(token): logprob for token, logprob in reversed(entry.top)}
        return found | {self._name(entry.token): entry.logprob}

    def _name(self, token: int) -> str:
        piece = self._tokenizer.piece(token)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
