"""Request → the tokens the model reads. The one place where prompts are laid out, training included.

Layout: `[persona; control codes; instruction; text; context]`, for dictation `[persona; control codes; text around the
caret; speech]`. A vocabulary with our control tokens
gets them as single ids; any other (the 4B's) gets a short textual header, and only for codes that were
asked for. User text can never become a control token (see `tokenizer.py`).

Two things keep the KV cache useful while a person types: the start of a long text is dropped in
whole steps, not token by token, and the last token is healed: it is taken off the prompt and the
first generated token must begin with its text, so "The qui" may become "The quick".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pushkin_runtime.control_tokens import GENRES, LANGUAGES, prefix_ids
from pushkin_runtime.engines.base import Embeddings, Segment, Tokens
from pushkin_runtime.errors import ContextExceeded, InvalidRequest
from pushkin_runtime.log_mel import SAMPLE_RATE
from pushkin_runtime.persona import PERSONA_TOKEN
from pushkin_runtime.speech_types import SpeechRows
from pushkin_runtime.tokenizer import TextTokenizer
from pushkin_runtime.types import Control, GenerationRequest

CHARS_PER_TOKEN = 8  # twice what prose has: cutting characters first loses no usable context
MIN_PROMPT = 16  # tokens of context that `max_tokens` must leave room for
RECENT = 64  # prompt tokens that the repetition penalty counts as seen
SPEECH_TOKENS_PER_S = 16  # short pieces of words; a fast speaker needs twelve
DICTATION_CONTEXT = (
    256  # tokens before the caret that dictation reads: names and the language, not the story
)
SENTENCE_END = tuple(".!?…»”\"'")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """What to prefill and how the answer starts.

    tokens: the whole prompt but the healed token; the last one is fed by the first decode step.
    healed: bytes of the token taken off; the answer begins with them and they are not emitted.
    first_allowed: tokens that begin with `healed`, None when nothing was healed.
    stop: stop strings of the layout itself. is_cut: whether the text lost its start. persona: (n_rows, hidden_size) float32; the first n_rows tokens
    are PERSONA_TOKEN and stand for them. speech: what was said, whose rows begin at position `speech_at`.
    copied_from: the position of a text that the answer will mostly repeat, None when there is none.
    """

    tokens: tuple[int, ...]
    healed: bytes = b""
    first_allowed: NDArray[np.int64] | None = None
    stop: tuple[str, ...] = ()
    is_cut: bool = False
    persona: NDArray[np.float32] | None = None
    speech: SpeechRows | None = None
    speech_at: int = 0
    copied_from: int | None = None

    @property
    def n_persona(self) -> int:
        """Positions that the persona takes."""
        return 0 if self.persona is None else len(self.persona)

    def segment(self, start: int, stop: int) -> Segment:
        """What to prefill from position `start` on: the rest of the persona, or tokens or speech up to `stop`."""
        if self.persona is not None and start < len(self.persona):
            return Embeddings(self.persona[start:])
        if self.speech is None or start >= self.speech_at + len(self.speech.rows):
            return Tokens(self.tokens[start:stop])
        if start < self.speech_at:
            return Tokens(self.tokens[start : min(stop, self.speech_at)])
        return Embeddings(self.speech.rows[start - self.speech_at : stop - self.speech_at])

    def recent(self, n: int) -> tuple[int, ...]:
        """The last n tokens, those that stand for rows left out: what penalties count as seen."""
        return tuple(token for token in self.tokens[-n:] if token >= 0)

    def after(self, persona: NDArray[np.float32] | None) -> Prompt:
        """Return the same prompt with a persona before it."""
        if persona is None:
            return self
        return replace(
            self,
            tokens=(PERSONA_TOKEN,) * len(persona) + self.tokens,
            persona=persona,
            speech_at=self.speech_at + len(persona),
            copied_from=None if self.copied_from is None else self.copied_from + len(persona),
        )


def default_max_tokens(request: GenerationRequest, tokenizer: TextTokenizer) -> int:
    """Return the tokens to generate when the caller set none: a phrase, a rewrite, a page."""
    if request.task == "continue":
        return 24
    if request.task == "story":
        return 512
    if request.speech is not None:
        return speech_limit(request.speech)
    return min(1024, 32 + len(tokenizer.encode(request.text)) * 3 // 2)


def speech_limit(speech: SpeechRows) -> int:
    """Return the tokens that so much speech can have: the fastest speaker, and then some.

    A model that talks on over silence is stopped by it.
    """
    return 8 + round(SPEECH_TOKENS_PER_S * speech.n_samples / SAMPLE_RATE)


def build_prompt(
    request: GenerationRequest, tokenizer: TextTokenizer, *, n_context: int, max_tokens: int
) -> Prompt:
    """Lay out `request` in at most n_context - max_tokens tokens; an exact prompt leaves one at least.

    Raises ContextExceeded for an exact prompt that does not fit,
    InvalidRequest when it cannot fit or asks for a control code the model does not have.
    """
    if request.prompt_tokens is not None or request.raw:
        return _exact(request, tokenizer, n_context, max_tokens)
    budget = n_context - max_tokens
    if budget < MIN_PROMPT:
        raise InvalidRequest(
            f"max_tokens is {max_tokens}, but the model's context is {n_context} tokens; "
            f"ask for at most {n_context - MIN_PROMPT}.",
            param="max_tokens",
        )
    head = text_prefix(request, tokenizer)
    if request.speech is not None:
        return _dictate(request, request.speech, tokenizer, budget)
    if request.task == "rephrase":
        return _rephrase(request, tokenizer, head, budget)
    text = request.text
    if request.task == "story" and text.rstrip().endswith(SENTENCE_END):
        text = (
            text.rstrip() + "\n\n"
        )  # a finished premise is followed by the story, not glued to it
    body = _tail(tokenizer, text, budget - len(head))
    return _healed(tokenizer, head, body)


def text_prefix(request: GenerationRequest, tokenizer: TextTokenizer) -> list[int]:
    """Return what stands before the text of `request`: `<bos>` and the control codes.

    Raises InvalidRequest as `control_prefix`.
    """
    has_codes = tokenizer.special_id("<lang:en>") is not None
    return control_prefix(tokenizer, _completed(request) if has_codes else request.control)


def control_prefix(tokenizer: TextTokenizer, control: Control) -> list[int]:
    """Return `<bos>` and the control codes. Raises InvalidRequest for a code without a token."""
    if tokenizer.special_id("<lang:en>") is None:
        asked = [
            f"{name}: {value}"
            for name in ("language", "genre", "register", "tone")
            if (value := getattr(control, name))
        ]
        header = tokenizer.encode(f"[{'; '.join(asked)}]\n\n") if asked else []
        return [tokenizer.bos_id, *header]
    for field, known in (("language", LANGUAGES), ("genre", GENRES)):
        value = getattr(control, field)
        if value is not None and value not in known:
            raise InvalidRequest(
                f"The loaded model has no {field} {value[:32]!r}; it knows {', '.join(known)}.",
                param=f"control.{field}",
            )
    for field in ("register", "tone"):
        if getattr(control, field) is not None:
            raise InvalidRequest(
                f"The loaded model has no control codes for {field}; leave it out.",
                param=f"control.{field}",
            )
    return prefix_ids(
        tokenizer.require_special,
        tokenizer.encode,
        control.language or "en",
        control.genre or "prose",
    )


def dictation_frame(
    tokenizer: TextTokenizer, language: str, before: Sequence[int] = (), after: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """Return the tokens before and after the rows of speech; what surrounds the caret stands left of them.

    So everything but the speech is a constant prefix while a person speaks. Raises InvalidRequest for a language
    without a token and ModelCorrupt for a vocabulary without tokens for dictation.
    """
    head = control_prefix(tokenizer, Control(language=language))
    head.append(tokenizer.require_special("<task:dictate>"))
    for name, part in (("<before>", before), ("<after>", after)):
        head += [tokenizer.require_special(name), *part] if part else []
    return head, [tokenizer.require_special("<result>")]


def detect_language(text: str) -> str:
    """Return "ru" when at least 30 % of the letters at the end of `text` are Cyrillic, else "en"."""
    letters = [c for c in text[-2000:] if c.isalpha()]
    cyrillic = sum("\u0400" <= c <= "\u04ff" for c in letters)
    return "ru" if letters and cyrillic / len(letters) >= 0.3 else "en"


def _exact(
    request: GenerationRequest, tokenizer: TextTokenizer, n_context: int, max_tokens: int
) -> Prompt:
    """A prompt that is not healed: the caller's own tokens, or control prefix and text."""
    if request.prompt_tokens is not None:
        return _fitting(request.prompt_tokens, n_context)
    head = text_prefix(request, tokenizer)
    if not request.cut_prompt:
        return _fitting((*head, *tokenizer.encode(request.text)), n_context)
    room = n_context - max(1, min(max_tokens, n_context // 2))
    body = _tail(tokenizer, request.text, room - len(head))
    n_bytes = sum(len(tokenizer.token_bytes(token)) for token in body)
    is_cut = n_bytes < len(request.text.encode())
    return replace(_fitting((*head, *body), n_context), is_cut=is_cut)


def _fitting(tokens: tuple[int, ...], n_context: int) -> Prompt:
    if len(tokens) >= n_context:
        raise ContextExceeded(
            f"The prompt of {len(tokens)} tokens exceeds the available context size of {n_context} tokens, "
            "of which one at least is for the answer; send less of the text.",
            n_prompt_tokens=len(tokens),
            n_context=n_context,
        )
    return Prompt(tokens=tokens)


def _completed(request: GenerationRequest) -> Control:
    """Fill in what the caller left open, from the text itself."""
    control = request.control
    language = control.language or detect_language(request.before + request.text)
    return Control(
        language=language,
        genre=control.genre or "prose",
        register=control.register,
        tone=control.tone,
    )


def _tail(tokenizer: TextTokenizer, text: str, budget: int) -> list[int]:
    """Return the last tokens of `text`, at most `budget`; the cut moves in steps, not per keystroke."""
    over = len(text) - budget * CHARS_PER_TOKEN
    if over > 0:
        step = budget * CHARS_PER_TOKEN // 2
        text = text[-(-over // step) * step :]
    tokens = tokenizer.encode(text)
    over = len(tokens) - budget
    if over > 0:
        step = max(1, budget // 4)
        tokens = tokens[min(-(-over // step) * step, len(tokens) - 1) :]
    return tokens


def _healed(tokenizer: TextTokenizer, head: list[int], body: list[int]) -> Prompt:
    if not body:
        return Prompt(tokens=tuple(head))
    healed = tokenizer.token_bytes(body[-1])
    if not healed or len(allowed := tokenizer.starting_with(healed)) < 2:
        return Prompt(tokens=(*head, *body))
    return Prompt(tokens=(*head, *body[:-1]), healed=healed, first_allowed=allowed)


def _rephrase(
    request: GenerationRequest, tokenizer: TextTokenizer, head: list[int], budget: int
) -> Prompt:
    selection = tokenizer.encode(request.text)
    instruction = tokenizer.encode(request.instruction)
    room = budget - len(head) - len(selection) - len(instruction) - MIN_PROMPT
    if room < 0:
        raise InvalidRequest(
            f"The selection takes {len(selection)} tokens and the answer may take as many; "
            f"they do not fit the model's context ({-room} tokens too many). Select less text.",
            param="text",
        )
    before = _tail(tokenizer, request.before, room // 2) if request.before and room > 1 else []
    after = tokenizer.encode(request.after[: room * CHARS_PER_TOKEN])[: room // 2]
    named = {
        name: tokenizer.special_id(name)
        for name in (
            "<task:rephrase>",
            "<instruction>",
            "<before>",
            "<after>",
            "<selection>",
            "<result>",
        )
    }
    if None in named.values():
        return _textual_rephrase(request, tokenizer, head, tokenizer.decode(before))
    ids = {name: index for name, index in named.items() if index is not None}
    tokens = [*head, ids["<task:rephrase>"]]
    for name, part in (("<instruction>", instruction), ("<before>", before), ("<after>", after)):
        tokens += [ids[name], *part] if part else []
    copied_from = len(tokens) + 1
    tokens += [ids["<selection>"], *selection, ids["<result>"]]
    return Prompt(tokens=tuple(tokens), copied_from=copied_from)


def _dictate(
    request: GenerationRequest, speech: SpeechRows, tokenizer: TextTokenizer, budget: int
) -> Prompt:
    language = request.control.language or detect_language(request.text)
    n_frame = sum(map(len, dictation_frame(tokenizer, language, [0], [0])))
    room = budget - n_frame - len(speech.rows) - 1  # the kind takes one
    if room < 0:
        raise InvalidRequest(
            f"{speech.n_samples / SAMPLE_RATE:.1f} s of speech take {len(speech.rows)} positions, {-room} too many for "
            "the model's context. Send shorter utterances.",
            param="speech",
        )
    before = _tail(tokenizer, request.text, min(DICTATION_CONTEXT, room)) if room > 1 else []
    left = min(DICTATION_CONTEXT // 4, room - len(before))
    after = tokenizer.encode(request.after[: left * CHARS_PER_TOKEN])[: max(0, left)]
    head, tail = dictation_frame(tokenizer, language, before, after)
    stands_for = (speech.token,) * len(speech.rows)
    return Prompt(tokens=(*head, *stands_for, *tail), speech=speech, speech_at=len(head))


def _textual_rephrase(
    request: GenerationRequest, tokenizer: TextTokenizer, head: list[int], before: str
) -> Prompt:
    """For base models without our tokens: a form they have seen in ordinary text."""
    russian = detect_language(request.text) == "ru"
    original, rewritten = ("Исходный текст", "Иначе") if russian else ("Original", "Rewritten")
    note = f" ({request.instruction})" if request.instruction else ""
    context = f"{before}\n\n" if before else ""
    lead = f"{context}{original}:"
    body = f"{lead} {request.text}\n\n{rewritten}{note}:"
    stop = (f"\n{original}", "\n\n") if "\n" not in request.text else (f"\n{original}",)
    return Prompt(
        tokens=(*head, *tokenizer.encode(body)),
        stop=stop,
        copied_from=len(head) + len(tokenizer.encode(lead)),
    )
