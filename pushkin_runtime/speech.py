"""Speech → rows of the model's input, on the inference thread; the speech model is read when it is first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.engines.base import Engine, SpeechEncoder
from pushkin_runtime.engines.registry import create_speech_encoder
from pushkin_runtime.errors import InvalidRequest, ModelCorrupt
from pushkin_runtime.log_mel import SAMPLE_RATE, FloatArray, log_mel
from pushkin_runtime.options import RuntimeOptions
from pushkin_runtime.speech_folder import SpeechFiles, read_encoder, read_speech
from pushkin_runtime.speech_model import (
    EncoderConfig,
    HeardToken,
    Projector,
    compressed,
    labels_of,
    scores_of,
    stack,
    transcript,
    whole_rows,
)
from pushkin_runtime.speech_types import SpeechInfo, SpeechRows, SpokenWord
from pushkin_runtime.tokenizer import TextTokenizer

MIN_SAMPLES = SAMPLE_RATE // 50  # 20 ms: less is a click


@dataclass(frozen=True, slots=True, eq=False)
class SpeechModel:
    """A speech model in an engine's arrays."""

    info: SpeechInfo
    encoder: SpeechEncoder
    projector: Projector
    base_digest: str
    tokenizer: TextTokenizer
    pieces: tuple[str, ...]

    def encode(self, samples: FloatArray) -> Generator[bool, None, SpeechRows]:
        """Do one utterance, a layer a unit; work is proportional to its length, nothing is padded to 30 s.

        Raises InvalidRequest for more than the encoder can read.
        """
        if len(samples) > self.info.max_samples:
            raise InvalidRequest(
                f"{len(samples) / SAMPLE_RATE:.1f} s of speech at once; this speech model reads up to "
                f"{self.info.max_samples / SAMPLE_RATE:.0f} s. Send it in parts.",
                param="speech",
            )
        mel = log_mel(whole_rows(samples, self.projector), self.encoder.config.n_mels)
        yield True
        [states] = yield from self.encoder.encode([mel])
        every = self.encoder.project(stack(states, self.projector.n_stack))
        rows = compressed(every, self.projector)
        scores, heard = None, None
        if self.projector.pieces is not None:
            scores = scores_of(every, self.projector)
            heard = transcript(labels_of(scores), self.projector.pieces)
        step = self.projector.samples_per_row
        digest = hashlib.sha256(rows.tobytes()).digest()
        return SpeechRows(
            rows=rows,
            n_samples=len(samples),
            base_digest=self.base_digest,
            token=-2 - int.from_bytes(digest[:7], "big"),  # -1 is the persona's
            heard=None if heard is None else tuple(found.token for found in heard),
            words=None
            if heard is None
            else spoken_words(self.tokenizer, heard, step, len(samples)),
            scores=scores,
            pieces=self.pieces,
            limits=self.projector.limits,
        )


def spoken_words(
    tokenizer: TextTokenizer, heard: Sequence[HeardToken], samples_per_row: int, n_samples: int
) -> tuple[SpokenWord, ...]:
    """Tokens as words, with their places in `n_samples` of speech: one begins where a token begins with a space."""
    groups: list[list[HeardToken]] = []
    for found in heard:
        if not groups or tokenizer.token_bytes(found.token).startswith(b" "):
            groups.append([])
        groups[-1].append(found)
    texts = [tokenizer.decode([found.token for found in group]).strip() for group in groups]
    return tuple(
        SpokenWord(
            text,
            group[0].start * samples_per_row,
            min(group[-1].stop * samples_per_row, n_samples),
        )
        for text, group in zip(texts, groups, strict=True)
        if text
    )


class SpeechDesk:
    """Owned by the inference thread: the speech model, once somebody has spoken.

    options: where the adapter `dictate` and the encoders are looked for, and CPU threads.
    """

    def __init__(self, engine: Engine, options: RuntimeOptions) -> None:
        self._engine, self._options = engine, options
        self._model: SpeechModel | None = None

    def model(self) -> SpeechModel:
        """Return the speech model, read if need be (0.2 s for a small one).

        Raises CapabilityMissing when it is not installed, ModelError when it is damaged or for another base.
        """
        if self._model is None:
            options = self._options
            files = read_speech(options.adapters.roots, options.model_roots)
            self._model = load_speech_model(self._engine, files, options.n_threads)
        return self._model

    def close(self) -> None:
        """Release it."""
        self._model = None


def load_speech_model(engine: Engine, files: SpeechFiles, n_threads: int) -> SpeechModel:
    """Bring a speech model into the engine's arrays; inference thread. Raises ModelCorrupt for another base's."""
    hidden_size = engine.info.hidden_size
    if files.base_digest != engine.info.digest or len(files.projector.second) != hidden_size:
        raise ModelCorrupt(
            f"The speech model was trained for another base model (rows of {len(files.projector.second)}, "
            f"{engine.info.id} has {hidden_size}): install the one that belongs to {engine.info.id}."
        )
    encoder = create_speech_encoder(
        engine.name, files.config, files.weights, files.projector, n_threads
    )
    n_bytes = sum(array.nbytes for array in files.weights.values())
    info = SpeechInfo(
        encoder=files.encoder,
        encoder_sha256=files.encoder_sha256,
        rows_per_second=files.projector.rows_per_second,
        max_samples=files.config.max_samples,
        n_bytes=n_bytes,
    )
    pieces = tuple(
        engine.tokenizer.token_bytes(token).decode(errors="replace")
        for token in files.projector.pieces or ()
    )
    return SpeechModel(info, encoder, files.projector, files.base_digest, engine.tokenizer, pieces)


def checked_samples(samples: NDArray[np.float32]) -> FloatArray:
    """Return a copy of (n,) float32 samples at 16 kHz. Raises InvalidRequest for anything else."""
    if samples.dtype != np.float32 or samples.ndim != 1:
        raise InvalidRequest(
            f"Speech must be float32 samples in one dimension, got {samples.dtype} of shape {samples.shape}.",
            param="speech",
        )
    if len(samples) < MIN_SAMPLES:
        raise InvalidRequest(
            f"{len(samples)} samples are no speech; expected {MIN_SAMPLES} at least.",
            param="speech",
        )
    if not np.isfinite(samples).all():
        raise InvalidRequest("Speech must be finite numbers between -1 and 1.", param="speech")
    return samples.copy()


def open_encoder(folder: Path) -> tuple[EncoderConfig, Callable[[FloatArray], FloatArray]]:
    """Return an encoder's shape, and mel → states in PyTorch on the calling thread: what training data is made with."""
    config, weights = read_encoder(folder)
    nothing = np.zeros((0, 0), np.float32)
    no_projector = Projector(1, nothing, nothing, nothing, nothing, 1.0, nothing, nothing)
    encoder = create_speech_encoder("torch", config, weights, no_projector)

    def states(mel: FloatArray) -> FloatArray:
        steps = encoder.encode([mel])
        while True:
            try:
                next(steps)
            except StopIteration as done:
                [found] = done.value
                return np.asarray(found)

    return config, states
