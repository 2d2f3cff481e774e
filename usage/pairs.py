"""Preference pairs out of what was accepted, edited and rejected: lines for TRL's `DPOTrainer`.

`prompt`, `chosen` and `rejected` are the trainer's columns; the others say how the prompt was laid out and
who answered, so that training can lay it out the same way and weigh by it. Text is verbatim.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby, islice, product
from typing import Any

MAX_PAIRS_PER_PROMPT = 16

_COLUMNS = ("task", "prompt", "suffix", "before", "after", "instruction", "language", "adapters")


def pair_lines(judged: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Yield one line of JSON for each good text with each bad one after the same prompt.

    judged: rows of `UsageStore.judged`, those of a prompt together.
    """
    for _, rows in groupby(judged, key=lambda row: row[0]):
        kept = list(rows)
        prompt = dict(zip(_COLUMNS, kept[0][1:-2], strict=True))
        good = [row[-2] for row in kept if row[-1]]
        bad = [row[-2] for row in kept if not row[-1]]
        for chosen, rejected in islice(product(good, bad), MAX_PAIRS_PER_PROMPT):
            pair = {"prompt": prompt["prompt"], "chosen": chosen, "rejected": rejected}
            yield json.dumps(pair | prompt, ensure_ascii=False) + "\n"
