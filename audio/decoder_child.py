"""The process that decodes one recording: `python -I -m audio.decoder_child <JSON>`, started by `decoder.py`.

It imports one decoder, gives up everything else (`sandbox/lockdown.py`), answers on its pipe and ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from audio.decoder_wire import read_request, write_part
from audio.decoding import SoundForm, decoder_of
from audio.errors import AudioError, AudioUnreadable
from sandbox.lockdown import (
    OUT_OF_MEMORY_STATUS,
    READY,
    MemoryWatch,
    allow_processor_time,
    limit_resources,
    lock_down,
)


def main(argv: list[str]) -> int:
    """Decode; the status is for the daemon only."""
    wanted = json.loads(argv[1])
    request, answer = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Nothing that a library prints may be taken for samples.
    os.dup2(2, 1)
    decode = decoder_of(wanted["reader"])
    watch = MemoryWatch(wanted["memory_bytes"])
    limit_resources(wanted["memory_bytes"])
    lock_down()
    answer.write(READY)
    answer.flush()
    watch.start()
    try:
        _answer(request, answer, decode, wanted["cpu_s"])
    except MemoryError:
        return OUT_OF_MEMORY_STATUS
    return 0


def _answer(
    request: BinaryIO,
    answer: BinaryIO,
    decode: Callable[[bytes], Iterator[SoundForm | bytes]],
    cpu_s: int,
) -> None:
    """Whatever a decoder throws at broken input becomes an error that does not quote it."""
    allow_processor_time(cpu_s)
    try:
        for part in decode(read_request(request)):
            write_part(answer, part)
            allow_processor_time(cpu_s)
    except AudioError as error:
        write_part(answer, error)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - a decoder may throw anything at broken input
        name = type(error).__name__
        write_part(answer, AudioUnreadable(f"the file is damaged: its decoder failed ({name})"))
    else:
        write_part(answer, None)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
