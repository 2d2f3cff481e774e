"""What a speech model is made of: the encoder's shape, the projector's matrices, and how frames are stacked.

samples ─ log-mel ─ Whisper encoder (50 states a second) ─ K states side by side ─ Linear ReLU Linear ─ rows ─ one row a sound

The projector was trained so that a row is the embedding of the piece of text heard there, or of <sil>. Rows that say the same
are therefore averaged and silence is left out (CTC compression, Gaido et al. 2021, arXiv:2102.01578): a third of the rows is
left, and they stand nearly one to one with what is to be written.

Checkpoints are Hugging Face's `WhisperEncoder` or `WhisperModel` as safetensors, tiny to large-v3-turbo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.errors import ModelCorrupt
from pushkin_runtime.log_mel import HOP_LENGTH, N_FFT, SAMPLE_RATE
from pushkin_runtime.speech_types import DEFAULT_LIMITS, CommandLimits

FloatArray = NDArray[np.float32]
ROW_EPS = 1e-6
SILENCE_ROWS = 8  # half a second
MEL_STRIDE = 2  # frames a state: the second convolution's stride
STATES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH // MEL_STRIDE
_PREFIXES = ("model.encoder.", "encoder.", "")
_CONFIG_KEYS = (
    "num_mel_bins",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "max_source_positions",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Whisper's encoder. n_positions: states it can read at once, 1500 for 30 s."""

    n_mels: int
    d_model: int
    n_layers: int
    n_heads: int
    n_ffn: int
    n_positions: int

    @property
    def max_samples(self) -> int:
        """Longest clip it can read."""
        return self.n_positions * MEL_STRIDE * HOP_LENGTH

    def n_states(self, n_frames: int) -> int:
        """States of a clip of n_frames mel frames."""
        return (n_frames + 1) // MEL_STRIDE


@dataclass(frozen=True, slots=True, eq=False)
class Projector:
    """rows = second @ relu(first @ stacked + first_bias) + second_bias, each then brought to row_rms.

    first: (n_hidden, n_stack * d_model). second: (hidden_size, n_hidden). All float32. row_rms: root mean square of the
    base model's text rows as they enter the first layer, where √hidden has been applied: rows of another size would be
    heard by nobody. heard: (1 + n_pieces, hidden_size); heard @ row + heard_bias scores what a row says, 0 is silence.
    pieces: the token of each score but the first, where transcripts are the projector's own (greedy CTC); None where the
    model writes them. limits: what of the scores makes a command.
    """

    n_stack: int
    first: FloatArray
    first_bias: FloatArray
    second: FloatArray
    second_bias: FloatArray
    row_rms: float
    heard: FloatArray
    heard_bias: FloatArray
    pieces: tuple[int, ...] | None = None
    limits: CommandLimits = DEFAULT_LIMITS

    @property
    def rows_per_second(self) -> float:
        """Rows that a second of speech becomes."""
        return STATES_PER_SECOND / self.n_stack

    @property
    def samples_per_row(self) -> int:
        """Samples that become one row."""
        return self.n_stack * MEL_STRIDE * HOP_LENGTH


@dataclass(frozen=True, slots=True)
class HeardToken:
    """A token that the projector reads, and the rows that say it, `start` to before `stop`."""

    token: int
    start: int
    stop: int


def whole_rows(samples: FloatArray, projector: Projector) -> FloatArray:
    """Return `samples` with silence appended up to a whole row: the end of the last word is never dropped."""
    wanted = -(-max(len(samples), N_FFT) // projector.samples_per_row) * projector.samples_per_row
    return np.pad(samples.astype(np.float32), (0, wanted - len(samples)))


def at_rms(rows: FloatArray, rms: float) -> FloatArray:
    """Return (n, hidden_size) rows, each scaled to the root mean square `rms`."""
    size = np.sqrt(np.mean(rows**2, axis=1, keepdims=True) + ROW_EPS)
    scaled: FloatArray = (rows / size * rms).astype(np.float32)
    return scaled


def runs(labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (start, stop) of the stretches of equal labels that stay: every piece, and silences of SILENCE_ROWS or more.

    labels: (n,), 0 is silence. One stretch at least stays, if there is a row at all.
    """
    every = _stretches(labels)
    kept = [(a, b) for a, b in every if labels[a] or b - a >= SILENCE_ROWS]
    return kept or every[:1]


def _stretches(labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(start, stop) of every stretch of equal labels."""
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return list(pairwise(edges)) if len(labels) else []


def scores_of(rows: FloatArray, projector: Projector) -> FloatArray:
    """Return (n, 1 + n_pieces): how well each row says silence and each piece."""
    scores: FloatArray = rows @ projector.heard.T + projector.heard_bias
    return scores


def labels_of(scores: FloatArray) -> NDArray[np.int64]:
    """Return what each row says by its scores: 0 for silence, else a piece, counted from 1."""
    return np.asarray(scores.argmax(1), dtype=np.int64)


def transcript(labels: NDArray[np.int64], pieces: Sequence[int]) -> tuple[HeardToken, ...]:
    """Return the tokens that rows spell: repetitions once, silence dropped (greedy CTC)."""
    return tuple(
        HeardToken(pieces[labels[start] - 1], start, stop)
        for start, stop in _stretches(labels)
        if labels[start]
    )


def compressed(rows: FloatArray, projector: Projector) -> FloatArray:
    """Return one row for each stretch that stays, their mean at the text rows' size."""
    labels = labels_of(scores_of(rows, projector))
    means = np.stack([rows[a:b].mean(0) for a, b in runs(labels)])
    return at_rms(means, projector.row_rms)


def stack(states: FloatArray, n_stack: int) -> FloatArray:
    """Return (n // n_stack, n_stack * d_model): consecutive states side by side."""
    n_rows = len(states) // n_stack
    return np.ascontiguousarray(states[: n_rows * n_stack].reshape(n_rows, -1))


def encoder_config(config: Mapping[str, Any], where: str) -> EncoderConfig:
    """Read a Whisper config.json. Raises ModelCorrupt with everything that is missing."""
    wrong = [key for key in _CONFIG_KEYS if not isinstance(config.get(key), int)]
    if wrong:
        raise ModelCorrupt(
            f"{where} is not a Whisper configuration: it lacks the numbers {', '.join(wrong)}."
        )
    n_mels, d_model, n_layers, n_heads, n_ffn, n_positions = (int(config[k]) for k in _CONFIG_KEYS)
    if n_mels not in (80, 128) or d_model % n_heads:
        raise ModelCorrupt(
            f"{where}: {n_mels} mel bins, width {d_model}, {n_heads} heads; "
            "expected 80 or 128 bins and a width that the heads divide."
        )
    return EncoderConfig(
        n_mels=n_mels,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_ffn=n_ffn,
        n_positions=n_positions,
    )


def encoder_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder by its name in Hugging Face's layout, without a prefix."""
    d, f = config.d_model, config.n_ffn
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (d, config.n_mels, 3),
        "conv1.bias": (d,),
        "conv2.weight": (d, d, 3),
        "conv2.bias": (d,),
        "embed_positions.weight": (config.n_positions, d),
        "layer_norm.weight": (d,),
        "layer_norm.bias": (d,),
    }
    for i in range(config.n_layers):
        p = f"layers.{i}."
        for name in ("q", "k", "v", "out"):
            shapes[f"{p}self_attn.{name}_proj.weight"] = (d, d)
            if name != "k":  # Whisper's keys have no bias
                shapes[f"{p}self_attn.{name}_proj.bias"] = (d,)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"{p}{name}.weight"] = shapes[f"{p}{name}.bias"] = (d,)
        shapes[f"{p}fc1.weight"], shapes[f"{p}fc1.bias"] = (f, d), (f,)
        shapes[f"{p}fc2.weight"], shapes[f"{p}fc2.bias"] = (d, f), (d,)
    return shapes


def encoder_weights(
    config: EncoderConfig, tensors: Mapping[str, NDArray[Any]], where: str
) -> dict[str, FloatArray]:
    """Return the encoder's tensors as float32, without prefix; a decoder beside it is left alone.

    Raises ModelCorrupt that lists every missing, misshapen and superfluous tensor.
    """
    prefix = next(p for p in _PREFIXES if not p or f"{p}conv1.weight" in tensors)
    own = {
        name.removeprefix(prefix): array
        for name, array in tensors.items()
        if name.startswith(prefix)
    }
    shapes = encoder_shapes(config)
    problems = [f"{name} is missing" for name in shapes.keys() - own.keys()]
    problems += [f"{name} is not part of it" for name in own.keys() - shapes.keys()]
    problems += [
        f"{name} is {own[name].shape}, expected {shapes[name]}"
        for name in own.keys() & shapes.keys()
        if own[name].shape != shapes[name]
    ]
    if problems:
        raise ModelCorrupt(
            f"{where} is not the encoder that its config.json describes: {'; '.join(sorted(problems))}."
        )
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in own.items()}
