"""A trained adapter → `OUT/peft` (PEFT's own folder) and `OUT/adapters/NAME` (ours), both safetensors in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from adapters.draft import Provenance
from adapters.install import write
from adapters.peft_format import WEIGHTS_NAME, import_peft
from pushkin_runtime.model_store import base_model, open_model
from training.intruders import adapter_updates, base_matrices, intruder_report
from training.lora_model import adapter_tensors, parent_name

LICENCE = "as the base model; its card names the training data and their licences"


@dataclass(frozen=True)
class Made:
    """What is known of an adapter once it is trained; `facts` are numbers and short strings."""

    name: str
    task: str
    base: Path
    scale: float
    facts: Mapping[str, Any]
    parent: Path | None = None
    languages: tuple[str, ...] = ("en", "ru")
    licence: str = LICENCE


def save_peft(model: PeftModel, folder: Path) -> None:
    """What `PeftModel.from_pretrained` loads, in bfloat16, without optimiser or pickled arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = None
    config.save_pretrained(str(folder))
    state: dict[str, Tensor] = get_peft_model_state_dict(model)
    halves = {name: tensor.cpu().to(torch.bfloat16).contiguous() for name, tensor in state.items()}
    save_file(halves, folder / WEIGHTS_NAME, metadata={"format": "pt"})


def intruders_of(model: PeftModel, base: Path, scale: float) -> dict[str, Any]:
    """The intruder report of the model's adapter as it will be stored, in bfloat16."""
    stored = {name: tensor.to(torch.bfloat16) for name, tensor in adapter_tensors(model).items()}
    updates = adapter_updates({name: tensor.cpu() for name, tensor in stored.items()}, scale)
    return intruder_report(base_matrices(base), updates)


def save_adapter(model: PeftModel, made: Made, out: Path) -> Path:
    """Write both folders; the path of ours. An adapter that is there already is replaced.

    Raises adapters' AdapterError when what was trained cannot be served.
    """
    save_peft(model, out / "peft")
    provenance = Provenance(
        task=made.task,
        stage="task",
        parents=(parent_name(made.parent),) if made.parent else (),
        languages=made.languages,
        licence=made.licence,
        training=made.facts,
    )
    draft = import_peft(
        out / "peft",
        name=made.name,
        base=base_model(open_model(made.base)),
        provenance=provenance,
    )
    write(draft, out / "adapters", replace=True)
    return out / "adapters" / made.name
