"""What goes through the pipes between the daemon and the process that decodes a recording.

request:  8 bytes length · the recording
answer:   parts of 1 byte kind · 4 bytes length · content: "f" the form as JSON, then "s" samples (float32,
          interleaved), and at last "." nothing or "e" an error as JSON
The daemon believes nothing: every length is bounded and every part checked.
"""

from __future__ import annotations

import json
import struct
from typing import IO

from audio.decoding import SoundForm, check_form
from audio.errors import AudioError, AudioUnreadable
from audio.pcm import MAX_CHANNELS, MAX_RATE

LENGTH = struct.Struct(">Q")
PART = struct.Struct(">cI")
# A block is a second; a frame of a codec may overhang.
MAX_PART_BYTES = 2 * 4 * MAX_RATE * MAX_CHANNELS
MAX_MESSAGE_CHARS = 400


class WireError(Exception):
    """The other side sent something that it cannot mean, or went away."""


def write_request(pipe: IO[bytes], content: bytes) -> None:
    """Raises OSError when the child is gone."""
    pipe.write(LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def read_request(pipe: IO[bytes]) -> bytes:
    """The recording. Raises WireError when the daemon is gone."""
    (n_bytes,) = LENGTH.unpack(_exactly(pipe, LENGTH.size))
    return _exactly(pipe, n_bytes)


def write_part(pipe: IO[bytes], part: SoundForm | bytes | AudioError | None) -> None:
    """One part of the answer; None ends it."""
    match part:
        case SoundForm():
            _write(pipe, b"f", json.dumps([part.rate, part.channels]).encode())
        case bytes():
            _write(pipe, b"s", part)
        case AudioError():
            _write(pipe, b"e", json.dumps(str(part)).encode())
        case None:
            _write(pipe, b".", b"")


def read_form(pipe: IO[bytes]) -> SoundForm:
    """The beginning of an answer. Raises AudioUnreadable, or WireError for anything but an answer."""
    kind, content = _read(pipe)
    if kind != b"f":
        raise WireError("no form")
    try:
        rate, channels = json.loads(content)
        form = SoundForm(int(rate), int(channels))
    except (ValueError, TypeError, RecursionError):
        raise WireError("no form") from None
    return check_form(form)


def read_block(pipe: IO[bytes], form: SoundForm) -> bytes | None:
    """The next samples, whole frames; None at the end. Raises AudioUnreadable, or WireError as above."""
    kind, content = _read(pipe)
    if kind == b".":
        return None
    if kind != b"s" or not content or len(content) % (4 * form.channels):
        raise WireError("no samples")
    return content


def _read(pipe: IO[bytes]) -> tuple[bytes, bytes]:
    kind, n_bytes = PART.unpack(_exactly(pipe, PART.size))
    if n_bytes > MAX_PART_BYTES:
        raise WireError(f"a part of {n_bytes} bytes")
    content = _exactly(pipe, n_bytes)
    if kind == b"e":
        raise AudioUnreadable(_message(content), param="file")
    return kind, content


def _message(content: bytes) -> str:
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        raise WireError("no message") from None
    return str(message)[:MAX_MESSAGE_CHARS]


def _write(pipe: IO[bytes], kind: bytes, content: bytes) -> None:
    pipe.write(PART.pack(kind, len(content)))
    pipe.write(content)
    pipe.flush()


def _exactly(pipe: IO[bytes], n_bytes: int) -> bytes:
    found = pipe.read(n_bytes)
    if len(found) != n_bytes:
        raise WireError(f"{len(found)} of {n_bytes} bytes")
    return found
