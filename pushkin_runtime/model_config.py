"""`config.json` of a Gemma 3 checkpoint → the numbers the engines need, every mismatch at once.

Three layouts are read: Hugging Face `gemma3_text`, the same quantised by mlx-lm, and the multimodal
`gemma3` (text part only). Keys absent from a config take transformers' `Gemma3TextConfig` defaults,
because the published 4B config relies on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pushkin_runtime.errors import ModelUnsupported

_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
_NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "vision_model.")
_BITS = (4, 6, 8)
_GROUP_SIZES = (32, 64, 128)

SMALL_MODEL = 200_000_000  # parameters up to which float32 is affordable, whatever the file has


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """MLX affine quantisation: `bits` per weight, one scale and bias per `group_size` of a row.

    exceptions: modules by our name, e.g. layers.0.mlp.down_proj, whose matrices have other numbers.
    """

    group_size: int
    bits: int
    exceptions: Mapping[str, Quantization] = field(default_factory=dict)

    def of(self, module: str) -> Quantization:
        """Return what holds for the matrix of `module`."""
        return self.exceptions.get(module, self)

    @property
    def label(self) -> str:
        """For people: "int4 g64", or "int4 g64, some int8"."""
        more = sorted({f", some int{own.bits}" for own in self.exceptions.values()})
        return f"int{self.bits} g{self.group_size}{''.join(more)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Gemma 3 text architecture (arXiv:2503.19786).

    sliding_window: tokens a local layer sees, itself included. sliding_window_pattern: every n-th layer
    is global. rope_factor: linear position scaling of the global layers (8 for the 4B).
    """

    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    sliding_window: int
    sliding_window_pattern: int
    rms_norm_eps: float
    query_pre_attn_scalar: float
    rope_theta: float
    rope_local_theta: float
    rope_factor: float
    tied_embeddings: bool
    quantization: Quantization | None

    def is_global(self, layer: int) -> bool:
        """Whether `layer` (from 0) attends to everything before it."""
        return (layer + 1) % self.sliding_window_pattern == 0


_DEFAULTS: dict[str, Any] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
}


def parse_config(raw: Mapping[str, Any], where: str) -> ModelConfig:
    """Return the architecture described by a parsed `config.json`.

    where: the model's name for messages. Raises ModelUnsupported with every problem found.
    """
    problems: list[str] = []
    model_type = raw.get("model_type")
    if model_type not in ("gemma3_text", "gemma3"):
        raise ModelUnsupported(
            f"{where}: model_type is {model_type!r}, expected 'gemma3_text' or 'gemma3' (Gemma 3)."
        )
    text: Mapping[str, Any] = raw
    if model_type == "gemma3":
        nested = raw.get("text_config")
        if not isinstance(nested, Mapping):
            raise ModelUnsupported(f"{where}: config.json of a 'gemma3' model has no text_config.")
        text = {**nested, **{k: raw[k] for k in ("vocab_size", "quantization") if k in raw}}
    values = {key: text.get(key, default) for key, default in _DEFAULTS.items()}
    for key, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            problems.append(f"{key} is {value!r}, expected a positive number")
    if problems:
        raise _unsupported(where, problems)
    pattern = _pattern(text, int(values["num_hidden_layers"]), problems)
    theta, local_theta, factor = _rope(text, problems)
    _check_supported(text, values, problems)
    quantization = _quantization(text, problems)
    if problems:
        raise _unsupported(where, problems)
    return ModelConfig(
        hidden_size=int(values["hidden_size"]),
        intermediate_size=int(values["intermediate_size"]),
        n_layers=int(values["num_hidden_layers"]),
        n_heads=int(values["num_attention_heads"]),
        n_kv_heads=int(values["num_key_value_heads"]),
        head_dim=int(values["head_dim"]),
        vocab_size=int(values["vocab_size"]),
        context_length=int(values["max_position_embeddings"]),
        sliding_window=int(values["sliding_window"]),
        sliding_window_pattern=pattern,
        rms_norm_eps=float(values["rms_norm_eps"]),
        query_pre_attn_scalar=float(values["query_pre_attn_scalar"]),
        rope_theta=theta,
        rope_local_theta=local_theta,
        rope_factor=factor,
        tied_embeddings=bool(text.get("tie_word_embeddings", True)),
        quantization=quantization,
    )


def our_name(stored: str) -> str | None:
    """Strip the layout's prefix from a tensor's or module's name; None for what is not the text model's."""
    if any(part in stored for part in _NOT_TEXT):
        return None
    for prefix in _PREFIXES:
        if stored.startswith(prefix):
            return stored.removeprefix(prefix)
    return stored.removeprefix("language_model.")


def _unsupported(where: str, problems: list[str]) -> ModelUnsupported:
    return ModelUnsupported(f"{where}: config.json cannot be used: " + "; ".join(problems) + ".")


def _pattern(text: Mapping[str, Any], n_layers: int, problems: list[str]) -> int:
    """Every n-th layer is global; `layer_types`, when present, must say the same."""
    layer_types = text.get("layer_types")
    pattern = text.get("sliding_window_pattern", text.get("_sliding_window_pattern"))
    if pattern is None and isinstance(layer_types, list) and "full_attention" in layer_types:
        pattern = layer_types.index("full_attention") + 1
    pattern = 6 if pattern is None else pattern
    if not isinstance(pattern, int) or pattern < 1 or pattern > n_layers:
        problems.append(f"sliding_window_pattern is {pattern!r}, expected 1 to {n_layers}")
        return 1
    regular = [
        "full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(n_layers)
    ]
    if layer_types is not None and layer_types != regular:
        problems.append(f"layer_types are not 'every {pattern}-th layer global'")
    return pattern


def _rope(text: Mapping[str, Any], problems: list[str]) -> tuple[float, float, float]:
    """Read both spellings: transformers 5's `rope_parameters` and the older flat keys.

    Ignoring the new one silently drops the 4B's factor 8 (`rope_scaling` is what mlx-lm reads).
    """
    new = text.get("rope_parameters") or {}
    full, local = new.get("full_attention") or {}, new.get("sliding_attention") or {}
    scaling = text.get("rope_scaling") or {}
    theta = full.get("rope_theta", text.get("rope_theta", 1_000_000.0))
    local_theta = local.get("rope_theta", text.get("rope_local_base_freq", 10_000.0))
    kind = full.get("rope_type", scaling.get("rope_type", scaling.get("type", "default")))
    factor = full.get("factor", scaling.get("factor", 1.0))
    if kind not in ("default", "linear"):
        problems.append(f"rope_type is {kind!r}, expected 'default' or 'linear'")
    if "factor" in full and "factor" in scaling and full["factor"] != scaling["factor"]:
        problems.append(
            f"rope_parameters has factor {full['factor']} but rope_scaling has {scaling['factor']}"
        )
    return float(theta), float(local_theta), float(factor) if kind == "linear" else 1.0


def _check_supported(
    text: Mapping[str, Any], values: Mapping[str, Any], problems: list[str]
) -> None:
    if values["num_attention_heads"] % values["num_key_value_heads"]:
        problems.append(
            f"num_attention_heads {values['num_attention_heads']} is not a multiple of "
            f"num_key_value_heads {values['num_key_value_heads']}"
        )
    expected = {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": False,
    }
    for key, wanted in expected.items():
        got = text.get(key, wanted)
        if got != wanted and not (wanted is False and got is None):
            problems.append(f"{key} is {got!r}, expected {wanted!r}")


def _quantization(text: Mapping[str, Any], problems: list[str]) -> Quantization | None:
    raw = text.get("quantization")
    if raw is None:
        return None
    # Beside the common numbers mlx-lm writes those of single modules, or false for one it left alone.
    own = {name: of for name, of in raw.items() if isinstance(of, Mapping)}
    exceptions: dict[str, Quantization] = {}
    for name, of in own.items():
        module = our_name(name)
        found = _numbers(of, f"quantization of {name}", problems)
        if module is not None and found is not None:
            exceptions[module] = found
    common = _numbers(raw, "quantization", problems)
    if common is None:
        return None
    return Quantization(group_size=common.group_size, bits=common.bits, exceptions=exceptions)


def _numbers(raw: Mapping[str, Any], what: str, problems: list[str]) -> Quantization | None:
    group_size, bits = raw.get("group_size"), raw.get("bits")
    if group_size not in _GROUP_SIZES or bits not in _BITS:
        problems.append(
            f"{what} is {bits!r} bits in groups of {group_size!r}, "
            "expected 4, 6 or 8 bits in groups of 32, 64 or 128"
        )
        return None
    if raw.get("mode", "affine") != "affine":
        problems.append(f"{what} has mode {raw['mode']!r}, expected 'affine'")
    return Quantization(group_size=group_size, bits=bits)
