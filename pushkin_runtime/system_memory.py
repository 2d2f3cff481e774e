"""The machine's memory: how much is free, whether it runs short, and giving back what this process holds in vain.

Linux: /proc/meminfo and pressure stall information (kernel documentation, accounting/psi.rst); glibc's malloc_trim.
macOS: sysctls kern.memorystatus_level (% of memory available) and kern.memorystatus_vm_pressure_level (1, 2, 4),
which its own memory_pressure tool and dispatch's memory-pressure source tell of; malloc_zone_pressure_relief.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Literal, Protocol

Pressure = Literal["normal", "warn", "critical"]

STALLED = {
    "some": 10.0,
    "full": 5.0,
}  # % of the last 10 s in which work stood still for want of memory
_MAC_LEVELS: dict[int, Pressure] = {2: "warn", 4: "critical"}


class SystemMemory(Protocol):
    """Any thread; nothing here raises or takes longer than a millisecond but `give_back`."""

    def available_bytes(self) -> int | None:
        """What a process may take without others suffering; None when nobody knows."""

    def pressure(self) -> Pressure:
        """How short memory is now; "normal" when nobody knows."""

    def give_back(self) -> None:
        """Collect garbage and return free memory to the system, as far as the allocator can."""


def system_memory() -> SystemMemory:
    """This machine's."""
    return MacMemory() if sys.platform == "darwin" else LinuxMemory()


class LinuxMemory:
    """See `SystemMemory`. proc: where the kernel tells of itself."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def available_bytes(self) -> int | None:
        try:
            lines = (self._proc / "meminfo").read_text("ascii").splitlines()
            [line] = [line for line in lines if line.startswith("MemAvailable:")]
            return int(line.split()[1]) * 1024
        except (OSError, ValueError, IndexError):
            return None

    def pressure(self) -> Pressure:
        try:
            lines = (self._proc / "pressure" / "memory").read_text("ascii").splitlines()
            stalled = {line.split()[0]: float(line.split("avg10=")[1].split()[0]) for line in lines}
        except (OSError, ValueError, IndexError):
            return "normal"
        if stalled.get("full", 0.0) >= STALLED["full"]:
            return "critical"
        return "warn" if stalled.get("some", 0.0) >= STALLED["some"] else "normal"

    def give_back(self) -> None:
        _collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)


class MacMemory:
    """See `SystemMemory`."""

    def available_bytes(self) -> int | None:
        percent = _sysctl("kern.memorystatus_level", ctypes.c_int32())
        total = _sysctl("hw.memsize", ctypes.c_uint64())
        return None if percent is None or total is None else total * percent // 100

    def pressure(self) -> Pressure:
        level = _sysctl("kern.memorystatus_vm_pressure_level", ctypes.c_int32())
        return "normal" if level is None else _MAC_LEVELS.get(level, "normal")

    def give_back(self) -> None:
        _collect()
        relieve = getattr(ctypes.CDLL(None), "malloc_zone_pressure_relief", None)
        if relieve is not None:
            relieve(None, ctypes.c_size_t(0))


def _sysctl(name: str, value: ctypes.c_int32 | ctypes.c_uint64) -> int | None:
    """Read a number; None where there is no such name."""
    size = ctypes.c_size_t(ctypes.sizeof(value))
    call = getattr(ctypes.CDLL(None), "sysctlbyname", None)
    if call is None or call(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0) != 0:
        return None
    return int(value.value)


def _collect() -> None:
    """What was frozen after the start may be garbage by now."""
    was_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if was_frozen:
        gc.freeze()
