"""Export a checkpoint to mlx-lm's INT4 layout: `python -m training.export --checkpoint DIR --out DIR`.

Matrices become uint32 codes with bfloat16 scales and biases (affine, groups of 64), norms bfloat16.
config.json carries both generations of RoPE and window keys, because mlx-lm 0.32 does not read
transformers 5's `rope_parameters`. Only `quantization` is written, not its Hugging Face alias:
transformers would take that for a quantiser of its own. manifest.json holds each file's SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from pushkin_runtime.control_tokens import EOS, RESERVED_TOKENS
from training.checkpoint import write_atomic
from training.fake_quant import BITS, GROUP_SIZE
from training.presets import SLIDING_WINDOW_PATTERN, new_model
from training.tokenizer import TOKENIZER_FILES

WEIGHTS_NAME = "model.safetensors"
MANIFEST_FORMAT = 1


def export_config(config: Gemma3TextConfig) -> dict[str, Any]:
    """config.json that transformers 5 and mlx-lm 0.32 read alike.

    Raises ValueError for RoPE scaling or a layer pattern that the old keys cannot say.
    """
    content: dict[str, Any] = config.to_dict()
    ropes = content["rope_parameters"]
    scaled = [name for name, rope in ropes.items() if rope["rope_type"] != "default"]
    pattern = [
        "full_attention" if (index + 1) % SLIDING_WINDOW_PATTERN == 0 else "sliding_attention"
        for index in range(config.num_hidden_layers)
    ]
    if scaled or content["layer_types"] != pattern:
        raise ValueError(
            f"cannot export: RoPE scaling on {scaled or 'no layer type'}, "
            f"layer_types {content['layer_types']}, expected {pattern}"
        )
    content.pop("_sliding_window_pattern", None)
    content.update(
        architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text",
        dtype="bfloat16",
        rope_theta=ropes["full_attention"]["rope_theta"],
        rope_local_base_freq=ropes["sliding_attention"]["rope_theta"],
        rope_scaling=None,
        sliding_window_pattern=SLIDING_WINDOW_PATTERN,
        quantization={"group_size": GROUP_SIZE, "bits": BITS, "mode": "affine"},
    )
    return dict(sorted(content.items()))


def quantize_weights(weights: dict[str, torch.Tensor]) -> dict[str, mx.array]:
    """INT4 codes, scales and biases for every matrix, bfloat16 for the rest; mlx-lm's names."""
    result: dict[str, mx.array] = {}
    for name, tensor in weights.items():
        value = mx.array(tensor.float().numpy()).astype(mx.bfloat16)
        if tensor.ndim != 2:
            result[name] = value
            continue
        codes, scales, biases = mx.quantize(value, group_size=GROUP_SIZE, bits=BITS)
        stem = name.removesuffix(".weight")
        result |= {name: codes, f"{stem}.scales": scales, f"{stem}.biases": biases}
    return result


def dequantized_weights(folder: Path, spread_seed: int | None = None) -> dict[str, torch.Tensor]:
    """The float32 weights that an exported folder stands for, with transformers' names.

    With `spread_seed` they are a start for training through INT4: see `spread_in_cells`.
    """
    stored: Any = mx.load(str(folder / WEIGHTS_NAME))
    generator = None if spread_seed is None else torch.Generator().manual_seed(spread_seed)
    result: dict[str, torch.Tensor] = {}
    for name, value in stored.items():
        stem = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{stem}.scales" in stored:
            value = mx.dequantize(
                value,
                stored[f"{stem}.scales"].astype(mx.float32),
                stored[f"{stem}.biases"].astype(mx.float32),
                group_size=GROUP_SIZE,
                bits=BITS,
            )
        result[name] = torch.from_numpy(np.array(value.astype(mx.float32)))
        if generator is not None and f"{stem}.scales" in stored:
            scales = torch.from_numpy(np.array(stored[f"{stem}.scales"].astype(mx.float32)))
            result[name] = spread_in_cells(result[name], scales, generator)
    return result


def spread_in_cells(
    weight: torch.Tensor, scales: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Weights (out, in) drawn evenly from the INT4 cells in whose middles those given lie.

    From the middle of a cell rounding undoes every small step. The two ends of a group stay, for
    they set its grid. scales: (out, in / GROUP_SIZE).
    """
    groups = weight.reshape(-1, GROUP_SIZE)
    offsets = (torch.rand(groups.shape, generator=generator) - 0.5) * scales.reshape(-1, 1).abs()
    inner = (groups > groups.amin(1, keepdim=True)) & (groups < groups.amax(1, keepdim=True))
    return torch.where(inner, groups + offsets, groups).reshape(weight.shape)


def load_exported(folder: Path) -> Gemma3ForCausalLM:
    """transformers' model, float32, with an exported folder's dequantised weights."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content.pop("quantization")
    return _with_weights(Gemma3TextConfig(**content), dequantized_weights(folder))


def load_checkpoint(folder: Path) -> Gemma3ForCausalLM:
    """transformers' model, float32, of a training checkpoint."""
    config = Gemma3TextConfig.from_pretrained(folder)
    return _with_weights(config, load_file(folder / WEIGHTS_NAME))


def _with_weights(config: Gemma3TextConfig, weights: dict[str, torch.Tensor]) -> Gemma3ForCausalLM:
    model = new_model(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    wrong = [name for name in missing if name != "lm_head.weight"] + list(unexpected)
    if wrong:
        raise ValueError(f"weights do not fit the config: {', '.join(wrong)}")
    model.tie_weights()
    return model.eval()


def write_manifest(folder: Path) -> None:
    """manifest.json: SHA-256 and size of every file the model is made of; its card may be edited."""
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "n_bytes": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.name not in ("manifest.json", "README.md")
        and not path.name.startswith(".")
    }
    content = {"format": MANIFEST_FORMAT, "files": files}
    write_atomic(folder / "manifest.json", json.dumps(content, indent=2) + "\n")


def export(checkpoint: Path, tokenizer: Path, out: Path) -> int:
    """Write the model folder; its size in bytes. A README.md that is there already is kept."""
    out.mkdir(parents=True, exist_ok=True)
    config = export_config(Gemma3TextConfig.from_pretrained(checkpoint))
    weights = quantize_weights(load_file(checkpoint / WEIGHTS_NAME))
    temporary = out / ".model.tmp.safetensors"
    mx.save_safetensors(str(temporary), weights, metadata={"format": "mlx"})
    temporary.replace(out / WEIGHTS_NAME)
    write_atomic(out / "config.json", json.dumps(config, indent=2) + "\n")
    generation = {
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": RESERVED_TOKENS.index(EOS),
        "pad_token_id": config["pad_token_id"],
    }
    write_atomic(out / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, out / name)
    write_manifest(out)
    return sum(path.stat().st_size for path in out.iterdir() if path.is_file())


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="training.export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="default: the checkpoint's run folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    n_bytes = export(args.checkpoint, args.tokenizer or args.checkpoint.parent, args.out)
    print(f"{n_bytes / 1e6:.2f} MB -> {args.out}")


if __name__ == "__main__":
    main()
