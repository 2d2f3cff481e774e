"""What was moved instead of read is read again when nobody comes, so that what is inexact does not last."""

from __future__ import annotations

import logging

from adapters.errors import AdapterError
from pushkin_runtime.adapter_pool import AdapterPool, AdapterSet
from pushkin_runtime.errors import RuntimeFault
from pushkin_runtime.prompt_cache import CacheKey, PromptCache

log = logging.getLogger(__name__)

RENEW_CHUNK = 16  # tokens: whoever comes waits for no more than these


class Renewal:
    """Knows whose entries of the prompt cache are inexact; inference thread only."""

    def __init__(self, cache: PromptCache, adapters: AdapterPool) -> None:
        self._cache, self._adapters = cache, adapters
        self._wanted: dict[CacheKey, AdapterSet] = {}

    def want(self, key: CacheKey, adapters: AdapterSet) -> None:
        """An inexact entry was put under `key`, computed under these adapters."""
        self._wanted[key] = adapters

    def idle_work(self) -> bool:
        """Read a few tokens again; whether there were any."""
        if not self._wanted:
            return False
        key, adapters = self._wanted.popitem()
        if not self._adapters.is_ready(adapters):
            return True  # nobody has used them for long; the entry stays as it is
        try:
            lora = self._adapters.acquire(adapters)
            try:
                if self._cache.renew(key, lora, RENEW_CHUNK):
                    self._wanted[key] = adapters
            finally:
                self._adapters.release(adapters)
        except (AdapterError, RuntimeFault) as error:
            log.warning("cache not renewed", extra={"error_type": type(error).__name__})
        return True
