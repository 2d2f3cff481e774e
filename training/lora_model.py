"""A frozen base with LoRA on its language model: targets, scaling, frozen A, a parent's weights.

Plain scaling is alpha / rank, rank-stabilised alpha / √rank (arXiv:2312.03732): alpha 128 at rank 64 means 2
under the first and 16 under the second, so without a stated alpha both get the same effective scale.
Freezing A is LoRA-FA (arXiv:2308.03303).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from adapters.format import JSON_NAME, TARGETS, WEIGHTS_NAME, parse_manifest, scale_of
from training.export import load_exported
from training.presets import scale_as_served

DEFAULT_SCALE = 2.0
MAX_SANE_SCALE = 8.0
_ADAPTER = "default"
_SHORT_NAMES = {name.rpartition(".")[2].removesuffix("_proj"): name for name in TARGETS}
_BASE_NAME = re.compile(
    r"base_model\.model\.(?:model\.)?(?:language_model\.)?(?:model\.)?(layers\..+)"
)


@dataclass(frozen=True)
class LoraSettings:
    """What is trained. targets: short names of the linears, q k v o gate up down."""

    rank: int = 64
    alpha: float | None = None  # None: DEFAULT_SCALE under either scaling
    rank_stabilised: bool = False
    freeze_a: bool = False
    dropout: float = 0.05
    targets: tuple[str, ...] = tuple(_SHORT_NAMES)

    def __post_init__(self) -> None:
        unknown = [name for name in self.targets if name not in _SHORT_NAMES]
        if unknown or not self.targets:
            raise ValueError(
                f"targets {', '.join(unknown) or '(none)'}: expected some of {', '.join(_SHORT_NAMES)}"
            )
        if self.scale > MAX_SANE_SCALE:
            raise ValueError(
                f"alpha {self.alpha:g} at rank {self.rank} is an effective scale of {self.scale:g}, over "
                f"{MAX_SANE_SCALE:g}: leave alpha out, or give {DEFAULT_SCALE * self._divisor:g} for {DEFAULT_SCALE:g}"
            )

    @property
    def _divisor(self) -> float:
        return math.sqrt(self.rank) if self.rank_stabilised else float(self.rank)

    @property
    def effective_alpha(self) -> float:
        """The alpha given, or the one that makes the effective scale DEFAULT_SCALE."""
        return DEFAULT_SCALE * self._divisor if self.alpha is None else self.alpha

    @property
    def scale(self) -> float:
        """The factor of B·A."""
        return scale_of(self.rank, self.effective_alpha, rslora=self.rank_stabilised)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The targets as an adapter's manifest names them."""
        return tuple(module for name, module in _SHORT_NAMES.items() if name in self.targets)


def load_base(folder: Path) -> nn.Module:
    """The base model: an INT4 folder of ours as the float32 weights it stands for, else as it is."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "quantization" in config:
        return load_exported(folder)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    scale_as_served(model)
    return model


def target_pattern(targets: Sequence[str]) -> str:
    """A regex for PEFT, which matches it against whole module names.

    It takes the language model of the text class and of the multimodal one, never a vision tower, whose layers
    carry the same names.
    """
    modules = "|".join(re.escape(_SHORT_NAMES[name]) for name in targets)
    return rf"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.\d+\.(?:{modules})"


def attach_lora(base: nn.Module, settings: LoraSettings, parent: Path | None = None) -> PeftModel:
    """`base` frozen, with trainable float32 adapter matrices, which begin as `parent`'s if one is given.

    parent: a folder in our format or in PEFT's; rank, scale and modules must be those of `settings`.
    Raises ValueError with every difference.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.effective_alpha,  # type: ignore[arg-type]  # PEFT divides it: any number will do
        use_rslora=settings.rank_stabilised,
        lora_dropout=settings.dropout,
        target_modules=target_pattern(settings.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    if parent is not None:
        load_weights(model, settings, parent)
    if settings.freeze_a:
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)
    return model


def attach_adapter(base: nn.Module, adapter: Path) -> PeftModel:
    """`base` with an adapter in our format attached as it is, for measuring."""
    manifest = parse_manifest((adapter / JSON_NAME).read_bytes(), adapter.name)
    targets = tuple(
        name for name, module in _SHORT_NAMES.items() if module in manifest.target_modules
    )
    settings = LoraSettings(
        rank=manifest.rank,
        alpha=manifest.alpha,
        rank_stabilised=manifest.rslora,
        dropout=0.0,
        targets=targets,
    )
    return attach_lora(base, settings, adapter)


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """The adapter under the names of our format: `<module>.lora_a` (rank, in), `.lora_b` (out, rank)."""
    tensors: dict[str, Tensor] = {}
    for module, side, parameter in _matrices(model):
        tensors[f"{module}.lora_{side}"] = parameter.detach()
    return tensors


def _matrices(model: PeftModel) -> list[tuple[str, str, nn.Parameter]]:
    found: list[tuple[str, str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        for side in ("A", "B"):
            suffix = f".lora_{side}.{_ADAPTER}.weight"
            match = (
                _BASE_NAME.fullmatch(name.removesuffix(suffix)) if name.endswith(suffix) else None
            )
            if match:
                found.append((match[1], side.lower(), parameter))
    return found


def parent_name(parent: Path) -> str:
    """What a parent is called in the child's manifest."""
    if (parent / JSON_NAME).is_file():
        return parse_manifest((parent / JSON_NAME).read_bytes(), parent.name).name
    return parent.name


def load_weights(model: PeftModel, settings: LoraSettings, parent: Path) -> None:
    """Overwrite the adapter's matrices with those of a folder, ours or PEFT's. Raises as `attach_lora`."""
    scale, tensors = _read_parent(parent)
    own = {f"{module}.lora_{side}": matrix for module, side, matrix in _matrices(model)}
    problems = [f"{name} is missing" for name in own.keys() - tensors.keys()]
    problems += [f"{name} is not adapted here" for name in tensors.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if tensors[name].shape != own[name].shape
    ]
    if not math.isclose(scale, settings.scale, rel_tol=1e-6):
        problems.append(f"its scale is {scale:g}, this run's {settings.scale:g}")
    if problems:
        raise ValueError(f"{parent} cannot be the parent: {'; '.join(sorted(problems)[:12])}")
    with torch.no_grad():
        for name, matrix in own.items():
            matrix.copy_(tensors[name])


def _read_parent(parent: Path) -> tuple[float, dict[str, Tensor]]:
    if (parent / JSON_NAME).is_file():
        manifest = parse_manifest((parent / JSON_NAME).read_bytes(), parent.name)
        return manifest.scale, load_file(parent / WEIGHTS_NAME)
    path = parent / "adapter_config.json"
    if not path.is_file():
        raise ValueError(f"{parent} is no adapter: it has neither {JSON_NAME} nor {path.name}")
    config = json.loads(path.read_text(encoding="utf-8"))
    scale = scale_of(config["r"], config["lora_alpha"], rslora=config.get("use_rslora", False))
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(parent / "adapter_model.safetensors").items():
        for side in ("A", "B"):
            suffix = f".lora_{side}.weight"
            match = _BASE_NAME.fullmatch(name.removesuffix(suffix))
            if name.endswith(suffix) and match:
                tensors[f"{match[1]}.lora_{side.lower()}"] = tensor
    return scale, tensors
