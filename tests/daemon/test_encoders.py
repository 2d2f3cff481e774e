"""`pushkin models import`: a speech encoder from a local folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from daemon.cli import run
from pushkin_runtime.speech_folder import weights_sha256
from tests.pushkin_runtime.speech_files import write_encoder

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PUSHKIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PUSHKIN_HOME", str(home))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A tiny encoder as somebody would have it on disk."""
    write_encoder(tmp_path / "downloads" / "tiny-whisper", prefix="model.encoder.")
    return tmp_path / "downloads" / "tiny-whisper"


def test_an_encoder_is_checked_and_copied(encoder: Path, home: Path, capsys: Output) -> None:
    assert run(["models", "import", str(encoder), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    folder = home / "models" / "tiny-whisper"
    assert made["sha256"] == weights_sha256(encoder) == weights_sha256(folder)
    assert {file.name for file in folder.iterdir()} == {"config.json", "encoder.safetensors"}
    assert run(["models", "import", str(encoder)]) == 0  # again is no error
    capsys.readouterr()
    assert run(["models", "list", "--json"]) == 0
    assert "tiny-whisper" not in {m["name"] for m in json.loads(capsys.readouterr().out)}


def test_what_is_no_encoder_changes_nothing(encoder: Path, home: Path, capsys: Output) -> None:
    (encoder / "encoder.safetensors").write_bytes(b"not tensors")
    assert run(["models", "import", str(encoder)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (home / "models" / "tiny-whisper").exists()
    (encoder / "encoder.safetensors").unlink()
    assert run(["models", "import", str(encoder)]) == 2
    assert "expected config.json and encoder.safetensors" in capsys.readouterr().err


def test_another_encoder_of_that_name_is_left_alone(
    encoder: Path, home: Path, tmp_path: Path, capsys: Output
) -> None:
    assert run(["models", "import", str(encoder)]) == 0
    write_encoder(tmp_path / "other", num_mel_bins=128)
    assert run(["models", "import", str(tmp_path / "other"), "--name", "tiny-whisper"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert weights_sha256(home / "models" / "tiny-whisper") == weights_sha256(encoder)
    assert run(["models", "import", str(tmp_path / "other"), "--name", "../up"]) == 2
