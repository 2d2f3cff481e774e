"""Adapters through the runtime: which a request gets, and that it really gets them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import (
    AdapterCorrupt,
    AdapterNotFound,
)
from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import AdapterRef, Done, GenerationRequest, Progress, Started

GREEDY = SamplingOverrides(temperature=0.0)
PREFIX = "The old house stood by the river, and nobody had lived in it since "


@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_going_from_one_adapter_to_another_and_back_writes_what_fresh_processes_write(
    written: Callable[..., str],
    engine: str,
    tiny_model: Path,
    roots: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    """The contamination bug of ggml-org/llama.cpp#26207: keys and values of A reused under B."""
    options = {"engine": engine, "adapters": AdapterOptions(roots=(roots,))}
    fresh = {
        names: written(start_runtime(tiny_model, **options), *names)
        for names in ((), ("alpha",), ("beta",), ("alpha", "beta"))
    }
    assert len(set(fresh.values())) == 4

    runtime = start_runtime(tiny_model, **options)
    order = [("alpha",), ("beta",), ("alpha",), (), ("alpha", "beta"), ("beta",), ()]
    for names in order:
        assert written(runtime, *names) == fresh[names]


def test_back_on_an_adapter_used_before_nothing_is_read_again(
    written: Callable[..., str],
    tiny_model: Path,
    roots: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))
    for name in ("alpha", "beta"):
        written(runtime, name)

    done = generate(
        runtime, text=PREFIX, max_tokens=4, sampling=GREEDY, adapters=(AdapterRef("alpha"),)
    )

    assert done.result.usage.cached_tokens == done.result.usage.prompt_tokens


def test_another_scale_is_another_cache_and_scale_zero_is_the_bare_base(
    tiny_model: Path,
    roots: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))
    fields = {"text": PREFIX, "max_tokens": 12, "sampling": GREEDY}
    bare = generate(runtime, adapters=(), **fields)
    full = generate(runtime, adapters=(AdapterRef("alpha"),), **fields)
    half = generate(runtime, adapters=(AdapterRef("alpha", 0.5),), **fields)
    zero = generate(runtime, adapters=(AdapterRef("alpha", 0.0),), **fields)

    assert len({text_of(done) for done in (bare, full, half)}) == 3
    assert full.result.usage.cached_tokens == half.result.usage.cached_tokens == 0
    assert text_of(zero) == text_of(bare)
    assert zero.result.adapters == ()
    assert zero.result.usage.cached_tokens > 0


def test_the_order_in_which_a_request_names_adapters_does_not_matter(
    written: Callable[..., str],
    tiny_model: Path,
    roots: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))

    assert written(runtime, "alpha", "beta") == written(runtime, "beta", "alpha")
    assert runtime.status().adapters_resident == 1


def test_a_request_without_adapters_gets_the_one_with_the_tasks_name(
    scripted: Callable[..., Runtime], generate: Callable[..., Done]
) -> None:
    runtime = scripted()

    assert generate(runtime, text="A").result.adapters == (AdapterRef("continue"),)
    assert generate(runtime, text="A", adapters=()).result.adapters == ()
    assert generate(runtime, text="A", task="story").result.adapters == ()


def test_configured_defaults_win_and_must_exist(
    scripted: Callable[..., Runtime], generate: Callable[..., Done]
) -> None:
    chosen = (AdapterRef("formal", 0.5),)
    runtime = scripted(defaults={"continue": chosen, "story": (), "rephrase": (AdapterRef("no"),)})

    assert generate(runtime, text="A").result.adapters == chosen
    assert generate(runtime, text="A", task="story").result.adapters == ()
    with pytest.raises(AdapterNotFound, match="no"):
        generate(runtime, text="A", task="rephrase")


def test_an_unknown_adapter_is_refused_before_anything_is_queued(
    scripted: Callable[..., Runtime],
) -> None:
    request = GenerationRequest(
        request_id="r", task="continue", text="A", adapters=(AdapterRef("formal"), AdapterRef("x"))
    )
    with pytest.raises(AdapterNotFound) as caught:
        scripted().submit(request, lambda _: None)
    assert caught.value.param == "adapters[1].name"


def test_a_request_waits_for_its_adapters_with_a_progress_event(
    scripted: Callable[..., Runtime], recorder: Any
) -> None:
    runtime = scripted(defaults={"continue": ()})
    gate = threading.Event()
    hold_the_loader(runtime, gate)
    sink = recorder()
    runtime.submit(
        GenerationRequest(
            request_id="r", task="continue", text="A", adapters=(AdapterRef("formal"),)
        ),
        sink,
    )

    assert isinstance(sink.next(), Started)
    assert sink.next() == Progress(stage="loading", n_done=0, n_total=1)
    gate.set()
    done = sink.finish()
    assert done.result.adapters == (AdapterRef("formal"),)
    assert done.result.timings.adapter_ms > 0


def test_others_go_on_while_one_waits_for_its_adapters(
    scripted: Callable[..., Runtime], generate: Callable[..., Done], recorder: Any
) -> None:
    runtime = scripted(defaults={"continue": ()})
    gate = threading.Event()
    hold_the_loader(runtime, gate)
    waiting = recorder()
    runtime.submit(
        GenerationRequest(
            request_id="w", task="continue", text="A", adapters=(AdapterRef("formal"),)
        ),
        waiting,
    )

    assert text_of(generate(runtime, text="A"))
    assert runtime.status().n_active == 1
    gate.set()
    assert waiting.finish()


@pytest.mark.parametrize("deadline_ms", [None, 30])
def test_a_request_that_waits_for_its_adapters_can_be_ended(
    scripted: Callable[..., Runtime], recorder: Any, deadline_ms: int | None
) -> None:
    runtime = scripted(defaults={"continue": ()})
    gate = threading.Event()
    hold_the_loader(runtime, gate)
    sink = recorder()
    handle = runtime.submit(
        GenerationRequest(
            request_id="r",
            task="continue",
            text="A",
            adapters=(AdapterRef("formal"),),
            deadline_ms=deadline_ms,
        ),
        sink,
    )
    sink.until(Progress)
    if deadline_ms is None:
        handle.cancel()

    assert sink.finish().result.choices[0].finish_reason == (
        "deadline" if deadline_ms else "cancelled"
    )
    gate.set()


def test_an_adapter_whose_weights_are_not_finite_fails_its_request_and_nothing_else(
    tmp_path: Path,
    write_adapter: Callable[..., None],
    scripted: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    write_adapter(tmp_path / "root", "broken", BASE, fill=float("nan"))
    runtime = scripted()
    for _ in range(2):
        with pytest.raises(AdapterCorrupt, match="finite"):
            generate(runtime, text="A", adapters=(AdapterRef("broken"),))

    assert generate(runtime, text="A").result.adapters == (AdapterRef("continue"),)
    assert runtime.health().ok


def test_a_new_file_under_an_old_name_is_noticed_at_the_next_request(
    written: Callable[..., str],
    tmp_path: Path,
    write_adapter: Callable[..., None],
    tiny_base: Any,
    tiny_model: Path,
    roots: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    runtime = start_runtime(tiny_model, engine="torch", adapters=AdapterOptions(roots=(roots,)))
    before = written(runtime, "alpha")
    write_adapter(roots, "alpha", tiny_base, seed=2)  # what beta is

    assert written(runtime, "alpha") == written(runtime, "beta") != before


def test_random_loads_unloads_and_cancels_never_change_an_answer(
    tiny_model: Path,
    roots: Path,
    tiny_base: Any,
    write_adapter: Callable[..., None],
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    """The long form is `python -m benchmarks.adapter_soak`."""
    write_adapter(roots, "gamma", tiny_base, seed=3, dtype="float16")
    names = ("alpha", "beta", "gamma")
    rng = random.Random(7)
    runtime = start_runtime(
        tiny_model,
        engine="torch",
        adapters=AdapterOptions(roots=(roots,), budget_bytes=1_000_000),
        kv_budget_bytes=8 << 20,
    )
    known: dict[tuple[Any, ...], str] = {}
    for _ in range(60):
        act = rng.random()
        if act < 0.15:
            runtime.load_adapter(rng.choice(names), pinned=False).result(10)
        elif act < 0.3:
            runtime.unload_adapter(rng.choice(names)).result(10)
        elif act < 0.45:
            chosen = (AdapterRef(rng.choice(names)),)
            request = GenerationRequest(
                request_id="cancelled", task="continue", text=PREFIX, adapters=chosen
            )
            runtime.submit(request, lambda _: None).cancel()
            while runtime.cancel("cancelled"):
                pass
        else:
            used = tuple(
                AdapterRef(name, rng.choice((0.5, 1.0)))
                for name in rng.sample(names, rng.randrange(3))
            )
            text = PREFIX[: rng.choice((20, 40, len(PREFIX)))]
            done = generate(runtime, text=text, max_tokens=6, sampling=GREEDY, adapters=used)
            key = (text, tuple(sorted((ref.name, ref.scale) for ref in used)))
            assert known.setdefault(key, text_of(done)) == text_of(done)
    assert len(known) > 10


def test_both_engines_write_the_same_under_adapters(
    written: Callable[..., str],
    tiny_model: Path,
    roots: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    options = AdapterOptions(roots=(roots,))
    texts = {
        written(start_runtime(tiny_model, engine=engine, adapters=options), "alpha", "beta")
        for engine in ("torch", "mlx")
    }
    assert len(texts) == 1


def hold_the_loader(runtime: Runtime, gate: threading.Event) -> None:
    """Keep the loader thread busy until `gate` is set, as a slow disk would."""
    shop = runtime._shop
    assert shop is not None
    shop.adapters._loader.submit(gate.wait, 20)


def text_of(done: Done) -> str:
    return done.result.choices[0].text
