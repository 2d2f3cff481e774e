"""What other servers' dialects ask of the runtime: exact prompts, token details, stop causes, prefill only."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pushkin_runtime.engines.base import Engine
from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.errors import ContextExceeded, InvalidRequest
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import Delta, Done, GenerationRequest

Start = Callable[..., Runtime]
Generate = Callable[..., Done]
GREEDY = SamplingOverrides(temperature=0.0)
TEXT = "The old house stood by the river, and nobody"


def test_a_raw_text_is_read_as_it_is_with_the_control_prefix(
    start_runtime: Start, generate: Generate, tiny_model: Path
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    tokenizer = runtime.tokenizer()
    prefix = [tokenizer.require_special(name) for name in ("<bos>", "<lang:en>", "<genre:prose>")]
    tokens = (*prefix, *tokenizer.encode(TEXT))

    by_text = generate(runtime, text=TEXT, raw=True, max_tokens=8, sampling=GREEDY)
    by_tokens = generate(runtime, text="", prompt_tokens=tokens, max_tokens=8, sampling=GREEDY)

    assert by_text.result.usage.prompt_tokens == len(tokens)
    assert by_text.result.choices[0].text == by_tokens.result.choices[0].text


def test_token_details_are_the_model_s_own(
    start_runtime: Start, generate: Generate, tiny_model: Path, reference_engine: Engine
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    tokens = (2, 40, 41, 42, 43)
    done = generate(
        runtime, text="", prompt_tokens=tokens, max_tokens=6, sampling=GREEDY, n_probs=3
    )
    written = done.result.choices[0].tokens
    fed = [*tokens, *(token.token for token in written)]
    rows = reference_engine.logits(reference_engine.new_cache(), fed[:-1])[len(tokens) - 1 :]

    assert len(written) == 6
    for row, detail in zip(rows, written, strict=True):
        total = math.log(np.exp(row.astype(np.float64)).sum())
        assert detail.logprob == pytest.approx(row[detail.token] - total, abs=1e-4)
        assert len(detail.top) == 3


def test_prompt_logprobs_cover_every_token_of_the_prompt(
    start_runtime: Start, generate: Generate, tiny_model: Path, reference_engine: Engine
) -> None:
    runtime = start_runtime(tiny_model, engine="torch")
    tokens = tuple(np.random.default_rng(0).integers(4, 480, 70).tolist())
    request: dict[str, Any] = {"text": "", "prompt_tokens": tokens, "max_tokens": 1}
    generate(runtime, **request)  # what is cached now must not be missing from the answer
    done = generate(runtime, **request, prompt_logprobs=True, n_probs=2)
    told = done.result.prompt_logprobs
    rows = reference_engine.logits(reference_engine.new_cache(), tokens)

    assert [t.token for t in told] == list(tokens)
    assert told[0].logprob is None
    for row, detail in zip(rows, told[1:], strict=False):
        total = math.log(np.exp(row.astype(np.float64)).sum())
        assert detail.logprob == pytest.approx(row[detail.token] - total, abs=1e-3)
        assert len(detail.top) == 2
    assert done.result.usage.cached_tokens == 0


def test_filling_the_cache_alone_writes_nothing(start_runtime: Start, generate: Generate) -> None:
    engine = ScriptedEngine()
    runtime = start_runtime(scripted=engine)
    n_before = engine.n_steps
    done = generate(runtime, text=TEXT, raw=True, max_tokens=0)
    after = generate(runtime, text=TEXT, raw=True, max_tokens=1)

    assert done.result.choices[0].text == ""
    assert done.result.choices[0].stop_cause == "limit"
    assert engine.n_steps == n_before + 1
    assert after.result.usage.cached_tokens == after.result.usage.prompt_tokens


def test_a_request_may_refuse_the_cache(start_runtime: Start, generate: Generate) -> None:
    runtime = start_runtime(scripted=ScriptedEngine())
    generate(runtime, text=TEXT, raw=True, max_tokens=1)

    assert generate(runtime, text=TEXT, raw=True, max_tokens=1).result.usage.cached_tokens > 0
    fresh = generate(runtime, text=TEXT, raw=True, max_tokens=1, reuse_cache=False)
    assert fresh.result.usage.cached_tokens == 0


@pytest.mark.parametrize(
    ("fields", "cause", "word", "reason"),
    [
        ({"max_tokens": 100}, "eos", "", "stop"),
        ({"max_tokens": 100, "stop": ("two", "one two")}, "word", "one two", "stop"),
        ({"max_tokens": 3}, "limit", "", "length"),
    ],
)
def test_the_cause_of_an_end_is_told(
    fields: dict[str, Any],
    cause: str,
    word: str,
    reason: str,
    start_runtime: Start,
    generate: Generate,
) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["one two three"]))
    [choice] = generate(runtime, text="a", raw=True, **fields).result.choices

    assert (choice.stop_cause, choice.stop_word, choice.finish_reason) == (cause, word, reason)


def test_ignoring_the_end_writes_on(start_runtime: Start, generate: Generate) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["ab"]))
    done = generate(runtime, text="a", raw=True, max_tokens=5, ignore_eos=True)

    assert done.result.choices[0].text == "ababa"


def test_tokens_come_with_the_text_as_it_is_written(start_runtime: Start, recorder: Any) -> None:
    engine = ScriptedEngine(texts=["ё!"])
    runtime = start_runtime(scripted=engine)
    sink = recorder()
    request = GenerationRequest(
        request_id="r", task="continue", text="a", raw=True, max_tokens=9, return_tokens=True
    )
    runtime.submit(request, sink)
    done = sink.finish()
    deltas = [event for event in sink.events if isinstance(event, Delta)]

    assert [(d.text, len(d.tokens)) for d in deltas] == [("", 1), ("ё", 1), ("!", 1), ("", 1)]
    written = tuple(token for delta in deltas for token in delta.tokens)
    assert written == done.result.choices[0].tokens
    assert engine.tokenizer.decode([t.token for t in written]) == "ё!"
    assert written[-1].token == engine.tokenizer.eos_id


def test_alternatives_may_be_alike_where_each_is_wanted(
    start_runtime: Start, generate: Generate
) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["same"]))
    fields: dict[str, Any] = {"text": "a", "raw": True, "n": 3, "max_tokens": 9}

    assert len(generate(runtime, **fields).result.choices) == 1
    assert len(generate(runtime, **fields, distinct=False).result.choices) == 3
    greedy = generate(runtime, **fields, distinct=False, sampling=GREEDY)
    assert len(greedy.result.choices) == 3


def test_a_prompt_too_long_is_refused_or_cut(start_runtime: Start, generate: Generate) -> None:
    runtime = start_runtime(scripted=ScriptedEngine())
    text = "word " * 1000

    with pytest.raises(ContextExceeded) as caught:
        generate(runtime, text=text, raw=True, cut_prompt=False, max_tokens=8)
    assert (caught.value.n_prompt_tokens, caught.value.n_context) == (5001, 4096)

    done = generate(runtime, text=text, raw=True, max_tokens=8)
    assert done.result.truncated
    assert done.result.usage.prompt_tokens <= 4096 - 8


def test_an_answer_ends_where_the_context_does(start_runtime: Start, generate: Generate) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(endless=True))
    done = generate(runtime, text="x" * 4000, raw=True, max_tokens=100_000)

    assert done.result.usage.prompt_tokens + done.result.usage.completion_tokens == 4096
    assert done.result.choices[0].stop_cause == "limit"
    assert done.result.truncated


def test_a_slow_answer_ends_once_it_has_a_newline(start_runtime: Start, generate: Generate) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["one\ntwo three"]))
    done = generate(runtime, text="a", raw=True, max_tokens=50, decode_ms=0)

    assert done.result.choices[0].text == "one\n"
    assert done.result.choices[0].stop_cause == "limit"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_tokens": ()}, "prompt"),
        ({"prompt_tokens": (2, -1)}, "prompt"),
        ({"prompt_tokens": (2, 260)}, "prompt"),
        ({"logit_bias": ((2**31, 1.0),)}, "logit_bias"),
    ],
)
def test_tokens_outside_the_vocabulary_are_refused_at_once(
    fields: dict[str, Any], param: str, start_runtime: Start, generate: Generate
) -> None:
    runtime = start_runtime(scripted=ScriptedEngine())

    with pytest.raises(InvalidRequest) as caught:
        generate(runtime, text="a", **fields)
    assert caught.value.param == param


def test_names_of_specials_become_tokens_only_on_request() -> None:
    tokenizer = ScriptedEngine().tokenizer
    text = "a<bos>b"

    assert tokenizer.bos_id in tokenizer.encode_with_specials(text)
    assert tokenizer.bos_id not in tokenizer.encode(text)
    for tokens in (tokenizer.encode_with_specials(text), tokenizer.encode(text)):
        assert b"".join(tokenizer.piece(token) for token in tokens) == text.encode()
