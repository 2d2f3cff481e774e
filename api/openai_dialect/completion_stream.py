"""The chunks of a streamed completion: `data:` lines, a usage chunk where it is wanted, `[DONE]`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from api.errors import as_api_error, log_failure
from api.generation_group import GenerationGroup, PromptEvent
from api.openai_dialect.completion_answers import (
    CompletionChoice,
    Order,
    choices_of,
    closing,
    frame,
)
from api.openai_dialect.token_trail import LogprobsAnswer, TokenTrail
from api.sse import PING, data_frame
from pushkin_runtime.types import Delta, Done, Event, Failed, GenerationResult, Started

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStyle:
    """is_held: nothing is shown before the end, because only then it is known what is. n_prompts: in all."""

    n_prompts: int
    is_held: bool
    include_usage: bool


@dataclass(slots=True)
class _Row:
    """One choice so far: code points shown, the echo included, and tokens whose text is still to come."""

    n_shown: int
    trail: TokenTrail


class CompletionStream:
    """Turns the events of a group into chunks. Used on the loop's thread."""

    def __init__(self, order: Order, style: StreamStyle) -> None:
        self._order, self._style = order, style
        self._rows: dict[int, _Row] = {}
        self._results: dict[int, GenerationResult] = {}
        self._model = ""

    def frames(self, events: list[PromptEvent]) -> bytes:
        """The chunks of some events, in one piece. Raises what a generation failed with."""
        return b"".join(chunk for prompt, event in events for chunk in self._chunks(prompt, event))

    def _chunks(self, prompt: int, event: Event) -> Iterator[bytes]:
        match event:
            case Started():
                self._model = event.model
                yield from self._begin(prompt)
            case Delta():
                yield from self._delta(prompt, event)
            case Done(result):
                self._model = result.model
                yield from self._end(prompt, result)
            case Failed(error):
                raise error

    def _begin(self, prompt: int) -> Iterator[bytes]:
        """Make the rows of a prompt, and repeat the prompt before each."""
        echo = self._order.echo(prompt)
        for index in self._indices(prompt):
            self._rows[index] = _Row(len(echo), TokenTrail(self._order.tokenizer, len(echo)))
            if echo and not self._style.is_held:
                yield self._chunk(_part(index, echo, self._logprobs_of_nothing()))

    def _delta(self, prompt: int, event: Delta) -> Iterator[bytes]:
        if self._style.is_held:
            return
        index = prompt * self._order.n + event.index
        row = self._rows[index]
        row.n_shown += len(event.text)
        row.trail.push(event.tokens)
        logprobs = row.trail.take(row.n_shown) if self._order.with_logprobs else None
        if event.text or (logprobs and logprobs["tokens"]):
            yield self._chunk(_part(index, event.text, logprobs))

    def _end(self, prompt: int, result: GenerationResult) -> Iterator[bytes]:
        if self._indices(prompt)[0] not in self._rows:  # it ended in the queue
            yield from self._begin(prompt)
        self._results[prompt] = result
        for choice in choices_of(self._order, prompt, result):
            row = self._rows[choice["index"]]
            if self._style.is_held:
                yield self._chunk(_part(choice["index"], choice["text"], choice["logprobs"]))
                rest = self._logprobs_of_nothing()
            else:
                rest = row.trail.take(row.n_shown, is_last=True) if choice["logprobs"] else None
            yield self._chunk({**choice, "text": "", "logprobs": rest})
        if len(self._results) == self._style.n_prompts:
            yield from self._close()

    def _close(self) -> Iterator[bytes]:
        if self._style.include_usage:
            results = [self._results[prompt] for prompt in range(self._style.n_prompts)]
            yield data_frame({**frame(self._order, self._model, []), **closing(results)})
        yield DONE

    def _indices(self, prompt: int) -> range:
        return range(prompt * self._order.n, (prompt + 1) * self._order.n)

    def _logprobs_of_nothing(self) -> LogprobsAnswer | None:
        return TokenTrail(self._order.tokenizer).take(0) if self._order.with_logprobs else None

    def _chunk(self, choice: CompletionChoice) -> bytes:
        answer = frame(self._order, self._model, [choice])
        if self._style.include_usage:
            answer["usage"] = None
        return data_frame(answer)


def _part(index: int, text: str, logprobs: LogprobsAnswer | None) -> CompletionChoice:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": None,
        "stop_reason": None,
    }


async def completion_frames(
    group: GenerationGroup,
    first: list[PromptEvent],
    stream: CompletionStream,
    ping_interval_s: float,
) -> AsyncIterator[bytes]:
    """The frames of a stream: ends after `[DONE]` or an error, or silently when the client has gone.

    first: the events received so far, none when none came in time.
    """
    events = first
    while True:
        try:
            frames = stream.frames(events)
        except Exception as error:  # noqa: BLE001 - past the headers only a chunk can tell
            log_failure(error, group.request_id)
            yield data_frame(as_api_error(error).body(group.request_id))
            return
        if frames or not events:
            yield frames or PING
        if group.is_over:
            return
        try:
            events = await group.next_events(ping_interval_s)
        except ClientDisconnect:
            return
