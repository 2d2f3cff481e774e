"""The model seam: what an engine owes the generation loop. One contract suite runs against all.

Every method of an engine, and of what it returns, runs on the inference thread and nowhere else
(MLX streams are thread-local). Arrays at the border are NumPy; tokens are ints.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adapters.composition import Composition
from adapters.format import BaseModel
from pushkin_runtime.dry import DryContext
from pushkin_runtime.sampling_types import SamplingParams
from pushkin_runtime.speech_model import EncoderConfig
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import ModelInfo, TokenLogprob


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to load: model folder, tokens a cache may hold (0: the model's own limit), CPU threads.

    cache_dir: where an engine keeps what it has built from the model, for the next time; None: nowhere.
    """

    model_dir: Path
    context_length: int = 0
    n_threads: int = 1
    cache_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt segment of token ids."""

    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """A prompt segment of input rows, (n, hidden_size) float32.

    One convention in every engine: rows as they enter the first layer, that is, after Gemma's √hidden
    scaling. An engine whose model scales again undoes it first.
    """

    rows: NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.rows.shape[0])


Segment = Tokens | Embeddings


class SpeechEncoder(Protocol):
    """A frozen Whisper encoder with its projector, in an engine's arrays; inference thread only."""

    config: EncoderConfig

    def encode(
        self, mels: Sequence[NDArray[np.float32]]
    ) -> Generator[bool, None, list[NDArray[np.float32]]]:
        """Return the states (n_states, d_model) of each mel (n_mels, n_frames), yielding True after each layer.

        Clips of different length may share a batch: the padding between them changes nothing.
        """

    def project(self, stacked: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, hidden_size) of (n, n_stack * d_model): rows as `Embeddings` has them."""


class Lora(Protocol):
    """A composition of adapters in an engine's own arrays, with a factor for each; immutable."""

    @property
    def n_bytes(self) -> int:
        """Memory of the matrices, which copies with other factors share."""

    @property
    def n_modules(self) -> int:
        """Matrices of the base that it really changes."""


class KVCache(Protocol):
    """Keys and values of one prefix, on all layers and in full length, so it can be cut anywhere.

    Owned by whoever asked the engine for it; freed when dropped. A cache belongs to its adapters: every
    call that extends or reads it applies `lora`. Its owner may take them off an idle cache, to free their
    memory, and must put equal ones back before the next call.
    """

    lora: Lora | None

    @property
    def n_tokens(self) -> int:
        """Positions held, the same in every row."""

    @property
    def n_bytes(self) -> int:
        """Memory held, spare capacity included."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decode step: a token per row, and its log-probability (nats) under the unfiltered model.

    details: with `DecodePlan.n_probs`, one per row.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    details: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodePlan:
    """What to decode after a cache.

    last_token: the prompt's last token, not yet in the cache. first_logits: (vocab_size,) raw logits after it; if
    given, the cache holds that token too and the first step chooses from them without running the model.
    n_rows: alternatives, decoded as a batch.
    recent: tokens the penalties count as seen. dry: what DRY looks back on before the answer, None for nothing.
    first_allowed: if not None, the only tokens the first step may choose. banned: tokens never chosen. logit_bias: (token, what is added to its raw logit).
    n_probs: alternatives told with each token, before the samplers or (post_sampling_probs) after.
    distinct_first: rows begin with different tokens (`sampling.pick_distinct`); else greedy rows all start alike.
    """

    last_token: int
    n_rows: int
    sampling: SamplingParams
    seed: int
    recent: tuple[int, ...] = ()
    dry: DryContext | None = None
    first_allowed: NDArray[np.int64] | None = None
    banned: NDArray[np.int64] | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    n_probs: int = 0
    post_sampling_probs: bool = False
    first_logits: NDArray[np.float32] | None = None
    distinct_first: bool = False


class Decoder(Protocol):
    """A running decode over a cache; it may compute one step ahead of what it returned."""

    def step(self) -> Step:
        """Feed the last tokens, return the next ones. Raises EngineFailed."""

    def close(self) -> None:
        """Wait for work in flight; the cache then holds the prompt and every returned token but the last
        (before the first step: what it held at the start), and may be reused."""


class Engine(Protocol):
    """A loaded model.

    base: what an adapter must fit. lora_dtype: of its activations ("float32" or "bfloat16"), which
    compositions for `load_lora` must have too: a wider one would slow every step down.
    """

    name: str
    info: ModelInfo
    tokenizer: TextTokenizer
    base: BaseModel
    lora_dtype: str

    def load_lora(self, composition: Composition) -> Lora:
        """Bring a composition into the engine's arrays, with the adapters' own scales as factors.

        Raises EngineFailed when a matrix has no place in this model: an adapter that is silently not
        applied is the worst kind.
        """

    def rescale(self, lora: Lora, factors: Sequence[float]) -> Lora:
        """Return `lora` with other factors, one per adapter (own scale × requested scale); moves no matrix."""

    def new_cache(self, lora: Lora | None = None) -> KVCache:
        """Return an empty cache of one row whose tokens will be read under `lora`; None: the bare base."""

    def prefill(self, cache: KVCache, segment: Segment) -> None:
        """Append `segment` to a one-row cache. Splitting a segment over calls gives the same cache up to
        rounding. Raises EngineFailed; the cache then holds what it held before."""

    def extend(
        self, cache: KVCache, tokens: Sequence[int], *, n_logits: int
    ) -> NDArray[np.float32]:
        """Append one token or more as `prefill` does, and return (n_logits, vocab_size) raw logits of the last
        positions, the last row after the last token: one pass over the model, the head at those positions only.
        The array is the caller's. Raises as `prefill`."""

    def fork(self, cache: KVCache, *, n_tokens: int, n_rows: int = 1) -> KVCache:
        """Return a copy of the first `n_tokens` of a one-row cache, repeated to `n_rows`, under the same
        adapters; exact. Several rows may go on in the memory of `cache`, which is then left alone until they are
        dropped, and has its length and content afterwards."""

    def trim(self, cache: KVCache, n_tokens: int) -> None:
        """Forget everything after the first `n_tokens`; exact, on all layers, past the window too."""

    def splice(self, cache: KVCache, source: KVCache, positions: range, at: int) -> None:
        """Copy `positions` of `source` to positions from `at` on, at or past the end of `cache`, which then ends
        after them. Both have one row and the same adapters; exact, but for the rounding of keys that change place.

        What was skipped up to `at` holds nothing yet: `reread` must fill it before anything else reads the cache.
        """

    def reread(self, cache: KVCache, start: int, tokens: Sequence[int]) -> None:
        """Read tokens as the positions of a one-row cache from `start` on, within its length, as if nothing stood
        after them; what stands there stays. Raises as `prefill`; the positions then have to be read again."""

    def decode(self, cache: KVCache, plan: DecodePlan) -> Decoder:
        """Start decoding; `cache` has `plan.n_rows` rows and belongs to the decoder until closed."""

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return (len(tokens), vocab_size) raw logits, row i after reading tokens[: i + 1] past the
        one-row cache, which is left as it was."""

    def close(self) -> None:
        """Release the model; only `leave_thread` may be called afterwards."""

    def leave_thread(self) -> None:
        """Give back what the library keeps for this thread, which ends now: the last call on it."""
