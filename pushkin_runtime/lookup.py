"""Prompt lookup: drafting the next tokens from what was read and written, and verifying them in one pass.

A text that is rephrased is mostly copied, so whatever followed the last words where they stood before is a good
guess of what follows now (prompt lookup decoding, github.com/apoorvumang/prompt-lookup-decoding; the rule that keeps
the distribution is speculative sampling's, Leviathan et al., arXiv:2211.17192).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.engines.base import DecodePlan, Engine, KVCache, Step
from pushkin_runtime.engines.host_sampler import HostSampler

# Engines whose tokens follow from the logits of `extend`, a few positions of which cost little more than one.
VERIFYING = frozenset({"mlx", "torch"})
MAX_DRAFT = 12  # tokens verified at once
MAX_NGRAM = 3  # tokens that have to be the same before a guess
RESYNC = 16  # tokens after the last copied one in which a single equal token is enough
MIN_ACCEPTANCE = 0.25  # below it a verified guess costs more than it saves
_FORGETTING = 0.8  # of what was drafted and accepted, by each pass since
_PRIOR = (4.0, 8.0)  # accepted, drafted: one wrong guess at the beginning settles nothing


class Drafter:
    """Guesses what comes next; owned by one decoder.

    context: the tokens of the prompt; those below 0 stand for rows and are never guessed. copied_from: where the text
    that is likely to be copied begins, None when nobody knows. room: tokens that may still be written.
    """

    def __init__(self, context: Sequence[int], *, copied_from: int | None, room: int) -> None:
        self._tokens = np.empty(len(context) + room + 1, np.int64)
        self._tokens[: len(context)] = context
        self._n_tokens = len(context)
        self._copied_to = copied_from
        self._accepted, self._drafted = _PRIOR
        self.room = room

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that were right, of late."""
        return self._accepted / self._drafted

    @property
    def is_off(self) -> bool:
        """Whether guessing has not paid; it is not tried again in this answer."""
        return self.acceptance < MIN_ACCEPTANCE

    def push(self, token: int) -> None:
        """A token was written."""
        self._tokens[self._n_tokens] = token
        self._n_tokens += 1
        self.room -= 1

    def draft(self) -> list[int]:
        """Return what probably comes next, nothing for no idea; the better the guesses were, the more."""
        n_wanted = min(max(2, round(MAX_DRAFT * self.acceptance)), self.room - 1)
        if self.is_off or n_wanted < 1:
            return []
        at = self._place()
        if at is None:
            return []
        self._copied_to = at
        guess = self._tokens[at : min(at + n_wanted, self._n_tokens)]
        is_row = guess < 0
        return [int(token) for token in (guess[: is_row.argmax()] if is_row.any() else guess)]

    def judge(self, n_drafted: int, n_accepted: int) -> None:
        """What became of the last draft."""
        if not n_drafted:
            return
        self._drafted = _FORGETTING * self._drafted + n_drafted
        self._accepted = _FORGETTING * self._accepted + n_accepted
        if self._copied_to is not None:
            self._copied_to += n_accepted

    def _place(self) -> int | None:
        """Where what follows the last tokens stood before: the longest match, the next one in the copied text first."""
        tokens = self._tokens[: self._n_tokens]
        ends = np.flatnonzero(tokens[:-1] == tokens[-1]) + 1
        for n in range(2, MAX_NGRAM + 1):
            if not len(ends) or self._n_tokens <= n:
                break
            longer = ends[ends >= n]
            longer = longer[tokens[longer - n] == tokens[-n]]
            if not len(longer):
                return self._nearest(ends, is_single=n == 2)
            ends = longer
        return self._nearest(ends, is_single=False) if len(ends) else None

    def _nearest(self, ends: NDArray[np.int64], *, is_single: bool) -> int | None:
        """The first match from where copying stopped, else the last one; of a single token only one close by."""
        here = self._copied_to
        ahead = ends[ends >= here] if here is not None else ends[:0]
        if is_single:
            return (
                int(ahead[0])
                if here is not None and len(ahead) and ahead[0] <= here + RESYNC
                else None
            )
        return int(ahead[0]) if len(ahead) else int(ends[-1])


class LookupDecoder:
    """See `Decoder`: one row, whose next tokens are drafted and verified together.

    The draft is a single guess, not a distribution. The rule of speculative sampling (keep a guess x with its
    probability, else sample from the others) is then the same as sampling as always and going on with the pass as
    long as the sample is what was guessed. So the answer to a seed is the one without drafts.
    """

    def __init__(self, engine: Engine, cache: KVCache, plan: DecodePlan, drafter: Drafter) -> None:
        """plan: one row, with `first_logits`."""
        assert plan.n_rows == 1
        assert plan.first_logits is not None
        self._engine, self._cache, self._drafter = engine, cache, drafter
        self._sampler = HostSampler(plan)
        self._last = plan.last_token
        self._n_sure = cache.n_tokens  # the prompt, and every returned token but the last
        self._draft: list[int] = []
        self._logits = np.empty((0, 0), np.float32)  # of the pass under way, from `_at` on
        self._at = 0
        self.has_run = False  # whether the last step ran the model

    def step(self) -> Step:
        step = self._sampler.first()
        self.has_run = False
        if step is None:
            if self._at == len(self._logits):
                self._run()
            step = self._sampler.step(self._logits[self._at : self._at + 1])
            self._settle(step.tokens[0])
        [self._last] = step.tokens
        self._drafter.push(self._last)
        return step

    def close(self) -> None:
        if self._cache.n_tokens > self._n_sure:
            self._engine.trim(self._cache, self._n_sure)

    def _run(self) -> None:
        """Read the last token and a guess of what follows."""
        self._draft = self._drafter.draft()
        n_logits = 1 + len(self._draft)
        self._logits = self._engine.extend(
            self._cache, [self._last, *self._draft], n_logits=n_logits
        )
        self._at = 0
        self.has_run = True

    def _settle(self, token: int) -> None:
        """The place `_at` of the pass has got its token: go on if it was guessed, else forget the rest."""
        self._n_sure += 1
        is_guessed = self._at < len(self._draft) and token == self._draft[self._at]
        if is_guessed:
            self._at += 1
            return
        self._drafter.judge(len(self._draft), self._at)
        self._logits, self._at = self._logits[:0], 0
        self.close()
