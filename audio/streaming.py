"""From utterances and passes to previews, commits and commands. Pure: no thread, no clock, no device.

The session feeds it frames and asks for the next pass; it never has more than one under way, and each is over the
newest sound there is, so a slow recogniser makes passes rarer and never makes them queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from audio.agreement import Agreement, Committed
from audio.commands import may_become_command
from audio.decisions import Decider
from audio.events import DictationEvent, Failed, Final, Partial, Voice, utf16_length
from audio.pcm import SAMPLE_RATE, Samples
from audio.recognizer import Hypothesis, Recognition
from audio.segmenter import Segmenter, SegmenterOptions, Utterance
from audio.silence_gate import is_echo, is_too_fast, max_tokens, without_loops

Mode = Literal["auto", "dictate", "command"]

MAX_CLOSED = 8
_CONTEXT_CHARS = 2000
_HOLD_ALL = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingOptions:
    """after: the text after the caret. interval_s: new sound between previews, at least. settle_s: silence after which a word is over.

    min_first_s: speech before the first preview.
    """

    mode: Mode = "auto"
    languages: tuple[str, ...] = ("en", "ru")
    after: str = ""
    interval_s: float = 0.4
    settle_s: float = 0.2
    min_first_s: float = 0.25
    segmenter: SegmenterOptions = field(default_factory=SegmenterOptions)


@dataclass(slots=True, eq=False)
class _Heard:
    """An utterance and what passes made of it. settled: (its speech_end, what a pass in the silence after it heard).
    context: the text before it, without what it has committed itself."""

    utterance: Utterance
    agreement: Agreement
    heard_to: int = 0
    settled: tuple[int, Hypothesis] | None = None
    context: str | None = None
    use_context: bool = True
    n_passes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """A recognition to run; hand it back to `finished` with what came of it."""

    wanted: Recognition
    heard: _Heard
    speech_end: int
    is_settled: bool
    is_closing: bool


@dataclass(slots=True)
class Counts:
    """Of one session; passes_s is the time recognition took, audio_s the sound it was given."""

    n_utterances: int = 0
    n_passes: int = 0
    n_empty: int = 0
    n_echoes: int = 0
    n_contradicted: int = 0
    n_shed: int = 0
    passes_s: float = 0.0
    audio_s: float = 0.0


class Streaming:
    """The policy of one session. Every method is called under the session's lock."""

    def __init__(
        self, options: StreamingOptions, decider: Decider, emit: Callable[[DictationEvent], None]
    ) -> None:
        self._options = options
        self._decider = decider
        self._emit = emit
        self._segmenter = Segmenter(options.segmenter)
        self._current: _Heard | None = None
        self._closed: deque[_Heard] = deque()
        self._running: Pass | None = None
        self._last_cost_s = 0.0
        self._revision = 0
        self.counts = Counts()

    @property
    def position(self) -> int:
        """Samples heard."""
        return self._segmenter.position

    @property
    def is_full(self) -> bool:
        """Whether so many utterances wait that no more sound should be taken."""
        return len(self._closed) >= MAX_CLOSED

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being said and nothing waits."""
        return self._segmenter.current is None and not self._closed and self._running is None

    def push(self, frame: Samples, probability: float) -> None:
        """Hear one frame, (512,)."""
        ended = self._segmenter.push(frame, probability)
        if ended is not None:
            self._close(ended)
        current = self._segmenter.current
        if current is not None and (
            self._current is None or self._current.utterance is not current
        ):
            self._current = _Heard(current, Agreement(current.start))
            self._emit(Voice(at=self.position, is_speech=True))
        if current is None:
            self._decider.silence(self.position)

    def flush(self) -> None:
        """No more sound comes for now: what was said so far is an utterance."""
        ended = self._segmenter.flush()
        if ended is not None:
            self._close(ended)

    def abandon(self) -> None:
        """Forget what is being said and what waits: the user has stopped the session or given it up."""
        self._segmenter.flush()
        self._current = None
        self._closed.clear()

    def finish(self) -> None:
        """No more sound comes: let go of what was kept back. All passes are done."""
        self._decider.finish(self.position)

    def next_pass(self) -> Pass | None:
        """The pass to run now; None while one is running or there is nothing new."""
        if self._running is not None:
            return None
        if self._closed:
            heard = self._closed[0]
            self._running = self._pass(heard, is_settled=True, is_closing=True)
        elif self._current is not None and self._is_due(self._current):
            settled = self._current.utterance.silence_s >= self._options.settle_s
            self._running = self._pass(self._current, is_settled=settled, is_closing=False)
        return self._running

    def finished(self, done: Pass, hypothesis: Hypothesis, cost_s: float) -> None:
        """A pass is over; cost_s is how long it took."""
        self._running = None
        self._last_cost_s = cost_s
        self.counts.n_passes += 1
        self.counts.passes_s += cost_s
        self.counts.audio_s += len(done.wanted.audio) / SAMPLE_RATE
        heard, found = done.heard, self._screened(done, hypothesis)
        if found is None:
            return  # once more, without the context that may have spoken for the user
        if heard.utterance.ending is not None:
            if done.is_closing or (
                heard.utterance.speech_end == done.speech_end and done.is_settled
            ):
                self._conclude(heard, found)
            return
        if done.is_settled:
            heard.settled = (done.speech_end, found)
        self._preview(heard, found, done)

    def failed(self, done: Pass, error: Exception) -> None:
        """A pass broke: a preview is left out, an utterance ends with what was committed."""
        self._running = None
        self._emit(Failed(at=self.position, error=error))
        if done.heard.utterance.ending is not None:
            self._conclude(done.heard, Hypothesis(kind="none", text="", p_command=0, n_tokens=0))

    def _is_due(self, heard: _Heard) -> bool:
        utterance = heard.utterance
        if utterance.speech_s < self._options.min_first_s and heard.n_passes == 0:
            return False
        if utterance.silence_s >= self._options.settle_s:
            return heard.settled is None or heard.settled[0] != utterance.speech_end
        new_s = (utterance.end - heard.heard_to) / SAMPLE_RATE
        return heard.n_passes == 0 or new_s >= max(self._options.interval_s, self._last_cost_s)

    def _pass(self, heard: _Heard, *, is_settled: bool, is_closing: bool) -> Pass:
        utterance = heard.utterance
        heard.heard_to = utterance.end
        if heard.context is None:
            heard.context = self._decider.before[-_CONTEXT_CHARS:]
        heard.n_passes += 1
        wanted = Recognition(
            audio=utterance.audio(),
            start=utterance.start,
            before=heard.context if heard.use_context else "",
            after=self._options.after[:_CONTEXT_CHARS] if heard.use_context else "",
            languages=self._options.languages,
            max_tokens=max_tokens(utterance.duration_s),
            is_final=is_settled,
        )
        return Pass(wanted, heard, utterance.speech_end, is_settled, is_closing)

    def _screened(self, done: Pass, hypothesis: Hypothesis) -> Hypothesis | None:
        """The hypothesis as far as it is believed; None to run the pass again without context."""
        text, kind = hypothesis.text, hypothesis.kind
        nothing = replace(hypothesis, kind="none", text="", n_tokens=0, words=None, phrase=None)
        if kind == "none" or not text.strip():
            return nothing
        if done.wanted.before and is_echo(text, done.wanted.before):
            self.counts.n_echoes += 1
            done.heard.use_context = False
            done.heard.heard_to = 0
            return None
        if is_too_fast(text, done.heard.utterance.speech_s):
            self.counts.n_shed += 1
            return nothing
        kept = without_loops(text)
        self.counts.n_shed += kept != text
        return replace(hypothesis, text=kept, words=None)

    def _preview(self, heard: _Heard, found: Hypothesis, done: Pass) -> None:
        if found.kind == "none":
            return
        held = self._is_held(heard, found)
        heard_to = done.wanted.end
        if done.is_settled and not held:
            committed = heard.agreement.settle(found.text, heard_to)
        else:
            committed = heard.agreement.update(found.text, heard_to, hold=_HOLD_ALL if held else 1)
        self._commit(heard, committed)
        if self._decider.is_withholding:
            return
        self._revision += 1
        stable = heard.agreement.committed
        self._emit(
            Partial(
                utterance=heard.utterance.number,
                text=stable + heard.agreement.tentative,
                stable_utf16=utf16_length(stable),
                revision=self._revision,
                start=heard.utterance.start,
                end=heard_to,
            )
        )

    def _is_held(self, heard: _Heard, found: Hypothesis) -> bool:
        """Whether this may still turn out to be a command, of which no word may be written."""
        if self._options.mode == "dictate" or heard.agreement.committed:
            return False
        if self._options.mode == "command" or found.kind == "cmd":
            return True
        phrase = found.phrase
        may_be = phrase is not None and phrase.so_far <= found.limits.may_become_at
        return heard.utterance.pause_before_s >= 0.3 and (may_be or may_become_command(found.text))

    def _close(self, utterance: Utterance) -> None:
        heard = self._current
        if heard is None or heard.utterance is not utterance:
            heard = _Heard(utterance, Agreement(utterance.start))
        self._current = None
        self._emit(Voice(at=self.position, is_speech=False))
        if not self._segmenter.is_speech_enough(utterance) and not heard.agreement.committed:
            self.counts.n_empty += 1
            return
        self.counts.n_utterances += 1
        self._closed.append(heard)
        is_next = self._closed[0] is heard
        if is_next and heard.settled is not None and heard.settled[0] == utterance.speech_end:
            self._conclude(heard, heard.settled[1])

    def _conclude(self, heard: _Heard, found: Hypothesis) -> None:
        if heard not in self._closed:
            return  # given up meanwhile
        self._closed.remove(heard)
        utterance = heard.utterance
        done = self._decider.decide(utterance, found, heard.agreement.committed)
        if done.text is not None:
            self._commit(heard, heard.agreement.finish(done.text, utterance.speech_end))
        self.counts.n_contradicted += heard.agreement.n_contradicted
        self._emit(
            Final(
                utterance=utterance.number,
                kind=done.kind,
                text="" if self._decider.is_withholding else heard.agreement.committed,
                start=utterance.start,
                end=utterance.speech_end,
                withheld=self._decider.is_withholding,
            )
        )
        self._decider.carry_out(done, utterance)

    def _commit(self, heard: _Heard, committed: Committed | None) -> None:
        if committed is not None:
            self._decider.commit(heard.utterance.number, committed)
