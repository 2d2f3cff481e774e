"""The policy on a virtual clock: frames in, events out, no thread and no sound."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.decisions import Decider
from audio.events import CommandHeard, Commit, DictationEvent, Failed, Final, Partial
from audio.oracle import OracleRecognizer, TimedWord
from audio.pcm import SAMPLE_RATE
from audio.phrase_match import PhraseMatch
from audio.recognizer import Hypothesis, Recognition
from audio.streaming import Mode, Pass, Streaming, StreamingOptions
from audio.vad import FRAME, FRAME_S
from pushkin_runtime.speech_types import CommandLimits, PhraseLimits

LIMITS = CommandLimits()


@dataclass
class Run:
    """A dictation on a virtual clock; cost_s is what every pass takes."""

    words: list[TimedWord]
    mode: Mode = "auto"
    before: str = ""
    cost_s: float = 0.05
    events: list[tuple[float, DictationEvent]] = field(default_factory=list)
    passes: list[tuple[float, Pass]] = field(default_factory=list)
    is_stopped: bool = False
    recognizer: object = None

    def __post_init__(self) -> None:
        self.now = 0.0
        self.decider = Decider(self.before, self.mode, self._heard, self._stop)
        self.streaming = Streaming(StreamingOptions(mode=self.mode), self.decider, self._heard)
        self.recognizer = self.recognizer or OracleRecognizer(self.words)
        self._running: Pass | None = None
        self._done_at = 0.0

    def play(self, tail_s: float = 1.0, finish: bool = True) -> Run:
        end = max((word.end for word in self.words), default=0) / SAMPLE_RATE + tail_s
        while self.now < end and not self.is_stopped:
            at = self.streaming.position
            spoken = any(w.start < at + FRAME and at < w.end for w in self.words)
            self.now += FRAME_S
            self.streaming.push(np.zeros(FRAME, np.float32), 0.95 if spoken else 0.01)
            self._work()
        if finish and not self.is_stopped:
            self.streaming.flush()
            while not self.streaming.is_idle:
                self.now += FRAME_S
                self._work()
            self.streaming.finish()
        return self

    def of(self, kind: type) -> list:
        return [event for _, event in self.events if isinstance(event, kind)]

    def when(self, kind: type) -> list[float]:
        return [when for when, event in self.events if isinstance(event, kind)]

    @property
    def text(self) -> str:
        return "".join(commit.text for commit in self.of(Commit))

    def _work(self) -> None:
        if self._running is not None and self.now >= self._done_at:
            done, self._running = self._running, None
            found = self.recognizer.recognize(done.wanted, lambda: False)
            self.streaming.finished(done, found, self.cost_s)
        if self._running is None and (wanted := self.streaming.next_pass()) is not None:
            assert self.streaming.next_pass() is None
            self.passes.append((self.now, wanted))
            self._running, self._done_at = wanted, self.now + self.cost_s

    def _heard(self, event: DictationEvent) -> None:
        self.events.append((self.now, event))

    def _stop(self) -> None:
        self.is_stopped = True


def say(
    text: str, at_s: float = 1.0, p_command: float = 0.0, word_s: float = 0.3
) -> list[TimedWord]:
    """The words of a text, one after another without a pause."""
    start, words = at_s, []
    for word in text.split():
        first, last = round(start * SAMPLE_RATE), round((start + word_s) * SAMPLE_RATE)
        words.append(TimedWord(word, first, last, p_command))
        start += word_s
    return words


@st.composite
def speech(draw) -> list[TimedWord]:
    words, at = [], draw(st.integers(0, 20_000))
    for i in range(draw(st.integers(0, 25))):
        length = draw(st.integers(4_000, 10_000))  # no faster than people can speak
        words.append(TimedWord(f"word{i}", at, at + length))
        at += length + draw(st.sampled_from([0, 0, 0, 1_000, 4_000, 9_000, 16_000, 40_000]))
    return words


@settings(max_examples=150, deadline=None)
@given(speech(), st.floats(0.0, 3.0))
def test_whatever_is_said_is_committed_once_in_order(words, cost_s: float) -> None:
    run = Run(words, cost_s=cost_s).play()

    assert run.text.split() == [word.text for word in words]
    spans = [(c.start, c.end) for c in run.of(Commit)]
    assert all(start <= end for start, end in spans)
    assert spans == sorted(spans)
    finals = run.of(Final)
    assert [f.utterance for f in finals] == sorted({f.utterance for f in finals})
    assert run.decider.before == run.text


@settings(max_examples=100, deadline=None)
@given(speech(), st.floats(0.0, 3.0))
def test_a_preview_never_changes_what_it_called_stable(words, cost_s: float) -> None:
    stable: dict[int, str] = {}
    for partial in Run(words, cost_s=cost_s).play().of(Partial):
        now = partial.text[: partial.stable_utf16]
        assert now.startswith(stable.get(partial.utterance, ""))
        stable[partial.utterance] = now


@settings(max_examples=60, deadline=None)
@given(speech(), st.floats(0.1, 3.0))
def test_a_preview_covers_at_least_what_the_last_one_cost(words, cost_s: float) -> None:
    previews = [p for _, p in Run(words, cost_s=cost_s).play().passes if not p.is_settled]
    for a, b in pairwise(previews):
        if a.heard is b.heard:
            assert (b.wanted.end - a.wanted.end) / SAMPLE_RATE >= max(0.4, cost_s) - 1e-9


def test_the_first_word_shows_within_a_second_and_commits_follow() -> None:
    run = Run(say("one two three four five six")).play()

    assert run.when(Partial)[0] - 1.0 < 0.8
    assert run.when(Commit)[0] - 1.0 < 1.5
    last_word = 1.0 + 6 * 0.3
    assert run.when(Commit)[-1] - last_word < 0.4  # all words, before the utterance is over
    assert 0.5 <= run.when(Final)[-1] - last_word < 0.7


def test_a_pause_does_not_end_a_sentence_and_its_mark_comes_when_it_does() -> None:
    class Punctuating:
        def recognize(self, wanted: Recognition, _cancelled) -> Hypothesis:
            n = sum(w.end <= wanted.end for w in words)
            text = " ".join(w.text for w in words[:n])
            full = text + ("." if wanted.is_final else "")
            return Hypothesis(kind="dict" if n else "none", text=full, p_command=0, n_tokens=n)

    words = [*say("the cat"), *say("sat down", 1.95)]
    run = Run(words, recognizer=Punctuating()).play()

    assert run.text == "the cat sat down."


def test_a_command_is_done_and_none_of_it_is_written() -> None:
    words = [*say("hello big world"), *say("delete the last word", 4.0, p_command=0.99)]
    run = Run(words).play()

    (command,) = run.of(CommandHeard)
    assert (command.name, command.needs_confirmation) == ("delete", False)
    assert command.edit is not None
    assert (command.edit.start_utf16, command.edit.length_utf16, command.edit.text) == (9, 6, "")
    assert run.text == "hello big world"
    assert run.decider.before == "hello big"


def test_a_command_that_the_model_calls_text_is_text() -> None:
    words = [
        *say("hello big world"),
        *say("delete the last word", 4.0, p_command=LIMITS.offer_at / 2),
    ]
    run = Run(words).play()

    assert run.of(CommandHeard) == []
    assert run.decider.before == "hello big world delete the last word"


def test_between_the_two_it_is_text_offered_as_a_command_and_confirming_does_it() -> None:
    unsure = (LIMITS.do_at + LIMITS.offer_at) / 2
    words = [*say("hello big world"), *say("delete the last word", 4.0, p_command=unsure)]
    run = Run(words).play()

    (offer,) = run.of(CommandHeard)
    assert offer.needs_confirmation
    assert offer.edit is None
    assert run.decider.before == "hello big world delete the last word"
    assert run.decider.confirm(offer.id)
    assert run.decider.before == "hello big"
    assert not run.decider.confirm(offer.id)


def test_a_command_inside_a_sentence_is_text_however_sure_the_model_is() -> None:
    words = say("he told me to delete that paragraph", p_command=0.99)
    assert Run(words).play().text == "he told me to delete that paragraph"


def test_a_command_without_a_pause_before_it_is_text() -> None:
    """The cap cuts a long utterance in front of it: what comes after is not a whole utterance."""
    words = [
        *say(" ".join(f"word{i}" for i in range(49)), 0.1),
        *say("scratch that", 0.1 + 49 * 0.3, p_command=0.99),
    ]
    run = Run(words).play()

    assert run.of(CommandHeard) == []
    assert run.text.split()[-2:] == ["scratch", "that"]


def test_in_dictation_mode_nothing_is_a_command_and_in_command_mode_nothing_is_text() -> None:
    words = [*say("hello there"), *say("new paragraph", 4.0, p_command=0.99)]

    assert Run(words, mode="dictate").play().text == "hello there new paragraph"
    run = Run(words, mode="command").play()
    assert run.text == ""
    assert [c.name for c in run.of(CommandHeard)] == ["insert"]


def test_stop_listening_ends_the_session_before_another_word_is_heard() -> None:
    words = [
        *say("keep this"),
        *say("stop listening", 3.0, p_command=0.99),
        *say("a secret", 6.0),
    ]
    run = Run(words).play()

    assert run.is_stopped
    assert run.text == "keep this"


def test_a_selection_is_honoured_before_any_text_leaves() -> None:
    words = [
        *say("transcribe only the first half and then stop listening", p_command=0.99),
        *say("alpha beta gamma delta", 6.0),
        *say("not this", 14.0),
    ]
    run = Run(words).play()

    assert run.text == "alpha beta"
    assert run.is_stopped
    heard = " ".join(p.text for p in run.of(Partial) if p.start > 5 * SAMPLE_RATE)
    assert "gamma" not in heard + " ".join(f.text for f in run.of(Final))


def test_an_escape_is_text_without_its_word() -> None:
    run = Run(say("literally new paragraph", p_command=0.99)).play()

    assert run.text == "new paragraph"
    assert run.of(CommandHeard) == []


def test_an_echo_of_the_context_is_asked_again_without_it() -> None:
    context = "the quick brown fox jumps over the lazy dog"

    class Parrot:
        def recognize(self, wanted: Recognition, _cancelled) -> Hypothesis:
            if wanted.before:
                return Hypothesis(kind="dict", text=context, p_command=0, n_tokens=9)
            return Hypothesis(kind="dict", text="really", p_command=0, n_tokens=1)

    run = Run(say("really", word_s=2.5), before=context + ". ", recognizer=Parrot()).play()

    assert run.text == "really"
    assert run.streaming.counts.n_echoes >= 1


def test_more_words_than_can_be_said_and_loops_are_no_text() -> None:
    def run_with(text: str) -> Run:
        class Babbler:
            def recognize(self, wanted: Recognition, _cancelled) -> Hypothesis:
                return Hypothesis(kind="dict", text=text, p_command=0, n_tokens=9)

        return Run(say("hm", word_s=1.0), recognizer=Babbler()).play()

    assert run_with("thank you for watching and see you in the next video " * 3).text == ""
    assert run_with("no no no").text == "no no no"
    assert run_with("la la la la la la la la").text == "la"


def test_a_pass_that_breaks_ends_its_utterance_and_not_the_session() -> None:
    run = Run([*say("one two three"), *say("four five", 5.0)])
    run.play(finish=False, tail_s=-4.0)
    run.streaming.flush()
    while (wanted := run.streaming.next_pass()) is not None:
        run.streaming.failed(wanted, RuntimeError("broken"))
    run.play()

    assert len(run.of(Failed)) >= 1
    assert run.text.split()[-2:] == ["four", "five"]


class Sounds:
    """Reads letters that are no words of any grammar, and knows how much the utterance sounds like a phrase."""

    def __init__(
        self,
        phrase: str,
        limits: PhraseLimits,
        so_far: float = 0.0,
        own: CommandLimits = LIMITS,
    ) -> None:
        self._own = own
        self._match = PhraseMatch(
            text=phrase,
            per_piece=limits.per_piece,
            edge=limits.edge,
            peak=limits.peak,
            loss=20.0,
            ahead=limits.ahead,
            so_far=so_far,
        )

    def recognize(self, wanted, is_cancelled) -> Hypothesis:
        text = "delte the laast worde in"
        return Hypothesis(
            kind="dict",
            text=text,
            p_command=LIMITS.do_at,
            n_tokens=5,
            phrase=self._match,
            limits=self._own,
        )


def sounding(limits: PhraseLimits, so_far: float = 0.0, **options) -> Run:
    """An utterance that is misread, with this much loss against "delete the last word"."""
    sounds = Sounds("delete the last word", limits, so_far)
    run = Run(say("delete the last word", 1.0), before="hello big world", recognizer=sounds)
    return replace(run, **options).play()


def test_a_misread_command_is_done_by_its_sound_and_none_of_it_is_written() -> None:
    run = sounding(LIMITS.do_within)
    (command,) = run.of(CommandHeard)
    assert (command.name, command.needs_confirmation) == ("delete", False)
    assert run.text == ""
    assert run.decider.before == "hello big"


def test_what_sounds_less_like_it_is_written_and_offered_and_still_less_is_text() -> None:
    offered = sounding(LIMITS.offer_within)
    (offer,) = offered.of(CommandHeard)
    assert offer.needs_confirmation
    assert offered.text == " delte the laast worde in"

    beyond = replace(LIMITS.offer_within, edge=LIMITS.offer_within.edge + 1)
    assert sounding(beyond).of(CommandHeard) == []


def test_a_speech_models_own_limits_decide_and_not_the_defaults() -> None:
    """What is a command by the defaults is not by a stricter model's, and the other way round."""
    far = replace(LIMITS.offer_within, per_piece=2 * LIMITS.offer_within.per_piece)
    lenient = CommandLimits(do_within=far, offer_within=far, may_become_at=1e9)
    strict = CommandLimits(do_at=2 * LIMITS.do_at, offer_at=2 * LIMITS.do_at)
    deaf = replace(LIMITS, do_within=replace(LIMITS.do_within, edge=LIMITS.do_within.edge - 1))

    def heard(likeness: PhraseLimits, own: CommandLimits) -> list[bool]:
        sounds = Sounds("delete the last word", likeness, own=own)
        run = Run(say("delete the last word", 1.0), before="hello big world", recognizer=sounds)
        return [command.needs_confirmation for command in run.play().of(CommandHeard)]

    assert heard(far, LIMITS) == []
    assert heard(far, lenient) == [False]
    assert heard(LIMITS.do_within, LIMITS) == [False]
    assert heard(LIMITS.do_within, strict) == []
    assert heard(LIMITS.do_within, deaf) == [True]


def test_words_that_can_no_longer_become_a_command_are_committed_at_once() -> None:
    held, free = (
        sounding(LIMITS.do_within, so_far=at)
        for at in (LIMITS.may_become_at, LIMITS.may_become_at + 1)
    )
    assert held.of(Commit) == []
    assert free.when(Commit)[0] < 2.2  # while it is being said
    (offer,) = free.of(CommandHeard)
    assert offer.needs_confirmation  # what has been written is text
    assert sounding(LIMITS.do_within, mode="dictate").text == " delte the laast worde in"
