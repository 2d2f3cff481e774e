"""An engine without a model: it writes a given text, byte by byte, when it is permitted to.

It runs the whole daemon where no weights are wanted (client development, process tests) and makes
timing testable: work waits for permits instead of for a clock.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models

from pushkin_runtime.engines.base import DecodePlan, EngineOptions, KVCache, Segment, Step
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import ModelInfo

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
DEFAULT_TEXT = " The scripted engine writes this sentence again and again, без модели."
CONTEXT = 4096


def byte_tokenizer() -> TextTokenizer:
    """Return a tokenizer with one token per UTF-8 byte and Gemma's four specials."""
    vocab = {name: i for i, name in enumerate(SPECIALS)}
    vocab |= {f"<0x{b:02X}>": len(SPECIALS) + b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return TextTokenizer(tokenizer, len(vocab))


@dataclass(slots=True)
class ScriptedCache:
    """Only counts."""

    n_tokens: int = 0

    @property
    def n_bytes(self) -> int:
        """As if a token took a kilobyte."""
        return self.n_tokens * 1024


class ScriptedEngine:
    """See `Engine`. texts: row r writes texts[r mod len], then `<eos>` unless `endless`.

    permits: if given, every prefill chunk and decode step first takes one. fail_at: the decode step (from 0,
    counted over the engine's life) that breaks. `n_steps` and `n_prefills` may be read from any thread.
    """

    name = "scripted"

    def __init__(
        self,
        options: EngineOptions | None = None,
        *,
        texts: Sequence[str] = (DEFAULT_TEXT,),
        endless: bool = False,
        permits: threading.Semaphore | None = None,
        fail_at: int | None = None,
    ) -> None:
        is_demo = options is not None
        self.tokenizer = byte_tokenizer()
        self.texts = [self.tokenizer.encode(text) for text in texts]
        self.endless = endless or is_demo
        self.permits = permits
        self.fail_at = fail_at
        self.n_steps = 0
        self.n_prefills = 0
        self.info = ModelInfo(
            id="scripted",
            digest="0" * 64,
            n_parameters=0,
            n_bytes=0,
            n_layers=0,
            hidden_size=0,
            vocab_size=self.tokenizer.n_tokens,
            context_length=CONTEXT,
            window=CONTEXT,
            quantization="none",
        )

    def new_cache(self) -> ScriptedCache:
        return ScriptedCache()

    def prefill(self, cache: KVCache, segment: Segment) -> None:
        assert isinstance(cache, ScriptedCache)
        self.take_permit()
        self.n_prefills += 1
        cache.n_tokens += len(segment)

    def fork(self, cache: KVCache, *, n_tokens: int, n_rows: int = 1) -> ScriptedCache:
        return ScriptedCache(n_tokens)

    def trim(self, cache: KVCache, n_tokens: int) -> None:
        assert isinstance(cache, ScriptedCache)
        cache.n_tokens = n_tokens

    def decode(self, cache: KVCache, plan: DecodePlan) -> ScriptedDecoder:
        assert isinstance(cache, ScriptedCache)
        return ScriptedDecoder(self, cache, plan)

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        return np.zeros((len(tokens), self.info.vocab_size), dtype=np.float32)

    def close(self) -> None:
        """Nothing to release."""

    def leave_thread(self) -> None:
        """Nothing to give back."""

    def take_permit(self) -> None:
        """Wait until this unit of work is permitted."""
        if self.permits is not None:
            self.permits.acquire()


class ScriptedDecoder:
    """See `Decoder`."""

    def __init__(self, engine: ScriptedEngine, cache: ScriptedCache, plan: DecodePlan) -> None:
        self._engine, self._cache, self._n_rows = engine, cache, plan.n_rows
        self._at = 0

    def step(self) -> Step:
        engine = self._engine
        engine.take_permit()
        if engine.fail_at is not None and engine.n_steps >= engine.fail_at:
            raise EngineFailed("The scripted engine was told to fail here.")
        engine.n_steps += 1
        tokens = tuple(
            self._token(engine.texts[r % len(engine.texts)]) for r in range(self._n_rows)
        )
        self._at += 1
        self._cache.n_tokens += 1
        return Step(tokens, (-1.0,) * self._n_rows)

    def close(self) -> None:
        """Nothing is in flight."""

    def _token(self, text: list[int]) -> int:
        if self._engine.endless:
            return text[self._at % len(text)]
        return text[self._at] if self._at < len(text) else self._engine.tokenizer.eos_id
