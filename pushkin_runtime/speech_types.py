"""What crosses the runtime's border about speech. Plain frozen data, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SpeechKind = Literal["dict", "cmd", "none"]


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word and where it was heard: samples since the speech began, as fine as the projector's rows (60 ms)."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeechRows:
    """Speech as the model reads it; made by `Runtime.encode_speech`.

    rows: (n, hidden_size) float32, as they enter the first layer. n_samples: of the speech, at 16 kHz. base_digest: of
    the model they are for. token: stands for each row in records; negative, and equal only for equal rows.
    heard: the tokens that the projector itself reads, for a speech model whose transcripts are these; the model then
    only says what kind of utterance it is. None: the model writes the transcript. words: the same tokens as words, timed.
    scores: (n, 1 + len(pieces)) float32, what every row of the projector says, before compression: silence first, then the
    pieces, a space before those that begin a word; log-probabilities up to a constant for each row.
    """

    rows: NDArray[np.float32]
    n_samples: int
    base_digest: str
    token: int
    heard: tuple[int, ...] | None = None
    words: tuple[SpokenWord, ...] | None = None
    scores: NDArray[np.float32] | None = None
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechInfo:
    """The loaded speech model. rows_per_second: positions of the prompt that a second of speech takes. max_samples:
    longest utterance, at 16 kHz."""

    encoder: str
    encoder_sha256: str
    rows_per_second: float
    max_samples: int
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechDecision:
    """What an utterance is: text to write, a command, or nothing that was said.

    probability: of `kind` among the three; probabilities: of dict, cmd and none, summing to 1. A command below the
    caller's own threshold should be treated as text: the answer's words are the same.
    """

    kind: SpeechKind
    probability: float
    probabilities: tuple[float, float, float]
