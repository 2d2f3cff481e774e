"""What crosses the runtime's border: requests in, events out. Plain frozen data, no behaviour.

Text is verbatim on both sides: nothing here strips, normalises or re-encodes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pushkin_runtime.sampling_types import SamplingOverrides, SamplingParams
from pushkin_runtime.speech_types import SpeechDecision, SpeechRows

Task = Literal["continue", "rephrase", "story", "dictate"]
FinishReason = Literal["stop", "length", "cancelled", "superseded", "deadline"]
Quality = Literal["fast", "balanced", "best"]
StopCause = Literal["none", "eos", "word", "limit"]
AdapterState = Literal["on_disk", "loading", "resident", "broken"]
RuntimeState = Literal["loading", "ready", "unloaded", "failed", "draining"]

MAX_ADAPTER_SCALE = 4.0


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """One LoRA adapter by name, with the factor its update is multiplied by: at most ± MAX_ADAPTER_SCALE."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaRequest:
    """How much of the user's persona to use: mode "off" ignores the rest.

    strength: 0 to 2, 1 as trained. documents / exclude: ids the persona is limited to or built without.
    """

    mode: Literal["auto", "off"] = "auto"
    strength: float = 1.0
    documents: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Control codes; None leaves the choice to the runtime (language: detected from the text)."""

    genre: str | None = None
    register: str | None = None
    tone: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One piece of writing to do.

    text: before the caret (continue, dictate), the selection (rephrase), the premise (story).
    suffix: after the caret; candidates are chosen so that they lead into it (continue only).
    before / after / instruction: around the selection (rephrase only; dictate has `after`, what follows the caret).
    speech: what was said (dictate only); its words come back in lower case, without punctuation, after a blank.
    document_id, revision: a newer request for the same document and task supersedes an older one.
    max_tokens: None means the task's own default (`prompt.default_max_tokens`), 0 only fills the KV cache.
    adapters: None means the task's default set, () the bare base model.
    deadline_ms: bounds queue + prefill + decode, from the moment of `submit`. client: for whom; clients take turns.
    ahead: only fills the KV cache, for the same request without it, while there is nothing else; what comes ends it.

    For the dialects of other servers (task continue):
    prompt_tokens: the prompt, verbatim, instead of `text`; it gets no persona. raw: `text` is laid out without
    token healing, and max_tokens is cut to what the context leaves. cut_prompt: a text too long loses its start,
    else it is refused with ContextExceeded. reuse_cache: whether earlier keys and values may be used.
    distinct: drop near-duplicates among the n alternatives. ignore_eos: never end by itself.
    logit_bias: (token, what is added to its logit), -inf bans. return_tokens: fill `Delta.tokens` and
    `Choice.tokens`. n_probs: with so many alternatives each; post_sampling_probs: as the samplers left them.
    prompt_logprobs: the prompt's own tokens too. decode_ms: ends a text that has a newline after this long.
    cache_reuse: tokens in a row that may be moved behind an edit, 0 none; None: the runtime's, if it is a draft.
    """

    request_id: str
    task: Task
    text: str
    suffix: str = ""
    before: str = ""
    after: str = ""
    instruction: str = ""
    speech: SpeechRows | None = None
    document_id: str | None = None
    revision: int | None = None
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    adapters: tuple[AdapterRef, ...] | None = None
    persona: PersonaRequest = field(default_factory=PersonaRequest)
    control: Control = field(default_factory=Control)
    quality: Quality = "fast"
    deadline_ms: int | None = None
    client: str = ""
    ahead: bool = False
    prompt_tokens: tuple[int, ...] | None = None
    raw: bool = False
    cut_prompt: bool = True
    reuse_cache: bool = True
    cache_reuse: int | None = None
    distinct: bool = True
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    return_tokens: bool = False
    n_probs: int = 0
    post_sampling_probs: bool = False
    prompt_logprobs: bool = False
    decode_ms: int | None = None

    @property
    def wants_tokens(self) -> bool:
        """Whether the answer carries tokens beside its text."""
        return self.return_tokens or self.n_probs > 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log-probability (nats), None for a prompt's first; `top`: the likeliest there, best first."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PersonaSource:
    """A document's share of the persona; weights sum to 1."""

    document_id: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaUsed:
    """The persona that conditioned an answer; version 0 is no persona."""

    version: int = 0
    strength: float = 0.0
    sources: tuple[PersonaSource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts; `cached_tokens` of the prompt came from the KV cache, not from prefill."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds since `submit` by stage; `ttft_ms` is None when no text was produced."""

    queue_ms: float
    adapter_ms: float
    persona_ms: float
    prefill_ms: float
    ttft_ms: float | None
    decode_ms: float
    total_ms: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One alternative; `score` is its mean log-probability per token (nats), -inf without tokens;
    with a suffix, that of the suffix after it. stop_cause: what ended the text, "none" if it was cut short;
    stop_word: the stop string, for "word". tokens: if asked for, those of a stop string and `<eos>` included."""

    index: int
    text: str
    finish_reason: FinishReason
    score: float
    stop_cause: StopCause = "none"
    stop_word: str = ""
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """The whole answer; when drafts were scored, index 0 is the best of them.

    truncated: the prompt lost its start, or the answer its end, because the context is full. prompt_logprobs:
    if asked for, one for each token of the prompt.
    """

    request_id: str
    model: str
    adapters: tuple[AdapterRef, ...]
    persona: PersonaUsed
    sampling: SamplingParams
    choices: tuple[Choice, ...]
    usage: Usage
    timings: Timings
    truncated: bool = False
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    speech: SpeechDecision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """First event of every generation that leaves the queue."""

    request_id: str
    model: str
    adapters: tuple[AdapterRef, ...]
    persona: PersonaUsed
    sampling: SamplingParams
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Work that delays the first token: `n_done` of `n_total` adapters are in memory, or prompt tokens in the cache."""

    stage: Literal["loading", "prefill"]
    n_done: int
    n_total: int


@dataclass(frozen=True, slots=True)
class Delta:
    """Text to append to choice `index`; never ends inside a code point or a stop string.

    tokens: if asked for, the token that came with this event; its text may come with a later one.
    """

    index: int
    text: str
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """Last event of a generation that did not fail (cancelled and superseded ones included)."""

    result: GenerationResult


@dataclass(frozen=True, slots=True)
class Failed:
    """Last event of a generation that broke after it was accepted."""

    error: Exception


Event = Started | Progress | Delta | Done | Failed

EventSink = Callable[[Event], None]
"""Receives every event of one generation, in order, on the inference thread; must not block or raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The loaded base model. digest: SHA-256 (hex) over its manifest; window: sliding window in tokens."""

    id: str
    digest: str
    n_parameters: int
    n_bytes: int
    n_layers: int
    hidden_size: int
    vocab_size: int
    context_length: int
    window: int
    quantization: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStatus:
    """One installed adapter. problem: why a broken one cannot be used; then most fields are empty.

    scale: its own factor, alpha / rank or alpha / √rank. n_bytes: of its file. applied_modules: matrices of the base that
    it really changes; probe_delta: the largest change of a logit on a fixed prompt at scale 1. Both are None
    until it has been loaded, probe_delta also until the daemon had an idle moment.
    """

    name: str
    state: AdapterState
    problem: str | None = None
    task: str = ""
    rank: int = 0
    alpha: float = 0.0
    scale: float = 0.0
    rslora: bool = False
    n_bytes: int = 0
    sha256: str = ""
    base_id: str = ""
    base_digest: str = ""
    languages: tuple[str, ...] = ()
    pinned: bool = False
    applied_modules: int | None = None
    probe_delta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeStatus:
    """A snapshot for `/v1/status`: numbers and names only, never text.

    engine_reason: why this engine was chosen. last_token_age_s: None before the first token. heartbeat_age_s: since
    the inference thread last moved, 0 while it has nothing to do.
    """

    state: RuntimeState
    error: str | None
    engine: str
    engine_reason: str
    model: ModelInfo | None
    load_ms: float | None
    n_queued: int
    n_active: int
    max_active: int
    queue_limit: int
    n_requests: int
    n_tokens: int
    kv_entries: int
    kv_bytes: int
    kv_budget_bytes: int
    adapters_resident: int
    adapters_bytes: int
    adapters_budget_bytes: int
    last_token_age_s: float | None
    heartbeat_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether a token was really produced recently; `reason` says what is wrong or what proved it."""

    ok: bool
    state: RuntimeState
    reason: str
    retry_after_s: int | None = None
