"""`pushkin export executorch`: a model, and what is merged into it, as a program."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.draft import Draft, Provenance
from adapters.install import write
from daemon.cli import run
from pushkin_runtime.engines.executorch_program import ExecutorchProgram
from pushkin_runtime.errors import ModelCorrupt
from pushkin_runtime.model_store import base_model, open_model
from tests.pushkin_runtime.conftest import CONFIG, random_weights, write_model

Output = pytest.CaptureFixture[str]
# An export takes seconds a layer: one layer of each kind, and enough numbers in them to tell their type by the size.
SHALLOW = CONFIG | {
    "num_hidden_layers": 2,
    "sliding_window_pattern": 2,
    "intermediate_size": 1024,
}


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PUSHKIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PUSHKIN_HOME", str(home))


@pytest.mark.slow
def test_a_program_has_the_model_and_what_is_merged_into_it(
    home: Path, tmp_path: Path, capsys: Output
) -> None:
    weights = {f"model.{name}": value for name, value in random_weights(SHALLOW).items()}
    model = write_model(tmp_path / "models" / "shallow", SHALLOW, weights)
    spec, rng = open_model(model), np.random.default_rng(0)
    base = base_model(spec)
    modules = {
        module: (
            rng.standard_normal((4, inner)).astype(np.float32),
            rng.standard_normal((out, 4)).astype(np.float32),
        )
        for module, (out, inner) in base.modules.items()
        if module.endswith("up_proj")
    }
    provenance = Provenance(task="continue", languages=("en",), training={"steps": 1})
    draft = Draft(
        name="loud",
        base=base,
        rank=4,
        alpha=8.0,
        scale=2.0,
        rslora=False,
        modules=modules,
        provenance=provenance,
    )
    write(draft, home / "adapters")
    made = tmp_path / "made" / "loud.pte"
    made.parent.mkdir()

    flags = ["--adapter", "loud", "--output", str(made), "--json"]
    assert run(["export", "executorch", str(model), *flags]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == str(made)
    assert facts["n_bytes"] == made.stat().st_size
    assert facts["n_bytes"] > 4 * spec.n_parameters  # float32
    assert [path.name for path in made.parent.iterdir()] == ["loud.pte"]
    with pytest.raises(ModelCorrupt, match="Export the model again") as caught:
        ExecutorchProgram(made, base.digest, torch.get_num_threads())
    assert f"expected 1 and {base.digest[:12]}" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--adapter", "nobody"], 2, "nobody"),
        (["--adapter", "loud:much"], 2, "loud:much"),
        (["no-such-model"], 1, "No model folder"),
        (["--output", "/"], 2, "is a directory"),
    ],
)
def test_what_cannot_be_exported_is_said(
    arguments: list[str], code: int, message: str, capsys: Output
) -> None:
    assert run(["export", "executorch", *arguments]) == code
    assert message in capsys.readouterr().err
