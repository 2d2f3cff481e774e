"""The model of the audio stage: projector, base with LoRA, and the two losses of a batch.

The projector's rows are read in two ways. By the language model, which writes the transcript; and, in training only, by
CTC (Graves et al., 2006) over the model's own embedding of the short pieces, with <sil> as the blank. The second makes a
row *be* the piece that is heard there, so what is left for the LoRA to learn is to copy and to leave out silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pushkin_runtime.tokenizer import TextTokenizer
from training.completion_trainer import frozen_head_loss
from training.speech_examples import KINDS, Batch, Pieces

BLANK = "<sil>"


class TrainableProjector(nn.Module):
    """Linear, ReLU, Linear; what comes out are rows as they enter the first layer, at the text rows' RMS from the start."""

    def __init__(self, n_in: int, n_hidden: int, hidden_size: int, text_rms: float) -> None:
        super().__init__()
        self.into = nn.Linear(n_in, n_hidden)
        self.out = nn.Linear(n_hidden, hidden_size)
        nn.init.normal_(self.out.weight, std=2 / math.sqrt(n_hidden))  # states have an RMS of about one
        self.register_buffer("text_rms", torch.tensor(text_rms))

    def forward(self, stacked: Tensor) -> Tensor:
        """(..., n_in) → (..., hidden_size)."""
        rms: Any = self.text_rms
        rows: Tensor = self.out(functional.relu(self.into(stacked))) * rms
        return rows

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """The matrices as they are served, the scale folded in."""
        rms: Any = self.text_rms
        found = {
            "first": self.into.weight,
            "first_bias": self.into.bias,
            "second": self.out.weight * rms,
            "second_bias": self.out.bias * rms,
        }
        return {name: value.detach().numpy().astype(np.float16) for name, value in found.items()}


class SpeechReader(nn.Module):
    """A base with LoRA and a projector before it; its forward is the loss."""

    def __init__(self, model: nn.Module, projector: TrainableProjector, tokenizer: TextTokenizer, pieces: Pieces) -> None:
        super().__init__()
        self.model = model
        self.projector = projector
        base: Any = model
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        self._base = [base]  # in a list: not a module of its own
        weight = base.get_output_embeddings().weight.detach()
        self._kind_ids = torch.tensor([tokenizer.require_special(name) for name in KINDS])
        blank = weight[tokenizer.require_special(BLANK)]
        ids = torch.from_numpy(pieces.ids)
        own = weight[ids]
        blank = blank * own.norm(dim=1).mean() / blank.norm()
        self.register_buffer("ctc_weight", torch.cat([blank[None], own]) / math.sqrt(weight.shape[1]), persistent=False)
        self._place = {int(piece): i + 1 for i, piece in enumerate(pieces.ids)}
        self._ids = [0, *map(int, pieces.ids)]
        # The model writes these words; whatever else its head knows is not in the way of the first token.
        self.ctc_bias = nn.Parameter(torch.zeros(len(own) + 1))

    def ctc_logits(self, rows: Tensor) -> Tensor:
        """(b, r, hidden_size) → (b, r, 1 + number of pieces), the blank first."""
        weight: Any = self.ctc_weight
        return functional.linear(rows, weight, self.ctc_bias)

    def ctc_loss(self, rows: Tensor, batch: Batch) -> Tensor:
        """Summed over the clips (nats); a clip with more pieces than rows counts nothing."""
        scores = functional.log_softmax(self.ctc_logits(rows).float(), -1).transpose(0, 1)
        flat = torch.tensor([self._place[piece] for pieces in batch.pieces for piece in pieces], dtype=torch.long)
        n_pieces = torch.tensor([len(pieces) for pieces in batch.pieces])
        n_rows = torch.tensor(batch.n_rows)
        return functional.ctc_loss(scores, flat, n_rows, n_pieces, reduction="sum", zero_infinity=True)

    def heard(self, rows: Tensor, n_rows: int) -> list[int]:
        """The pieces of one clip by CTC alone, greedily; rows (r, hidden_size)."""
        best = self.ctc_logits(rows[:n_rows]).argmax(-1).tolist()
        return [self._ids[b] for a, b in zip([0, *best], best, strict=False) if b and b != a]

    def writing_loss(self, rows: Tensor, batch: Batch, half: bool) -> Tensor:
        """Summed NLL (nats) of the targets; the first token is chosen among KINDS alone, as in serving."""
        base = self._base[0]
        embed = base.get_input_embeddings()
        parts, starts = [], []
        for i, n in enumerate(batch.n_rows):
            head = embed(torch.tensor(batch.heads[i]))
            rest = embed(torch.tensor([*batch.tails[i], *batch.targets[i][:-1]]))
            parts.append(torch.cat([head, rows[i, :n].to(head.dtype), rest]))
            starts.append(len(head) + n + len(batch.tails[i]) - 1)
        padded = nn.utils.rnn.pad_sequence(parts, batch_first=True)  # right: causal rows never see it
        states = base.model(inputs_embeds=padded, use_cache=False).last_hidden_state
        first = torch.stack([states[i, start] for i, start in enumerate(starts)])
        weight = base.get_output_embeddings().weight.detach()
        kinds = functional.linear(first.float(), weight[self._kind_ids])
        wanted = torch.tensor([self._kind_ids.tolist().index(t[0]) for t in batch.targets])
        deciding = functional.cross_entropy(kinds, wanted, reduction="sum")
        behind = [states[i, s + 1 : s + len(t)] for i, (s, t) in enumerate(zip(starts, batch.targets, strict=True))]
        rest_of = torch.tensor([token for t in batch.targets for token in t[1:]])
        return deciding + frozen_head_loss(torch.cat(behind), weight, rest_of, half)


def trained(model: SpeechReader) -> Mapping[str, Tensor]:
    """What a checkpoint holds."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
