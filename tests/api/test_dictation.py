"""`WS /v1/dictation` and the switch of the microphone, on a real server."""

from __future__ import annotations

import contextlib
import json
import threading

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from api.schemas import MAX_TEXT_CHARS
from audio.errors import SpeechUnavailable
from audio.pcm import SAMPLE_RATE, to_pcm, to_samples
from benchmarks import espeak
from pushkin_runtime.speech_types import CommandLimits
from tests.api.served_dictation import (
    MENUBAR,
    SENTENCE,
    hear,
    oracle,
    send_sound,
    served,
    spoken,
    start,
    text_of,
)

pytestmark = pytest.mark.skipif(
    espeak.is_missing(), reason="NOT TESTED: espeak-ng is not installed (apt install espeak-ng)"
)

SILENCE = np.zeros(SAMPLE_RATE, np.int16)
UNSURE = (CommandLimits().do_at + CommandLimits().offer_at) / 2


@pytest.fixture(scope="module")
def server(daemon):
    with served(daemon.runtime, oracle(spoken())) as running:
        yield running


def test_speech_becomes_text_and_the_server_says_when_it_is_over(server) -> None:
    with server.connect() as client:
        start(client)
        send_sound(client, np.concatenate((spoken().pcm, SILENCE)))
        client.send('{"type": "stop"}')
        events = hear(client)

    assert text_of(events).split() == SENTENCE.split()
    types = [event["type"] for event in events]
    assert types[0] == "ready"
    assert types[-1] == "ended"
    assert {"vad", "partial", "commit", "final"} <= set(types)
    assert {event["session"] for event in events} == {events[0]["session"]}
    for event in events:
        if event["type"] == "partial":
            assert event["text"][: event["stable_chars"]] == text_of(events[: events.index(event)])
        if event["type"] == "commit":
            first, last = event["samples"]
            assert event["t0"] == pytest.approx(first / SAMPLE_RATE, abs=1e-4)
            assert event["t1"] == pytest.approx(last / SAMPLE_RATE, abs=1e-4)
    assert events[-1]["reason"] == "stop"


def ask(server, path: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {MENUBAR}"}
    return httpx.get(f"{server.url}{path}", headers=headers, trust_env=False, timeout=15)


def test_the_state_and_the_metrics_tell_of_dictation(server) -> None:
    with server.connect() as client:
        start(client)
        send_sound(client, np.concatenate((spoken().pcm, SILENCE)))
        assert json.loads(client.recv(10))["type"] == "ready"
        open_now = ask(server, "/v1/status").json()["dictation"]
        client.send('{"type": "stop"}')
        hear(client)
    page = ask(server, "/metrics").text

    assert open_now == {
        "state": "off", "installed": True, "loaded": True, "n_sessions": 1, "session_limit": 4,
        "n_transcriptions": 0, "transcription_limit": 4,
    }  # fmt: skip
    counted = dict(line.split(" ") for line in page.splitlines() if line.startswith("pushkin_dict"))
    assert float(counted["pushkin_dictation_ended_total"]) >= 1
    assert float(counted["pushkin_dictation_utterances_total"]) >= 1
    assert float(counted["pushkin_dictation_audio_seconds_total"]) >= len(spoken().pcm) / 32_000


def test_96_khz_float_stereo_is_taken(server) -> None:
    import soxr

    sound = soxr.resample(to_samples(spoken().pcm), SAMPLE_RATE, 96_000).astype("<f4")
    with server.connect() as client:
        start(client, format="f32le", rate=96_000, channels=2)
        data = np.repeat(sound, 2).tobytes()
        for at in range(0, len(data), 500_001):
            client.send(data[at : at + 500_001])
        client.send('{"type": "stop"}')
        assert text_of(hear(client)).split() == SENTENCE.split()


def test_two_sessions_at_once_hear_their_own(server) -> None:
    halves = [spoken().pcm[: spoken().words[4].start], spoken().pcm[spoken().words[4].start :]]
    texts: list[str] = ["", ""]

    def run(i: int) -> None:
        with server.connect() as client:
            start(client)
            send_sound(client, halves[i])
            client.send('{"type": "stop"}')
            texts[i] = text_of(hear(client))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert texts[0].split()[:3] == SENTENCE.split()[:3]
    assert texts[1].split()[-3:] == SENTENCE.split()[-3:]


def test_more_sessions_than_may_be_are_told_to_come_back(server, daemon) -> None:
    with contextlib.ExitStack() as open_:
        clients = [open_.enter_context(server.connect()) for _ in range(4)]
        for client in clients:
            start(client)
            send_sound(client, SILENCE[:1600] + 1)
            assert json.loads(client.recv(10))["type"] == "ready"
        with server.connect() as fifth:
            start(fifth)
            (event,) = hear(fifth)
        assert event["error"]["code"] == "dictation_busy"
        assert fifth.close_code == 1013


def test_a_client_that_disconnects_in_a_word_leaves_nothing_behind(server) -> None:
    with server.connect() as client:
        start(client)
        send_sound(client, spoken().pcm[: spoken().words[5].start + 1500])
        while json.loads(client.recv(10))["type"] != "partial":
            pass
    until_none_runs(server)


def until_none_runs(server) -> None:
    give_up = threading.Event()
    for _ in range(500):
        if not server.dictation._sessions.running:
            return
        give_up.wait(0.01)
    pytest.fail("a session goes on without its client")


@pytest.mark.parametrize(
    ("first", "code", "param"),
    [
        ({"format": "u8"}, "audio_format_unsupported", "format"),
        ({"format": 16}, "invalid_type", "format"),
        ({"rate": 4000}, "invalid_value", "rate"),
        ({"rate": 10**9}, "invalid_value", "rate"),
        ({"channels": 0}, "invalid_value", "channels"),
        ({"mode": "poem"}, "invalid_value", "mode"),
        ({"languages": ["<b>"]}, "invalid_value", "languages[0]"),
        ({"befor": ""}, "unknown_field", "befor"),
        ({"type": "begin"}, "invalid_value", "type"),
        ({"before": "x" * (MAX_TEXT_CHARS + 1)}, "invalid_value", "before"),
    ],
)
def test_a_wrong_start_is_named_and_closes(server, first, code, param) -> None:
    with server.connect() as client:
        start(client, **first)
        (event,) = hear(client)

    assert (event["type"], event["error"]["code"], event["error"]["param"]) == (
        "error",
        code,
        param,
    )
    assert client.close_code == 1008


@pytest.mark.parametrize(
    "message", ["", "{", '"start"', b"\0\0", '{"type":"start","type":"start"}']
)
def test_what_is_no_start_message_is_refused(server, message) -> None:
    with server.connect() as client:
        client.send(message)
        (event,) = hear(client)

    assert event["error"]["code"] in ("invalid_json", "invalid_request", "invalid_type")


def test_a_wrong_message_later_is_answered_and_loses_nothing(server) -> None:
    with server.connect() as client:
        start(client)
        send_sound(client, spoken().pcm)
        client.send('{"type": "sotp"}')
        client.send('{"type": "confirm", "id": 7}')
        client.send('{"type": "stop"}')
        events = hear(client)

    codes = [event["error"]["code"] for event in events if event["type"] == "error"]
    assert codes == ["invalid_value", "command_not_offered"]
    assert text_of(events).split() == SENTENCE.split()


def test_cancel_ends_at_once(server) -> None:
    with server.connect() as client:
        start(client)
        send_sound(client, spoken().pcm[:8000])
        client.send('{"type": "cancel"}')
        events = hear(client)

    assert events[-1]["reason"] == "cancel"
    assert text_of(events) == ""


def test_the_guards_hold_for_websockets_too(server) -> None:
    for token, headers, status in (
        ("wrong", {}, 401),
        (MENUBAR, {}, 403),
        ("admin-token-of-the-tests", {"Origin": "http://example.com"}, 403),
    ):
        with (
            pytest.raises((InvalidStatus, ConnectionClosed)) as refused,
            server.connect(token, **headers),
        ):
            pass
        if isinstance(refused.value, InvalidStatus):
            assert refused.value.response.status_code == status


def test_a_message_that_is_too_large_closes_the_socket(server) -> None:
    with server.connect() as client:
        start(client)
        with contextlib.suppress(ConnectionClosed):
            client.send(bytes(2**20 + 2))
        hear(client)
        assert client.close_code == 1009
    until_none_runs(server)


def test_a_command_tells_its_edit_in_utf16_and_confirm_does_an_offered_one(daemon) -> None:
    asked = spoken("delete the last word")
    with (
        served(daemon.runtime, oracle(asked, p_command=0.99)) as sure,
        sure.connect() as client,
    ):
        start(client, before="ёж 🦔 ran away")
        send_sound(client, asked.pcm)
        client.send('{"type": "stop"}')
        events = hear(client)
    (command,) = [event for event in events if event["type"] == "command"]
    assert command["needs_confirmation"] is False
    assert command["edit"] == {"start_utf16": 9, "length_utf16": 5, "text": ""}
    assert text_of(events) == ""

    with (
        served(daemon.runtime, oracle(asked, p_command=UNSURE)) as unsure,
        unsure.connect() as client,
    ):
        start(client, before="ran away")
        send_sound(client, np.concatenate((asked.pcm, SILENCE)))
        while (event := json.loads(client.recv(10)))["type"] != "command":
            pass
        assert event["needs_confirmation"] is True
        client.send(json.dumps({"type": "confirm", "id": event["id"]}))
        client.send('{"type": "stop"}')
        done = next(event for event in hear(client) if event["type"] == "command")
    assert done["edit"] == {"start_utf16": 3, "length_utf16": 26, "text": ""}


def test_without_a_speech_model_it_says_so(daemon) -> None:
    missing = SpeechUnavailable("no speech model is installed: get one")
    with served(daemon.runtime, missing) as deaf:
        with deaf.connect() as client:
            start(client)
            (event,) = hear(client)
        answer = httpx.post(
            f"{deaf.url}/v1/dictation",
            json={"action": "on"},
            headers={"Authorization": f"Bearer {MENUBAR}"},
            trust_env=False,
        )

    assert event["error"]["code"] == "speech_unavailable"
    assert answer.status_code == 501
    assert answer.json()["error"]["message"] == str(missing)


def test_the_microphone_is_switched_and_its_events_are_published(daemon) -> None:
    from audio.dictation import DictationOptions
    from benchmarks import virtual_microphone as virtual

    if needed := virtual.missing():
        pytest.skip(f"NOT TESTED: no virtual microphone without {', '.join(needed)}")
    headers = {"Authorization": f"Bearer {MENUBAR}"}
    with (
        virtual.virtual_microphone() as microphone,
        served(
            daemon.runtime, oracle(spoken()), DictationOptions(device=microphone.device)
        ) as server,
        httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=15) as client,
    ):

        def switch(action: str):
            return client.post("/v1/dictation", json={"action": action, "source": "microphone"})

        assert switch("off").json()["state"] == "off"
        assert switch("toggle").json()["state"] in ("arming", "listening")
        wait_for(server.published, lambda events: any(e["type"] == "ready" for e in events))
        assert switch("on").json()["state"] == "listening"
        microphone.play(np.concatenate((spoken().pcm, SILENCE))).wait(20)
        wait_for(server.published, lambda events: any(e["type"] == "final" for e in events))
        assert switch("toggle").json()["state"] == "off"
        wait_for(server.published, lambda events: events[-1]["type"] == "ended")

    assert text_of(server.published).split() == SENTENCE.split()


def wait_for(events: list, is_so) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if events and is_so(list(events)):
            return
        pause.wait(0.01)
    pytest.fail(f"waited in vain; got {[event['type'] for event in events]}")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_field"),
        ({"action": "louder"}, "invalid_value"),
        ({"action": "on", "source": "/dev/dsp"}, "invalid_value"),
        ({"action": "on", "device": "x"}, "unknown_field"),
    ],
)
def test_a_wrong_switch_is_named(server, body, code) -> None:
    answer = httpx.post(
        f"{server.url}/v1/dictation",
        json=body,
        headers={"Authorization": f"Bearer {MENUBAR}"},
        trust_env=False,
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


def test_quiet_sound_is_heard_and_a_microphone_without_permission_is_named(server) -> None:
    with server.connect() as client:
        start(client, levels=True)
        send_sound(client, np.zeros(2 * SAMPLE_RATE, np.int16))
        send_sound(client, to_pcm(to_samples(spoken().pcm) * 0.05))
        client.send('{"type": "stop"}')
        events = hear(client)

    errors = [event["error"]["code"] for event in events if event["type"] == "error"]
    assert errors == ["audio_digital_silence"]
    assert any(e["type"] == "device" and e["state"] == "audible" for e in events)
    assert {e["dbfs"] for e in events if e["type"] == "level"} != {-120.0}
