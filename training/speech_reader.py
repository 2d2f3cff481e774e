"""The model of the audio stage: projector, base with LoRA, and the two losses of a batch.

The projector's rows are read in two ways. By the language model, which writes the transcript; and, in training only, by
CTC (Graves et al., 2006) over the model's own embedding of the short pieces, with <sil> as the blank. The second makes a
row *be* the piece that is heard there, so what is left for the LoRA to learn is to copy and to leave out silence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pushkin_runtime.speech_model import runs
from pushkin_runtime.tokenizer import TextTokenizer
from training.completion_trainer import frozen_head_loss
from training.speech_examples import KINDS, Batch, Pieces

BLANK = "<sil>"
LETTERS = " 'abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюя"


class TrainableProjector(nn.Module):
    """Linear, ReLU, Linear, and each row brought to the RMS of the text's rows, as they enter the first layer."""

    def __init__(self, n_in: int, n_hidden: int, hidden_size: int, text_rms: float) -> None:
        super().__init__()
        self.into = nn.Linear(n_in, n_hidden)
        self.out = nn.Linear(n_hidden, hidden_size)
        self.register_buffer("text_rms", torch.tensor(text_rms))

    def hidden(self, stacked: Tensor) -> Tensor:
        """(..., n_in) → (..., n_hidden)."""
        return functional.relu(self.into(stacked))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., n_hidden) → rows (..., hidden_size)."""
        rms: Any = self.text_rms
        rows: Tensor = (
            functional.rms_norm(self.out(hidden), (self.out.out_features,), eps=1e-6) * rms
        )
        return rows

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """The matrices as they are served."""
        rms: Any = self.text_rms
        found = {
            "first": self.into.weight,
            "first_bias": self.into.bias,
            "second": self.out.weight,
            "second_bias": self.out.bias,
            "row_rms": rms[None],
        }
        return {name: value.detach().numpy().astype(np.float16) for name, value in found.items()}


class SpeechReader(nn.Module):
    """A base with LoRA and a projector before it; its forward is the loss."""

    def __init__(
        self,
        model: nn.Module,
        projector: TrainableProjector,
        tokenizer: TextTokenizer,
        pieces: Pieces,
        n_stack: int,
    ) -> None:
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
        self.register_buffer(
            "ctc_weight",
            torch.cat([blank[None], own]) / math.sqrt(weight.shape[1]),
            persistent=False,
        )
        self._place = {int(piece): i + 1 for i, piece in enumerate(pieces.ids)}
        self._ids = [0, *map(int, pieces.ids)]
        self.ctc_bias = nn.Parameter(torch.zeros(len(own) + 1))
        self.ctc_gain = nn.Parameter(torch.ones(()))
        self.n_stack = n_stack
        self.letters = nn.Linear(projector.into.out_features, n_stack * (len(LETTERS) + 1))

    def ctc_logits(self, rows: Tensor) -> Tensor:
        """(b, r, hidden_size) → (b, r, 1 + number of pieces), the blank first."""
        weight: Any = self.ctc_weight
        return functional.linear(rows * self.ctc_gain, weight, self.ctc_bias)

    def compressed(self, rows: Tensor, n_rows: list[int]) -> list[Tensor]:
        """One row for each sound of each clip, as in serving (`speech_model.compressed`); gradients pass."""
        with torch.no_grad():
            labels = self.ctc_logits(rows).argmax(-1).numpy()
        rms: Any = self.projector.text_rms
        found = []
        for own, label, n in zip(rows, labels, n_rows, strict=True):
            means = torch.stack([own[a:b].mean(0) for a, b in runs(label[:n])])
            found.append(functional.rms_norm(means, means.shape[1:], eps=1e-6) * rms)
        return found

    def letter_loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """CTC over letters at the encoder's own rate, read off the hidden layer; summed over the clips (nats)."""
        logits = self.letters(hidden).unflatten(-1, (self.n_stack, -1)).flatten(1, 2)
        scores = functional.log_softmax(logits, -1).transpose(0, 1)
        texts = [[LETTERS.index(c) + 1 for c in text if c in LETTERS] for text in batch.texts]
        flat = torch.tensor([letter for text in texts for letter in text], dtype=torch.long)
        n_letters = torch.tensor([len(text) for text in texts])
        n_states = torch.tensor(batch.n_rows) * self.n_stack
        return functional.ctc_loss(
            scores, flat, n_states, n_letters, reduction="sum", zero_infinity=True
        )

    def ctc_loss(self, rows: Tensor, batch: Batch) -> Tensor:
        """Summed over the clips (nats); a clip with more pieces than rows counts nothing."""
        scores = functional.log_softmax(self.ctc_logits(rows).float(), -1).transpose(0, 1)
        flat = torch.tensor(
            [self._place[piece] for pieces in batch.pieces for piece in pieces], dtype=torch.long
        )
        n_pieces = torch.tensor([len(pieces) for pieces in batch.pieces])
        n_rows = torch.tensor(batch.n_rows)
        return functional.ctc_loss(
            scores, flat, n_rows, n_pieces, reduction="sum", zero_infinity=True
        )

    def heard(self, rows: Tensor, n_rows: int) -> list[int]:
        """The pieces of one clip by CTC alone, greedily; rows (r, hidden_size)."""
        best = self.ctc_logits(rows[:n_rows]).argmax(-1).tolist()
        return [self._ids[b] for a, b in zip([0, *best], best, strict=False) if b and b != a]

    def writing_loss(
        self, rows: Tensor, batch: Batch, half: bool, persona: Tensor | None = None
    ) -> Tensor:
        """Summed NLL (nats) of the targets; the first token is chosen among KINDS alone, as in serving.

        persona: rows that stand first, (n_rows, hidden_size).
        """
        states, starts = self._read(rows, batch, persona, [t[:-1] for t in batch.targets])
        behind = [
            states[i, s + 1 : s + len(t)]
            for i, (s, t) in enumerate(zip(starts, batch.targets, strict=True))
        ]
        rest_of = torch.tensor([token for t in batch.targets for token in t[1:]])
        weight = self._base[0].get_output_embeddings().weight.detach()
        writing = frozen_head_loss(torch.cat(behind), weight, rest_of, half)
        return self._kind_loss(states, starts, batch) + writing

    def deciding_loss(self, rows: Tensor, batch: Batch, persona: Tensor | None = None) -> Tensor:
        """Summed NLL (nats) of the first token alone: no answer has to be read, a third of the positions."""
        states, starts = self._read(rows, batch, persona, [[] for _ in batch.targets])
        return self._kind_loss(states, starts, batch)

    def _read(
        self, rows: Tensor, batch: Batch, persona: Tensor | None, answers: list[list[int]]
    ) -> tuple[Tensor, list[int]]:
        """The last layer's states (b, n, hidden_size) of prompts and answers, and where each prompt's last token stands."""
        base = self._base[0]
        embed = base.get_input_embeddings()
        parts, starts = [], []
        for i, own in enumerate(self.compressed(rows, batch.n_rows)):
            head = embed(torch.tensor(batch.heads[i]))
            head = head if persona is None else torch.cat([persona, head])
            rest = embed(torch.tensor([*batch.tails[i], *answers[i]]))
            parts.append(torch.cat([head, own.to(head.dtype), rest]))
            starts.append(len(head) + len(own) + len(batch.tails[i]) - 1)
        padded = nn.utils.rnn.pad_sequence(
            parts, batch_first=True
        )  # right: causal rows never see it
        return base.model(inputs_embeds=padded, use_cache=False).last_hidden_state, starts

    def _kind_loss(self, states: Tensor, starts: list[int], batch: Batch) -> Tensor:
        first = states[torch.arange(len(starts)), torch.tensor(starts)]
        weight = self._base[0].get_output_embeddings().weight.detach()
        kinds = functional.linear(first.float(), weight[self._kind_ids])
        wanted = torch.tensor([self._kind_ids.tolist().index(t[0]) for t in batch.targets])
        return functional.cross_entropy(kinds, wanted, reduction="sum")

    @property
    def piece_ids(self) -> list[int]:
        """The token of each CTC score but the blank's."""
        return self._ids[1:]

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """The projector's file: its matrices, and what says which piece a row is."""
        weight: Any = self.ctc_weight
        heard = (weight * self.ctc_gain).detach().numpy().astype(np.float16)
        bias = self.ctc_bias.detach().numpy().astype(np.float16)
        return {**self.projector.arrays(), "heard": heard, "heard_bias": bias}
