"""Recordings → sound at 16 kHz, from the daemon's side: a locked-down child decodes each of them, and is killed after it.

The sound comes a second at a time as it is asked for, so an hour costs no more memory than a minute.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from audio.decoder_wire import WireError, read_block, read_form, write_request
from audio.decoding import reader_of
from audio.errors import AudioError, AudioTooLong, AudioUnreadable
from audio.pcm import Samples, to_pcm
from audio.resample import Resampler
from sandbox.child import Child, Ending

MAX_DURATION_S: Final = 4 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingLimits:
    """wall_s, cpu_s: for one second of sound. memory_bytes: of the process that decodes it."""

    duration_s: float = MAX_DURATION_S
    wall_s: float = 30.0
    cpu_s: int = 20
    start_s: float = 30.0
    memory_bytes: int = 1_000_000_000


def read_file(content: bytes, limits: DecodingLimits | None = None) -> Generator[Samples]:
    """Yield the sound, (n,) float32 at 16 kHz mono, about a second at a time. Close it if it is not read to its end.

    Raises AudioUnreadable for what is no sound, damaged or of a kind that is not read, AudioTooLong past the limit.
    """
    limits = limits or DecodingLimits()
    wanted = {
        "reader": reader_of(content),
        "memory_bytes": limits.memory_bytes,
        "cpu_s": limits.cpu_s,
    }
    child = Child("audio.decoder_child", json.dumps(wanted))
    try:
        yield from _decoded(child, content, limits)
    except (WireError, OSError):
        raise _failure(child.ending(), limits) from None
    finally:
        child.end()


def _decoded(child: Child, content: bytes, limits: DecodingLimits) -> Iterator[Samples]:
    if not child.becomes_ready(limits.start_s):
        raise AudioError("the process that decodes recordings did not start: try again")
    with child.killed_after(limits.wall_s):
        write_request(child.stdin, content)
        form = read_form(child.stdout)
    resampler, n_done = Resampler(form.rate), 0
    while True:
        with child.killed_after(limits.wall_s):
            block = read_block(child.stdout, form)
        if block is None:
            yield resampler.push(np.zeros(0, np.int16), is_last=True)
            return
        frames = np.frombuffer(block, np.float32).reshape(-1, form.channels)
        n_done += len(frames)
        if n_done > limits.duration_s * form.rate:
            raise AudioTooLong(
                f"the recording is longer than {limits.duration_s / 3600:g} h: send it in parts",
                param="file",
            )
        yield resampler.push(to_pcm(np.nan_to_num(frames.mean(axis=1))))


def _failure(ending: Ending, limits: DecodingLimits) -> AudioUnreadable:
    """What the recording did to the process that decoded it."""
    match ending.cause:
        case "late":
            problem = f"a second of it took more than {limits.wall_s:g} s"
        case "processor_time":
            problem = f"a second of it took more than {limits.cpu_s} s of processor time"
        case "memory":
            problem = f"it takes more than {limits.memory_bytes:,} bytes of memory"
        case "crash":
            problem = f"it crashed its decoder ({ending.signal_name})"
        case "silence":
            problem = "its decoder ended without an answer"
    return AudioUnreadable(f"the file could not be decoded: {problem}", param="file")
