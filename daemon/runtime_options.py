"""What a configuration says about the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.config import Loaded, adapter_defaults
from daemon.paths import adapter_roots, bundled_models, find_model
from pushkin_runtime.types import AdapterRef, Task

if TYPE_CHECKING:
    from pushkin_runtime.runtime import RuntimeOptions


def runtime_options(loaded: Loaded) -> RuntimeOptions:
    """Return what a configuration says about the runtime."""
    from pushkin_runtime.adapter_pool import AdapterOptions
    from pushkin_runtime.runtime import RuntimeOptions

    runtime, adapters = loaded.config.runtime, loaded.config.adapters
    model_dir = find_model(runtime.model, loaded.paths)
    configured: dict[Task, tuple[AdapterRef, ...] | None] = {
        "continue": adapter_defaults(adapters.continue_adapters),
        "rephrase": adapter_defaults(adapters.rephrase_adapters),
        "story": adapter_defaults(adapters.story_adapters),
    }
    return RuntimeOptions(
        model_dir=model_dir,
        model_roots=(loaded.paths.models, bundled_models()),
        engine=runtime.engine,
        kv_budget_bytes=runtime.kv_budget_mb * 2**20,
        cache_reuse=runtime.cache_reuse,
        context_length=runtime.context_length,
        prefill_chunk=runtime.prefill_chunk,
        queue_limit=runtime.queue_limit,
        max_active=runtime.max_active,
        n_threads=runtime.threads,
        stall_s=runtime.stall_limit_s,
        idle_unload_s=runtime.idle_unload_min * 60.0,
        cache_dir=loaded.paths.cache,
        adapters=AdapterOptions(
            roots=adapter_roots(model_dir, loaded.paths),
            budget_bytes=adapters.adapters_budget_mb * 2**20,
            defaults={task: refs for task, refs in configured.items() if refs is not None},
        ),
    )
