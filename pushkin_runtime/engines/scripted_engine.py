"""An engine without a model: it writes a given text, byte by byte, when it is permitted to.

It runs the whole daemon where no weights are wanted (client development, process tests) and makes
timing testable: work waits for permits instead of for a clock.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models

from adapters.composition import Composition
from adapters.format import TARGETS, BaseModel
from pushkin_runtime.engines.base import (
    DecodePlan,
    EngineOptions,
    KVCache,
    Lora,
    Segment,
    Step,
    Tokens,
)
from pushkin_runtime.engines.lora import check_factors, check_places
from pushkin_runtime.errors import EngineFailed
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import ModelInfo, TokenLogprob

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
DEFAULT_TEXT = " The scripted engine writes this sentence again and again, без модели."
CONTEXT = 4096
BASE = BaseModel(
    id="scripted",
    digest="0" * 64,
    modules={f"layers.{i}.{target}": (8, 8) for i in range(2) for target in TARGETS},
)


def byte_tokenizer() -> TextTokenizer:
    """Return a tokenizer with one token per UTF-8 byte and Gemma's four specials."""
    vocab = {name: i for i, name in enumerate(SPECIALS)}
    vocab |= {f"<0x{b:02X}>": len(SPECIALS) + b for b in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return TextTokenizer(tokenizer, len(vocab))


@dataclass(frozen=True, slots=True)
class ScriptedLora:
    """See `Lora`. Equal ones are interchangeable; factors of zero are no adapters at all."""

    key: tuple[str, ...]
    factors: tuple[float, ...]
    n_bytes: int
    n_modules: int


@dataclass(slots=True)
class ScriptedCache:
    """Counts, and remembers under which adapters each position was read (`readers`)."""

    n_tokens: int = 0
    lora: Lora | None = None
    readers: list[Lora | None] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        """As if a token took a kilobyte."""
        return self.n_tokens * 1024

    def read(self, n_tokens: int) -> None:
        """Append positions. Raises EngineFailed if earlier ones were read under other adapters."""
        lora = _effective(self.lora)
        if any(reader != lora for reader in self.readers):
            raise EngineFailed("A cache was continued under other adapters than it was read under.")
        self.readers += [lora] * n_tokens
        self.n_tokens += n_tokens


class ScriptedEngine:
    """See `Engine`. texts: row r writes texts[r mod len], then `<eos>` unless `endless`.

    Under adapters a text starts elsewhere in itself and goes around (see `rotation`), so that another
    composition or other factors write another text; a cache read under one and continued under another fails.
    permits: if given, every prefill chunk and decode step first takes one. fail_at: the decode step (from 0,
    counted over the engine's life) that breaks. `n_steps` and `n_prefills` may be read from any
    thread.
    """

    name = "scripted"
    base = BASE
    lora_dtype = "float32"

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
            id=BASE.id,
            digest=BASE.digest,
            n_parameters=0,
            n_bytes=0,
            n_layers=0,
            hidden_size=0,
            vocab_size=self.tokenizer.n_tokens,
            context_length=CONTEXT,
            window=CONTEXT,
            quantization="none",
        )

    def load_lora(self, composition: Composition) -> ScriptedLora:
        check_places(composition, self.base, self.lora_dtype)
        return ScriptedLora(
            key=composition.key,
            factors=composition.scales,
            n_bytes=composition.n_bytes,
            n_modules=composition.n_modules,
        )

    def rescale(self, lora: Lora, factors: Sequence[float]) -> ScriptedLora:
        assert isinstance(lora, ScriptedLora)
        return replace(lora, factors=check_factors(len(lora.factors), factors))

    def new_cache(self, lora: Lora | None = None) -> ScriptedCache:
        return ScriptedCache(lora=lora)

    def prefill(self, cache: KVCache, segment: Segment) -> None:
        assert isinstance(cache, ScriptedCache)
        self.take_permit()
        self.n_prefills += 1
        cache.read(len(segment))

    def extend(
        self, cache: KVCache, tokens: Sequence[int], *, n_logits: int
    ) -> NDArray[np.float32]:
        self.prefill(cache, Tokens(tuple(tokens)))
        return self.logits(cache, tokens[-n_logits:])

    def fork(self, cache: KVCache, *, n_tokens: int, n_rows: int = 1) -> ScriptedCache:
        assert isinstance(cache, ScriptedCache)
        return ScriptedCache(n_tokens, cache.lora, cache.readers[:n_tokens])

    def trim(self, cache: KVCache, n_tokens: int) -> None:
        assert isinstance(cache, ScriptedCache)
        cache.n_tokens = n_tokens
        del cache.readers[n_tokens:]

    def splice(self, cache: KVCache, source: KVCache, positions: range, at: int) -> None:
        assert isinstance(cache, ScriptedCache)
        assert isinstance(source, ScriptedCache)
        cache.readers += [cache.lora] * (at - cache.n_tokens)
        cache.readers += source.readers[positions.start : positions.stop]
        cache.n_tokens = at + len(positions)

    def reread(self, cache: KVCache, start: int, tokens: Sequence[int]) -> None:
        assert isinstance(cache, ScriptedCache)
        assert start + len(tokens) <= cache.n_tokens
        self.take_permit()
        self.n_prefills += 1

    def decode(self, cache: KVCache, plan: DecodePlan) -> ScriptedDecoder:
        assert isinstance(cache, ScriptedCache)
        return ScriptedDecoder(self, cache, plan)

    def logits(self, cache: KVCache, tokens: Sequence[int]) -> NDArray[np.float32]:
        level = rotation(cache.lora, self.info.vocab_size)
        return np.full((len(tokens), self.info.vocab_size), level, dtype=np.float32)

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
        self._engine, self._cache, self._plan = engine, cache, plan
        banned = () if plan.banned is None else plan.banned.tolist()
        self._is_endless = engine.endless or engine.tokenizer.eos_id in banned
        self._at = 0
        self._texts = [
            text[(n := rotation(cache.lora, len(text))) :] + text[:n] for text in engine.texts
        ]

    def step(self) -> Step:
        engine = self._engine
        engine.take_permit()
        if engine.fail_at is not None and engine.n_steps >= engine.fail_at:
            raise EngineFailed("The scripted engine was told to fail here.")
        engine.n_steps += 1
        rows = range(self._plan.n_rows)
        tokens = tuple(self._token(self._texts[r % len(self._texts)]) for r in rows)
        self._at += 1
        if self._at > 1 or self._plan.first_logits is None:
            self._cache.read(1)
        details = tuple(self._detail(token) for token in tokens) if self._plan.n_probs else ()
        return Step(tokens, (-1.0,) * len(tokens), details)

    def close(self) -> None:
        """Nothing is in flight."""

    def _token(self, text: list[int]) -> int:
        if self._is_endless:
            return text[self._at % len(text)]
        return text[self._at] if self._at < len(text) else self._engine.tokenizer.eos_id

    def _detail(self, token: int) -> TokenLogprob:
        """A distribution with 1/e for what is written and the rest in equal parts."""
        vocab_size = self._engine.info.vocab_size
        rest = math.log((1 - math.exp(-1)) / (vocab_size - 1))
        others = [t for t in range(vocab_size) if t != token][: self._plan.n_probs - 1]
        return TokenLogprob(token, -1.0, ((token, -1.0), *((t, rest) for t in others)))


def rotation(lora: Lora | None, n_tokens: int) -> int:
    """Return the token at which a text of `n_tokens` starts under `lora`: 0 without, another one with."""
    lora = _effective(lora)
    if lora is None or n_tokens < 2:
        return 0
    identity = repr((lora.key, tuple(round(factor, 6) for factor in lora.factors)))
    return 1 + zlib.crc32(identity.encode()) % (n_tokens - 1)


def _effective(lora: Lora | None) -> ScriptedLora | None:
    assert lora is None or isinstance(lora, ScriptedLora)
    return lora if lora is not None and any(lora.factors) else None
