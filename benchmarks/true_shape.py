"""A synthetic Gemma 3 of a true shape, in our format and as GGUF Q4_0, with LoRA adapters.

`python -m benchmarks.true_shape --out DIR [--shape 4b|tiny] [--layers N] [--tokenizer tokenizer.json]`
writes the same random INT4 numbers twice: mlx-lm's layout for our engines and mlx_lm.server, Q4_0 for
llama-server. Layer by layer, so that memory stays under the largest matrix a few times over.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.harness import REPOSITORY, say
from benchmarks.true_shape_adapters import AdapterPaths, AdapterSpec, write_adapter
from benchmarks.true_shape_gguf import GgufModel
from benchmarks.true_shape_weights import (
    GROUP_SIZE,
    mlx_tensors,
    q4_0_bytes,
    random_matrix,
    random_norm,
    save_tensors,
)
from pushkin_runtime.model_config import ModelConfig, parse_config
from pushkin_runtime.model_store import expected_shapes
from training.tokenizer import save_tokenizer, train_tokenizer

SEED = 1799
RIG_FORMAT = 2
OUR_TOKENIZER = REPOSITORY / "models" / "pushkin-mini" / "tokenizer.json"
OUR_VOCAB_SIZE = 16_384
FILLER = "ꙮ"  # a letter that one manuscript of 1429 has, and no document of ours
_PLAIN = ("<pad>", "<eos>", "<bos>", "<unk>")
PATTERN = 6  # every 6th layer is global; llama.cpp knows Gemma 3 in no other way
# Every linear keeps unit size, and Gemma's norms before and after each block keep the residual stream
# finite. The embeddings are small and the last norm large: logits spread over a few units, and a token
# is not its own likeliest successor.
EMBEDDING_SIZE = 0.5  # of an embedding row after Gemma's scaling by the root of its width
LAST_NORM = 3.0  # w of (1 + w)
TEXT = (
    "The old house stood by the river, and nobody had lived in it since the winter of the great snow. "
    "Старый дом стоял у реки, и никто не жил в нём с той зимы, когда выпал большой снег. "
)

SHAPES: dict[str, dict[str, Any]] = {
    "4b": {
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_144,
        "max_position_embeddings": 131_072,
        "sliding_window": 1024,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 512,
        "max_position_embeddings": 512,
        "sliding_window": 16,
    },
}

ADAPTERS: dict[str, tuple[AdapterSpec, ...]] = {
    # 81.3 million parameters, 163 MB in bfloat16, twice; 30.5 million, 61 MB.
    "4b": (
        AdapterSpec("r64-a", 64, 128, seed=1),
        AdapterSpec("r64-b", 64, 128, seed=2),
        AdapterSpec("r24", 24, 48, seed=3),
    ),
    "tiny": (AdapterSpec("r4-a", 4, 8, seed=1), AdapterSpec("r4-b", 4, 8, seed=2)),
}


@dataclass(frozen=True, slots=True)
class Rig:
    """A built rig: model (our format), gguf (the same numbers), adapters by name."""

    shape: str
    model: Path
    gguf: Path
    adapters: dict[str, AdapterPaths]
    n_layers: int
    n_parameters: int


def model_config(shape: str, n_layers: int | None = None) -> dict[str, Any]:
    """config.json of `shape`, with RoPE and window in both generations of keys."""
    content = dict(SHAPES[shape])
    if n_layers is not None:
        content["num_hidden_layers"] = n_layers
    scaling = {"rope_type": "linear", "factor": 8.0}
    return content | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "dtype": "bfloat16",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": content["head_dim"],
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "sliding_window_pattern": PATTERN,
        "rope_parameters": {
            "full_attention": scaling | {"rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "rope_scaling": scaling,
        "quantization": {"group_size": GROUP_SIZE, "bits": 4, "mode": "affine"},
    }


def build(
    out: Path, shape: str, *, n_layers: int | None = None, tokenizer: Path | None = None
) -> Rig:
    """Write the rig into the new or empty folder `out`.

    tokenizer: a tokenizer.json; without one it is ours, or a small one where ours is too large. Raises FileExistsError when `out` holds anything.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: name a new folder, or remove it.")
    model = out / "model"
    model.mkdir(parents=True)
    content = model_config(shape, n_layers)
    (model / "config.json").write_text(json.dumps(content, indent=1))
    config = parse_config(content, shape)
    vocabulary = vocabulary_of(tokenizer, config.vocab_size)
    save_tokenizer(vocabulary, model)
    n_parameters = _write_weights(out, config, vocabulary)
    for spec in ADAPTERS[shape]:
        write_adapter(out, config, spec)
    rig = {
        "format": RIG_FORMAT,
        "shape": shape,
        "adapters": [spec.name for spec in ADAPTERS[shape]],
        "n_layers": config.n_layers,
        "n_parameters": n_parameters,
    }
    (out / "rig.json").write_text(json.dumps(rig, indent=1))  # last: a rig without it is incomplete
    return open_rig(out)


def open_rig(folder: Path) -> Rig:
    """A rig that `build` finished. Raises FileNotFoundError when there is none in `folder`."""
    record = folder / "rig.json"
    if not record.is_file():
        raise FileNotFoundError(
            f"{record} is missing: build a rig with `python -m benchmarks.true_shape --out {folder}`."
        )
    content = json.loads(record.read_text())
    if content["format"] != RIG_FORMAT:
        raise FileNotFoundError(f"{folder}: a rig of an older kind; remove it and build a new one.")
    return Rig(
        shape=content["shape"],
        model=folder / "model",
        gguf=folder / "model-q4_0.gguf",
        adapters={name: AdapterPaths.under(folder, name) for name in content["adapters"]},
        n_layers=content["n_layers"],
        n_parameters=content["n_parameters"],
    )


def vocabulary_of(path: Path | None, vocab_size: int) -> Tokenizer:
    """The tokenizer in `path`, ours or a small one, with a piece for every row of the embeddings.

    A sampled token is then text, as it would be with a real model of this size. The pieces put in come out of no
    text, and ours has none of its control codes: prompts are plain, as a foreign model's are.
    """
    if path is None and vocab_size < OUR_VOCAB_SIZE:
        return train_tokenizer(iter([TEXT * 20]), vocab_size=min(vocab_size, 512))
    content = json.loads((path or OUR_TOKENIZER).read_text(encoding="utf-8"))
    content["added_tokens"] = [
        token
        for token in content["added_tokens"]
        if token["id"] < vocab_size and (path is not None or token["content"] in _PLAIN)
    ]
    vocabulary = content["model"]["vocab"]
    taken = set(vocabulary.values()) | {token["id"] for token in content["added_tokens"]}
    vocabulary |= {f"{FILLER}{i}": i for i in range(vocab_size) if i not in taken}
    return Tokenizer.from_str(json.dumps(content))


def _write_weights(out: Path, config: ModelConfig, vocabulary: Tokenizer) -> int:
    """Both formats in one pass, one shard of ours for each layer; the number of parameters."""
    shapes = {name: tuple(shape) for name, shape in expected_shapes(config).items()}
    gguf = GgufModel(out / "model-q4_0.gguf", config, shapes)
    shards = _by_layer(list(shapes))
    with gguf.opened(vocabulary) as written:
        for number, names in enumerate(shards):
            shard: dict[str, torch.Tensor] = {}
            for name in names:
                rng = np.random.default_rng([SEED, number, len(shard)])
                if len(shapes[name]) == 1:
                    w = random_norm(rng, shapes[name][0], LAST_NORM if name == "norm.weight" else 0)
                    shard[f"model.{name}"] = torch.from_numpy(w).to(torch.bfloat16)
                    written.write(1 + w)
                    continue
                n_out, n_in = shapes[name]
                size = EMBEDDING_SIZE if name.startswith("embed") else 1.0
                matrix = random_matrix(rng, n_out, n_in, size / math.sqrt(n_in))
                shard |= mlx_tensors(f"model.{name}", matrix)
                written.write(q4_0_bytes(matrix))
            file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
            save_tensors(out / "model" / file, shard)
    return sum(math.prod(shape) for shape in shapes.values())


def _by_layer(names: Sequence[str]) -> list[list[str]]:
    """Names in their order: first those outside the layers, then those of each layer."""

    def groups() -> Iterator[list[str]]:
        current, found = "", list[str]()
        for name in names:
            layer = ".".join(name.split(".")[:2]) if name.startswith("layers.") else ""
            if layer != current:
                yield found
                current, found = layer, []
            found.append(name)
        yield found

    return list(groups())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--shape", choices=list(SHAPES), default="4b")
    parser.add_argument(
        "--layers", type=int, help=f"instead of the shape's own, at least {PATTERN}"
    )
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, e.g. Gemma 3's own")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    try:
        rig = build(
            arguments.out,
            arguments.shape,
            n_layers=arguments.layers,
            tokenizer=arguments.tokenizer,
        )
    except FileExistsError as error:
        parser.error(str(error))
    n_bytes = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    say(
        f"{rig.n_layers} layers, {rig.n_parameters / 1e6:,.1f} million parameters, "
        f"{n_bytes / 1e9:.2f} GB in {time.monotonic() - started:.0f} s -> {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
