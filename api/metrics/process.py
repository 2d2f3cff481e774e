"""What this process takes: memory, processor time, open files."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from pathlib import Path

# `struct rusage_info_v0` of macOS's <sys/resource.h>: a UUID, then ten 64-bit numbers, among them
# ri_resident_size and ri_phys_footprint; Activity Monitor's "Memory" is the footprint.
_RUSAGE_INFO_V0 = struct.Struct("=16s10Q")
_RESIDENT, _FOOTPRINT = 7, 8


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not say."""
    if sys.platform == "darwin":
        usage = _macos_usage()
        return None if usage is None else resident_of(usage)
    try:
        n_pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return n_pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds() -> float:
    """Processor time of all threads, user and system."""
    return time.process_time()


def open_files() -> int | None:
    """Open descriptors; None where the system does not say."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # but the one that lists them # noqa: PTH208
    except OSError:
        return None


def resident_of(usage: bytes) -> int:
    """The footprint out of a `rusage_info_v0`, or what is resident where it is 0 (older systems)."""
    fields = _RUSAGE_INFO_V0.unpack(usage)
    return int(fields[_FOOTPRINT] or fields[_RESIDENT])


def _macos_usage() -> bytes | None:
    """Ask libproc; the same call that `footprint` and Activity Monitor make."""
    buffer = ctypes.create_string_buffer(_RUSAGE_INFO_V0.size)
    try:
        found = ctypes.CDLL(None).proc_pid_rusage(os.getpid(), 0, buffer)
    except (OSError, AttributeError):
        return None
    return None if found != 0 else buffer.raw
