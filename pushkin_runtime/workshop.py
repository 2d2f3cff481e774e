"""What every generation works with: the engine, and what is kept in memory beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.adapter_pool import AdapterPool
from pushkin_runtime.engines.base import Engine
from pushkin_runtime.observer import ObserverDesk
from pushkin_runtime.persona import PersonaSource
from pushkin_runtime.prompt_cache import PromptCache
from pushkin_runtime.renewal import Renewal
from pushkin_runtime.speech import SpeechDesk
from pushkin_runtime.types import Task


@dataclass(frozen=True, slots=True)
class Workshop:
    """Owned by the inference thread.

    observers: who watches the units of work. banned: tokens that no answer may contain. on_progress: told
    the number of new tokens (0 for a prefill chunk), and whether the model ran for them, which is a sign of life.
    lookup_tasks: whose answers are drafted from their prompts. cache_reuse: see `RuntimeOptions`.
    """

    engine: Engine
    cache: PromptCache
    adapters: AdapterPool
    persona: PersonaSource
    observers: ObserverDesk
    speech: SpeechDesk
    renewal: Renewal
    prefill_chunk: int
    banned: NDArray[np.int64]
    on_progress: Callable[[int, bool], None]
    lookup_tasks: frozenset[Task] = frozenset()
    cache_reuse: int = 0

    def close(self) -> None:
        """Release everything; the last call on the thread."""
        self.adapters.close()
        self.speech.close()
        self.cache.clear()
        self.engine.close()
        self.engine.leave_thread()


def unwritable(engine: Engine) -> NDArray[np.int64]:
    """Return the tokens that are never text: specials but the ending ones, and padding of the vocabulary."""
    tokenizer = engine.tokenizer
    padding = range(tokenizer.n_tokens, engine.info.vocab_size)
    return np.array([*(tokenizer.special_ids() - tokenizer.end_ids()), *padding], dtype=np.int64)
