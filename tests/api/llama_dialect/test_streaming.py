"""Streams: frames in upstream's order, nothing but `data:` lines, an error after the headers is a frame."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio


async def stream(daemon, read_frames, **body):
    async with daemon.client() as client:
        response = await client.post("/completion", json={"prompt": "a", "stream": True, **body})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in response.text
    return read_frames(response.text)


async def test_every_token_is_a_frame_and_the_last_says_why(start_daemon, read_frames):
    *partial, last = await stream(start_daemon(("héllo",)), read_frames)

    assert [list(frame) for frame in partial] == [
        ["index", "content", "tokens", "stop", "id_slot", "tokens_predicted", "tokens_evaluated"]
    ] * len(partial)
    assert "".join(frame["content"] for frame in partial) == "héllo"
    assert all(len(frame["tokens"]) == 1 for frame in partial)
    assert [frame["tokens_predicted"] for frame in partial] == list(range(1, 8))
    assert not any(frame["stop"] for frame in partial)
    assert (last["stop"], last["content"], last["tokens"]) == (True, "", [])
    assert (last["stop_type"], last["tokens_predicted"]) == ("eos", 7)
    assert "completion_probabilities" not in last


async def test_streamed_and_whole_texts_are_the_same(start_daemon, read_frames):
    daemon = start_daemon((" one\ntwo 🙂.",))
    *partial, _ = await stream(daemon, read_frames)
    async with daemon.client() as client:
        whole = (await client.post("/completion", json={"prompt": "a"})).json()

    assert "".join(frame["content"] for frame in partial) == whole["content"]


async def test_no_frame_holds_half_a_character_or_a_stop_word(start_daemon, read_frames):
    *partial, last = await stream(start_daemon(("aё🙂 stop",)), read_frames, stop=["stop"])

    assert "".join(frame["content"] for frame in partial) == "aё🙂 "
    assert (last["stop_type"], last["stopping_word"]) == ("word", "stop")


async def test_each_frame_has_the_probabilities_of_its_token(start_daemon, read_frames):
    *partial, _ = await stream(start_daemon(("abc",)), read_frames, n_probs=2)

    for frame in partial:
        [token] = frame["completion_probabilities"]
        assert [token["id"]] == frame["tokens"]
        assert len(token["top_logprobs"]) == 2


async def test_progress_and_timings_come_when_asked_for(start_daemon, read_frames):
    daemon = start_daemon(("abc",))
    *partial, _ = await stream(
        daemon, read_frames, prompt="x" * 30, return_progress=True, timings_per_token=True
    )
    progress = [f["prompt_progress"] for f in partial if "prompt_progress" in f]
    timed = [f["timings"] for f in partial if "timings" in f]

    assert [p["processed"] for p in progress] == [0, 8, 16, 24, 31]
    assert all((p["total"], p["cache"]) == (31, 0) for p in progress)
    assert [t["predicted_n"] for t in timed] == [1, 2, 3, 4]


async def test_alternatives_and_prompts_come_interleaved(start_daemon, read_frames):
    daemon = start_daemon(("ab", "cd"))
    frames = await stream(daemon, read_frames, prompt=["x", "y"], n_cmpl=2)
    texts = {
        index: "".join(f["content"] for f in frames if f["index"] == index) for index in range(4)
    }

    assert texts == {0: "ab", 1: "cd", 2: "ab", 3: "cd"}
    assert sorted(f["index"] for f in frames if f["stop"]) == [0, 1, 2, 3]


async def test_an_error_after_the_headers_is_a_frame(start_daemon, read_frames):
    *partial, last = await stream(start_daemon(("abcdef",), fail_after=2), read_frames)

    assert [frame["content"] for frame in partial] == ["a", "b"]
    assert (last["error"]["code"], last["error"]["type"]) == (500, "server_error")


async def test_an_error_at_once_has_its_status(start_daemon):
    async with start_daemon().client() as client:
        response = await client.post("/completion", json={"prompt": "x" * 5000, "stream": True})

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "exceed_context_size_error"


async def test_only_the_last_frame_is_trimmed_to_the_wanted_fields(start_daemon, read_frames):
    *partial, last = await stream(start_daemon(("ab",)), read_frames, response_fields=["stop"])

    assert last == {"stop": True}
    assert "content" in partial[0]


async def test_silence_is_filled_with_comments(start_daemon, open_call):
    daemon = start_daemon(("ab",), gated=True)
    body = {"prompt": "a", "stream": True, "sse_ping_interval": 1}
    async with open_call(daemon, "/completion", body) as call:
        assert await call.body_part() == b":\n\n"
        daemon.permits.release(100)


async def test_a_client_that_leaves_stops_its_generations(start_daemon, open_call):
    daemon = start_daemon(("ab",), gated=True, endless=True)
    async with open_call(daemon, "/completion", {"prompt": ["a", "b"], "stream": True}) as call:
        await daemon.runtime.submitted(2)
        call.leave()
        await daemon.runtime.ending()
        daemon.permits.release(100)
    for _ in range(2):
        end = await daemon.runtime.end()
        assert end.result.choices[0].finish_reason == "cancelled"
