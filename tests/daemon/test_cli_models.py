"""`pushkin models quantize`: a folder that can be served, its cost in a table, and errors that say what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from adapters.composition import LoraWeights
from daemon.cli import run
from daemon.paths import bundled_models
from pushkin_runtime.merge import WeightedAdapter, merge
from pushkin_runtime.model_store import base_model, open_model

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PUSHKIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PUSHKIN_HOME", str(home))


@pytest.fixture(scope="module")
def in_floats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in bfloat16."""
    import numpy as np

    spec = open_model(bundled_models() / "pushkin-mini")
    module, (n_out, n_in) = next(iter(base_model(spec).modules.items()))
    nothing = (np.zeros((1, n_in), np.float32), np.zeros((n_out, 1), np.float32))
    out = tmp_path_factory.mktemp("models") / "in-floats"
    merge(
        spec, [WeightedAdapter("none", LoraWeights("0" * 64, 1.0, {module: nothing}))], out, bits=16
    )
    return out


def quantize(*arguments: object) -> int:
    return run(["models", "quantize", *map(str, arguments)])


def test_it_says_size_bits_and_the_loss_before_and_after(
    capsys: Output, in_floats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "int4"

    assert quantize(in_floats, out, "--json") == 0

    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    made = open_model(out)
    assert (found["quantization"], found["n_bytes"]) == ("int4 g64", made.n_bytes)
    assert found["bits_per_weight"] == pytest.approx(4.5, abs=0.1)
    assert found["peak_rss_bytes"] > found["n_bytes"]
    before, after = found["held_out"]["before"], found["held_out"]["after"]
    assert before["n_tokens"] == after["n_tokens"] > 300
    assert 1 < before["nats_per_token"] < after["nats_per_token"] < before["nats_per_token"] + 0.3


def test_people_get_a_table_over_their_own_text(
    capsys: Output, in_floats: Path, tmp_path: Path
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("The rain walked up and down on the roof, and nobody came.\n")

    assert quantize(in_floats, tmp_path / "a", "--mixed", "8", "--eval-text", text) == 0

    printed = capsys.readouterr().out
    assert "int4 g64, some int8" in printed
    assert "nats a token\t" in printed
    assert "The rain" not in printed


def test_without_a_text_no_model_is_loaded(
    capsys: Output, in_floats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr("pushkin_runtime.engines.registry.create_engine", fail)
    assert quantize(in_floats, tmp_path / "a", "--symmetric", "--no-eval", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["quantization"], found["held_out"]) == ("int4 g32", None)


def test_bad_input_is_said_and_writes_nothing(
    capsys: Output, in_floats: Path, tmp_path: Path
) -> None:
    mini, out = bundled_models() / "pushkin-mini", tmp_path / "out"
    other, empty, latin = tmp_path / "llama", tmp_path / "empty", tmp_path / "latin.txt"
    shutil.copytree(in_floats, other)
    (other / "manifest.json").unlink()
    config = json.loads((other / "config.json").read_text()) | {"model_type": "llama"}
    (other / "config.json").write_text(json.dumps(config))
    empty.mkdir()
    latin.write_bytes(b"caf\xe9")

    for arguments, code, words in (
        ((mini, out), 2, "quantised already (int4 g64)"),
        ((in_floats, in_floats), 2, "exists"),
        ((other, out), 1, "model_type is 'llama'"),
        ((empty, out), 1, "missing config.json"),
        ((in_floats, out, "--mixed", "6", "--bits", "8"), 2, "expected more than --bits 8"),
        ((in_floats, out, "--symmetric", "--group-size", "64"), 2, "4 bits in groups of 32"),
        ((in_floats, out, "--eval-text", latin), 2, "not UTF-8 at byte 3"),
        ((tmp_path / "nowhere", out), 2, "does not exist"),
    ):
        assert quantize(*arguments) == code, arguments
        assert words in capsys.readouterr().err
        assert not out.exists()
    assert not list(tmp_path.glob(".*~"))
