"""Whisper's encoder and the projector in MLX; the twin of `torch_speech`, parity is tested."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import mlx.core as mx
import numpy as np
from mlx.nn.layers.activations import gelu

from pushkin_runtime.speech_model import EncoderConfig, FloatArray, Projector, at_rms

LAYER_NORM_EPS = 1e-5


class MlxSpeechEncoder:
    """See `SpeechEncoder`. Float32; arrays belong to the thread that makes it."""

    def __init__(
        self,
        config: EncoderConfig,
        weights: Mapping[str, FloatArray],
        projector: Projector,
        _n_threads: int | None = None,  # MLX has its own way
    ) -> None:
        self.config = config
        self._weights = {name: mx.array(array) for name, array in weights.items()}
        for name in ("conv1.weight", "conv2.weight"):  # MLX has channels last
            self._weights[name] = self._weights[name].transpose(0, 2, 1)
        self._first, self._second = mx.array(projector.first), mx.array(projector.second)
        self._first_bias = mx.array(projector.first_bias)
        self._second_bias = mx.array(projector.second_bias)
        self._row_rms = projector.row_rms

    def encode(self, mels: Sequence[FloatArray]) -> Generator[bool, None, list[FloatArray]]:
        lengths = np.array([mel.shape[1] for mel in mels])
        padded = np.zeros((len(mels), int(lengths.max()), self.config.n_mels), np.float32)
        for row, mel in zip(padded, mels, strict=True):
            row[: mel.shape[1]] = mel.T
        x, mask = self._convolved(mx.array(padded), lengths)
        for i in range(self.config.n_layers):
            x = self._layer(i, x, mask)
            mx.eval(x)
            yield True
        states = np.array(self._norm(x, "layer_norm."))
        return [
            np.ascontiguousarray(row[: self.config.n_states(int(n))])
            for row, n in zip(states, lengths, strict=True)
        ]

    def project(self, stacked: FloatArray) -> FloatArray:
        hidden = mx.maximum(mx.array(stacked) @ self._first.T + self._first_bias, 0.0)
        return at_rms(np.array(hidden @ self._second.T + self._second_bias), self._row_rms)

    def _convolved(self, x: mx.array, lengths: np.ndarray) -> tuple[mx.array, mx.array | None]:
        """x: (b, t, n_mels), zero beyond each row's length → (b, ⌈t / 2⌉, d_model), and a mask to add."""
        w = self._weights
        x = gelu(mx.conv1d(x, w["conv1.weight"], padding=1) + w["conv1.bias"])
        is_real = np.arange(x.shape[1]) < lengths[:, None]
        x = x * mx.array(
            is_real[..., None].astype(np.float32)
        )  # as if each clip ended where it ends
        x = gelu(mx.conv1d(x, w["conv2.weight"], stride=2, padding=1) + w["conv2.bias"])
        x = x + w["embed_positions.weight"][: x.shape[1]]
        is_state = np.arange(x.shape[1]) < ((lengths + 1) // 2)[:, None]
        if is_state.all():
            return x, None
        mask = np.where(is_state, 0.0, -np.inf).astype(np.float32)[:, None, None]
        return x, mx.array(mask)

    def _layer(self, i: int, x: mx.array, mask: mx.array | None) -> mx.array:
        p = f"layers.{i}."
        h = self._norm(x, p + "self_attn_layer_norm.")
        n_rows, n_states, width = x.shape
        heads = (n_rows, n_states, self.config.n_heads, width // self.config.n_heads)
        q, k, v = (
            self._linear(h, f"{p}self_attn.{name}_proj.").reshape(heads).transpose(0, 2, 1, 3)
            for name in ("q", "k", "v")
        )
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=heads[-1] ** -0.5, mask=mask)
        out = out.transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + self._linear(out, p + "self_attn.out_proj.")
        h = gelu(self._linear(self._norm(x, p + "final_layer_norm."), p + "fc1."))
        return x + self._linear(h, p + "fc2.")

    def _linear(self, x: mx.array, name: str) -> mx.array:
        y = x @ self._weights[name + "weight"].T
        bias = self._weights.get(name + "bias")
        return y if bias is None else y + bias

    def _norm(self, x: mx.array, name: str) -> mx.array:
        scale, shift = self._weights[name + "weight"], self._weights[name + "bias"]
        return mx.fast.layer_norm(x, scale, shift, LAYER_NORM_EPS)
