"""Reading a prompt into its cache, chunk by chunk, up to the logits at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pushkin_runtime.engines.base import Tokens
from pushkin_runtime.handle import GenerationHandle
from pushkin_runtime.prompt import Prompt
from pushkin_runtime.prompt_cache import Prefix
from pushkin_runtime.sampling import token_logprob
from pushkin_runtime.types import Progress, TokenLogprob
from pushkin_runtime.workshop import Workshop

AHEAD_CHUNK = 32  # tokens: whoever comes waits for no more than these
LOGPROB_CHUNK = 32  # prompt tokens whose logits are held at once: up to a megabyte each


@dataclass(slots=True)
class PromptReader:
    """Reads for one generation. logprobs: of the prompt's own tokens, if they are asked for."""

    shop: Workshop
    handle: GenerationHandle
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def read(self, prefix: Prefix, prompt: Prompt) -> Iterator[bool]:
        """Extend `prefix` to the whole of `prompt`, a chunk a unit, until `prefix.logits` are those at its end.

        Nothing is read that the prefix holds. Stops early when the generation has to end.
        """
        wants_logprobs = self.handle.request.prompt_logprobs and not self.logprobs  # told once
        n_total, chunk = len(prompt.tokens), self.shop.prefill_chunk
        if self.handle.request.ahead:
            chunk = min(chunk, AHEAD_CHUNK)
        if wants_logprobs:
            chunk = LOGPROB_CHUNK
            if not prompt.n_persona:
                self.logprobs.append(TokenLogprob(prompt.tokens[0], None))
        while prefix.gaps and self.handle.end_reason() is None:
            self._fill_some(prefix, prompt, chunk)
            self.shop.on_progress(0, True)
            n_done = prefix.n_known
            self.handle.emit(Progress(stage="prefill", n_done=n_done, n_total=n_total))
            yield True
        while prefix.n_tokens < n_total and self.handle.end_reason() is None:
            start = prefix.n_tokens
            if wants_logprobs and start >= prompt.n_persona:
                self._read_scored(prefix, prompt, min(start + chunk, n_total))
            else:
                self._read_some(prefix, prompt, min(start + chunk, n_total))
            self.shop.on_progress(0, True)
            if prefix.n_tokens < n_total:
                n_done = prefix.n_tokens
                self.handle.emit(Progress(stage="prefill", n_done=n_done, n_total=n_total))
            yield True

    def _fill_some(self, prefix: Prefix, prompt: Prompt, chunk: int) -> None:
        """Read on in the first gap."""
        gap = prefix.gaps[0]
        stop = min(gap.start + chunk, gap.stop)
        self.shop.engine.reread(prefix.cache, gap.start, prompt.tokens[gap.start : stop])
        prefix.gaps[:1] = [range(stop, gap.stop)] if stop < gap.stop else []

    def _read_some(self, prefix: Prefix, prompt: Prompt, stop: int) -> None:
        """Read on, to `stop` at most; the last chunk brings the logits with it, for no pass of their own."""
        segment = prompt.segment(prefix.n_tokens, stop)
        if prefix.n_tokens + len(segment) < len(prompt.tokens):
            self.shop.engine.prefill(prefix.cache, segment)
            return
        assert isinstance(segment, Tokens)  # rows are always followed by tokens
        [logits] = self.shop.engine.extend(prefix.cache, segment.ids, n_logits=1)
        prefix.remember(logits)

    def _read_scored(self, prefix: Prefix, prompt: Prompt, stop: int) -> None:
        """Read tokens up to `stop`, and note the log-probability of each one after them."""
        start = prefix.n_tokens
        logits = self.shop.engine.extend(
            prefix.cache, prompt.tokens[start:stop], n_logits=stop - start
        )
        n_probs = self.handle.request.n_probs
        for row, token in zip(logits, prompt.tokens[start + 1 : stop + 1], strict=False):
            self.logprobs.append(token_logprob(row, token, n_probs))
        if stop == len(prompt.tokens):
            prefix.remember(logits[-1].copy())
