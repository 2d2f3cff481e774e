"""The rig as GGUF: architecture gemma3, matrices in Q4_0, and the model's own vocabulary.

Q4_0 for the embeddings too: 4.5 bits a weight everywhere, as in mlx-lm's layout, so that a comparison
is at the same bits. (llama.cpp's own converter would keep the embeddings at 6 bits.)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.true_shape_weights import Q4_0_BLOCK
from pushkin_runtime.model_config import ModelConfig

ARCHITECTURE = "gemma3"
Q4_0_BLOCK_BYTES = 18
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


def gguf_name(name: str, n_layers: int) -> str:
    """GGUF's name of our tensor `name`, e.g. blk.0.attn_q.weight."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, n_layers)
    found = names.get_name(f"model.{name}", try_suffixes=(".weight",))
    if found is None:
        raise ValueError(f"{name} has no GGUF name in architecture {ARCHITECTURE}")
    return found


class GgufModel:
    """A GGUF file written tensor by tensor, in the order in which `shapes` declares them."""

    def __init__(self, path: Path, config: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> None:
        self._writer = GGUFWriter(path, ARCHITECTURE)
        self._config, self._shapes = config, shapes

    @contextlib.contextmanager
    def opened(self, tokenizer: Tokenizer) -> Iterator[GgufModel]:
        """Write everything before the weights, yield, close."""
        _add_architecture(self._writer, self._config)
        _add_vocabulary(self._writer, tokenizer, self._config.vocab_size)
        for name, shape in self._shapes.items():
            self._declare(gguf_name(name, self._config.n_layers), shape)
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_ti_data_to_file()
        try:
            yield self
        finally:
            self._writer.close()

    def _declare(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) == 1:
            self._writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
            return
        row = shape[1] // Q4_0_BLOCK * Q4_0_BLOCK_BYTES
        self._writer.add_tensor_info(
            name,
            (shape[0], row),
            np.dtype(np.uint8),
            shape[0] * row,
            raw_dtype=GGMLQuantizationType.Q4_0,
        )

    def write(self, data: NDArray[np.uint8] | NDArray[np.float32]) -> None:
        """The next declared tensor: Q4_0 bytes, or a norm as (1 + w)."""
        self._writer.write_tensor_data(data)


def _add_architecture(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_name("true shape")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_sliding_window(config.sliding_window)  # llama.cpp itself assumes every 6th global
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(config.rope_factor)


def _add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer, vocab_size: int) -> None:
    """A SentencePiece vocabulary: merges are in the order of ids, so a piece's score is minus its id."""
    added = tokenizer.get_added_tokens_decoder()
    pieces = [f"[PAD{i}]" for i in range(vocab_size)]
    kinds = [TokenType.UNUSED] * vocab_size
    for piece, index in tokenizer.get_vocab(with_added_tokens=True).items():
        pieces[index], kinds[index] = piece, TokenType.NORMAL
        if index in added and added[index].special:
            kinds[index] = TokenType.CONTROL
        elif index in added:
            pieces[index], kinds[index] = piece.replace("▁", " "), TokenType.USER_DEFINED
        elif _BYTE_PIECE.fullmatch(piece):
            kinds[index] = TokenType.BYTE
    kinds[pieces.index("<unk>")] = TokenType.UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(i) for i in range(vocab_size)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(pieces.index("<bos>"))
    writer.add_eos_token_id(pieces.index("<eos>"))
    writer.add_pad_token_id(pieces.index("<pad>"))
    writer.add_unk_token_id(pieces.index("<unk>"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
