"""How a token is chosen from logits: what a caller may set, and what is used. Plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SamplingOrder = Literal["min_p_first", "temperature_first"]
Sampler = Literal[
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"
]
DRY_BASE = 1.75
DRY_BREAKERS = ("\n", ":", '"', "*")  # llama.cpp's own


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Everything that turns logits into a token.

    temperature: 0 is greedy. min_p: threshold as a share of the most likely token's probability, 0 off.
    top_p: 1 off. top_k: 0 off. repetition_penalty: 1 off (CTRL, arXiv:1909.05858).
    seed: None draws one; the one used is reported back. order: which of min-p and temperature is first;
    "min_p_first" is the brief's seven steps and the default (see `sampling.py`).
    samplers: if not None, the stages in their order instead; one that is not listed is not run.
    repeat_last_n: tokens, prompt included, that the penalties look back on; None: a part of the prompt and the
    whole answer. dry_*: see `dry.py`; a multiplier of 0, a base below 1 or dry_penalty_last_n 0 is off. mirostat: 1 or 2
    (see `mirostat.py`), then only it and the temperature are run; 0 off. The rest are stages of llama.cpp's chain,
    off by default (see `sampler_stages.py`).
    """

    temperature: float = 1.0
    min_p: float = 0.10
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    order: SamplingOrder = "min_p_first"
    samplers: tuple[Sampler, ...] | None = None
    repeat_last_n: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = DRY_BASE
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = DRY_BREAKERS
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOverrides:
    """The caller's part of `SamplingParams`: None means the task's default, moved by the persona."""

    temperature: float | None = None
    min_p: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    order: SamplingOrder | None = None
    samplers: tuple[Sampler, ...] | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
