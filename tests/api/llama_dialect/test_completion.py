"""`POST /completion` as llama-server's own tests and README have it."""

from __future__ import annotations

import pytest

from pushkin_runtime.errors import NotReady

pytestmark = pytest.mark.anyio

TEXTS = (" one two\nthree four",)


async def complete(daemon, path="/completion", **body):
    async with daemon.client() as client:
        return await client.post(path, json={"prompt": "I believe", **body})


@pytest.mark.parametrize("path", ["/completion", "/completions"])
async def test_both_names_answer_with_upstream_s_fields_in_order(start_daemon, path):
    answer = (await complete(start_daemon(TEXTS), path, n_predict=5)).json()

    assert list(answer) == [
        *("index", "content", "tokens", "id_slot", "stop", "model", "tokens_predicted"),
        *("tokens_evaluated", "generation_settings", "prompt", "has_new_line", "truncated"),
        *("stop_type", "stopping_word", "tokens_cached", "timings", "adapters"),
    ]
    assert (answer["content"], answer["stop"], answer["tokens"]) == (" one ", True, [])
    assert (answer["tokens_predicted"], answer["tokens_evaluated"]) == (5, 10)
    assert (answer["stop_type"], answer["stopping_word"]) == ("limit", "")
    assert answer["prompt"] == "<bos>I believe"
    assert answer["timings"]["predicted_n"] == 5
    assert answer["timings"]["prompt_n"] + answer["timings"]["cache_n"] == 10
    assert list(answer["timings"]) == [
        *("cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second"),
        *("predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second"),
    ]


async def test_without_a_limit_the_text_goes_on_to_its_end(start_daemon):
    answer = (await complete(start_daemon(TEXTS))).json()

    assert answer["content"] == TEXTS[0]
    assert (answer["stop_type"], answer["truncated"], answer["has_new_line"]) == (
        "eos",
        False,
        True,
    )
    assert answer["generation_settings"]["n_predict"] == -1


async def test_without_a_limit_the_context_is_one(start_daemon):
    answer = (await complete(start_daemon(TEXTS, endless=True))).json()

    assert answer["tokens_evaluated"] + answer["tokens_predicted"] == 4096
    assert (answer["stop_type"], answer["truncated"]) == ("limit", True)


async def test_defaults_are_upstream_s_and_the_seed_is_told(start_daemon):
    daemon = start_daemon(TEXTS)
    drawn = (await complete(daemon)).json()["generation_settings"]
    given = (await complete(daemon, seed=42, temperature=None)).json()["generation_settings"]

    assert given["seed"] == 42
    assert drawn["seed"] >= 0
    expected = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 1.0}
    expected |= {"repeat_penalty": 1.0, "repeat_last_n": 64, "xtc_probability": 0.0}
    assert {name: given[name] for name in expected} == expected
    sampling = daemon.runtime.requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.repetition_penalty) == (0.8, 40, 1.0)
    assert sampling.samplers == (
        *(
            "penalties",
            "dry",
            "top_n_sigma",
            "top_k",
            "typ_p",
            "top_p",
            "min_p",
            "xtc",
            "temperature",
        ),
    )


async def test_a_zero_limit_only_fills_the_cache(start_daemon):
    daemon = start_daemon(TEXTS)
    n_before = daemon.engine.n_steps
    filled = (await complete(daemon, n_predict=0)).json()
    after = (await complete(daemon, n_predict=1)).json()

    assert (filled["content"], filled["tokens_predicted"], filled["stop_type"]) == ("", 0, "limit")
    assert filled["timings"]["predicted_per_second"] == 0
    assert daemon.engine.n_steps == n_before + 1
    assert after["timings"]["cache_n"] == after["tokens_evaluated"]


async def test_the_cache_can_be_refused(start_daemon):
    daemon = start_daemon(TEXTS)
    await complete(daemon, n_predict=1)

    assert (await complete(daemon, n_predict=1)).json()["timings"]["cache_n"] > 0
    refused = await complete(daemon, n_predict=1, cache_prompt=False)
    assert refused.json()["timings"]["cache_n"] == 0


@pytest.mark.parametrize(
    "alias", [{"n_predict": 3}, {"max_tokens": 3}, {"max_completion_tokens": 3}]
)
async def test_the_limit_has_three_names(start_daemon, alias):
    assert (await complete(start_daemon(TEXTS), **alias)).json()["tokens_predicted"] == 3


async def test_a_stop_word_ends_the_text_and_is_not_in_it(start_daemon):
    daemon = start_daemon(TEXTS)
    answer = (await complete(daemon, stop=["four", "two\n", ""], n_probs=1)).json()

    assert (answer["content"], answer["stop_type"]) == (" one ", "word")
    assert answer["stopping_word"] == "two\n"
    told = bytes(b for token in answer["completion_probabilities"] for b in token["bytes"])
    assert told.decode() == answer["content"]


async def test_several_prompts_are_answered_in_an_array(start_daemon):
    daemon = start_daemon(TEXTS)
    answers = (await complete(daemon, prompt=["a", [2, 101, "b", 102]], n_predict=2, n=2)).json()

    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    assert [answer["prompt"] for answer in answers] == ["<bos>a"] * 2 + ["<bos>abb"] * 2
    one = (await complete(daemon, prompt=["a"], n_predict=2)).json()
    assert one["content"] == " o"


async def test_text_and_its_tokens_are_the_same_prompt(start_daemon):
    daemon = start_daemon(TEXTS)
    async with daemon.client() as client:
        made = await client.post("/tokenize", json={"content": "I believe", "add_special": True})
    tokens = made.json()["tokens"]
    by_text = (await complete(daemon, prompt="I believe", n_predict=3)).json()
    by_tokens = (await complete(daemon, prompt=tokens, n_predict=3)).json()

    assert by_tokens["prompt"] == by_text["prompt"]
    assert by_tokens["timings"]["cache_n"] == len(tokens)
    mixed = (await complete(daemon, prompt=[*tokens, " more"], n_predict=1)).json()
    assert mixed["prompt"] == "<bos>I believe more"
    text_first = (await complete(daemon, prompt=["I ", 102], n_predict=1)).json()
    assert text_first["prompt"] == "<bos>I b"
    wrapped = (await complete(daemon, prompt={"prompt_string": "I believe"}, n_predict=1)).json()
    assert wrapped["prompt"] == by_text["prompt"]


async def test_tokens_and_probabilities_come_when_asked_for(start_daemon):
    daemon = start_daemon(("ё!",))
    answer = (await complete(daemon, return_tokens=True, n_probs=3)).json()
    first, *_, last = answer["completion_probabilities"]

    assert len(answer["tokens"]) == answer["tokens_predicted"] == 4
    assert list(first) == ["id", "token", "bytes", "logprob", "top_logprobs"]
    assert (first["token"], first["bytes"]) == ("", [0xD1])
    assert len(first["top_logprobs"]) == 3
    assert all(list(top) == ["id", "token", "bytes", "logprob"] for top in first["top_logprobs"])
    assert last["token"] == "<eos>"


async def test_probabilities_after_the_samplers_have_other_names(start_daemon):
    answer = (await complete(start_daemon(TEXTS), logprobs=2, post_sampling_probs=True)).json()
    token = answer["completion_probabilities"][0]

    assert list(token) == ["id", "token", "bytes", "prob", "top_probs"]
    assert 0 < token["prob"] <= 1
    assert {"prob"} <= set(token["top_probs"][0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            [[101, 1.5], ["ab", -100], [102, False]],
            [(101, 1.5), (101, -100), (102, -100), (102, None)],
        ),
        ({"101": 2, "b": False}, [(101, 2), (102, None)]),
    ],
)
async def test_biases_name_tokens_by_number_or_text(start_daemon, given, expected):
    daemon = start_daemon(TEXTS)
    answer = (await complete(daemon, logit_bias=given, n_predict=1)).json()
    echoed = answer["generation_settings"]["logit_bias"]

    assert [(entry["token"], entry["bias"]) for entry in echoed] == expected
    assert [token for token, _ in daemon.runtime.requests[-1].logit_bias] == [
        t for t, _ in expected
    ]


async def test_ignoring_the_end_bans_its_tokens(start_daemon):
    answer = (await complete(start_daemon(("ab",)), ignore_eos=True, n_predict=5)).json()

    assert answer["content"] == "ababa"
    assert answer["generation_settings"]["logit_bias"] == [{"bias": None, "token": 1}]


async def test_only_the_wanted_fields_are_sent(start_daemon):
    fields = ["content", "generation_settings/n_predict", "prompt", "no/such"]
    answer = (await complete(start_daemon(TEXTS), n_predict=8, response_fields=fields)).json()

    assert list(answer) == fields[:3]
    assert answer["generation_settings/n_predict"] == 8


async def test_a_slow_text_ends_at_its_newline(start_daemon):
    answer = (await complete(start_daemon(TEXTS), t_max_predict_ms=-1)).json()
    assert answer["stop_type"] == "eos"

    daemon = start_daemon(TEXTS)
    await complete(daemon, t_max_predict_ms=1)
    assert daemon.runtime.requests[-1].decode_ms == 1


async def test_a_slot_is_a_number_that_comes_back(start_daemon):
    assert (await complete(start_daemon(TEXTS), id_slot=2)).json()["id_slot"] == 2


async def test_unknown_fields_and_null_are_as_good_as_none(start_daemon):
    response = await complete(start_daemon(TEXTS), grammar=None, lora=None, model="x", qux=[1])

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grammar", "root ::= [a-z]"),
        ("json_schema", {}),
        ("min_keep", 3),
        ("n_indent", 1),
        ("samplers", ["infill"]),
        ("prompt", {"prompt_string": "a", "multimodal_data": ["aGk="]}),
    ],
)
async def test_what_is_not_supported_says_so(start_daemon, field, value):
    response = await complete(start_daemon(TEXTS), **{field: value})
    error = response.json()["error"]

    assert response.status_code == error["code"] == 501
    assert (error["type"], error["param"]) == ("not_supported_error", field)
    assert len(error["message"]) > 30


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": [2, 2**31]}, "prompt"),
        ({"prompt": [2, -1]}, "prompt"),
        ({"n_predict": -2}, "n_predict"),
        ({"n": 5}, "n"),
        ({"id_slot": 4}, "id_slot"),
        ({"stop": [1]}, "stop[0]"),
        ({"samplers": ["top_q"]}, "samplers"),
        ({"dry_multiplier": -1}, "dry_multiplier"),
        ({"dry_allowed_length": -1}, "dry_allowed_length"),
        ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": ":"}, "dry_sequence_breakers"),
        ({"dry_sequence_breakers": [1]}, "dry_sequence_breakers[0]"),
        ({"dry_sequence_breakers": ["a" * 41]}, "dry_sequence_breakers[0]"),
        ({"mirostat": 3}, "mirostat"),
        ({"mirostat_tau": -1}, "mirostat_tau"),
        ({"logit_bias": [[1]]}, "logit_bias"),
        ({"logit_bias": [[1, True]]}, "logit_bias"),
        ({"logit_bias": {"1": "a"}}, "logit_bias"),
        ({"logit_bias": [[260, 1]]}, "logit_bias"),
        ({"lora": {"id": 0}}, "lora"),
        ({"lora": [{"id": 0}]}, "lora[0].scale"),
        ({"document_id": "d", "prompt": ["a", "b"]}, None),
    ],
)
async def test_a_bad_field_is_named(start_daemon, body, param):
    response = await complete(start_daemon(TEXTS), **body)
    error = response.json()["error"]

    assert response.status_code == error["code"] == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert list(error) == ["code", "message", "type", "reason", "param", "request_id"]


NUMBERS = [
    *(
        "n_predict",
        "n_cmpl",
        "temperature",
        "dynatemp_range",
        "dynatemp_exponent",
        "top_k",
        "top_p",
    ),
    *("min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "repeat_penalty"),
    *("repeat_last_n", "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base"),
    *(
        "dry_allowed_length",
        "dry_penalty_last_n",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
        "seed",
    ),
    *("n_probs", "min_keep", "sse_ping_interval", "id_slot", "n_keep", "n_discard", "n_indent"),
    *("n_cache_reuse", "t_max_predict_ms"),
]


@pytest.mark.parametrize(
    "number", ["-1", "2147483648", "NaN", "1e999", "-1e999", "1e300", "0.5", "-0"]
)
async def test_no_number_in_any_field_breaks_the_daemon(daemon, number):
    """CVE-2026-21869 was a negative n_discard: an out-of-bounds write upstream."""
    async with daemon.client() as client:
        for field in NUMBERS:
            body = f'{{"prompt": "a", "{"n_predict" if field != "n_predict" else "seed"}": 1, "{field}": {number}}}'
            response = await client.post(
                "/completion", content=body, headers={"Content-Type": "application/json"}
            )
            assert response.status_code in {200, 400, 501}, field
            if number in {"NaN", "1e999", "-1e999"}:
                assert response.status_code == 400, field
        assert (await client.post("/completion", json={"prompt": "a"})).status_code == 200


async def test_a_prompt_too_long_is_upstream_s_error(start_daemon):
    response = await complete(start_daemon(TEXTS), prompt="word " * 1000)
    error = response.json()["error"]

    assert response.status_code == 400
    assert error["type"] == "exceed_context_size_error"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (5001, 4096)
    assert "exceeds the available context size" in error["message"]


async def test_while_the_model_loads_every_route_is_unavailable(start_daemon, monkeypatch):
    daemon = start_daemon(TEXTS)

    def not_ready():
        raise NotReady("The model is still loading; ask again in a second.", retry_after_s=1)

    monkeypatch.setattr(daemon.runtime, "tokenizer", not_ready)
    async with daemon.client() as client:
        for method, path, body in [
            ("POST", "/completion", {"prompt": "a"}),
            ("POST", "/tokenize", {"content": "a"}),
            ("GET", "/props", None),
            ("GET", "/slots", None),
        ]:
            response = await client.request(method, path, json=body)
            error = response.json()["error"]
            assert response.status_code == error["code"] == 503
            assert error["type"] == "unavailable_error"
            assert response.headers["Retry-After"] == "1"


async def test_errors_before_a_route_have_the_shape_too(start_daemon):
    daemon = start_daemon(TEXTS)
    async with daemon.client(**{"X-Nothing": "1"}) as client:
        unknown = await client.post("/completions", json={"prompt": "a"})
    async with daemon.client() as client:
        broken = await client.post(
            "/completion", content="{", headers={"Content-Type": "application/json"}
        )
        form = await client.post("/completion", data={"prompt": "a"})
        house = await client.post("/v1/continue", json={})

    assert unknown.status_code == unknown.json()["error"]["code"] == 401
    assert unknown.json()["error"]["type"] == "authentication_error"
    assert broken.json()["error"]["code"] == 400
    assert form.json()["error"]["code"] == 415
    assert house.json()["error"]["code"] == "missing_field"


async def test_a_key_may_come_in_either_header(start_daemon):
    daemon = start_daemon(TEXTS)
    token = daemon.client().headers["Authorization"].removeprefix("Bearer ")
    async with daemon.client(**{"X-Api-Key": token}) as client:
        response = await client.post("/completions", json={"prompt": "a", "n_predict": 1})

    assert response.status_code == 200


async def test_a_newer_request_for_a_document_supersedes(start_daemon, open_call):
    daemon = start_daemon(TEXTS, gated=True, endless=True)
    body = {"prompt": "a", "document_id": "d"}
    async with open_call(daemon, "/completion", body) as older:
        await daemon.runtime.submitted(1)
        async with open_call(daemon, "/completion", {**body, "prompt": "ab", "n_predict": 1}):
            await daemon.runtime.submitted(2)
            daemon.permits.release(100)

    answer = older.json()
    assert (answer["stop_type"], answer["finish_reason"]) == ("none", "superseded")
