"""Strangers' recordings are decoded by a child that can do nothing else, and end as sound or as an error in our words."""

from __future__ import annotations

import contextlib
import io
import random
import struct
from fractions import Fraction

import numpy as np
import psutil
import pytest
import soundfile

from audio import decoder_wire
from audio.decoder import DecodingLimits, read_file
from audio.decoder_wire import PART, WireError, read_block, read_form
from audio.decoding import SoundForm, reader_of
from audio.errors import AudioUnreadable
from audio.pcm import SAMPLE_RATE, Samples

RATE = 44_100
CODECS = {"aac": "mp4", "alac": "mp4", "libopus": "webm", "flac": "matroska"}


def chirp(seconds: float, rate: int = RATE) -> Samples:
    t = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 + 300 * t) * t)).astype(np.float32)


def by_libsndfile(form: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, chirp(2), RATE, format=form, subtype=subtype)
    return file.getvalue()


def by_ffmpeg(codec: str) -> bytes:
    av = pytest.importorskip("av", reason="NOT TESTED: PyAV is not installed (make setup)")
    file = io.BytesIO()
    with av.open(file, "w", format=CODECS[codec]) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        container.start_encoding()
        frame = av.AudioFrame.from_ndarray(chirp(2, 48_000)[None], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        queue = av.AudioFifo()
        for part in av.AudioResampler(stream.format, "mono", 48_000).resample(frame):
            queue.write(part)
        while (part := queue.read(stream.frame_size or 1024, partial=True)) is not None:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def film() -> bytes:
    av = pytest.importorskip("av", reason="NOT TESTED: PyAV is not installed (make setup)")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(stream.encode(None))
    return file.getvalue()


def sound_of(content: bytes, limits: DecodingLimits | None = None) -> Samples:
    return np.concatenate(list(read_file(content, limits)))


@pytest.mark.parametrize("codec", CODECS)
def test_mp4_and_matroska_are_read(codec: str) -> None:
    found, meant = sound_of(by_ffmpeg(codec)), chirp(2, SAMPLE_RATE)

    assert len(found) == pytest.approx(len(meant), abs=0.08 * SAMPLE_RATE)
    likeness = np.correlate(found, meant[:SAMPLE_RATE], "valid").max()
    assert likeness > 0.9 * np.square(meant[:SAMPLE_RATE]).sum()


@pytest.mark.parametrize("name", ["aac", "libopus", "FLAC", "MP3"])
def test_what_is_cut_or_altered_is_sound_or_an_error(name: str) -> None:
    content = by_ffmpeg(name) if name in CODECS else by_libsndfile(name)
    chance = random.Random(name)
    for _ in range(8):
        altered = bytearray(content[: chance.randrange(len(content))])
        for at in chance.choices(range(len(altered)), k=12 if altered else 0):
            altered[at] = chance.randrange(256)
        with contextlib.suppress(AudioUnreadable):
            assert len(sound_of(bytes(altered))) < 60 * SAMPLE_RATE


HOSTILE = {
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1799/v1/status\n",
    "a list of files": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a film description": b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>",
    "two gigabytes that are not there": b"RIFF\xff\xff\xff\x7fWAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    + b"data\xff\xff\xff\x7f",
    "a thousand channels": b"RIFF\x24\0\0\0WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1000, 8000, 16_000_000, 2000, 16)
    + b"data\0\0\0\0",
    "four billion samples a second": b"RIFF\x24\0\0\0WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 0xFFFFFFFF, 2, 2, 16)
    + b"data\0\0\0\0",
    "a box of the largest size": b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42\0\0\0\x01moov" + b"\xff" * 64,
    "boxes without end": b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + b"\0\0\0\x08moov" * 10_000,
    "an empty film": b"\0\0\0\x08ftyp",
    "an element of unknown length": b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 100,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    if reader_of(HOSTILE[name]) != "libsndfile":
        pytest.importorskip("av", reason="NOT TESTED: PyAV is not installed (make setup)")
    before = set(psutil.Process().children())
    with contextlib.suppress(AudioUnreadable):
        assert sum(map(len, read_file(HOSTILE[name]))) == 0

    assert set(psutil.Process().children()) == before


def test_a_film_without_sound_is_told_so() -> None:
    with pytest.raises(AudioUnreadable, match="no sound"):
        sound_of(film())


def test_a_decoder_that_takes_too_much_is_stopped() -> None:
    content = by_libsndfile("FLAC")
    with pytest.raises(AudioUnreadable, match=r"memory|without an answer"):
        sound_of(content, DecodingLimits(memory_bytes=20_000_000))
    with pytest.raises(AudioUnreadable, match=r"more than 0 s"):
        sound_of(content, DecodingLimits(wall_s=0))


def test_a_recording_given_up_takes_its_child_with_it() -> None:
    before = set(psutil.Process().children())
    parts = read_file(by_libsndfile("FLAC"))
    next(parts)
    (child,) = set(psutil.Process().children()) - before
    parts.close()

    assert not child.is_running()


def test_a_child_that_is_killed_fails_its_recording() -> None:
    before = set(psutil.Process().children())
    file = io.BytesIO()
    soundfile.write(file, np.zeros(600 * 8000), 8000, format="FLAC")
    parts = read_file(file.getvalue())
    next(parts)
    for child in set(psutil.Process().children()) - before:
        child.kill()
    with pytest.raises(AudioUnreadable, match="without an answer"):
        list(parts)


def part(kind: bytes, content: bytes, n_bytes: int | None = None) -> bytes:
    return PART.pack(kind, len(content) if n_bytes is None else n_bytes) + content


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"f",
        part(b"f", b"[]"),
        part(b"f", b"[1, 2, 3]"),
        part(b"f", b'["x", null]'),
        part(b"f", b"[" * 5000),
        part(b"f", b"\xff"),
        part(b"s", b"\0" * 4),
        part(b"f", b"", 2**32 - 1),
        part(b"e", b"{"),
    ],
)
def test_an_answer_that_is_none_is_noticed(answer: bytes) -> None:
    with pytest.raises(WireError):
        read_form(io.BytesIO(answer))


@pytest.mark.parametrize("rate", [0, -1, 10**9])
def test_a_form_out_of_bounds_is_refused(rate: int) -> None:
    with pytest.raises(AudioUnreadable):
        read_form(io.BytesIO(part(b"f", b"[%d, 1]" % rate)))


@pytest.mark.parametrize(
    "answer", [part(b"s", b""), part(b"s", b"\0" * 6), part(b"f", b"[8000, 1]"), b""]
)
def test_samples_that_are_none_are_noticed(answer: bytes) -> None:
    with pytest.raises(WireError):
        read_block(io.BytesIO(answer), SoundForm(8000, 2))


def test_a_message_is_cut() -> None:
    answer = part(b"e", b'"%s"' % (b"x" * 5000))
    with pytest.raises(AudioUnreadable) as failure:
        read_form(io.BytesIO(answer))

    assert len(str(failure.value)) == decoder_wire.MAX_MESSAGE_CHARS
