"""Recordings of strangers → samples, in a process of their own (`decoder_child.py`): libsndfile and FFmpeg read them.

FFmpeg is for what libsndfile does not know: MP4 (m4a) and Matroska (webm). It gets one demuxer and a short list of
decoders, never its choice of hundreds. Each library is imported where it is used: a child needs one of them.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from audio.errors import AudioUnreadable
from audio.pcm import MAX_CHANNELS, MAX_RATE

Reader = Literal["libsndfile", "mp4", "matroska"]

MIN_FILE_RATE: Final = 1_000
_DECODERS: Final = ("aac", "alac", "flac", "mp3", "mp3float", "opus", "vorbis")
_EBML: Final = b"\x1a\x45\xdf\xa3"


@dataclass(frozen=True, slots=True)
class SoundForm:
    """Of the samples of a recording: float32, interleaved."""

    rate: int
    channels: int


def reader_of(content: bytes) -> Reader:
    """What is to read a recording, by its first bytes."""
    if content[4:8] == b"ftyp":
        return "mp4"
    return "matroska" if content.startswith(_EBML) else "libsndfile"


def decoder_of(reader: Reader) -> Callable[[bytes], Iterator[SoundForm | bytes]]:
    """Import what reads such recordings; the function yields the form, then about a second of samples at a time.

    It raises AudioUnreadable for what is no sound, damaged, or of a kind that is not read.
    """
    if reader == "libsndfile":
        import soundfile

        return lambda content: _by_libsndfile(soundfile, content)
    import av

    for kind in ("audio", "subtitles", "video"):  # what it would import when it meets such a track
        importlib.import_module(f"av.{kind}.stream")
        importlib.import_module(f"av.{kind}.codeccontext")
    return lambda content: _by_ffmpeg(av, content, reader)


def check_form(form: SoundForm) -> SoundForm:
    """The same. Raises AudioUnreadable when it is out of bounds."""
    if not MIN_FILE_RATE <= form.rate <= MAX_RATE or not 1 <= form.channels <= MAX_CHANNELS:
        raise AudioUnreadable(
            f"the file has {form.channels} channels at {form.rate} Hz; up to {MAX_CHANNELS} at "
            f"{MIN_FILE_RATE} to {MAX_RATE} Hz are read",
            param="file",
        )
    return form


def _by_libsndfile(soundfile: Any, content: bytes) -> Iterator[SoundForm | bytes]:
    try:
        file = soundfile.SoundFile(io.BytesIO(content))
    except (soundfile.SoundFileError, TypeError, ValueError):
        raise AudioUnreadable(
            "the file is not sound that can be read: send wav, flac, mp3, ogg (Vorbis or Opus), aiff, m4a, mp4 or webm",
            param="file",
        ) from None
    with file:
        yield check_form(SoundForm(int(file.samplerate), int(file.channels)))
        while True:
            try:
                block = file.read(file.samplerate, dtype="float32", always_2d=True)
            except soundfile.SoundFileError:
                raise _damaged() from None
            if not len(block):
                return
            yield block.tobytes()


def _by_ffmpeg(av: Any, content: bytes, demuxer: str) -> Iterator[SoundForm | bytes]:
    """The first track of sound, made mono."""
    try:
        with av.open(io.BytesIO(content), format=demuxer, metadata_errors="ignore") as container:
            yield from _track(av, container)
    except (av.FFmpegError, ValueError, OverflowError):
        raise _damaged() from None


def _track(av: Any, container: Any) -> Iterator[SoundForm | bytes]:
    if not container.streams.audio:
        raise AudioUnreadable("there is no sound in the file", param="file")
    stream = container.streams.audio[0]
    codec = stream.codec_context
    if codec is None or (codec.name not in _DECODERS and not codec.name.startswith("pcm_")):
        raise AudioUnreadable(
            "the sound in the file is coded in a way that is not read; AAC, ALAC, FLAC, MP3, Opus and Vorbis are",
            param="file",
        )
    codec.thread_count, codec.thread_type = 1, "NONE"  # a thread would be refused
    resampler, waiting, n_waiting = None, [], 0
    for frame in container.decode(stream):
        if resampler is None:
            yield check_form(SoundForm(frame.sample_rate, 1))
            resampler = av.AudioResampler(format="flt", layout="mono", rate=frame.sample_rate)
        for mono in resampler.resample(frame):
            waiting.append(bytes(mono.planes[0])[: 4 * mono.samples])
            n_waiting += mono.samples
            if n_waiting >= mono.sample_rate:
                yield b"".join(waiting)
                waiting, n_waiting = [], 0
    if resampler is None:
        raise _damaged()
    if waiting:
        yield b"".join(waiting)


def _damaged() -> AudioUnreadable:
    return AudioUnreadable("the file is damaged", param="file")
