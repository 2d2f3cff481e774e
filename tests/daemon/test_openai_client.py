"""The official `openai` client against a real daemon on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib

import numpy as np
import openai
import pytest

from tests.daemon.conftest import PATIENCE_S

N_TOKENS = 1000
KNOWN = {"timeout": PATIENCE_S, "max_retries": 0}


def key(daemon) -> str:
    return (daemon.home / "token").read_text().strip()


def client_of(daemon, **options) -> openai.OpenAI:
    base_url = f"http://127.0.0.1:{daemon.port}/v1"
    return openai.OpenAI(base_url=base_url, **{"api_key": key(daemon)} | KNOWN | options)


@pytest.fixture(scope="module")
def daemon(start_daemon, tmp_path_factory):
    return start_daemon(tmp_path_factory.mktemp("openai") / "home")


@pytest.fixture(scope="module")
def client(daemon):
    with client_of(daemon) as made:
        yield made


def test_completions_whole_and_streamed_are_the_same_text(client) -> None:
    wanted = {"model": "scripted", "prompt": "Once", "max_tokens": 20}
    whole = client.completions.create(**wanted, n=2)
    with client.completions.create(
        **wanted, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)

    assert [choice.finish_reason for choice in whole.choices] == ["length", "length"]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 40
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == 20


def test_extra_fields_go_in_and_come_out(client) -> None:
    answer = client.completions.create(
        model="scripted", prompt="Once", logprobs=1, extra_body={"min_p": 0.1, "adapters": []}
    )

    assert answer.adapters == []
    assert answer.timings["total_ms"] > 0
    assert len(answer.choices[0].logprobs.tokens) == 16


def test_the_async_client_streams(daemon) -> None:
    async def read() -> str:
        base_url = f"http://127.0.0.1:{daemon.port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key(daemon), **KNOWN) as client:
            stream = await client.completions.create(
                model="scripted", prompt=["a", "b"], max_tokens=5, stream=True
            )
            texts = ["", ""]
            async for chunk in stream:
                for choice in chunk.choices:
                    texts[choice.index] += choice.text
            return texts

    first, second = asyncio.run(read())
    assert first == second == " The "


def test_embeddings_are_base64_unless_floats_are_asked_for(client) -> None:
    by_default = client.embeddings.create(model="style-encoder", input=["Once", "Ёлка"])
    raw = client.embeddings.with_raw_response.create(
        model="style-encoder", input="Once", encoding_format="base64"
    ).http_response.json()
    floats = client.embeddings.create(
        model="default", input="Once", encoding_format="float", dimensions=8
    )

    assert len(by_default.data) == 2
    packed = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    assert np.allclose(packed, by_default.data[0].embedding, atol=1e-6)
    assert len(floats.data[0].embedding) == 8


def test_models_are_listed_and_shown(client) -> None:
    names = [model.id for model in client.models.list()]

    assert names == ["scripted", "style-encoder"]
    assert client.models.retrieve("scripted").owned_by == "local"


def test_errors_are_the_clients_own_classes(daemon, client) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a")
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="scripted", prompt="a", n=9)
    with client_of(daemon, api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()

    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert (bad.value.code, bad.value.param) == ("invalid_value", "n")
    assert bad.value.type == "invalid_request_error"


def test_a_closed_stream_and_a_timeout_free_the_engine(start_daemon, tmp_path) -> None:
    daemon = start_daemon(tmp_path / "home", paced=True)
    wanted = {"model": "scripted", "prompt": "a", "max_tokens": N_TOKENS}
    with client_of(daemon) as client:
        stream = client.completions.create(**wanted, stream=True)
        assert n_generations(daemon) == 1
        stream.close()
        let_it_end(daemon)
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).completions.create(**wanted)
        let_it_end(daemon)


def let_it_end(daemon) -> None:
    """Permit steps one by one until nothing runs; far fewer than a generation that goes on would take."""
    for _ in range(N_TOKENS // 4):
        if n_generations(daemon) == 0:
            return
        daemon.permit(1)
    pytest.fail("the generation goes on")


def n_generations(daemon) -> int:
    with daemon.client() as client:
        queue = client.get("/v1/status").json()["queue"]
    return queue["n_active"] + queue["n_queued"]


def test_a_request_while_the_model_loads_is_repeated_until_it_is_there(
    start_daemon, tmp_path
) -> None:
    daemon = start_daemon(
        tmp_path / "home", "--engine", "auto", "--model", "pushkin-mini", ready=False
    )
    listening = daemon.wait_for("listening")
    daemon.port = int(listening["addresses"][0].rpartition(":")[2])
    with client_of(daemon, max_retries=60) as client:
        answer = client.completions.create(
            model="pushkin-mini", prompt="It was a bright", max_tokens=4
        )
        with contextlib.closing(
            client.completions.create(
                model="pushkin-mini:continue", prompt="Он вошёл", max_tokens=4, stream=True
            )
        ) as stream:
            written = "".join(choice.text for chunk in stream for choice in chunk.choices)

    assert answer.usage.completion_tokens >= 1
    assert written
