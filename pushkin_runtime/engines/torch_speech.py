"""Whisper's encoder and the projector in PyTorch: the readable reference.

The encoder reads as many frames as there are: the positions' table is cut, nothing is padded to 30 s. Clips of different
length may share a batch; padding is masked in the convolutions and in attention, so none of it reaches a real frame.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.backends import mkldnn

from pushkin_runtime.speech_model import EncoderConfig, FloatArray, Projector, at_rms

LAYER_NORM_EPS = 1e-5


@contextmanager
def without_onednn() -> Iterator[None]:
    """oneDNN keeps compiled code for every length it has met, 0.7 MB each with Whisper base, and is no faster here."""
    before = mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    try:
        yield
    finally:
        mkldnn.set_flags(_enabled=before[0], _fp32_precision=None)


class TorchSpeechEncoder:
    """See `SpeechEncoder`. Float32 weights under the names of `speech_model.encoder_shapes`."""

    def __init__(
        self,
        config: EncoderConfig,
        weights: Mapping[str, FloatArray],
        projector: Projector,
        n_threads: int | None = None,
    ) -> None:
        if n_threads is not None:  # two collapse where anything else runs: they wait for each other
            torch.set_num_threads(n_threads)
        self.config = config
        self._projector = projector
        self._weights = {name: torch.from_numpy(array) for name, array in weights.items()}

    def encode(self, mels: Sequence[FloatArray]) -> Generator[bool, None, list[FloatArray]]:
        lengths = torch.tensor([mel.shape[1] for mel in mels])
        x = torch.zeros(len(mels), self.config.n_mels, int(lengths.max()))
        for row, mel in zip(x, mels, strict=True):
            row[:, : mel.shape[1]] = torch.from_numpy(mel)
        x, mask = self._convolved(x, lengths)
        for i in range(self.config.n_layers):
            x = self._layer(i, x, mask)
            yield True
        x = self._norm(x, "layer_norm.")
        n_states = [self.config.n_states(int(n)) for n in lengths]
        return [row[:n].numpy() for row, n in zip(x, n_states, strict=True)]

    @without_onednn()
    def project(self, stacked: FloatArray) -> FloatArray:
        p = self._projector
        x = torch.from_numpy(stacked)
        hidden = F.relu(F.linear(x, torch.from_numpy(p.first), torch.from_numpy(p.first_bias)))
        rows = F.linear(hidden, torch.from_numpy(p.second), torch.from_numpy(p.second_bias))
        return at_rms(rows.numpy(), p.row_rms)

    @without_onednn()
    @torch.inference_mode()
    def _convolved(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x: (b, n_mels, t), zero beyond each row's length → (b, ⌈t / 2⌉, d_model), and which states are real."""
        w = self._weights
        x = F.gelu(F.conv1d(x, w["conv1.weight"], w["conv1.bias"], padding=1))
        is_real = torch.arange(x.shape[-1]) < lengths[:, None]
        x = x * is_real[:, None]  # as if each clip ended where it ends
        x = F.gelu(F.conv1d(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1))
        x = x.transpose(1, 2)  # (b, s, d_model)
        x = x + w["embed_positions.weight"][: x.shape[1]]
        n_states = (lengths + 1) // 2
        is_padded = bool((n_states < x.shape[1]).any())
        mask = (torch.arange(x.shape[1]) < n_states[:, None])[:, None, None] if is_padded else None
        return x, mask

    @without_onednn()
    @torch.inference_mode()
    def _layer(self, i: int, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        p = f"layers.{i}."
        h = self._norm(x, p + "self_attn_layer_norm.")
        heads = (x.shape[0], -1, self.config.n_heads, x.shape[2] // self.config.n_heads)
        q, k, v = (
            self._linear(h, f"{p}self_attn.{name}_proj.").view(heads).transpose(1, 2)
            for name in ("q", "k", "v")
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self._linear(out.transpose(1, 2).reshape(x.shape), p + "self_attn.out_proj.")
        h = F.gelu(self._linear(self._norm(x, p + "final_layer_norm."), p + "fc1."))
        return x + self._linear(h, p + "fc2.")

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self._weights[name + "weight"], self._weights.get(name + "bias"))

    @torch.inference_mode()
    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift = self._weights[name + "weight"], self._weights[name + "bias"]
        return F.layer_norm(x, x.shape[-1:], scale, shift, LAYER_NORM_EPS)
