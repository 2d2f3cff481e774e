"""The Whisper encoder of each engine, against transformers' and against itself with padding."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.nn import functional
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pushkin_runtime.engines.base import SpeechEncoder
from pushkin_runtime.engines.registry import SPEECH_ENCODERS, create_speech_encoder
from pushkin_runtime.errors import CapabilityMissing, ModelCorrupt
from pushkin_runtime.log_mel import log_mel
from pushkin_runtime.speech import spoken_words
from pushkin_runtime.speech_folder import read_encoder
from pushkin_runtime.speech_model import (
    SILENCE_ROWS,
    HeardToken,
    Projector,
    compressed,
    encoder_config,
    runs,
    stack,
    transcript,
    whole_rows,
)
from pushkin_runtime.tokenizer import TextTokenizer
from tests.pushkin_runtime.speech_files import (
    ENCODER,
    N_STACK,
    ROW_RMS,
    speechlike,
    tiny_encoder,
    write_encoder,
)

MINI = Path(__file__).parents[2] / "models" / "pushkin-mini"

TOLERANCE = 2e-4
PROJECTOR = Projector(
    N_STACK,
    np.random.default_rng(0).standard_normal((16, N_STACK * 32)).astype(np.float32) * 0.2,
    np.zeros(16, np.float32),
    np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32),
    np.full(8, 0.1, np.float32),
    ROW_RMS,
    np.eye(3, 8, dtype=np.float32),
    np.zeros(3, np.float32),
)


@pytest.fixture(params=list(SPEECH_ENCODERS))
def encoder(request: pytest.FixtureRequest) -> SpeechEncoder:
    """The tiny encoder in each engine that can hear."""
    _, config, weights = tiny_encoder()
    return create_speech_encoder(request.param, config, weights, PROJECTOR)


def run(steps: Generator[bool, None, Any]) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def test_equals_transformers_on_padded_30_s(encoder: SpeechEncoder) -> None:
    content, _, weights = tiny_encoder()
    reference = WhisperEncoder(WhisperConfig(**content, activation_function="gelu")).eval()
    reference.load_state_dict({name: torch.from_numpy(a) for name, a in weights.items()})
    mel = log_mel(np.pad(speechlike(5), (0, 25 * 16_000)), 80)
    with torch.inference_mode():
        wanted = reference(torch.from_numpy(mel)[None]).last_hidden_state[0].numpy()
    [found] = run(encoder.encode([mel]))
    assert found.shape == (1500, 32)
    assert np.abs(found - wanted).max() < TOLERANCE


def test_five_seconds_alone_equal_five_seconds_in_a_padded_batch(encoder: SpeechEncoder) -> None:
    short, long = log_mel(speechlike(5), 80), log_mel(speechlike(9.3, seed=1), 80)
    [alone] = run(encoder.encode([short]))
    together = run(encoder.encode([short, long]))
    assert alone.shape == together[0].shape == (250, 32)
    assert np.abs(alone - together[0]).max() < TOLERANCE
    [alone_long] = run(encoder.encode([long]))
    assert np.abs(alone_long - together[1]).max() < TOLERANCE


def test_work_is_proportional_to_speech(encoder: SpeechEncoder) -> None:
    [states] = run(encoder.encode([log_mel(speechlike(0.5), 80)]))
    assert states.shape == (25, 32)  # not 1500


def test_nothing_is_compiled_for_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's convolutions and products would keep code for each, and every utterance has its own length."""
    seen: list[bool] = []

    def watched(work: Any) -> Any:
        def run_it(*arguments: Any, **options: Any) -> Any:
            seen.append(cast(bool, torch.backends.mkldnn.enabled))
            return work(*arguments, **options)

        return run_it

    for name in ("conv1d", "linear", "scaled_dot_product_attention"):
        monkeypatch.setattr(functional, name, watched(getattr(functional, name)))
    _, config, weights = tiny_encoder()
    encoder = create_speech_encoder("torch", config, weights, PROJECTOR)
    [states] = run(encoder.encode([log_mel(speechlike(0.5), 80)]))
    encoder.project(stack(states, N_STACK))
    assert len(seen) == 2 + config.n_layers * 7 + 2
    assert not any(seen)
    assert cast(bool, torch.backends.mkldnn.enabled)  # for everybody else


def test_torch_takes_no_more_threads_than_it_is_given() -> None:
    _, config, weights = tiny_encoder()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        create_speech_encoder("torch", config, weights, PROJECTOR)
        assert torch.get_num_threads() == 2
        create_speech_encoder("torch", config, weights, PROJECTOR, 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_every_row_has_the_text_rows_size(encoder: SpeechEncoder) -> None:
    [states] = run(encoder.encode([log_mel(speechlike(2), 80)]))
    rows = encoder.project(stack(states, N_STACK))
    assert rows.shape == (33, 8)
    assert rows.dtype == np.float32
    assert np.allclose(np.sqrt(np.mean(rows**2, axis=1)), ROW_RMS, rtol=1e-3)


def test_engines_agree() -> None:
    _, config, weights = tiny_encoder()
    mel = log_mel(speechlike(3), 80)
    rows = []
    for name in SPEECH_ENCODERS:
        encoder = create_speech_encoder(name, config, weights, PROJECTOR)
        [states] = run(encoder.encode([mel]))
        rows.append(encoder.project(stack(states, N_STACK)))
    assert np.abs(rows[0] - rows[1]).max() < TOLERANCE


def test_the_scripted_engine_cannot_hear() -> None:
    _, config, weights = tiny_encoder()
    with pytest.raises(CapabilityMissing, match="cannot hear"):
        create_speech_encoder("scripted", config, weights, PROJECTOR)


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
def test_both_layouts_of_hugging_face_load(tmp_path: Path, prefix: str) -> None:
    write_encoder(tmp_path / "tiny", prefix, num_mel_bins=128)
    config, weights = read_encoder(tmp_path / "tiny")
    assert (config.n_mels, config.n_layers, config.max_samples) == (128, 2, 480_000)
    assert np.array_equal(
        weights["conv1.weight"], tiny_encoder(num_mel_bins=128)[2]["conv1.weight"]
    )


def test_all_mismatches_are_listed_at_once(tmp_path: Path) -> None:
    write_encoder(tmp_path / "tiny")
    _, _, weights = tiny_encoder()
    del weights["layer_norm.bias"]
    weights["conv1.bias"] = np.zeros(7, np.float32)
    weights["rotary"] = np.zeros(1, np.float32)
    save_file(weights, tmp_path / "tiny" / "encoder.safetensors")
    with pytest.raises(ModelCorrupt) as error:
        read_encoder(tmp_path / "tiny")
    for part in (
        "layer_norm.bias is missing",
        "conv1.bias is (7,), expected (32,)",
        "rotary is not part",
    ):
        assert part in str(error.value)


def test_a_config_that_is_not_whispers_is_refused() -> None:
    with pytest.raises(ModelCorrupt, match="num_mel_bins, d_model"):
        encoder_config({"hidden_size": 5}, "config.json")
    with pytest.raises(ModelCorrupt, match="80 or 128"):
        encoder_config(ENCODER | {"num_mel_bins": 64}, "config.json")


def test_one_row_stays_for_each_sound_and_each_long_silence() -> None:
    sounds = [1, 1, 0, 0, 1, 2, 2, *[0] * SILENCE_ROWS, 2]
    rows = np.eye(3, 8, dtype=np.float32)[sounds] + 1e-3
    assert runs(np.array(sounds)) == [(0, 2), (4, 5), (5, 7), (7, 7 + SILENCE_ROWS), (15, 16)]
    found = compressed(rows, PROJECTOR)
    assert found.argmax(1).tolist() == [1, 1, 2, 0, 2]
    assert np.allclose(np.sqrt(np.mean(found**2, axis=1)), ROW_RMS, rtol=1e-3)
    assert (
        len(compressed(rows[2:4], PROJECTOR)) == 1
    )  # a short silence alone is still something to read
    assert runs(np.zeros(0, np.int64)) == []
    heard = transcript(np.array(sounds), (71, 72))
    assert [found.token for found in heard] == [71, 71, 72, 72]
    assert [(found.start, found.stop) for found in heard] == [(0, 2), (4, 5), (5, 7), (15, 16)]


def test_words_begin_where_their_first_token_is_heard() -> None:
    tokenizer = TextTokenizer(MINI / "tokenizer.json", 1 << 20)
    ids = tokenizer.encode(" новая строка")
    words = [tokenizer.decode([i]) for i in ids]
    at = next(i for i, text in enumerate(words) if i and text.startswith(" "))
    heard = [HeardToken(token, 3 * i, 3 * i + 2) for i, token in enumerate(ids)]

    found = spoken_words(tokenizer, heard, 960, 960 * (3 * len(ids) - 2))

    assert [word.text for word in found] == ["новая", "строка"]
    assert (found[0].start, found[0].end) == (0, 960 * (3 * at - 1))
    assert (found[1].start, found[1].end) == (960 * 3 * at, 960 * (3 * len(ids) - 2))
    assert spoken_words(tokenizer, [], 960, 0) == ()


def test_speech_is_padded_to_whole_rows_never_cut() -> None:
    step = PROJECTOR.samples_per_row
    for n in (1, step, step + 1, 5 * step - 1):
        padded = whole_rows(np.ones(n, np.float32), PROJECTOR)
        assert len(padded) % step == 0
        assert padded[:n].all()
        assert not padded[n:].any()
