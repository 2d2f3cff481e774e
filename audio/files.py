"""Recordings → utterances → text, in bounded memory however long they are.

The sound is decoded a second at a time and cut at pauses, so an hour costs no more memory than a minute. Nothing is
written to the disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from audio.decoder import MAX_DURATION_S, DecodingLimits, read_file
from audio.pcm import SAMPLE_RATE
from audio.recognizer import Recognition
from audio.segmenter import Segmenter, Utterance
from audio.session import Hearing
from audio.silence_gate import is_echo, is_too_fast, max_tokens, without_loops
from audio.vad import FRAME
from pushkin_runtime.speech_types import SpokenWord

_CONTEXT_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcription:
    """What to do with a recording. prompt: text it is likely to go on from, or words it is likely to hold."""

    languages: tuple[str, ...] = ("en", "ru")
    prompt: str = ""
    max_duration_s: float = MAX_DURATION_S


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a recording; seconds from its beginning."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One utterance of a recording; seconds from its beginning. text has no space around it.

    words: of the text; None when the speech model does not time them.
    """

    start_s: float
    end_s: float
    text: str
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """segments in order; duration_s: of the whole recording."""

    segments: tuple[Segment, ...]
    duration_s: float

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(segment.text for segment in self.segments)


def transcribe(
    content: bytes,
    wanted: Transcription,
    hearing: Hearing,
    heard: Callable[[Segment], None],
    is_cancelled: Callable[[], bool],
) -> Transcript:
    """Recognise a recording; `heard` gets every segment as soon as it is known.

    Stops early, with what there is, once `is_cancelled`. Raises AudioError, or what the recogniser raises.
    """
    voice, segmenter = hearing.detector.stream(), Segmenter()
    segments: list[Segment] = []
    rest, n_samples = np.zeros(0, np.float32), 0

    def take(utterance: Utterance | None) -> None:
        if utterance is None or not segmenter.is_speech_enough(utterance):
            return
        context = " ".join([wanted.prompt, *(segment.text for segment in segments[-20:])])
        text, words = _recognized(
            utterance, context.strip()[-_CONTEXT_CHARS:], wanted, hearing, is_cancelled
        )
        if text and not is_cancelled():
            end = min(utterance.speech_end, n_samples)
            segment = Segment(utterance.start / SAMPLE_RATE, end / SAMPLE_RATE, text, words)
            segments.append(segment)
            heard(segment)

    limits = DecodingLimits(duration_s=wanted.max_duration_s)
    with contextlib.closing(read_file(content, limits)) as parts:
        for samples in parts:
            n_samples += len(samples)
            sound = np.concatenate((rest, samples))
            n_frames = len(sound) // FRAME
            for i in range(n_frames):
                frame = sound[i * FRAME : (i + 1) * FRAME]
                take(segmenter.push(frame, voice.probability(frame)))
            rest = sound[n_frames * FRAME :]
            if is_cancelled():
                break
    if len(rest):
        frame = np.concatenate((rest, np.zeros(FRAME - len(rest), np.float32)))
        take(segmenter.push(frame, voice.probability(frame)))
    take(segmenter.flush())
    return Transcript(tuple(segments), n_samples / SAMPLE_RATE)


def _recognized(
    utterance: Utterance,
    context: str,
    wanted: Transcription,
    hearing: Hearing,
    is_cancelled: Callable[[], bool],
) -> tuple[str, tuple[Word, ...] | None]:
    """The text of one utterance, and its words; a recording gives no commands."""
    for before in (context, "") if context else ("",):
        found = hearing.recognizer.recognize(
            Recognition(
                audio=utterance.audio(),
                start=utterance.start,
                before=before,
                after="",
                languages=wanted.languages,
                max_tokens=max_tokens(utterance.duration_s),
                is_final=True,
            ),
            is_cancelled,
        )
        if found.kind == "none" or is_too_fast(found.text, utterance.speech_s):
            return "", ()
        if not before or not is_echo(found.text, before):
            break
    text = without_loops(found.text).strip()
    return text, _timed(text, found.words, utterance.start)


def _timed(text: str, words: tuple[SpokenWord, ...] | None, start: int) -> tuple[Word, ...] | None:
    """The times of the words of `text`, which may have been cut; None when it is not made of these words."""
    kept = (words or ())[: len(text.split())]
    if words is None or " ".join(word.text for word in kept) != text:
        return None
    return tuple(
        Word((start + word.start) / SAMPLE_RATE, (start + word.end) / SAMPLE_RATE, word.text)
        for word in kept
    )
