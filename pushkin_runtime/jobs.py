"""The short jobs that are not generations: adapters in and out of memory, personas forgotten.

Each is a generator for the inference thread, advanced unit by unit like `Generation.run`.
"""

from __future__ import annotations

from collections.abc import Generator

from pushkin_runtime.adapter_pool import AdapterPool, AdapterSet
from pushkin_runtime.generate import Workshop
from pushkin_runtime.types import AdapterStatus


def load_adapter(
    pool: AdapterPool, wanted: AdapterSet, *, pinned: bool
) -> Generator[bool, None, AdapterStatus]:
    """Wait for one adapter, measure its effect, pin it if asked to. Raises AdapterError."""
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
    """Give back one adapter's memory and what was computed under it. Raises AdapterInUse."""
    [spec] = wanted.specs
    shop.adapters.unload(spec)
    shop.cache.drop(lambda key: spec.manifest.sha256 in dict(key.adapters))
    yield True
    return shop.adapters.status(spec)


def forget_personas(shop: Workshop) -> Generator[bool, None, None]:
    """Drop what was computed under any persona."""
    shop.cache.drop(lambda key: key.persona_version != 0)
    yield True
