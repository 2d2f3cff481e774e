"""A daemon that hears by an oracle: it knows one sentence, and when its words are said. Run by the tests."""

from __future__ import annotations

from audio.oracle import OracleRecognizer, TimedWord
from audio.pcm import to_samples
from benchmarks.espeak import speak
from daemon.announce import JsonAnnouncer
from daemon.config import load
from daemon.lifecycle import Serving, serve

SENTENCE = "the quick brown fox jumps over the lazy dog"


def main() -> None:
    spoken = speak(SENTENCE)
    words = [TimedWord(w.text, w.start, w.end) for w in spoken.words]
    oracle = OracleRecognizer(words, reference=to_samples(spoken.pcm))
    serve(
        Serving(loaded=load(), announcer=JsonAnnouncer(), build_recognizer=lambda _runtime: oracle)
    )


if __name__ == "__main__":
    main()
