"""Paragraphs → unit vectors in which texts by one author lie together: the embedder that needs no download.

Hashed character n-grams (1 to 4, across word borders), words and word pairs are looked up in a table of the
n-grams that many authors use, which leaves most names and topics out; their embeddings, pooled by log counts,
and 24 measures of rhythm and punctuation go through a small MLP. English and Russian. NumPy only, one thread.
Trained by `training/style_encoder.py` so that paragraphs of one author's different works meet.

Quotation marks, dashes and digits are folded and capitalised words inside sentences masked, so that neither
an editor's typography nor a hero's name makes a style. Hashes are ours and the same on every machine.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.checked_folder import read_folder
from indexer.errors import PersonaUnavailable
from indexer.types import EmbeddingSpace

Floats = NDArray[np.float32]
Hashes = NDArray[np.uint64]

KIND = "style-encoder"
HASH_BITS = 22
MAX_CHARS = 4096  # of one text; a paragraph of the index has at most about 1,500
MAX_ORDER = 4
_FNV_PRIME = np.uint64(0x100000001B3)
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_MIX = np.uint64(0xD6E8FEB86659FD93)
_WORD_SEED, _PAIR_SEED = 101, 102
_NAME = "\x02"
_MASKED = re.compile(r"(?<=[\w,;] )[A-ZА-ЯЁ][a-zа-яё]+")
_SENTENCE = re.compile(r"[.!?…]+")
_FOLDS = str.maketrans(
    dict.fromkeys("“”„‟«»‹›″", '"')
    | dict.fromkeys("‘’‚‛′`", "'")
    | dict.fromkeys("–—―−", "—")
    | dict.fromkeys("0123456789", "0")
    | {"\u00a0": " ", "\u0301": ""}
)
_MARKS = ',;:—!?….-"()' + "'"
N_RHYTHM = 11 + len(_MARKS)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """One text. hashes: of all its n-grams, (n,) below 2**HASH_BITS, with repeats; rhythm: (N_RHYTHM,)."""

    hashes: NDArray[np.int64]
    rhythm: Floats


def folded(text: str) -> str:
    """The text as the n-grams see it: NFC, one line, lower case, typography folded, names masked."""
    text = unicodedata.normalize("NFC", text[:MAX_CHARS]).translate(_FOLDS).replace("--", "—")
    text = " ".join(text.replace("...", "…").replace(" - ", " — ").split())
    return _MASKED.sub(_NAME, text).lower()


def features(text: str) -> Features:
    """What the encoder reads of a text."""
    line = folded(text)
    codes = np.frombuffer(f" {line} ".encode("utf-32-le"), np.uint32).astype(np.uint64)
    words = _word_hashes(codes)
    parts = _ngram_hashes(codes)
    parts.append(_bits(words, _WORD_SEED))
    parts.append(_bits(words[:-1] * _FNV_PRIME + words[1:], _PAIR_SEED))
    return Features(np.concatenate(parts), _rhythm(line))


def _bits(hashes: Hashes, seed: int) -> NDArray[np.int64]:
    """HASH_BITS well mixed bits; the seed keeps n-grams of different kinds apart."""
    mixed = (hashes ^ np.uint64(seed * _BASE % 2**64)) * _MIX
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MIX
    return (mixed >> np.uint64(64 - HASH_BITS)).astype(np.int64)


def _ngram_hashes(codes: Hashes) -> list[NDArray[np.int64]]:
    """FNV-like hashes of all n-grams of 1 to MAX_ORDER characters."""
    rolling, parts = np.zeros(len(codes), np.uint64), []
    for order in range(1, MAX_ORDER + 1):
        if len(codes) < order:
            break
        rolling = (rolling[: len(codes) - order + 1] ^ codes[order - 1 :]) * _FNV_PRIME
        parts.append(_bits(rolling, order))
    return parts


@lru_cache(maxsize=1)
def _powers() -> tuple[Hashes, Hashes]:
    """Powers of the base and of its inverse modulo 2**64, as many as a text may have characters."""
    inverse, n = pow(_BASE, -1, 2**64), MAX_CHARS * 4
    rising, falling = [1], [1]
    for _ in range(n):
        rising.append(rising[-1] * _BASE % 2**64)
        falling.append(falling[-1] * inverse % 2**64)
    return np.array(rising, np.uint64), np.array(falling, np.uint64)


def _word_hashes(codes: Hashes) -> Hashes:
    """A polynomial hash of each run of letters, by prefix sums modulo 2**64."""
    small = codes.astype(np.uint32)
    is_letter = ((small >= 97) & (small <= 122)) | ((small >= 0xC0) & (small < 0x2000))
    is_letter |= (small == 39) | (small == ord(_NAME))
    edges = np.flatnonzero(np.diff(is_letter.astype(np.int8)))  # the ends are spaces
    starts, stops = edges[0::2] + 1, edges[1::2] + 1
    rising, falling = _powers()
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * rising[: len(codes)], out=sums[1:])
    hashes: Hashes = (sums[stops] - sums[starts]) * falling[starts]
    return hashes


def _rhythm(line: str) -> Floats:
    """Lengths of words and sentences, richness, and each punctuation mark per word; see N_RHYTHM."""
    words = line.split()
    n_words = max(1, len(words))
    lengths = np.array([len(word) for word in words] or [0], np.float32)
    sentences = [len(part.split()) for part in _SENTENCE.split(line) if part.strip()] or [0]
    spans = np.log1p(np.array(sentences, np.float32))
    values = [
        math.log1p(n_words),
        float(lengths.mean()),
        float(lengths.std()),
        float((lengths >= 8).mean()),
        float((lengths <= 3).mean()),
        float(spans.mean()),
        float(spans.std()),
        float(spans.max()),
        len(set(words)) / n_words**0.8,
        line.count(_NAME) / n_words,
        float(line[:1] in '—"'),
        *(math.sqrt(line.count(mark) / n_words) for mark in _MARKS),
    ]
    return np.array(values, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class StyleWeights:
    """keys (n,): the known hashes, rising; table (n, d) their embeddings; the MLP's matrices are (out, in)."""

    keys: NDArray[np.int64]
    table: Floats
    rhythm_mean: Floats
    rhythm_scale: Floats
    hidden_w: Floats
    hidden_b: Floats
    out_w: Floats
    out_b: Floats
    skip_w: Floats

    def shapes_problem(self) -> str:
        """What does not fit together, or ""."""
        n, pooled = self.table.shape if self.table.ndim == 2 else (-1, -1)
        n_in, n_hidden, n_out = pooled + N_RHYTHM, len(self.hidden_b), len(self.out_b)
        expected = {
            "keys": (n,),
            "rhythm_mean": (N_RHYTHM,),
            "rhythm_scale": (N_RHYTHM,),
            "hidden_w": (n_hidden, n_in),
            "hidden_b": (n_hidden,),
            "out_w": (n_out, n_hidden),
            "out_b": (n_out,),
            "skip_w": (n_out, n_in),
        }
        wrong = [name for name, shape in expected.items() if getattr(self, name).shape != shape]
        if not wrong and (
            n < 1 or n >= 2**16 - 1 or np.any(np.diff(self.keys) <= 0) or self.keys[0] < 0
        ):
            wrong = ["keys (they must rise, from 0, and fit 16 bits)"]
        if not wrong and self.keys[-1] >= 2**HASH_BITS:
            wrong = ["keys (too large)"]
        return ", ".join(wrong)


class StyleEncoder:
    """The embedder. Deterministic; used from one thread at a time; about 30 MB of memory."""

    def __init__(self, weights: StyleWeights, digest: str) -> None:
        self.space = EmbeddingSpace(id=f"style:{digest[:16]}:unit", n_dimensions=len(weights.out_b))
        self._weights = weights
        self._slots = slots(weights.keys)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return (len(texts), n_dimensions) float32, rows of unit length; of an empty text too."""
        table = self._weights.table
        rows = np.zeros((len(texts), table.shape[1] + N_RHYTHM), np.float32)
        for row, text in zip(rows, texts, strict=True):
            found = features(text)
            known, counts = counted(found.hashes, self._slots)
            row[: table.shape[1]] = counts @ table[known]
            row[table.shape[1] :] = found.rhythm
        return self._project(rows)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _project(self, rows: Floats) -> Floats:
        weights = self._weights
        n = weights.table.shape[1]
        rows[:, n:] = (rows[:, n:] - weights.rhythm_mean) / weights.rhythm_scale
        np.clip(rows[:, n:], -4, 4, out=rows[:, n:])
        hidden = gelu(rows @ weights.hidden_w.T + weights.hidden_b)
        out = hidden @ weights.out_w.T + weights.out_b + rows @ weights.skip_w.T
        unit: Floats = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
        return unit.astype(np.float32)


def slots(keys: NDArray[np.int64]) -> NDArray[np.uint16]:
    """A table of all hashes: 0 for an unknown one, else its row of `keys` plus 1."""
    table = np.zeros(2**HASH_BITS, np.uint16)
    table[keys] = np.arange(1, len(keys) + 1, dtype=np.uint16)
    return table


def counted(
    hashes: NDArray[np.int64], table: NDArray[np.uint16]
) -> tuple[NDArray[np.int64], Floats]:
    """The known n-grams of a text, (k,), and their log counts scaled to unit length, (k,) float32."""
    counts = np.bincount(table[hashes])
    counts[:1] = 0
    found = np.flatnonzero(counts)
    values = np.log1p(counts[found]).astype(np.float32)
    norm = float(np.sqrt(values @ values)) or 1.0
    return found - 1, values / np.float32(norm)


def gelu(values: Floats) -> Floats:
    """GELU by tanh, the form that torch calls `approximate="tanh"`."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (
        values + np.float32(0.044715) * values * values * values
    )
    result: Floats = np.float32(0.5) * values * (1 + np.tanh(inner))
    return result


def load_style_encoder(folder: Path) -> StyleEncoder:
    """Load the encoder of a folder (`style-encoder.json` and `.safetensors`).

    Raises PersonaUnavailable when it is not there, damaged or not an encoder; the message says which.
    """
    content = read_folder(folder, KIND, PersonaUnavailable)
    weights = content.build(_weights)
    return StyleEncoder(weights, content.sha256)


def _weights(arrays: Mapping[str, NDArray[Any]]) -> StyleWeights:
    names = [name for name in StyleWeights.__slots__ if name != "keys"]
    values: dict[str, Any] = {name: arrays[name].astype(np.float32) for name in names}
    weights = StyleWeights(keys=arrays["keys"].astype(np.int64), **values)
    if problem := weights.shapes_problem():
        raise ValueError(f"these do not fit: {problem}")
    return weights
