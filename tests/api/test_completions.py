"""`POST /v1/completions`: OpenAI's completions through the real runtime, whole and streamed."""

from __future__ import annotations

import asyncio
import json

import pytest

from api.openai_dialect.completion_requests import MAX_TOKENS
from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE

pytestmark = pytest.mark.anyio

TEXTS = [" и ёлка стояла.", " and so it goes."]
PATH = "/v1/completions"


@pytest.fixture
def ask(start_daemon):
    """`ask(daemon, **body)` posts a completion."""

    async def post(daemon, **body):
        async with daemon.client() as client:
            return await client.post(PATH, json={"model": "scripted", **body})

    return post


def chunks(text: str) -> list[dict]:
    """A strict reader: one `data:` line each, `[DONE]` last."""
    frames = text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def told(streamed: list[dict], index: int = 0) -> str:
    """The text of one choice, put together."""
    choices = (choice for chunk in streamed for choice in chunk["choices"])
    return "".join(choice["text"] for choice in choices if choice["index"] == index)


async def test_defaults_are_openais(start_daemon, ask):
    daemon = start_daemon(["x" * 99])
    answer = (await ask(daemon, prompt="Once")).json()
    [request] = daemon.runtime.requests

    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-req_")
    assert answer["model"] == "scripted"
    [choice] = answer["choices"]
    assert choice == {
        "index": 0, "text": "x" * MAX_TOKENS, "logprobs": None, "finish_reason": "length",
        "stop_reason": None,
    }  # fmt: skip
    assert answer["usage"]["completion_tokens"] == MAX_TOKENS == 16
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 16
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.min_p, sampling.top_k) == (1, 1, 0, 0)
    assert (request.adapters, request.raw, request.cut_prompt) == ((), True, False)


async def test_each_prompt_has_n_choices_in_order(start_daemon, ask):
    daemon = start_daemon(TEXTS)
    wanted = {"prompt": ["one", "two"], "n": 2, "max_tokens": 99}
    whole = (await ask(daemon, **wanted)).json()
    streamed = chunks((await ask(daemon, **wanted, stream=True)).text)

    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in whole["choices"]] == TEXTS * 2
    assert [told(streamed, index) for index in range(4)] == TEXTS * 2
    finals = [c for chunk in streamed for c in chunk["choices"] if c["finish_reason"]]
    assert {c["index"]: c["finish_reason"] for c in finals} == dict.fromkeys(range(4), "stop")
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    assert whole["usage"]["completion_tokens"] >= 2 * n_bytes


async def test_greedy_and_equal_choices_are_still_n(start_daemon, ask):
    daemon = start_daemon([" same."])
    answer = (await ask(daemon, prompt="a", n=3, temperature=0, max_tokens=99)).json()

    assert [choice["text"] for choice in answer["choices"]] == [" same."] * 3


async def test_tokens_are_a_prompt_as_they_are(start_daemon, ask):
    daemon = start_daemon()
    tokens = daemon.runtime.tokenizer().encode("Сад")
    answer = (await ask(daemon, prompt=[tokens, tokens], echo=True, max_tokens=99)).json()

    assert [choice["text"] for choice in answer["choices"]] == ["Сад and so it goes."] * 2
    assert all(request.prompt_tokens == tuple(tokens) for request in daemon.runtime.requests)
    assert answer["usage"]["prompt_tokens"] == 2 * len(tokens)


async def test_echo_comes_first_in_every_choice_of_a_stream(start_daemon, ask):
    daemon = start_daemon(TEXTS)
    answer = await ask(daemon, prompt=["один", "two"], n=2, echo=True, stream=True, max_tokens=99)

    expected = [prompt + text for prompt in ("один", "two") for text in TEXTS]
    assert [told(chunks(answer.text), index) for index in range(4)] == expected


async def test_stop_is_a_string_or_a_list_and_is_named_not_shown(start_daemon, ask):
    daemon = start_daemon([" one. two! three"])
    for stop, text, word in (("!", " one. two", "!"), (["!", "."], " one", "."), ([], None, None)):
        answer = (await ask(daemon, prompt="a", stop=stop, max_tokens=99)).json()
        [choice] = answer["choices"]

        assert choice["text"] == (text or " one. two! three")
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", word)


async def test_best_of_answers_the_likeliest_drafts(start_daemon, ask):
    daemon = start_daemon(TEXTS)
    answer = (await ask(daemon, prompt="a", n=1, best_of=4, max_tokens=99)).json()
    [request] = daemon.runtime.requests

    assert request.n == 4
    assert len(answer["choices"]) == 1
    refused = await ask(daemon, prompt="a", n=1, best_of=4, stream=True)
    assert refused.status_code == 400


async def test_a_suffix_is_ranked_natively_and_told_at_the_end(start_daemon, ask):
    daemon = start_daemon(TEXTS)
    whole = (await ask(daemon, prompt="a", suffix=" Конец.", max_tokens=99)).json()
    streamed = chunks(
        (await ask(daemon, prompt="a", suffix=" Конец.", max_tokens=99, stream=True)).text
    )

    assert daemon.runtime.requests[0].suffix == " Конец."
    assert daemon.runtime.requests[0].n == 3
    assert len(whole["choices"]) == 1
    assert whole["choices"][0]["text"] in TEXTS
    assert told(streamed) in TEXTS


async def test_logprobs_tell_every_token_its_place_and_alternatives(start_daemon, ask):
    daemon = start_daemon(["ёx"])
    answer = (await ask(daemon, prompt="a", logprobs=2, max_tokens=99)).json()
    found = answer["choices"][0]["logprobs"]

    assert found["tokens"] == ["bytes:\\xd1", "bytes:\\x91", "x"]
    assert found["text_offset"] == [0, 0, 1]
    assert found["token_logprobs"] == [-1, -1, -1]
    assert all(
        set(top) > {token}
        for token, top in zip(found["tokens"], found["top_logprobs"], strict=True)
    )


async def test_no_alternatives_leave_the_chosen_token(start_daemon, ask):
    daemon = start_daemon(["xy"])
    found = (await ask(daemon, prompt="a", logprobs=0, max_tokens=9)).json()["choices"][0][
        "logprobs"
    ]

    assert found["top_logprobs"] == [{"x": -1}, {"y": -1}]


async def test_streamed_logprobs_are_the_whole_ones_and_never_ahead_of_the_text(start_daemon, ask):
    daemon = start_daemon(["ёлка ab стоп"])
    wanted = {"prompt": "я", "logprobs": 1, "max_tokens": 99, "stop": ["b стоп", "ab д"]}
    whole = (await ask(daemon, **wanted)).json()["choices"][0]
    text, tokens = "", []
    for chunk in chunks((await ask(daemon, **wanted, stream=True)).text):
        for choice in chunk["choices"]:
            text += choice["text"]
            tokens += choice["logprobs"]["tokens"]
            offsets = choice["logprobs"]["text_offset"]
            assert all(offset < len(text) for offset in offsets)

    assert text == whole["text"] == "ёлка a"
    assert tokens == whole["logprobs"]["tokens"]
    assert "b" not in tokens


async def test_echo_with_logprobs_scores_the_prompt(start_daemon, ask):
    daemon = start_daemon(["!"])
    wanted = {"prompt": "Сад", "echo": True, "logprobs": 1}
    scored = (await ask(daemon, **wanted, max_tokens=0)).json()["choices"][0]
    written = (await ask(daemon, **wanted, max_tokens=9)).json()["choices"][0]
    streamed = chunks((await ask(daemon, **wanted, max_tokens=9, stream=True)).text)

    assert (scored["text"], scored["finish_reason"]) == ("Сад", "length")
    assert len(scored["logprobs"]["tokens"]) == len("Сад".encode())
    assert all(logprob is not None for logprob in scored["logprobs"]["token_logprobs"])
    assert written["text"] == told(streamed) == "Сад!"
    assert written["logprobs"]["text_offset"][-1] == 3
    assert streamed[0]["choices"][0]["logprobs"] == written["logprobs"]


async def test_a_first_token_without_anything_before_it_has_no_logprob(start_daemon, ask):
    daemon = start_daemon(["!"])
    answer = await ask(daemon, prompt=[100, 101], echo=True, logprobs=1, max_tokens=0)
    found = answer.json()["choices"][0]["logprobs"]

    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert found["token_logprobs"][1] is not None


async def test_usage_comes_in_a_chunk_of_its_own(start_daemon, ask):
    daemon = start_daemon(TEXTS)
    wanted = {"prompt": "a", "stream": True, "stream_options": {"include_usage": True, "x": 1}}
    *parts, last = chunks((await ask(daemon, **wanted)).text)

    assert all(part["usage"] is None for part in parts)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 16
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert "usage" not in chunks((await ask(daemon, prompt="b", stream=True)).text)[0]


async def test_extras_reach_the_runtime_and_unknown_fields_are_ignored(start_daemon, ask):
    daemon = start_daemon()
    response = await ask(
        daemon, prompt="a", min_p=0.2, top_k=7, presence_penalty=0.5, frequency_penalty=-0.5,
        repetition_penalty=1.1, seed=-1, logit_bias={"100": -100, "101": 2.5}, document_id="d",
        persona={"strength": 0.5}, user="u", service_tier="auto", best_of=1, metadata={"a": [1]},
    )  # fmt: skip
    assert response.status_code == 200, response.text
    [request] = daemon.runtime.requests

    sampling = request.sampling
    assert (sampling.min_p, sampling.top_k, sampling.seed) == (0.2, 7, 2**63 - 1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.repetition_penalty == 1.1
    assert request.logit_bias == ((100, -100), (101, 2.5))
    assert (request.document_id, request.persona.strength) == ("d", 0.5)


@pytest.fixture
def adapted(start_daemon, tmp_path, write_adapter):
    for seed, name in enumerate(("continue", "rephrase"), 1):
        write_adapter(tmp_path, name, BASE, seed=seed)
    return start_daemon(adapters=AdapterOptions(roots=(tmp_path,)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "scripted"}, []),
        ({"model": "scripted:rephrase"}, [("rephrase", 1)]),
        ({"model": "default"}, [("continue", 1)]),
        ({"model": None}, [("continue", 1)]),
        ({"adapters": ["rephrase"]}, [("rephrase", 1)]),
        ({"adapters": [{"name": "rephrase", "scale": 0.5}]}, [("rephrase", 0.5)]),
        ({"model": "scripted:rephrase", "adapters": []}, []),
    ],
)
async def test_the_model_names_the_adapters(adapted, ask, fields, expected):
    answer = (await ask(adapted, prompt="a", **fields)).json()

    assert [(used["name"], used["scale"]) for used in answer["adapters"]] == expected


async def test_listed_models_are_the_ones_that_complete(adapted, ask):
    async with adapted.client() as client:
        listed = (await client.get("/v1/models")).json()["data"]
    answers = [await ask(adapted, prompt="a", model=model["id"]) for model in listed]

    assert [model["id"] for model in listed] == [
        "scripted", "scripted:continue", "scripted:rephrase",
    ]  # fmt: skip
    assert [model["parent"] for model in listed] == [None, "scripted", "scripted"]
    assert [answer.json()["model"] for answer in answers] == [model["id"] for model in listed]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "gpt-3.5-turbo-instruct"}, 404, "model_not_found", "model"),
        ({"model": "scripted:unheard-of"}, 404, "model_not_found", "model"),
        ({"model": "scripted:../../etc"}, 404, "model_not_found", "model"),
        ({"model": "scripted:"}, 404, "model_not_found", "model"),
        ({"adapters": ["unheard-of"]}, 404, "adapter_not_found", "adapters[0].name"),
        ({"prompt": []}, 400, "text_empty", "prompt"),
        ({"prompt": [[]]}, 400, "text_empty", "prompt"),
        ({"prompt": None}, 400, "invalid_type", "prompt"),
        ({"prompt": ["a"] * 17}, 400, "invalid_value", "prompt"),
        ({"prompt": [260]}, 400, "invalid_request", "prompt"),
        ({"prompt": "a" * 5000}, 400, "context_length_exceeded", "prompt"),
        ({"logit_bias": {"260": 1}}, 400, "invalid_request", "logit_bias"),
        ({"logit_bias": {"a": 1}}, 400, "invalid_value", "logit_bias"),
        ({"logit_bias": {"1": 101}}, 400, "invalid_value", "logit_bias[1]"),
        ({"logprobs": 6}, 400, "invalid_value", "logprobs"),
        ({"n": 0}, 400, "invalid_value", "n"),
        ({"n": 2, "best_of": 1}, 400, "invalid_value", None),
        ({"temperature": -0.1}, 400, "invalid_value", "temperature"),
        ({"temperature": "1"}, 400, "invalid_type", "temperature"),
        ({"stop": [""]}, 400, "invalid_value", "stop[0]"),
        ({"stop": 7}, 400, "invalid_type", "stop"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value", None),
        ({"prompt": ["a", "b"], "document_id": "d"}, 400, "invalid_value", None),
        ({"document_id": ""}, 400, "invalid_value", "document_id"),
        ({"persona": "on"}, 400, "invalid_value", "persona"),
    ],
)
async def test_what_is_wrong_is_said_in_openais_shape(daemon, ask, fields, status, code, param):
    response = await ask(daemon, **{"prompt": "a", **fields})

    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_a_newer_request_ends_the_older_one_with_an_answer(start_daemon, ask):
    """Never 408, 409, 429 or 5xx: the official client would send the stale prompt again."""
    daemon = start_daemon(gated=True, endless=True)
    older = asyncio.create_task(ask(daemon, prompt="a", document_id="d", max_tokens=1))
    await daemon.runtime.submitted(1)
    newer = asyncio.create_task(ask(daemon, prompt="ab", document_id="d", max_tokens=1))
    await daemon.runtime.submitted(2)
    daemon.permits.release(100)
    ended = await older

    assert ended.status_code == 200
    [choice] = ended.json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "superseded")
    assert (await newer).json()["choices"][0]["stop_reason"] is None


async def test_cancelling_by_id_ends_every_prompt(start_daemon):
    daemon = start_daemon(gated=True, endless=True)
    async with daemon.client() as client:
        call = client.post(
            PATH, json={"prompt": ["a", "b"], "max_tokens": 1024}, headers={"X-Request-Id": "mine"}
        )
        running = asyncio.create_task(call)
        await daemon.runtime.submitted(2)
        assert (await client.delete("/v1/requests/mine")).json()["cancelled"]
        while not running.done():
            daemon.permits.release()
            await asyncio.sleep(0)
        answer = (await running).json()

    assert [choice["stop_reason"] for choice in answer["choices"]] == ["cancelled"] * 2


async def test_a_client_that_leaves_ends_every_prompt(start_daemon, open_call):
    daemon = start_daemon(gated=True, endless=True)
    body = {"prompt": ["a", "b"], "max_tokens": 99, "stream": True}
    async with open_call(daemon, PATH, body) as call:
        await daemon.runtime.submitted(2)
        call.leave()
        await daemon.runtime.ending()

    assert all(handle.end_reason() == "cancelled" for handle in daemon.runtime.handles)
    assert b"[DONE]" not in b"".join(m.get("body", b"") for m in call.messages)


async def test_a_full_queue_leaves_nothing_behind(start_daemon, ask):
    """Some of the prompts were taken already when the queue was found full."""
    daemon = start_daemon(gated=True, endless=True)
    calls = [asyncio.create_task(ask(daemon, prompt=["a"] * 16, max_tokens=1)) for _ in range(2)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    [refused] = [call.result() for call in done]
    assert refused.status_code == 503
    assert refused.headers["retry-after"]

    daemon.permits.release(10_000)
    assert [(await call).status_code for call in calls].count(200) == 1
    assert (await ask(daemon, prompt="a")).status_code == 200


async def test_a_failure_after_the_first_chunk_is_an_error_chunk(start_daemon, open_call):
    daemon = start_daemon(gated=True, fail_after=3)
    async with open_call(daemon, PATH, {"prompt": "a", "stream": True}) as call:
        daemon.permits.release(3)
        assert await call.body_part()
        daemon.permits.release(100)
    *_, last = (
        b"".join(m.get("body", b"") for m in call.messages).removesuffix(b"\n\n").split(b"\n\n")
    )

    assert call.status == 200
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert (error["code"], error["type"]) == ("engine_failed", "server_error")
