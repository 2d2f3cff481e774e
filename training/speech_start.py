"""A projector begun from another base's: what it heard there it says here, before a single step.

Its hidden layer knows nothing of the base. Its last layer does: rows are read by their products with the base's embeddings
of the pieces. The new last layer is the least-squares solution of "the same products", in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushkin_runtime.speech_folder import read_projector
from pushkin_runtime.speech_model import Projector
from training.speech_examples import Example
from training.speech_reader import SpeechReader

RIDGE = 1e-3  # of the mean square of the embeddings' singular values
_SAMPLE = 200  # clips, from which the new rows' products are scaled


def start_from(model: SpeechReader, folder: Path, examples: Sequence[Example]) -> None:
    """Take over the projector of an adapter's folder. Raises ModelCorrupt, ValueError for other pieces or another shape."""
    found = read_projector(folder)
    into, out = model.projector.into, model.projector.out
    if found.pieces is None or list(found.pieces) != model.piece_ids:
        raise ValueError(f"{folder} reads other pieces: the tokenizer must be the same")
    if found.n_stack != model.n_stack or found.first.shape != tuple(into.weight.shape):
        raise ValueError(
            f"{folder}: {found.n_stack} states a row through a matrix {found.first.shape}, "
            f"expected {model.n_stack} through {tuple(into.weight.shape)}"
        )
    bridge = _bridge(model, torch.from_numpy(found.heard))
    with torch.no_grad():
        into.weight.copy_(torch.from_numpy(found.first))
        into.bias.copy_(torch.from_numpy(found.first_bias))
        out.weight.copy_(bridge @ torch.from_numpy(found.second))
        out.bias.copy_(bridge @ torch.from_numpy(found.second_bias))
        model.ctc_bias.copy_(torch.from_numpy(found.heard_bias))
        model.ctc_gain.fill_(_gain(model, found, bridge, examples))


def _bridge(model: SpeechReader, heard: Tensor) -> Tensor:
    """(hidden_size, the other base's hidden_size): rows there to rows here whose products with the pieces are the same."""
    weight: Any = model.ctc_weight
    square = weight.T @ weight
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square))
    bridge: Tensor = torch.linalg.solve(square + ridge, weight.T @ heard)
    return bridge


def _gain(
    model: SpeechReader, found: Projector, bridge: Tensor, examples: Sequence[Example]
) -> float:
    """What the rows lose, on average, when they are brought to the size of this base's rows and not of the other's."""
    step = max(1, len(examples) // _SAMPLE)
    stacked = np.concatenate([e.stacked for e in examples[::step]]).astype(np.float32)
    hidden = np.maximum(stacked @ found.first.T + found.first_bias, 0)
    there = torch.from_numpy(hidden @ found.second.T + found.second_bias)
    size: Any = model.projector.text_rms
    ratio = _rms(there @ bridge.T) / _rms(there) * found.row_rms / size
    return float(ratio.mean())


def _rms(rows: Tensor) -> Tensor:
    return rows.pow(2).mean(1).sqrt()
