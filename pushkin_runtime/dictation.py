"""Dictation inside the generation loop: what may be asked, and the first token, which says what an utterance is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.choices import Draft
from pushkin_runtime.engines.base import Engine
from pushkin_runtime.errors import CapabilityMissing, InvalidRequest
from pushkin_runtime.prompt import Prompt
from pushkin_runtime.speech_types import SpeechDecision, SpeechKind, SpeechRows
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import GenerationRequest

KINDS: tuple[SpeechKind, ...] = ("dict", "cmd", "none")
TOKENS = ("<task:dictate>", "<result>", *(f"<{kind}>" for kind in KINDS))


def check_dictation(request: GenerationRequest, engine: Engine) -> None:
    """Raise InvalidRequest or CapabilityMissing for speech that this model cannot be asked about."""
    if request.task != "dictate" and request.speech is None:
        return
    if request.speech is None or request.task != "dictate":
        raise InvalidRequest(
            "Speech belongs to the task dictate, and that task to speech.", param="speech"
        )
    if request.speech.base_digest != engine.info.digest:
        raise InvalidRequest(
            "The speech was encoded for another model; encode it again.", param="speech"
        )
    if request.prompt_logprobs or request.suffix or request.n != 1:
        raise InvalidRequest("Dictation has one answer, and no prompt to score.", param="n")
    missing = [name for name in TOKENS if engine.tokenizer.special_id(name) is None]
    if missing:
        raise CapabilityMissing(
            f"The loaded model cannot take dictation: its vocabulary has no {', '.join(missing)}.",
            param="task",
        )


def decide(
    tokenizer: TextTokenizer, logits: NDArray[np.float32], prompt: Prompt
) -> tuple[Prompt, SpeechDecision]:
    """Return the likeliest kind of utterance, and the prompt with its token.

    logits: (vocab_size,) after the prompt. The three kinds compete with one another only: no other token may
    stand there.
    """
    ids = [tokenizer.require_special(f"<{kind}>") for kind in KINDS]
    scores = logits[ids].astype(np.float64)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    best = int(shares.argmax())
    decision = SpeechDecision(
        kind=KINDS[best],
        probability=float(shares[best]),
        probabilities=(float(shares[0]), float(shares[1]), float(shares[2])),
    )
    return replace(prompt, tokens=(*prompt.tokens, ids[best])), decision


def heard_draft(
    tokenizer: TextTokenizer, decision: SpeechDecision, speech: SpeechRows | None
) -> Draft:
    """Return the answer that the model did not write: nothing, or what the projector reads."""
    tokens = () if decision.kind == "none" or speech is None else speech.heard or ()
    return Draft(0, tokenizer.decode(tokens), "stop", -math.inf)
