"""What does not fit is refused with the numbers, what is idle is given back, and nobody is lied to about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushkin_runtime import upkeep
from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.base import EngineOptions
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.errors import ModelDoesNotFit, NotReady
from pushkin_runtime.options import RuntimeOptions
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.system_memory import LinuxMemory, MacMemory, Pressure, system_memory
from pushkin_runtime.types import AdapterRef, Done, GenerationRequest
from pushkin_runtime.upkeep import (
    AGAIN_S,
    LOOK_S,
    MARGIN_BYTES,
    QUIET_S,
    Upkeep,
    check_fit,
    needed_bytes,
)

Generate = Callable[..., Done]
GUARD_S = 20.0


class FakeMemory:
    """A machine whose memory the test decides about."""

    def __init__(self, available: int | None = None) -> None:
        self.available = available
        self.level: Pressure = "normal"
        self.given_back = threading.Event()

    def available_bytes(self) -> int | None:
        return self.available

    def pressure(self) -> Pressure:
        return self.level

    def give_back(self) -> None:
        self.given_back.set()


class ClosingEngine(ScriptedEngine):
    """Notes that its memory was released."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


def until(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + GUARD_S
    while not is_so():
        assert time.monotonic() < give_up_at, "waited in vain"
        threading.Event().wait(0.001)


# -- what fits ----------------------------------------------------------------------------------


def test_what_a_model_needs_is_counted_from_its_sizes(tiny_model: Path) -> None:
    from pushkin_runtime.engines.torch_engine import TorchEngine

    weights, kv = needed_bytes(tiny_model, "torch", 256)
    engine = TorchEngine(EngineOptions(model_dir=tiny_model, context_length=256))
    cache = engine.new_cache()
    cache.reserve(256)

    assert weights >= 4 * engine.info.n_parameters
    assert kv == cache.n_bytes


def test_a_large_model_needs_what_its_engine_makes_of_it(
    quantized_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pushkin_runtime.engines.onnx_engine import OnnxEngine

    monkeypatch.setattr(upkeep, "SMALL_MODEL", 1000)
    weights, kv = needed_bytes(quantized_model, "onnx", 256)
    cache = OnnxEngine(EngineOptions(model_dir=quantized_model)).new_cache()
    cache.reserve(256)

    assert kv == 2 * needed_bytes(quantized_model, "mlx", 256)[1]
    assert kv <= cache.n_bytes < 1.1 * kv
    assert weights > needed_bytes(quantized_model, "mlx", 256)[0]


@pytest.mark.parametrize("is_enough", [True, False])
def test_a_model_is_refused_one_byte_before_it_fits(tiny_model: Path, is_enough: bool) -> None:
    needed = sum(needed_bytes(tiny_model, "torch", 0)) + MARGIN_BYTES
    memory = FakeMemory(needed if is_enough else needed - 1)
    if is_enough:
        check_fit(tiny_model, "torch", 0, memory)
        return
    with pytest.raises(ModelDoesNotFit, match=r"needs 25\d MB .* available"):
        check_fit(tiny_model, "torch", 0, memory)


def test_a_runtime_says_why_it_did_not_load(tiny_model: Path) -> None:
    runtime = Runtime(
        RuntimeOptions(model_dir=tiny_model, engine="torch"), memory=FakeMemory(100 << 20)
    )
    runtime.start()
    assert runtime.wait_loaded(GUARD_S)

    status = runtime.status()
    assert status.state == "failed"
    assert status.error is not None
    assert "100 are available" in status.error
    runtime.close(drain_s=GUARD_S)


def test_where_nobody_knows_what_is_free_nothing_is_refused(tiny_model: Path) -> None:
    check_fit(tiny_model, "torch", 0, FakeMemory(None))


# -- pressure -----------------------------------------------------------------------------------


class Shop:
    """The parts of a workshop that hold memory, as a runtime left them."""

    def __init__(self, runtime: Runtime) -> None:
        assert runtime._shop is not None
        self.shop = runtime._shop

    @property
    def kept(self) -> tuple[int, int]:
        return self.shop.cache.n_entries, self.shop.adapters.n_resident


@pytest.fixture
def filled(roots: Path, tiny_model: Path, start_runtime: Any, generate: Generate) -> Shop:
    """Four texts and one adapter that nobody uses now."""
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))
    for number in range(4):
        name = (AdapterRef("alpha"),) if number == 0 else ()
        generate(runtime, text=f"{number} old houses", max_tokens=2, adapters=name)
    until(lambda: runtime.status().n_active == 0)
    shop = Shop(runtime)
    assert shop.kept == (4, 1)
    return shop


class Hours:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("level", "kept"), [("normal", (4, 1)), ("warn", (2, 0)), ("critical", (0, 0))]
)
def test_idle_memory_is_shed_as_far_as_it_is_short(
    filled: Shop, level: Pressure, kept: tuple[int, int]
) -> None:
    memory, hours = FakeMemory(), Hours()
    upkeep = Upkeep(memory, clock=hours)
    memory.level = level
    upkeep.look(filled.shop)
    assert filled.kept == (4, 1)  # it has looked just now
    hours.now += LOOK_S
    upkeep.look(filled.shop)

    assert filled.kept == kept
    assert memory.given_back.is_set() == (level == "critical")


def test_pressure_that_lasts_sheds_once_a_minute_and_at_once_when_it_grows(filled: Shop) -> None:
    memory, hours = FakeMemory(), Hours()
    upkeep = Upkeep(memory, clock=hours)

    def after(seconds: float, level: Pressure) -> int:
        memory.level = level
        hours.now += seconds
        upkeep.look(filled.shop)
        return filled.kept[0]

    assert after(LOOK_S, "warn") == 2
    assert after(LOOK_S, "warn") == 2
    assert after(AGAIN_S, "warn") == 1
    assert after(LOOK_S, "critical") == 0


def test_it_is_quiet_some_seconds_after_the_last_request() -> None:
    hours = Hours()
    upkeep = Upkeep(FakeMemory(), clock=hours)
    for _ in range(2):
        assert not upkeep.is_quiet
        hours.now += QUIET_S
        assert upkeep.is_quiet
        upkeep.worked()


# -- idle ---------------------------------------------------------------------------------------


def idling(memory: FakeMemory, idle_unload_s: float = 0.05) -> tuple[Runtime, list[ClosingEngine]]:
    engines: list[ClosingEngine] = []

    def create(*_: object) -> ClosingEngine:
        engines.append(ClosingEngine(texts=["abc"]))
        return engines[-1]

    runtime = Runtime(
        RuntimeOptions(model_dir=Path(), engine="scripted", idle_unload_s=idle_unload_s),
        create=create,
        memory=memory,
    )
    runtime.start()
    assert runtime.wait_loaded(GUARD_S)
    return runtime, engines


def test_an_idle_model_is_unloaded_and_the_next_request_loads_it(generate: Generate) -> None:
    memory = FakeMemory()
    runtime, engines = idling(memory, idle_unload_s=1.0)
    assert memory.given_back.wait(GUARD_S)
    health, status = runtime.health(), runtime.status()

    assert engines[0].is_closed
    assert (health.ok, health.state) == (True, "unloaded")
    assert status.model is not None
    assert (status.kv_bytes, status.adapters_bytes) == (0, 0)
    runtime.forget_personas()  # nothing is left of them
    with pytest.raises(NotReady):  # for whoever does not wait
        runtime.submit(GenerationRequest(request_id="r", task="continue", text="a"), print)
    runtime.wake().result(GUARD_S)
    assert generate(runtime, text="x", max_tokens=3).result.choices[0].text == "abc"
    assert len(engines) == 2
    assert runtime.close(drain_s=GUARD_S)


def test_questions_for_health_keep_no_model_in_memory() -> None:
    """They cost a self-test token each half minute, which is nobody's request."""
    memory = FakeMemory()
    runtime, _ = idling(memory, idle_unload_s=0.3)
    while not memory.given_back.is_set():
        runtime.health()
        runtime._start_self_test()
        memory.given_back.wait(0.02)

    assert runtime.health().state == "unloaded"
    assert runtime.close(drain_s=GUARD_S)


def test_a_model_in_use_stays_and_waking_it_is_nothing(generate: Generate) -> None:
    runtime, engines = idling(FakeMemory(), idle_unload_s=3600)

    assert runtime.wake().done()
    assert generate(runtime, text="x", max_tokens=3).result.choices[0].text == "abc"
    assert len(engines) == 1
    assert runtime.close(drain_s=GUARD_S)


def test_a_model_that_no_longer_fits_is_tried_again_at_the_next_request(tiny_model: Path) -> None:
    memory = FakeMemory()
    options = RuntimeOptions(model_dir=tiny_model, engine="torch", idle_unload_s=0.05)
    runtime = Runtime(options, memory=memory)
    runtime.start()
    assert memory.given_back.wait(GUARD_S)
    memory.available = 1
    runtime.wake().result(GUARD_S)
    assert runtime.health().state == "failed"
    memory.available = None
    runtime.wake().result(GUARD_S)

    assert runtime.health().ok
    assert runtime.close(drain_s=GUARD_S)


def test_an_unloaded_runtime_closes_at_once() -> None:
    memory = FakeMemory()
    runtime, _ = idling(memory)
    assert memory.given_back.wait(GUARD_S)

    assert runtime.close(drain_s=GUARD_S)
    assert runtime.status().state == "draining"


# -- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("some", "full", "level"),
    [(0.0, 0.0, "normal"), (12.5, 0.5, "warn"), (40.0, 9.0, "critical")],
)
def test_linux_tells_of_itself(tmp_path: Path, some: float, full: float, level: str) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    (tmp_path / "pressure" / "memory").write_text(
        f"some avg10={some} avg60=0.00 avg300=0.00 total=1\n"
        f"full avg10={full} avg60=0.00 avg300=0.00 total=1\n"
    )
    memory = LinuxMemory(tmp_path)

    assert memory.available_bytes() == 2 << 20
    assert memory.pressure() == level


@pytest.mark.parametrize("memory", [LinuxMemory(Path("/nowhere")), MacMemory()])
def test_what_cannot_be_known_worries_nobody(memory: LinuxMemory | MacMemory) -> None:
    assert memory.pressure() in ("normal", "warn", "critical")
    assert memory.available_bytes() is None or memory.available_bytes()
    memory.give_back()


def test_this_machine_has_memory() -> None:
    available = system_memory().available_bytes()

    assert available is not None
    assert available > 1 << 20
