"""What crosses the runtime's border about speech. Plain frozen data, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SpeechKind = Literal["dict", "cmd", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseLimits:
    """The most loss, in nats, with which an utterance is still taken for a phrase, and the least `ahead`; see
    `audio.phrase_match.PhraseMatch`."""

    per_piece: float
    edge: float
    peak: float
    ahead: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLimits:
    """From where on an utterance is a command, on the scales of one speech model: its manifest has its own.

    do_at, offer_at: of the first token's share of <cmd>, with which a command is done, and offered. do_within,
    offer_within: of the likeness to a phrase. may_become_at: loss a piece with which the beginning of an utterance is
    still held back. The defaults were calibrated for the first speech model.
    """

    do_at: float = 0.07
    offer_at: float = 0.03
    do_within: PhraseLimits = PhraseLimits(per_piece=3.5, edge=10.0, peak=32.0, ahead=3.0)
    offer_within: PhraseLimits = PhraseLimits(per_piece=5.0, edge=16.0, peak=40.0, ahead=0.0)
    may_become_at: float = 4.5


DEFAULT_LIMITS = CommandLimits()


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
    pieces, a space before those that begin a word; log-probabilities up to a constant for each row. limits: what of
    these scores, and of the model's first token, makes a command.
    """

    rows: NDArray[np.float32]
    n_samples: int
    base_digest: str
    token: int
    heard: tuple[int, ...] | None = None
    words: tuple[SpokenWord, ...] | None = None
    scores: NDArray[np.float32] | None = None
    pieces: tuple[str, ...] = ()
    limits: CommandLimits = DEFAULT_LIMITS


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
