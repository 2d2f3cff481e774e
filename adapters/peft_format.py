"""PEFT's LoRA checkpoints (huggingface/peft 0.21): `adapter_config.json` + `adapter_model.safetensors`.

Tensors are `base_model.model.<layout>layers.N.<target>.lora_A.weight` (rank, in) and `.lora_B.weight`
(out, rank); the factor is lora_alpha / r, or lora_alpha / √r with `use_rslora`. What would need more than
W + scale·BA to serve is refused with the setting that asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.composition import LoraWeights
from adapters.draft import Draft, Provenance, dtype_name, pair_up
from adapters.errors import AdapterCorrupt, AdapterNotFound, AdapterUnsupported, listed
from adapters.format import MAX_ALPHA, MAX_RANK, BaseModel, scale_of
from adapters.registry import AdapterSpec
from adapters.tensor_file import read_tensors
from adapters.tensor_writer import header_bytes, raw, write_new
from adapters.untrusted import parse_json, read_small, short

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"

_PREFIX = "base_model.model."
_PARTS = (".lora_A.weight", ".lora_B.weight")
_HARMLESS = {  # says how it was trained or saved, not what it computes
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform"),
    *("layers_pattern", "megatron_core", "qalora_group_size", "ensure_weight_tying", "eva_config"),
    *("runtime_config", "loftq_config"),
}
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"} | {
    *("bias", "init_lora_weights"),
}
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
_REASONS = {
    "use_dora": "DoRA scales the rows of the base",
    "bias": "biases of the base were trained",
    "modules_to_save": "whole modules of the base were trained",
    "trainable_token_indices": "rows of the embeddings were trained",
    "layer_replication": "layers of the base were duplicated",
    "fan_in_fan_out": "it is for transposed weights, which Gemma does not have",
    "target_parameters": "it adapts parameters outside linear layers",
    "alora_invocation_tokens": "activated LoRA depends on the position in the text",
}


def import_peft(
    folder: Path,
    *,
    name: str,
    base: BaseModel,
    provenance: Provenance | None = None,
    drop_vision: bool = False,
) -> Draft:
    """Read a checkpoint that `PeftModel.save_pretrained` wrote; its dtype is kept.

    drop_vision: leave out LoRA of a vision tower instead of refusing it.
    Raises AdapterNotFound, AdapterUnsupported (with every setting at fault) or AdapterCorrupt.
    """
    config = _config(folder)
    where = f"{folder.name}/{WEIGHTS_NAME}"
    if not (folder / WEIGHTS_NAME).exists() and (folder / PICKLE_NAME).exists():
        raise AdapterUnsupported(
            f"{folder.name}: only {PICKLE_NAME} is there, a pickle, which is never opened. "
            "Save it with save_pretrained(safe_serialization=True) where it was made."
        )
    rank, alpha, rslora = config["r"], config["lora_alpha"], config.get("use_rslora", False)
    stored = read_tensors(folder / WEIGHTS_NAME, where, follow_links=True).arrays
    modules = pair_up(
        {key.removeprefix(_PREFIX): array for key, array in stored.items()},
        _PARTS,
        where,
        drop_vision=drop_vision,
    )
    return Draft(
        name=name,
        base=base,
        rank=rank,
        alpha=alpha,
        scale=scale_of(rank, alpha, rslora=rslora),
        rslora=rslora,
        modules=modules,
        provenance=provenance or Provenance(),
    )


def export_peft(spec: AdapterSpec, weights: LoraWeights, base: BaseModel, out: Path) -> None:
    """Write `weights` to the new folder `out` for `PeftModel.from_pretrained` on a Gemma3ForCausalLM.

    Exact: importing it again gives the same file. Raises OSError.
    """
    manifest = spec.manifest
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": manifest.rank,
        "lora_alpha": manifest.alpha,
        "use_rslora": manifest.rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _target_modules(weights, base, manifest.target_modules),
    }
    tensors = {
        f"{_PREFIX}model.{module}{part}": array
        for module, pair in sorted(weights.modules.items())
        for part, array in zip(_PARTS, pair, strict=True)
    }
    out.mkdir(parents=True)
    header = header_bytes(
        {key: (dtype_name(array), array.shape) for key, array in tensors.items()}, {"format": "pt"}
    )
    write_new(out / WEIGHTS_NAME, [header, *raw(tensors.values())])
    write_new(out / CONFIG_NAME, [json.dumps(config, indent=2).encode() + b"\n"])


def _target_modules(weights: LoraWeights, base: BaseModel, targets: tuple[str, ...]) -> list[str]:
    """The short names when every layer has them, else each module by its own."""
    every = {module for module in base.modules if module.endswith(targets)}
    if every == weights.modules.keys():
        return [target.rpartition(".")[2] for target in targets]
    return [f"model.{module}" for module in sorted(weights.modules)]


def _config(folder: Path) -> dict[str, Any]:
    """Return the checked adapter_config.json. Raises with every setting that cannot be served."""
    where = f"{folder.name}/{CONFIG_NAME}"
    try:
        raw_config = parse_json(read_small(folder / CONFIG_NAME, where, follow_links=True))
    except AdapterNotFound as error:
        raise AdapterNotFound(f"{error} A PEFT checkpoint has one.") from error
    except ValueError as error:
        raise AdapterCorrupt(f"{where}: not valid JSON: {str(error)[:120]}.") from error
    if not isinstance(raw_config, dict) or raw_config.get("peft_type") != "LORA":
        raise AdapterUnsupported(f"{where}: it is not of a LoRA (peft_type must be LORA).")
    rank, alpha = raw_config.get("r"), raw_config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not alpha:
        raise AdapterCorrupt(
            f"{where}: r is {short(rank)} and lora_alpha {short(alpha)}, expected positive numbers."
        )
    if rank > MAX_RANK or abs(alpha) > MAX_ALPHA:
        raise AdapterUnsupported(
            f"{where}: r is {short(rank)} and lora_alpha {short(alpha)}, "
            f"expected at most {MAX_RANK} and {MAX_ALPHA:g}."
        )
    if type(raw_config.get("use_rslora", False)) is not bool:
        raise AdapterCorrupt(f"{where}: use_rslora must be true or false.")
    problems = _unserved(raw_config)
    if problems:
        raise AdapterUnsupported(f"{where}: cannot be served: {listed(problems)}.")
    return raw_config


def _unserved(config: Mapping[str, Any]) -> list[str]:
    """Every setting that makes it more than W + scale·BA; unknown ones are taken for such."""
    problems: list[str] = []
    for key, value in config.items():
        if not value or key in _HARMLESS or key in _READ or (key, value) == ("bias", "none"):
            continue
        problems.append(f"{short(key)} ({_REASONS.get(key, 'a setting that is not known here')})")
    if config.get("bias", "none") not in ("none", None):
        problems.append(f"bias ({_REASONS['bias']})")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(_BASE_CHANGING):
        problems.append(
            f"init_lora_weights {short(init)} (it changes the base too; save it with "
            "path_initial_model_for_weight_conversion)"
        )
    for key, common in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or any(v != config[common] for v in pattern.values()):
            problems.append(f"{key} (modules differ in {common}; one is needed for all)")
    return problems
