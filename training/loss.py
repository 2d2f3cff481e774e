"""Next-token loss, and unlikelihood, that never hold the logits of a whole batch.

The head is the largest product of a small model with a 16k vocabulary. Its gradients are computed
chunk by chunk in the forward pass, so a chunk of logits stays in the cache and is made only once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 512  # rows of logits that fit a CPU's cache
GPU_CHUNK = 16_384  # half a gigabyte of bfloat16 logits; small ones would only launch kernels
_LEAST_DOUBT = 1e-5
ChunkLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def chunk_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed NLL in nats, and its gradient by the logits.

    logits (n, vocab) of any float type, targets (n,) int64; the gradient has the logits' type.
    """
    scores = logits.float()
    log_total = scores.logsumexp(1)
    nll = log_total - scores.gather(1, targets[:, None])[:, 0]
    one_hot = torch.arange(scores.shape[1], device=scores.device)[None] == targets[:, None]
    gradient = (scores - log_total[:, None]).exp() - one_hot.float()
    return nll.sum(), gradient.to(logits.dtype)


def chunk_unlikelihood(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed -log(1 - p(target)) in nats, and its gradient by the logits; shapes as in `chunk_loss`.

    1 - p is held at 1e-5 at the least, and the gradient lives on there: a loop that is certain of
    itself is what must be unlearnt.
    """
    scores = logits.float()
    probabilities = scores.softmax(1)
    others = (1.0 - probabilities.gather(1, targets[:, None])).clamp_min(_LEAST_DOUBT)  # (n, 1)
    one_hot = torch.arange(scores.shape[1], device=scores.device)[None] == targets[:, None]
    gradient = (one_hot.float() - probabilities) * ((1.0 - others) / others)
    return -others.log().sum(), gradient.to(logits.dtype)


class _HeadLoss(torch.autograd.Function):
    """Sum of a chunk's loss over rows of hidden states; see the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_fn: ChunkLoss
    ) -> Tensor:
        device = hidden.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else hidden.dtype
        states, head = hidden.to(dtype), weight.to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        by_hidden = torch.empty_like(states)
        by_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        rows = CHUNK if device == "cpu" else GPU_CHUNK
        with torch.autocast(device, enabled=False):
            for start in range(0, len(states), rows):
                part = slice(start, start + rows)
                loss, gradient = chunk_fn(F.linear(states[part], head), targets[part])
                total += loss
                by_hidden[part] = gradient @ head
                by_weight += gradient.T @ states[part]
        ctx.save_for_backward(by_hidden.to(hidden.dtype), by_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_hidden, by_weight = ctx.saved_tensors
        scale = grad_outputs[0]
        return by_hidden * scale, by_weight * scale, None, None


class RowLoss(nn.Module):
    """A Gemma 3 causal LM whose forward is its training loss, so that accelerate can wrap it.

    `compiled` compiles the decoder and the elementwise part of the loss; it changes speed only.
    """

    def __init__(self, model: nn.Module, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        decoder: Any = model.model
        self._decoder: Any = torch.compile(decoder, dynamic=False) if compiled else decoder
        self._chunk_fn: ChunkLoss = (
            torch.compile(chunk_loss, dynamic=False) if compiled else chunk_loss
        )

    def forward(self, inputs: Tensor, targets: Tensor, unlikely: Tensor | None = None) -> Tensor:
        """Summed NLL in nats; inputs and targets (n_sequences, seq_len) int64.

        With `unlikely`, a mask of the targets' shape: summed -log(1 - p) of those targets alone.
        """
        states = self._decoder(
            input_ids=inputs, use_cache=False
        ).last_hidden_state  # (n, s, hidden)
        weight: Any = self.model.get_output_embeddings().weight  # type: ignore[operator]
        chunk_fn = self._chunk_fn
        if unlikely is None:
            states, targets = states.flatten(0, 1), targets.flatten()
        else:
            # Of another number of rows each time: compiling would begin anew.
            states, targets, chunk_fn = states[unlikely], targets[unlikely], chunk_unlikelihood
        loss: Tensor = _HeadLoss.apply(states, weight, targets, chunk_fn)
        return loss
