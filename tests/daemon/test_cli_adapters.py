"""`pushkin adapters`: in, looked at, checked, out and merged, with the embedded model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.draft import Draft, Provenance
from adapters.format import BaseModel
from adapters.install import write
from adapters.mlx_lm_format import export_mlx_lm
from adapters.peft_format import export_peft
from adapters.registry import AdapterSpec, read_weights
from daemon.cli import run
from daemon.paths import bundled_models
from pushkin_runtime.model_store import base_model, open_model

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PUSHKIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PUSHKIN_HOME", str(home))


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return base_model(open_model(bundled_models() / "pushkin-mini"))


@pytest.fixture(scope="module")
def make_draft(base: BaseModel) -> Callable[..., Draft]:
    def make(name: str = "quiet", seed: int = 0) -> Draft:
        rng = np.random.default_rng(seed)
        modules = {
            module: (
                rng.standard_normal((4, inner)).astype(np.float32),
                (0.05 * rng.standard_normal((out, 4))).astype(np.float32),
            )
            for module, (out, inner) in base.modules.items()
            if module.endswith(("k_proj", "up_proj"))
        }
        return Draft(
            name=name,
            base=base,
            rank=4,
            alpha=8.0,
            scale=2.0,
            rslora=False,
            modules=modules,
            provenance=Provenance(task="continue", languages=("en", "ru"), training={"steps": 10}),
        )

    return make


@pytest.fixture
def installed(home: Path, make_draft: Callable[..., Draft]) -> AdapterSpec:
    """`quiet`, in the user's own adapters."""
    return write(make_draft(), home / "adapters")


@pytest.fixture
def exported(tmp_path: Path, base: BaseModel, make_draft: Callable[..., Draft]) -> Path:
    """A folder with the checkpoints `Formal One` (PEFT) and `loud` (mlx-lm)."""
    spec = write(make_draft(), tmp_path / "elsewhere")
    export_peft(spec, read_weights(spec), base, tmp_path / "Formal One")
    export_mlx_lm(spec, read_weights(spec), base, tmp_path / "loud")
    return tmp_path


def answer(capsys: Output, *arguments: str) -> Any:
    assert run(["adapters", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_import_finds_out_the_format_and_makes_a_name(
    capsys: Output, home: Path, exported: Path
) -> None:
    options = ["--task", "rephrase", "--language", "en", "--language", "ru", "--licence", "MIT"]

    first = answer(capsys, "import", str(exported / "Formal One"), *options)
    second = answer(capsys, "import", str(exported / "loud"), "--name", "loud-2")

    assert (first["name"], first["task"], first["scale"]) == ("formal-one", "rephrase", 2.0)
    assert (first["languages"], first["licence"], first["stage"]) == (
        ["en", "ru"],
        "MIT",
        "imported",
    )
    assert second["sha256"] == first["sha256"]
    assert {path.name for path in (home / "adapters").iterdir()} == {"formal-one", "loud-2"}


def test_import_reads_gguf(
    capsys: Output, tmp_path: Path, make_draft: Callable[..., Draft]
) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "Tale.gguf", "gemma3")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for module, pair in make_draft().modules.items():
        if module.endswith("k_proj"):
            for part, array in zip("ab", pair, strict=True):
                writer.add_tensor(f"blk.{module.split('.')[1]}.attn_k.weight.lora_{part}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    found = answer(capsys, "import", str(tmp_path / "Tale.gguf"))

    assert (found["name"], found["rank"], found["target_modules"]) == (
        "tale",
        4,
        ["self_attn.k_proj"],
    )


def test_import_replaces_only_on_request(capsys: Output, exported: Path) -> None:
    source = str(exported / "loud")
    assert run(["adapters", "import", source]) == 0
    assert "loud: rank 4, scale 2," in capsys.readouterr().out

    assert run(["adapters", "import", source]) == 2
    assert "loud is installed already" in capsys.readouterr().err
    assert run(["adapters", "import", source, "--replace"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "quite"], 2, "Did you mean quiet?"),
        (["show", "../quiet"], 2, "cannot be an adapter"),
        (["import", "/nowhere"], 2, "nothing at /nowhere"),
        (["import", "."], 1, "expected a folder with one of adapter_model.safetensors"),
        (["import", ".", "--name", "../x"], 2, "--name"),
        (["import", ".", "--task", "sing"], 2, "--task"),
        (["export", "quiet", "--format", "peft", "--out", "."], 2, "exists"),
        (["merge", "quiet:x", "--out", "new"], 2, "formal:0.5"),
        (["merge", "quiet:0", "--out", "new"], 2, "every scale is 0"),
        (["merge", "quiet", "--out", "."], 2, "exists"),
        (["list", "--base", "nowhere"], 1, "No model folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_say_why_and_have_their_exit_code(
    capsys: Output, installed: AdapterSpec, arguments: list[str], code: int, said: str
) -> None:
    assert run(["adapters", *arguments]) == code
    assert said in capsys.readouterr().err


def test_list_and_show(capsys: Output, home: Path, installed: AdapterSpec) -> None:
    (home / "adapters" / "torn").mkdir()

    broken = next(one for one in answer(capsys, "list") if one["problem"])
    assert (broken["name"], broken["origin"]) == ("torn", "home")
    assert run(["adapters", "list"]) == 0
    printed = capsys.readouterr()
    assert "quiet\tcontinue\t4\t2\ten, ru" in printed.out
    assert "adapter.json is missing" in printed.err

    assert answer(capsys, "show", "quiet")["training"] == {"steps": 10}
    assert run(["adapters", "show", "quiet"]) == 0
    facts = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert facts["target_modules"] == "self_attn.k_proj, mlp.up_proj"
    assert (facts["rank"], facts["alpha"], facts["training.steps"]) == ("4", "8", "10")
    assert facts["sha256"] == installed.manifest.sha256


def test_no_adapter_is_no_error(capsys: Output) -> None:
    listed = [one["name"] for one in answer(capsys, "list") if one["origin"] == "home"]

    assert listed == []
    assert run(["adapters", "verify"]) == 0


def test_verify_reads_every_byte(capsys: Output, home: Path, installed: AdapterSpec) -> None:
    assert run(["adapters", "verify"]) == 0
    assert "quiet\tintact" in capsys.readouterr().out
    weights = installed.path / "adapter.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (home / "adapters" / "torn").mkdir()

    assert run(["adapters", "verify"]) == 1
    printed = capsys.readouterr()
    assert "quiet\tbroken" in printed.out
    assert "not the one of the manifest" in printed.err
    assert "adapter.json is missing" in printed.err
    assert run(["adapters", "verify", "quiet", "--json"]) == 1


@pytest.mark.parametrize("kind", ["peft", "mlx-lm"])
def test_export_and_import_are_exact(
    capsys: Output, tmp_path: Path, installed: AdapterSpec, kind: str
) -> None:
    out = tmp_path / "out"
    assert run(["adapters", "export", "quiet", "--format", kind, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"

    again = answer(capsys, "import", str(out), "--name", "again")

    assert again["sha256"] == installed.manifest.sha256
    assert (again["rank"], again["alpha"], again["scale"]) == (4, 8.0, 2.0)


def test_merge_makes_a_model_that_can_be_served(
    capsys: Output,
    home: Path,
    tmp_path: Path,
    installed: AdapterSpec,
    make_draft: Callable[..., Draft],
    base: BaseModel,
) -> None:
    write(make_draft("loud", seed=1), home / "adapters")
    out = tmp_path / "merged"

    found = answer(capsys, "merge", "quiet", "loud:-0.5", "--out", str(out), "--bits", "8")

    merged = open_model(out)
    assert merged.quantization == "int8 g64"
    assert merged.digest != base.digest
    assert found["n_modules"] == len(make_draft().modules)
    assert 0 < found["rounding_error"] < 0.01
    assert run(["adapters", "list", "--base", str(out)]) == 0
    assert "made for 'pushkin-mini'" in capsys.readouterr().err


def test_a_merge_that_loses_the_update_says_so(
    capsys: Output, tmp_path: Path, installed: AdapterSpec
) -> None:
    assert run(["adapters", "merge", "quiet:0.01", "--out", str(tmp_path / "merged")]) == 0

    printed = capsys.readouterr()
    assert "--bits 8 keeps it" in printed.err
    assert "noise beside the update" in printed.out


def test_every_command_has_help(capsys: Output) -> None:
    for verb in ("list", "show", "verify", "import", "export", "merge"):
        assert run(["adapters", verb, "--help"]) == 0
        assert f"Usage: pushkin adapters {verb}" in capsys.readouterr().out
