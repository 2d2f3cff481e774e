"""`POST /v1/audio/transcriptions`, as the official OpenAI client and as careless ones send it."""

from __future__ import annotations

import io
import json
import re

import httpx
import numpy as np
import openai
import pytest
import soundfile

from api.errors import ApiError
from api.transcription_answers import rendered
from audio.errors import SpeechUnavailable
from audio.files import Segment, Transcript
from audio.pcm import SAMPLE_RATE
from benchmarks import espeak
from tests.api.served_dictation import ADMIN, MENUBAR, SENTENCE, oracle, served, spoken

pytestmark = pytest.mark.skipif(
    espeak.is_missing(), reason="NOT TESTED: espeak-ng is not installed (apt install espeak-ng)"
)

PAUSE = np.zeros(SAMPLE_RATE, np.int16)


def recording(form: str = "WAV", subtype: str | None = None, *, rate: int = SAMPLE_RATE) -> bytes:
    """The sentence, twice, with a pause."""
    sound = np.concatenate((PAUSE, spoken().pcm, PAUSE, spoken().pcm, PAUSE))
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=form, subtype=subtype)
    return file.getvalue()


@pytest.fixture(scope="module")
def server(daemon):
    with served(daemon.runtime, oracle(spoken())) as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key=ADMIN,
        max_retries=0,
        http_client=httpx.Client(trust_env=False),
    ) as made:
        yield made


@pytest.fixture
def post(server):
    def send(content: bytes | None = b"", token: str = ADMIN, **fields):
        files = {} if content is None else {"file": ("a.wav", content)}
        return httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            data={"model": "whisper-1", **fields},
            files=files or {"nothing": ("", b"")},
            headers={"Authorization": f"Bearer {token}"},
            trust_env=False,
            timeout=30,
        )

    return send


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "OGG", "AIFF"])
def test_the_openai_client_gets_the_text_of_any_format(client, form: str) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=(f"a.{form.lower()}", recording(form)), language="en"
    )

    assert answer.text.split() == 2 * SENTENCE.split()


def test_verbose_json_has_segments_at_their_times(client) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=("a.wav", recording()),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )

    first, second = answer.segments
    length = len(spoken().pcm) / SAMPLE_RATE
    assert (first.text, second.text) == (SENTENCE, SENTENCE)
    assert first.start == pytest.approx(0.6, abs=0.2)
    assert second.start - first.start == pytest.approx(length + 1, abs=0.1)
    assert answer.duration == pytest.approx(2 * length + 3, abs=0.01)


def test_words_have_their_times_where_the_speech_model_tells_them(client, post) -> None:
    ask = {"model": "whisper-1", "file": ("a.wav", recording()), "response_format": "verbose_json"}
    answer = client.audio.transcriptions.create(**ask, timestamp_granularities=["word"])
    both = client.audio.transcriptions.create(**ask, timestamp_granularities=["word", "segment"])
    untold = post(recording(), **{"timestamp_granularities[]": "word"})

    assert [word.word for word in answer.words] == 2 * SENTENCE.split()
    assert answer.segments is None
    begin = both.words[0].start - spoken().words[0].start / SAMPLE_RATE
    for word, meant in zip(both.words, spoken().words, strict=False):
        assert word.start - begin == pytest.approx(meant.start / SAMPLE_RATE, abs=0.02)
        assert word.end - begin == pytest.approx(meant.end / SAMPLE_RATE, abs=0.02)
    assert both.segments[0].start <= both.words[0].start < both.segments[0].end
    assert untold.json()["error"]["param"] == "timestamp_granularities[]"


def test_words_without_times_are_an_error_not_an_invention() -> None:
    transcript = Transcript((Segment(0.0, 1.0, "two words", None),), 1.0)
    with pytest.raises(ApiError, match="does not time"):
        rendered(transcript, "verbose_json", "en", ("word",))


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_plain_formats(client, form: str) -> None:
    body = client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", recording()), response_format=form
    )

    assert str(body).count(SENTENCE) == 2
    if form == "text":
        return
    mark = {"srt": ",", "vtt": r"\."}[form]
    times = re.findall(
        rf"(\d\d:\d\d:\d\d{mark}\d{{3}}) --> (\d\d:\d\d:\d\d{mark}\d{{3}})", str(body)
    )
    assert len(times) == 2
    assert times[0][0] < times[0][1] < times[1][0] < times[1][1]
    assert str(body).startswith({"srt": "1\n", "vtt": "WEBVTT\n\n"}[form])


def test_the_openai_client_streams_segments(client) -> None:
    stream = client.audio.transcriptions.create(
        model="whisper-1", file=("a.wav", recording()), stream=True
    )
    events = list(stream)

    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + [
        "transcript.text.done"
    ]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert events[-1].text.split() == 2 * SENTENCE.split()


def test_silence_is_an_empty_text_streamed_or_not(client) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(3 * SAMPLE_RATE), SAMPLE_RATE, format="WAV")
    content = file.getvalue()

    assert client.audio.transcriptions.create(model="w", file=("a.wav", content)).text == ""
    (done,) = client.audio.transcriptions.create(model="w", file=("a.wav", content), stream=True)
    assert (done.type, done.text) == ("transcript.text.done", "")


@pytest.mark.parametrize(
    ("content", "fields", "status", "code", "param"),
    [
        (b"not sound", {}, 422, "audio_unreadable", "file"),
        (b"", {}, 400, "invalid_value", "file"),
        (None, {}, 400, "unknown_field", "nothing"),
        (b"x", {"response_format": "xml"}, 400, "invalid_value", "response_format"),
        (b"x", {"temperature": "hot"}, 400, "invalid_value", "temperature"),
        (b"x", {"temperature": "nan"}, 400, "invalid_value", "temperature"),
        (b"x", {"language": "../en"}, 400, "invalid_value", "language"),
        (b"x", {"stream": "perhaps"}, 400, "invalid_value", "stream"),
        (b"x", {"model": ""}, 400, "missing_field", "model"),
        (b"x", {"url": "http://example.com"}, 400, "unknown_field", "url"),
        (
            b"x",
            {"timestamp_granularities[]": "letter", "response_format": "verbose_json"},
            400,
            "invalid_value",
            "timestamp_granularities[]",
        ),
    ],
)
def test_what_is_wrong_is_named(post, content, fields, status, code, param) -> None:
    answer = post(content, **fields)

    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)


def test_truncated_and_damaged_files_end_in_an_answer(post) -> None:
    for form in ("WAV", "FLAC", "MP3", "OGG"):
        whole = recording(form)
        for content in (whole[: len(whole) // 3], whole[:64], whole[:2000] + b"\xff" * 2000):
            answer = post(content)
            assert answer.status_code in (200, 422), (form, answer.text)


def test_an_error_before_the_first_byte_of_a_stream_has_a_status(post) -> None:
    answer = post(b"not sound", stream="true")

    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "audio_unreadable"


def test_a_file_that_is_too_large_is_refused_by_its_headers(server) -> None:
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        content=bytes(27 * 2**20),
        headers={
            "Authorization": f"Bearer {ADMIN}",
            "Content-Type": "multipart/form-data; boundary=x",
        },
        trust_env=False,
    )

    assert answer.status_code == 413


def test_scopes_and_content_types(server, post) -> None:
    assert post(recording(), token=MENUBAR).status_code == 403
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        content=recording(),
        headers={"Authorization": f"Bearer {ADMIN}", "Content-Type": "audio/wav"},
        trust_env=False,
    )
    assert answer.status_code == 415

    nothing = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        headers={"Authorization": f"Bearer {ADMIN}"},
        trust_env=False,
    )

    assert (nothing.status_code, nothing.json()["error"]["code"]) == (400, "missing_field")


def test_without_a_speech_model_it_says_how_to_get_one(daemon) -> None:
    missing = SpeechUnavailable("no speech model is installed: get one")
    with served(daemon.runtime, missing) as deaf:
        answer = httpx.post(
            f"{deaf.url}/v1/audio/transcriptions",
            data={"model": "w"},
            files={"file": ("a.wav", recording())},
            headers={"Authorization": f"Bearer {ADMIN}"},
            trust_env=False,
            timeout=30,
        )

    assert answer.status_code == 501
    assert answer.json()["error"]["message"] == str(missing)
    assert answer.headers["x-should-retry"] == "false"


def test_nothing_of_a_recording_reaches_the_disk(post, monkeypatch, tmp_path) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert json.loads(post(recording()).text)["text"]

    assert list(tmp_path.iterdir()) == []
