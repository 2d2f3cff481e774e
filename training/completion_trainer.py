"""TRL's SFTTrainer with a loss that a CPU can afford: the head runs only where there are labels.

The head of a small model with a 16k vocabulary costs more than its layers, and half of the tokens are prompt.
The frozen head's gradient by the hidden states is made in the forward pass, chunk by chunk, so that logits stay
in the cache and none are kept. The value is TRL's: mean NLL in nats over the labels of an update.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from trl.trainer.sft_trainer import SFTTrainer

from training.task_examples import IGNORED

_CHUNK = 128  # rows of logits that stay in a CPU's cache
_GPU_CHUNK = 16_384  # half a gigabyte of bfloat16 logits


class _FrozenHeadLoss(torch.autograd.Function):
    """Summed NLL of `targets` (n,) under softmax(states @ weightᵀ); states (n, hidden), no gradient by weight."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        by_states = torch.empty_like(states)
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        rows = _CHUNK if states.device.type == "cpu" else _GPU_CHUNK
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), rows):
                part = slice(start, start + rows)
                logits = functional.linear(states[part], weight)
                scores = functional.log_softmax(logits, -1, dtype=torch.float32)
                wanted = targets[part, None]
                total -= scores.gather(1, wanted).sum()
                gradient = scores.exp_()
                gradient.scatter_add_(1, wanted, gradient.new_full((len(wanted), 1), -1.0))
                by_states[part] = gradient.to(weight.dtype) @ weight
        ctx.save_for_backward(by_states)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (by_states,) = ctx.saved_tensors
        return by_states * grad_outputs[0], None, None


def frozen_head_loss(states: Tensor, weight: Tensor, targets: Tensor, half: bool) -> Tensor:
    """Summed NLL in nats. states (n, hidden), weight (vocab, hidden), targets (n,); bfloat16 products if half."""
    if half:
        states, weight = states.to(torch.bfloat16), weight.to(torch.bfloat16)
    loss: Tensor = _FrozenHeadLoss.apply(states, weight.detach(), targets)
    return loss


class CompletionTrainer(SFTTrainer):
    """SFTTrainer with the loss above; subclassing is TRL's way of giving it one."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss, a scalar, of inputs (n, s); the hidden states come through the wrapped model."""
        labels = inputs["labels"][:, 1:]  # (n, s - 1)
        wanted = labels != IGNORED
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        base: Any = self.accelerator.unwrap_model(model).get_base_model()
        with _headless(base) as head:
            outputs = model(**rest, use_cache=False)
        states = outputs.logits[:, :-1][wanted]  # (n labels, hidden)
        total = frozen_head_loss(states, head.weight, labels[wanted], bool(self.args.bf16))
        n_items = wanted.sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / torch.as_tensor(n_items).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages the gradients
        return (loss, outputs) if return_outputs else loss


@contextmanager
def _headless(base: Any) -> Iterator[Any]:
    """Inside, `base` gives hidden states for logits; yields its head. Raises ValueError for capped logits."""
    if getattr(base.config.get_text_config(), "final_logit_softcapping", None):
        raise ValueError(
            "the base caps its logits (final_logit_softcapping): train with TRL's loss"
        )
    head = base.lm_head
    base.lm_head = nn.Identity()
    try:
        yield head
    finally:
        base.lm_head = head
