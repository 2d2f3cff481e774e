"""A persona stands first in the prompt, is kept with it, and is told apart from another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.base import Embeddings, EngineOptions, Tokens
from pushkin_runtime.engines.registry import EngineChoice, create_engine
from pushkin_runtime.errors import InvalidRequest
from pushkin_runtime.persona import NO_PERSONA, Persona
from pushkin_runtime.prompt import build_prompt
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import (
    AdapterRef,
    Done,
    GenerationRequest,
    PersonaRequest,
    PersonaSource,
    PersonaUsed,
)

GREEDY = SamplingOverrides(temperature=0.0)
TEXT = "The old house stood by the river, and nobody had lived in it since "
OFF = PersonaRequest(mode="off")


def rows(seed: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 64)).astype(np.float32) * 4


class Desk:
    """A `PersonaSource` whose persona a test chooses."""

    def __init__(self) -> None:
        self.persona = NO_PERSONA
        self.adapters: tuple[AdapterRef, ...] = ()

    def check(self, request: GenerationRequest) -> tuple[AdapterRef, ...]:
        return () if request.persona.mode == "off" else self.adapters

    def make(self, request: GenerationRequest) -> Persona:
        return NO_PERSONA if request.persona.mode == "off" else self.persona


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["torch", "mlx"])
def runtime(request: pytest.FixtureRequest, tiny_model: Path, desk: Desk, tmp_path: Path) -> Any:
    options = RuntimeOptions(
        model_dir=tiny_model, engine=request.param, adapters=AdapterOptions(roots=(tmp_path,))
    )
    runtime = Runtime(options)
    runtime.use_personas(desk)
    runtime.start()
    assert runtime.wait_loaded(60)
    yield runtime
    runtime.close(drain_s=10)


def write(generate: Callable[..., Done], runtime: Runtime, **fields: Any) -> Done:
    fields = {"text": TEXT, "max_tokens": 8, "sampling": GREEDY, **fields}
    return generate(runtime, **fields)


def test_the_rows_stand_before_the_first_token(
    runtime: Runtime, desk: Desk, tiny_model: Path, generate: Callable[..., Done]
) -> None:
    desk.persona = Persona(PersonaUsed(version=1, strength=1.0), None, rows(1))
    written = write(generate, runtime).result.choices[0].text

    engine = create_engine(EngineChoice("torch", "test"), EngineOptions(model_dir=tiny_model))
    request = GenerationRequest(request_id="r", task="continue", text=TEXT)
    prompt = build_prompt(request, engine.tokenizer, n_context=400, max_tokens=8)
    cache = engine.new_cache()
    engine.prefill(cache, Embeddings(rows(1)))
    engine.prefill(cache, Tokens(prompt.tokens[:-1]))
    last, text = prompt.tokens[-1], []
    for step in range(8 + 1):
        logits = engine.logits(cache, [last])[0]
        if step == 0 and prompt.first_allowed is not None:
            kept = np.full_like(logits, -np.inf)
            kept[prompt.first_allowed] = logits[prompt.first_allowed]
            logits = kept
        engine.prefill(cache, Tokens((last,)))
        last = int(logits.argmax())
        text.append(last)
    healed = prompt.healed.decode()
    assert (healed + written).startswith(engine.tokenizer.decode(text)[: len(healed + written) - 4])


def test_it_is_kept_with_the_prompt_and_another_one_is_not_mixed_with_it(
    runtime: Runtime, desk: Desk, generate: Callable[..., Done]
) -> None:
    texts = {}
    for version, seed in ((1, 1), (2, 2), (1, 1), (2, 2)):
        desk.persona = Persona(PersonaUsed(version=version, strength=1.0), None, rows(seed))
        done = write(generate, runtime).result
        assert texts.setdefault(version, done.choices[0].text) == done.choices[0].text
    assert texts[1] != texts[2]
    assert done.usage.cached_tokens == done.usage.prompt_tokens
    assert done.persona == PersonaUsed(version=2, strength=1.0)


def test_what_was_computed_under_personas_can_be_forgotten(
    runtime: Runtime, desk: Desk, generate: Callable[..., Done]
) -> None:
    write(generate, runtime)
    desk.persona = Persona(PersonaUsed(version=1, strength=1.0), None, rows(1))
    write(generate, runtime)
    assert runtime.status().kv_entries == 2

    runtime.forget_personas()
    done = write(generate, runtime, persona=OFF)
    assert done.result.usage.cached_tokens > 0
    assert write(generate, runtime).result.usage.cached_tokens == 0


def test_off_is_really_off(runtime: Runtime, desk: Desk, generate: Callable[..., Done]) -> None:
    bare = write(generate, runtime).result
    desk.persona = Persona(PersonaUsed(version=1, strength=1.0), None, rows(1))
    off = write(generate, runtime, persona=OFF).result

    assert off.choices[0].text == bare.choices[0].text
    assert off.persona == PersonaUsed()
    assert write(generate, runtime).result.usage.prompt_tokens == bare.usage.prompt_tokens + 3


def test_a_suffix_is_scored_behind_the_persona(
    runtime: Runtime, desk: Desk, generate: Callable[..., Done]
) -> None:
    desk.persona = Persona(PersonaUsed(version=1, strength=1.0), None, rows(1))
    done = write(generate, runtime, suffix=" the winter.", sampling=SamplingOverrides(seed=3))

    assert all(np.isfinite(choice.score) for choice in done.result.choices)


def test_it_moves_min_p_unless_the_caller_sets_it(
    runtime: Runtime, desk: Desk, generate: Callable[..., Done]
) -> None:
    desk.persona = Persona(PersonaUsed(version=1, strength=1.0), 0.07, rows(1))

    assert write(generate, runtime).result.sampling.min_p == 0.07
    own = SamplingOverrides(min_p=0.2)
    assert write(generate, runtime, sampling=own).result.sampling.min_p == 0.2


def test_its_adapter_joins_the_tasks_default_and_no_explicit_choice(
    runtime: Runtime,
    desk: Desk,
    tmp_path: Path,
    tiny_base: Any,
    write_adapter: Callable[..., None],
    generate: Callable[..., Done],
) -> None:
    for seed, name in enumerate(("continue", "persona")):
        write_adapter(tmp_path, name, tiny_base, seed=seed)
    desk.adapters = (AdapterRef("persona"),)

    used = write(generate, runtime).result.adapters
    assert used == (AdapterRef("continue"), AdapterRef("persona"))
    assert write(generate, runtime, persona=OFF).result.adapters == (AdapterRef("continue"),)
    assert write(generate, runtime, adapters=()).result.adapters == ()


def test_without_its_adapter_for_this_model_there_is_no_persona_and_no_failure(
    runtime: Runtime,
    desk: Desk,
    tmp_path: Path,
    tiny_base: Any,
    write_adapter: Callable[..., None],
    generate: Callable[..., Done],
) -> None:
    desk.persona = Persona(PersonaUsed(version=1, strength=1.0), None, rows(1))
    desk.adapters = (AdapterRef("persona"),)
    assert write(generate, runtime).result.persona == PersonaUsed()

    write_adapter(tmp_path, "persona", tiny_base, base_id="another", base_digest="ab" * 32)
    assert write(generate, runtime).result.persona == PersonaUsed()


def test_without_an_index_documents_cannot_be_chosen(
    tiny_model: Path, start_runtime: Callable[..., Runtime], generate: Callable[..., Done]
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    with pytest.raises(InvalidRequest, match="No documents"):
        write(generate, runtime, persona=PersonaRequest(documents=("a",)))


def test_sources_are_reported(runtime: Runtime, desk: Desk, generate: Callable[..., Done]) -> None:
    used = PersonaUsed(version=3, strength=0.5, sources=(PersonaSource("doc", 1.0),))
    desk.persona = Persona(used, None, rows(4))

    assert write(generate, runtime).result.persona == used
