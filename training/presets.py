"""Model shapes, as frozen presets, and the Gemma 3 that each one means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from pushkin_runtime.control_tokens import BOS, EOS, PAD, RESERVED_TOKENS

GLOBAL_ROPE_THETA = 1_000_000.0
LOCAL_ROPE_THETA = 10_000.0
SLIDING_WINDOW_PATTERN = 6  # five local layers, then a global one


@dataclass(frozen=True)
class ModelPreset:
    """A Gemma 3 text shape. Sizes in elements; every one is a multiple of 64, INT4's group."""

    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_size: int = 64
    vocab_size: int = 16_384
    sliding_window: int = 256
    max_position: int = 2048

    def config(self) -> Gemma3TextConfig:
        """The transformers config: QK norm, tied embeddings, 5 local : 1 global, both RoPE bases."""
        return Gemma3TextConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.n_layers,
            num_attention_heads=self.n_heads,
            num_key_value_heads=self.n_kv_heads,
            head_dim=self.head_size,
            query_pre_attn_scalar=self.head_size,
            sliding_window=self.sliding_window,
            layer_types=[
                "full_attention"
                if (index + 1) % SLIDING_WINDOW_PATTERN == 0
                else "sliding_attention"
                for index in range(self.n_layers)
            ],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": GLOBAL_ROPE_THETA},
                "sliding_attention": {"rope_type": "default", "rope_theta": LOCAL_ROPE_THETA},
            },
            max_position_embeddings=self.max_position,
            tie_word_embeddings=True,
            pad_token_id=RESERVED_TOKENS.index(PAD),
            eos_token_id=RESERVED_TOKENS.index(EOS),
            bos_token_id=RESERVED_TOKENS.index(BOS),
        )


def new_model(config: Gemma3TextConfig) -> Gemma3ForCausalLM:
    """transformers' model with random weights, its embeddings scaled as in serving."""
    model = Gemma3ForCausalLM(config)
    scale_as_served(model)
    return model


def scale_as_served(model: nn.Module) -> None:
    """Round √hidden, by which embeddings are multiplied, to bfloat16, as Gemma was trained and every engine does.

    transformers rounds it under bfloat16 weights only; for a hidden size of 384 that is 0.15 % apart.
    """
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    embedding.embed_scale = embedding.embed_scale.bfloat16().float()


PRESETS: dict[str, ModelPreset] = {
    "tiny": ModelPreset(64, 128, 6, 2, 1, head_size=64, vocab_size=512, sliding_window=16),
    "mini-cpu": ModelPreset(256, 768, 6, 4, 2),
    "mini": ModelPreset(384, 1536, 12, 6, 2),
}
