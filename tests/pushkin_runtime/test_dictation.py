"""Dictation through the real runtime, with a speech model of the right shape and no training."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from adapters.format import BaseModel
from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.control_tokens import PAD
from pushkin_runtime.engines.base import EngineOptions
from pushkin_runtime.engines.registry import ENGINES
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.engines.torch_engine import TorchEngine
from pushkin_runtime.errors import CapabilityMissing, InvalidRequest, ModelCorrupt
from pushkin_runtime.persona import PERSONA_TOKEN
from pushkin_runtime.prompt import build_prompt, speech_limit
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.speech_types import SpeechRows
from pushkin_runtime.types import Done, GenerationRequest
from tests.pushkin_runtime.speech_files import N_STACK, speechlike, write_encoder, write_projector

HIDDEN = 64


@pytest.fixture
def installed(tmp_path: Path, tiny_base: BaseModel, write_adapter: Callable[..., None]) -> Path:
    """A folder with adapters/dictate (adapter and projector) and models/tiny-whisper."""
    write_encoder(tmp_path / "models" / "tiny-whisper")
    write_adapter(tmp_path / "adapters", "dictate", tiny_base, seed=3)
    write_projector(
        tmp_path / "adapters" / "dictate",
        tmp_path / "models" / "tiny-whisper",
        tiny_base.digest,
        HIDDEN,
    )
    return tmp_path


@pytest.fixture(params=[name for name in ENGINES if name != "scripted"])
def runtime(
    request: pytest.FixtureRequest,
    installed: Path,
    tiny_model: Path,
    programs: Path,
    start_runtime: Callable[..., Runtime],
) -> Runtime:
    """A runtime of each engine that can hear."""
    return start_runtime(
        tiny_model,
        cache_dir=programs,
        engine=request.param,
        adapters=AdapterOptions(roots=(installed / "adapters",)),
        model_roots=(installed / "models",),
    )


def encoded(runtime: Runtime, seconds: float = 1.5, seed: int = 0) -> SpeechRows:
    return runtime.encode_speech(speechlike(seconds, seed)).result(timeout=30)


def rows_of(engine_digest: str, n: int = 10) -> SpeechRows:
    rows = np.ones((n, HIDDEN), np.float32)
    return SpeechRows(rows=rows, n_samples=n * 960, base_digest=engine_digest, token=-77)


def test_speech_becomes_an_answer_with_its_kind(
    runtime: Runtime, generate: Callable[..., Done]
) -> None:
    speech = encoded(runtime)
    n_rows, width = speech.rows.shape
    assert 1 <= n_rows <= 25  # 1.5 s, 50 states a second, three a row, one row a sound
    assert width == HIDDEN
    result = generate(runtime, task="dictate", text="Dear Anna, ", speech=speech).result
    assert result.speech is not None
    assert sum(result.speech.probabilities) == pytest.approx(1)
    assert result.speech.probability == max(result.speech.probabilities)
    assert [ref.name for ref in result.adapters] == ["dictate"]
    assert result.usage.completion_tokens <= speech_limit(speech)
    assert result.sampling.temperature == 0
    again = generate(runtime, task="dictate", text="Dear Anna, ", speech=speech).result
    assert again.choices[0].text == result.choices[0].text
    assert again.speech == result.speech


def test_a_speech_model_may_write_itself(
    installed: Path,
    tiny_model: Path,
    start_runtime: Callable[..., Runtime],
    generate: Callable[..., Done],
) -> None:
    manifest = installed / "adapters" / "dictate" / "speech-projector.json"
    content = json.loads(manifest.read_text())
    content["settings"]["pieces"] = pieces = [300, 301, 302, 303, 304]
    manifest.write_text(json.dumps(content))
    runtime = start_runtime(
        tiny_model,
        engine="torch",
        adapters=AdapterOptions(roots=(installed / "adapters",)),
        model_roots=(installed / "models",),
    )
    speech = encoded(runtime)
    assert speech.heard
    assert set(speech.heard) <= set(pieces)
    assert speech.words is not None
    said = runtime.tokenizer().decode(speech.heard)
    assert [word.text for word in speech.words] == said.split()
    assert speech.scores is not None
    assert speech.scores.shape[1] == 1 + len(speech.pieces) == 1 + len(pieces)
    best = [0, *speech.scores.argmax(1)]
    heard = [pieces[b - 1] for a, b in pairwise(best) if b and b != a]
    assert tuple(heard) == speech.heard
    result = generate(runtime, task="dictate", text="", speech=speech).result
    assert result.speech is not None
    assert result.choices[0].text == ("" if result.speech.kind == "none" else said)
    assert result.choices[0].finish_reason == "stop"
    assert result.usage.completion_tokens == 0


def test_what_stands_left_of_the_speech_is_read_once(
    runtime: Runtime, generate: Callable[..., Done]
) -> None:
    text = "The old house stood by the river. "
    first = generate(runtime, task="dictate", text=text, speech=encoded(runtime, 1.0)).result
    longer = encoded(runtime, 1.5, seed=1)
    second = generate(runtime, task="dictate", text=text, speech=longer).result
    n_left = second.usage.prompt_tokens - len(longer.rows) - 1
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == n_left
    fresh = generate(runtime, task="dictate", text=text, speech=longer, reuse_cache=False).result
    assert fresh.usage.cached_tokens == 0
    assert fresh.choices[0].text == second.choices[0].text


def test_the_same_speech_again_is_not_read_again(
    runtime: Runtime, generate: Callable[..., Done]
) -> None:
    speech = encoded(runtime)
    generate(runtime, task="dictate", text="", speech=speech)
    again = generate(runtime, task="dictate", text="", speech=encoded(runtime)).result
    assert again.usage.cached_tokens >= again.usage.prompt_tokens - 1


def test_the_speech_model_says_what_it_is(runtime: Runtime) -> None:
    info = runtime.load_speech().result(timeout=30)
    assert info.encoder == "tiny-whisper"
    assert info.rows_per_second == pytest.approx(50 / N_STACK)
    assert info.max_samples == 30 * 16_000


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(16_000, np.float64), "float32"),
        (np.zeros((2, 16_000), np.float32), "one dimension"),
        (np.zeros(10, np.float32), "no speech"),
        (np.full(16_000, np.nan, np.float32), "finite"),
    ],
)
def test_what_is_no_speech_is_refused_at_once(
    runtime: Runtime, samples: np.ndarray, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        runtime.encode_speech(samples)


def test_more_than_the_encoder_reads_is_refused(runtime: Runtime) -> None:
    with pytest.raises(InvalidRequest, match="30 s"):
        runtime.encode_speech(np.zeros(30 * 16_000 + 1, np.float32)).result(timeout=30)


def test_speech_and_task_belong_together(runtime: Runtime, generate: Callable[..., Done]) -> None:
    speech = encoded(runtime)
    with pytest.raises(InvalidRequest, match="task dictate"):
        generate(runtime, task="continue", text="", speech=speech)
    with pytest.raises(InvalidRequest, match="task dictate"):
        generate(runtime, task="dictate", text="")
    with pytest.raises(InvalidRequest, match="another model"):
        generate(runtime, task="dictate", text="", speech=rows_of("0" * 64))


def test_without_a_speech_model_the_error_says_what_to_do(
    tiny_model: Path, start_runtime: Callable[..., Runtime], installed: Path
) -> None:
    bare = start_runtime(tiny_model, engine="torch")
    with pytest.raises(CapabilityMissing, match="no dictate/speech-projector"):
        encoded(bare)
    no_encoder = start_runtime(
        tiny_model, engine="torch", adapters=AdapterOptions(roots=(installed / "adapters",))
    )
    with pytest.raises(CapabilityMissing, match="pushkin models import"):
        encoded(no_encoder)


def test_another_encoder_than_was_trained_on_is_refused(
    tiny_model: Path, start_runtime: Callable[..., Runtime], installed: Path
) -> None:
    file = installed / "models" / "tiny-whisper" / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    runtime = start_runtime(
        tiny_model,
        engine="torch",
        adapters=AdapterOptions(roots=(installed / "adapters",)),
        model_roots=(installed / "models",),
    )
    with pytest.raises(ModelCorrupt, match="not the one this speech model was trained on"):
        encoded(runtime)


def test_a_speech_model_of_another_base_is_refused(
    tiny_model: Path, start_runtime: Callable[..., Runtime], installed: Path
) -> None:
    manifest = installed / "adapters" / "dictate" / "speech-projector.json"
    content = json.loads(manifest.read_text())
    content["settings"]["base_digest"] = "f" * 64
    manifest.write_text(json.dumps(content))
    runtime = start_runtime(
        tiny_model,
        engine="torch",
        adapters=AdapterOptions(roots=(installed / "adapters",)),
        model_roots=(installed / "models",),
    )
    with pytest.raises(ModelCorrupt, match="another base model"):
        encoded(runtime)


def test_the_scripted_engine_says_that_it_cannot_hear(
    start_runtime: Callable[..., Runtime],
) -> None:
    runtime = start_runtime(scripted=ScriptedEngine())
    with pytest.raises(CapabilityMissing):
        encoded(runtime)


def test_the_prompt_is_the_frame_with_the_rows_inside(tiny_model: Path) -> None:
    engine = TorchEngine(EngineOptions(model_dir=tiny_model))
    tokenizer = engine.tokenizer
    request = GenerationRequest(
        request_id="r",
        task="dictate",
        text="Старый дом ",
        after=" у реки",
        speech=rows_of(engine.info.digest),
    )
    prompt = build_prompt(request, tokenizer, n_context=400, max_tokens=20)
    names = [
        tokenizer.special_id(n) for n in ("<bos>", "<lang:ru>", "<genre:prose>", "<task:dictate>")
    ]
    assert list(prompt.tokens[:4]) == names
    assert tokenizer.special_id(PAD) not in prompt.tokens
    assert prompt.tokens[prompt.speech_at : prompt.speech_at + 10] == (-77,) * 10
    assert prompt.tokens[-1] == tokenizer.special_id("<result>")
    assert tokenizer.decode(list(prompt.recent(100))) == "Старый дом  у реки"
    with_persona = prompt.after(np.zeros((3, HIDDEN), np.float32))
    assert with_persona.tokens[:3] == (PERSONA_TOKEN,) * 3
    assert with_persona.speech_at == prompt.speech_at + 3
    start, n_read = 0, []
    while start < len(with_persona.tokens) - 1:
        n_read.append(
            len(with_persona.segment(start, min(start + 6, len(with_persona.tokens) - 1)))
        )
        start += n_read[-1]
    assert sum(n_read) == len(with_persona.tokens) - 1
    with pytest.raises(InvalidRequest, match="shorter utterances"):
        build_prompt(request, tokenizer, n_context=37, max_tokens=20)
