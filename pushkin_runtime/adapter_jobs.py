"""What the inference thread does with adapters besides generating: see `inference_thread.Job`."""

from __future__ import annotations

from collections.abc import Generator

from pushkin_runtime.adapter_pool import AdapterPool, AdapterSet
from pushkin_runtime.types import AdapterStatus
from pushkin_runtime.workshop import Workshop


def load_adapter(
    pool: AdapterPool, wanted: AdapterSet, pinned: bool
) -> Generator[bool, None, AdapterStatus]:
    """Bring one adapter into memory and measure its effect. Raises AdapterError."""
    [spec] = wanted.specs
    while not pool.is_ready(wanted):
        yield False
    pool.acquire(wanted)
    try:
        yield True
        pool.probe(spec.manifest.sha256)
        if pinned:
            pool.pin(spec)
    finally:
        pool.release(wanted)
    pool.resolve(wanted.refs, "continue")  # raises if the probe found no effect
    return pool.status(spec)


def unload_adapter(shop: Workshop, wanted: AdapterSet) -> Generator[bool, None, AdapterStatus]:
    """Give back an adapter's memory, and the KV caches computed under it. Raises AdapterInUse."""
    [spec] = wanted.specs
    shop.adapters.unload(spec)
    shop.cache.drop(lambda key: spec.manifest.sha256 in dict(key.adapters))
    yield True
    return shop.adapters.status(spec)
