"""Clips of states → batches for the audio stage: pieces, altered states, prompts; everything decided by seed and step.

A transcript is written in short pieces of the model's own vocabulary (its first merges only). A tiny model then meets each
piece hundreds of times, and there are never more pieces than rows; what they spell is the same text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from pushkin_runtime.control_tokens import LANGUAGES
from pushkin_runtime.prompt import dictation_frame
from pushkin_runtime.tokenizer import TextTokenizer
from training.speech_features import Clip, read_shard
from training.tokenizer import assemble

N_MERGES = 250
MAX_CLIPS = 32  # of a batch: prompts are padded to the longest
_LETTERS = set("▁'abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюя")
KINDS = ("<dict>", "<cmd>", "<none>")
DECIDING = {
    "command": 3,
    "near_miss": 2,
    "noise": 3,
}  # how often, where a clip is for the first token alone


class Pieces:
    """Words ↔ short pieces; ids are the model's own. `ids`: every piece that can occur, ascending."""

    def __init__(self, tokenizer: TextTokenizer, path: Path, n_merges: int = N_MERGES) -> None:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        vocab: dict[str, int] = model["vocab"]
        merges = [(a, b) for a, b in model["merges"] if set(a + b) <= _LETTERS][:n_merges]
        self._short: Tokenizer = assemble(sorted(vocab, key=vocab.__getitem__), merges)
        self._short.encode_special_tokens = True
        letters = {vocab[letter] for letter in _LETTERS if letter in vocab}
        self.ids = np.array(sorted(letters | {vocab[a + b] for a, b in merges}), dtype=np.int64)
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """The pieces of " " + text; [] for ""."""
        ids: list[int] = self._short.encode(f" {text}", add_special_tokens=False).ids
        return ids if text else []

    def decode(self, ids: Sequence[int]) -> str:
        """The words that pieces spell."""
        return self._tokenizer.decode(ids).strip()


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A clip ready for batches. rows: stacked states (n_rows, n_stack * d_model) float16."""

    clip: Clip
    stacked: NDArray[np.float16]
    pieces: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """stacked: (b, r, n) float32, zero beyond n_rows. heads, tails: ids before and after the rows, each padded on no side:
    lists. targets: first token (of KINDS), pieces, <eos>."""

    stacked: Tensor
    n_rows: list[int]
    heads: list[list[int]]
    tails: list[list[int]]
    targets: list[list[int]]
    pieces: list[list[int]]
    texts: list[str]

    @property
    def n_targets(self) -> int:
        """Tokens that the model is taught."""
        return sum(map(len, self.targets))


def load_examples(folder: Path, side: str, n_stack: int, pieces: Pieces) -> list[Example]:
    """Every clip whose shard is finished, in order."""
    found: list[Example] = []
    for path in sorted(folder.glob(f"{side}-*.safetensors")):
        for clip, states in read_shard(path):
            n_rows = len(states) // n_stack
            if not np.isfinite(states).all():
                continue  # of silence alone, from a synthesiser that said nothing
            stacked = states[: n_rows * n_stack].reshape(n_rows, -1)
            found.append(Example(clip, stacked, pieces.encode(clip.text)))
    if not found:
        raise FileNotFoundError(
            f"{folder} has no shard {side}-*.safetensors: run training.speech_features"
        )
    return found


def for_deciding(examples: Sequence[Example]) -> list[Example]:
    """What a command is taught with: fewer of the recorded clips, which are all plain dictation, and more of the rest."""
    chosen: list[Example] = []
    for i, example in enumerate(examples):
        source = example.clip.group.split()[-1]
        is_recorded = not example.clip.group.startswith(("synthetic", "noise"))
        chosen += [] if is_recorded and i % 8 else [example] * DECIDING.get(source, 1)
    return chosen


class Sampler:
    """Batches by number. n_rows: of a batch, padding included, about; the longest clips come in after `warm_steps`."""

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: TextTokenizer,
        seed: int,
        n_rows: int,
        n_stack: int,
        warm_steps: int = 0,
    ) -> None:
        self._n_stack = n_stack
        self._examples = sorted(examples, key=lambda e: len(e.stacked))
        self._tokenizer, self._seed, self._n_rows, self._warm = tokenizer, seed, n_rows, warm_steps
        self._kinds = {name[1:-1]: tokenizer.require_special(name) for name in KINDS}

    def draw(self, step: int) -> Batch:
        """Batch number `step`: clips of about one length, with fresh masks, prompts and noise."""
        rng = random.Random(f"{self._seed}:{step}")
        n = len(self._examples)
        if step < self._warm:  # from the shorter half to all
            n = round(n * (0.5 + 0.5 * step / self._warm))
        first = rng.randrange(n)
        longest = len(self._examples[min(n - 1, first + 20)].stacked)
        count = max(4, min(MAX_CLIPS, self._n_rows // longest))
        near = range(max(0, first - 3 * count), min(n, first + 3 * count))
        chosen = [self._examples[i] for i in rng.sample(near, min(count, len(near)))]
        frames = [self._frame(example, rng) for example in chosen]
        stacked = np.zeros(
            (len(chosen), max(len(e.stacked) for e in chosen), chosen[0].stacked.shape[1]),
            np.float32,
        )
        for row, example in zip(stacked, chosen, strict=True):
            row[: len(example.stacked)] = altered(example.stacked, self._n_stack, rng)
        eos = self._tokenizer.eos_id
        return Batch(
            stacked=torch.from_numpy(stacked),
            n_rows=[len(e.stacked) for e in chosen],
            heads=[head for head, _ in frames],
            tails=[tail for _, tail in frames],
            targets=[[self._kinds[e.clip.kind], *e.pieces, eos] for e in chosen],
            pieces=[e.pieces for e in chosen],
            texts=[e.clip.text for e in chosen],
        )

    def _frame(self, example: Example, rng: random.Random) -> tuple[list[int], list[int]]:
        """The prompt around the rows: sometimes with another language's code, sometimes with text before the caret."""
        language = example.clip.language if rng.random() < 0.8 else rng.choice(LANGUAGES)
        before: list[int] = []
        if rng.random() < 0.2:
            other = rng.choice(self._examples).clip
            before = self._tokenizer.encode(f"{other.text.capitalize()}. ") if other.text else []
            before = before[-rng.randrange(1, 13) :]
        return dictation_frame(self._tokenizer, language, before)


def altered(stacked: NDArray[np.float16], n_stack: int, rng: random.Random) -> NDArray[np.float32]:
    """SpecAugment on states: up to two stretches of rows and one band of channels at zero, a little noise."""
    rows = stacked.astype(np.float32)
    for _ in range(rng.choice((0, 1, 1, 2))):
        width = rng.randrange(0, max(1, min(4, len(rows) // 6)))
        start = rng.randrange(len(rows))
        rows[start : start + width] = 0.0
    if rng.random() < 0.5:
        n_channels = rows.shape[1] // n_stack
        low, width = rng.randrange(n_channels), rng.randrange(40)
        for k in range(n_stack):
            rows[:, k * n_channels + low : k * n_channels + min(low + width, n_channels)] = 0.0
    source = np.random.default_rng(rng.randrange(1 << 32))
    rows += rng.uniform(0, 0.15) * source.standard_normal(rows.shape, dtype=np.float32)
    return rows
