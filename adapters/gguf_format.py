"""GGUF LoRA, read only: what llama.cpp's `convert_lora_to_gguf.py` writes for Gemma 3.

Tensors are `blk.N.attn_q.weight.lora_a` (rank, in) and `.lora_b` (out, rank) in row-major order. llama.cpp's
factor is adapter.lora.alpha / rank, and 1 when alpha is 0 (`llama_adapter_lora_weight::get_scale`).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from adapters.draft import Draft, Provenance
from adapters.errors import AdapterCorrupt, AdapterUnsupported, listed
from adapters.format import MAX_ALPHA, MAX_RANK, BaseModel, scale_of
from adapters.gguf_file import GgufFile, read_gguf
from adapters.untrusted import short

ARCHITECTURE = "gemma3"

_TARGETS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR = re.compile(
    r"blk\.(0|[1-9]\d{0,3})\.(" + "|".join(_TARGETS) + r")\.weight\.(lora_a|lora_b)"
)


def import_gguf(
    path: Path, *, name: str, base: BaseModel, provenance: Provenance | None = None
) -> Draft:
    """Read a GGUF LoRA adapter; bfloat16 and Q8_0 become float32.

    Raises AdapterNotFound, AdapterUnsupported (no LoRA, another architecture, other layers) or
    AdapterCorrupt.
    """
    read = read_gguf(path, path.name)
    _check_kind(read, path.name)
    pairs: dict[str, dict[str, np.ndarray]] = {}
    problems: list[str] = []
    for stored, array in read.tensors.items():
        match = _TENSOR.fullmatch(stored)
        if match is None:
            problems.append(f"{short(stored)} is not LoRA of a linear layer of {ARCHITECTURE}")
        else:
            module = f"layers.{match[1]}.{_TARGETS[match[2]]}"
            pairs.setdefault(module, {})[match[3]] = array
    problems += [f"{m} has only one of its two matrices" for m, p in pairs.items() if len(p) != 2]
    if problems or not pairs:
        raise AdapterUnsupported(
            f"{path.name}: {listed(problems or ['there are no LoRA tensors'])}."
        )
    modules = {module: (pair["lora_a"], pair["lora_b"]) for module, pair in pairs.items()}
    rank = next(iter(modules.values()))[0].shape[0]
    alpha = _alpha(read, path.name) or float(rank)
    if not 1 <= rank <= MAX_RANK:
        raise AdapterUnsupported(f"{path.name}: rank {rank}, expected 1 to {MAX_RANK}.")
    return Draft(
        name=name,
        base=base,
        rank=rank,
        alpha=alpha,
        scale=scale_of(rank, alpha, rslora=False),
        rslora=False,
        modules=modules,
        provenance=provenance or Provenance(),
    )


def _check_kind(read: GgufFile, where: str) -> None:
    expected = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": ARCHITECTURE,
    }
    problems = [
        f"{key} is {short(read.fields.get(key))}, expected {value!r}"
        for key, value in expected.items()
        if read.fields.get(key) != value
    ]
    if read.fields.get("adapter.alora.invocation_tokens"):
        problems.append("activated LoRA depends on the position in the text")
    if problems:
        raise AdapterUnsupported(f"{where}: not a LoRA that can be served: {listed(problems)}.")


def _alpha(read: GgufFile, where: str) -> float:
    alpha = read.fields.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or not abs(alpha) <= MAX_ALPHA:
        raise AdapterCorrupt(f"{where}: adapter.lora.alpha is {short(alpha)}, expected a number.")
    return float(alpha)
