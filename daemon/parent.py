"""The end of the process that started this one, noticed without asking again and again."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

_ASK_AGAIN_S = 1.0  # where the system cannot tell


def end_with_parent() -> None:
    """Have this process get SIGTERM when its parent ends, in whatever way."""
    parent = os.getppid()

    def watch() -> None:
        wait_for_exit(parent)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def wait_for_exit(pid: int) -> None:
    """Return when the process `pid` has ended; at once if there is none."""
    if not _has_told(pid):
        while is_alive(pid):
            time.sleep(_ASK_AGAIN_S)


if sys.platform == "linux":

    def _has_told(pid: int) -> bool:
        """Wait for the system to tell of the end; False if it cannot."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll()
        finally:
            os.close(descriptor)
        return True

else:

    def _has_told(pid: int) -> bool:
        """Wait for the system to tell of the end; False if it cannot."""
        queue = select.kqueue()
        exit_of = select.kevent(
            pid, filter=select.KQ_FILTER_PROC, flags=select.KQ_EV_ADD, fflags=select.KQ_NOTE_EXIT
        )
        try:
            queue.control([exit_of], 1, None)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        finally:
            queue.close()
        return True


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
