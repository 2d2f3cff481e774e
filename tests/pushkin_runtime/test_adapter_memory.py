"""Adapters in memory: loaded, measured, pinned, evicted, given back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import (
    AdapterIneffective,
    AdapterInUse,
    AdapterUnsupported,
)
from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE, ScriptedEngine
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import AdapterRef, Delta, Done, GenerationRequest

GREEDY = SamplingOverrides(temperature=0.0)
PREFIX = "The old house stood by the river, and nobody had lived in it since "


def test_loading_measures_the_effect_and_pins(
    tiny_model: Path, roots: Path, start_runtime: Callable[..., Runtime], tiny_base: Any
) -> None:
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))
    assert {a.name: a.state for a in runtime.adapters().result(10)} == {
        "alpha": "on_disk",
        "beta": "on_disk",
    }

    status = runtime.load_adapter("alpha", pinned=True).result(10)

    assert (status.state, status.pinned) == ("resident", True)
    assert status.applied_modules == len(tiny_base.modules)
    assert status.probe_delta is not None
    assert status.probe_delta > 0.01


def test_an_adapter_used_by_a_request_is_measured_when_the_engine_is_idle(
    written: Callable[..., str],
    tiny_model: Path,
    roots: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))
    written(runtime, "alpha")

    def measured() -> bool:
        return any(a.probe_delta for a in runtime.adapters().result(10))

    give_up = threading.Event()
    assert any(measured() or give_up.wait(0.02) for _ in range(500))


def test_an_adapter_that_loads_but_changes_nothing_is_refused(
    written: Callable[..., str],
    tiny_model: Path,
    roots: Path,
    tiny_base: Any,
    write_adapter: Callable[..., None],
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    write_adapter(roots, "null", tiny_base, fill=1e-30)
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))

    with pytest.raises(AdapterIneffective, match="changes nothing"):
        runtime.load_adapter("null", pinned=False).result(10)
    with pytest.raises(AdapterIneffective):
        written(runtime, "null")


def test_unloading_gives_back_the_matrices_and_what_was_computed_under_them(
    written: Callable[..., str],
    tiny_model: Path,
    roots: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))
    level = runtime.status()
    for names in (("alpha",), ("alpha", "beta")):
        written(runtime, *names)
    assert runtime.status().adapters_resident == 2

    assert runtime.unload_adapter("alpha").result(10).state == "on_disk"

    assert runtime.status().adapters_bytes == level.adapters_bytes == 0
    assert runtime.status().kv_bytes == level.kv_bytes == 0


def test_an_adapter_is_not_unloaded_under_a_running_generation(
    scripted: Callable[..., Runtime], recorder: Any
) -> None:
    permits = threading.Semaphore(20)  # enough to begin, too few to end
    runtime = scripted(ScriptedEngine(endless=True, permits=permits))
    sink = recorder()
    handle = runtime.submit(
        GenerationRequest(
            request_id="r",
            task="continue",
            text="A",
            max_tokens=1000,
            adapters=(AdapterRef("formal"),),
        ),
        sink,
    )
    sink.until(Delta)

    unloading = runtime.unload_adapter("formal")
    permits.release(5)
    with pytest.raises(AdapterInUse, match="formal"):
        unloading.result(10)
    handle.cancel()
    permits.release(1000)
    sink.finish()
    assert runtime.unload_adapter("formal").result(10).state == "on_disk"


def test_the_least_recently_used_leave_first_and_the_pinned_stay(
    tmp_path: Path,
    write_adapter: Callable[..., None],
    scripted: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    write_adapter(tmp_path / "root", "third", BASE, seed=3)
    one = ScriptedEngine()
    size = measured_bytes(scripted(one, defaults={"continue": ()}), "formal")
    runtime = scripted(budget_bytes=2 * size, defaults={"continue": ()})
    runtime.load_adapter("formal", pinned=True).result(10)
    for name in ("continue", "third"):
        generate(runtime, text="A", adapters=(AdapterRef(name),))

    states = {a.name: a.state for a in runtime.adapters().result(10)}
    assert states == {"continue": "on_disk", "formal": "resident", "third": "resident"}
    assert runtime.status().adapters_bytes == 2 * size


def test_more_pins_than_the_budget_holds_are_refused(
    scripted: Callable[..., Runtime],
) -> None:
    size = measured_bytes(scripted(defaults={"continue": ()}), "formal")
    runtime = scripted(budget_bytes=size, defaults={"continue": ()})
    runtime.load_adapter("formal", pinned=True).result(10)

    with pytest.raises(AdapterInUse, match="budget"):
        runtime.load_adapter("continue", pinned=True).result(10)


def test_an_adapter_larger_than_the_budget_says_so(scripted: Callable[..., Runtime]) -> None:
    runtime = scripted(budget_bytes=100, defaults={"continue": ()})

    with pytest.raises(AdapterUnsupported, match="adapters_budget_mb"):
        runtime.load_adapter("formal", pinned=False).result(10)


def measured_bytes(runtime: Runtime, name: str) -> int:
    """What one adapter takes in memory."""
    runtime.load_adapter(name, pinned=False).result(10)
    return runtime.status().adapters_bytes
