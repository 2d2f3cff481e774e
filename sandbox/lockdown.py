"""What a child process gives up before it sees a stranger's file.

Everywhere: processor time, memory, core dumps, files it may write, new processes; in Python, sockets, processes and
files by an audit hook. On Linux a seccomp filter says the same to native code: PDFium, libxml2, libsndfile and FFmpeg can open nothing.
On macOS the system sandbox does, where `RLIMIT_AS` is not honoured and a thread watches the resident size instead.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
import threading
import time

READY = b"\x06"
MAX_OPEN_FILES = 16
OUT_OF_MEMORY_STATUS = 77
WATCH_INTERVAL_S = 0.05

FORBIDDEN_EVENTS = (
    *("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system"),
    *(
        "open",
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.listdir",
        "os.scandir",
        "ftplib.",
        "smtplib.",
    ),
    *("urllib.", "http.", "webbrowser.", "shutil.", "tempfile.", "pty.", "os.kill"),
)

MACOS_PROFILE = b"(version 1)(allow default)(deny network*)(deny file-write*)(deny process-exec*)"

# From <linux/prctl.h>, <linux/seccomp.h>, <linux/audit.h> and the tables of system calls.
PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, SECCOMP_ON_ALL_THREADS = 38, 1, 1
SECCOMP_NUMBERS = {"x86_64": 317, "aarch64": 277}
REFUSE_WITH_EACCES, ALLOW, KILL_PROCESS = 0x0005_0000 | 13, 0x7FFF_0000, 0x8000_0000
LOAD_WORD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
AUDIT_ARCHES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
X32_BIT = 0x4000_0000
_X86_64 = """2 85 41 42 49 50 43 53 44 46 56 57 58 59 62 101 257 288 307 310 311 319 322 424 425 435 437 87 82 83
    263 264 316 258"""
_AARCH64 = """198 203 200 201 202 199 206 211 220 221 129 117 56 242 269 270 271 279 281 424 425 435 437 35 38 276
    34"""
SYSTEM_CALLS = {
    machine: tuple(int(number) for number in numbers.split())
    for machine, numbers in (("x86_64", _X86_64), ("aarch64", _AARCH64))
}
"""open creat socket connect bind listen accept socketpair sendto sendmsg clone fork vfork execve kill ptrace openat
accept4 sendmmsg process_vm_readv process_vm_writev memfd_create execveat pidfd_send_signal io_uring_setup clone3 openat2
unlink rename mkdir unlinkat renameat renameat2 mkdirat, as far as the machine has them."""


def limit_resources(memory_bytes: int) -> None:
    """Bounds that hold for the whole life of the process; the processor's are set as work comes."""
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_FSIZE, 0)
    _set_limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    if sys.platform != "darwin":
        _set_limit(resource.RLIMIT_AS, memory_bytes)


def allow_processor_time(cpu_s: int) -> None:
    """`cpu_s` more from now on; SIGXCPU ends the process after that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + cpu_s + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY or soft <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _set_limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


class MemoryWatch:
    """A thread that ends the process when its resident size passes the limit, while a file is being read.

    Linux counts the largest size of the process that forked this one as ours (`ru_maxrss` outlives exec): what a
    daemon with a large model had is taken as where we begin, and `RLIMIT_AS` bounds what it hides.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max(max_bytes, _largest_size())
        self._reading = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> None:
        """A file is being read."""
        self._reading.set()

    def stop(self) -> None:
        """It is read: the thread sleeps."""
        self._reading.clear()

    def _watch(self) -> None:
        while True:
            self._reading.wait()
            if _largest_size() > self._max_bytes:
                os._exit(OUT_OF_MEMORY_STATUS)
            time.sleep(WATCH_INTERVAL_S)


def _largest_size() -> int:
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def lock_down() -> None:
    """No files, no network, no processes from here on. All that is needed must have been imported."""
    _no_new_processes()
    if sys.platform == "darwin":
        _macos_sandbox()
    elif sys.platform == "linux":
        _seccomp()
    sys.addaudithook(_refuse)


def _refuse(event: str, _: object) -> None:
    if event.startswith(FORBIDDEN_EVENTS):
        raise PermissionError(f"{event} is refused in a locked-down child")


def _no_new_processes() -> None:
    _set_limit(resource.RLIMIT_NPROC, 0)


def _macos_sandbox() -> None:
    """Deprecated by Apple since 10.8 and in use to this day. Best effort: the limits above hold without it."""
    try:
        sandbox_init = ctypes.CDLL("/usr/lib/libsandbox.1.dylib").sandbox_init
    except (OSError, AttributeError):
        return
    message = ctypes.c_char_p()
    sandbox_init(MACOS_PROFILE, ctypes.c_uint64(0), ctypes.byref(message))


def _seccomp() -> None:
    """Refuse system calls that open, connect, start or signal anything. Unknown machines go without."""
    machine = platform.machine()
    if machine not in AUDIT_ARCHES:
        return
    program = _filter_program(AUDIT_ARCHES[machine], SYSTEM_CALLS[machine])
    instructions = ctypes.create_string_buffer(program)
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    header = ctypes.create_string_buffer(
        struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    )
    libc = ctypes.CDLL(None)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        libc.syscall(
            SECCOMP_NUMBERS[machine], SECCOMP_SET_MODE_FILTER, SECCOMP_ON_ALL_THREADS, header
        )


def _filter_program(arch: int, system_calls: tuple[int, ...]) -> bytes:
    """A BPF program of 8-byte instructions: (code, jump if true, jump if false, constant)."""

    def instruction(code: int, if_true: int, if_false: int, constant: int) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, constant)

    n_calls = len(system_calls)
    return b"".join(
        (
            instruction(LOAD_WORD, 0, 0, 4),  # seccomp_data.arch
            instruction(JUMP_IF_EQUAL, 1, 0, arch),
            instruction(RETURN, 0, 0, KILL_PROCESS),
            instruction(LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
            instruction(JUMP_IF_AT_LEAST, n_calls + 1, 0, X32_BIT),
            *(
                instruction(JUMP_IF_EQUAL, n_calls - at, 0, number)
                for at, number in enumerate(system_calls)
            ),
            instruction(RETURN, 0, 0, ALLOW),
            instruction(RETURN, 0, 0, REFUSE_WITH_EACCES),
        )
    )
