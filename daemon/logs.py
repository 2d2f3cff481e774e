"""The log: one JSON object a line, in daemon.jsonl, 5 files of 5 MB.

An entry is a fixed event name plus ids, lengths and times from `extra`. The message is never
formatted with its arguments and an exception is reduced to its type and stack, because both can
quote what the user wrote. Of what a library says only the place is kept: it may have formatted it itself.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType

from daemon.log_ids import LogIds

_MAX_BYTES = 5_000_000
_N_OLD_FILES = 4
_WORD = re.compile(r"[A-Za-z0-9_.,:/#{}<>@+-]{0,80}")  # no sentence, and no Russian word
_OURS = frozenset(
    (
        "pushkin",
        "daemon",
        "api",
        "audio",
        "indexer",
        "usage",
        "pushkin_runtime",
        "adapters",
        "quality",
        "sandbox",
    )
)
_STANDARD = frozenset(
    (*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message")
)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON without anything that could be the user's text.

    ids: how the fields called `*_id` are written.
    """

    def __init__(self, ids: LogIds) -> None:
        super().__init__()
        self._ids = ids

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            **_event(record),
        }
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        for key, value in extra.items():
            if key.endswith("_id") and isinstance(value, str):
                entry[key] = self._ids.shown(value)
            elif _is_loggable(value):
                entry[key] = value
        if record.exc_info and record.exc_info[0]:
            entry["error"] = record.exc_info[0].__name__
            entry["stack"] = _stack(record.exc_info[2])
        return json.dumps(entry, ensure_ascii=False)


def start_logging(path: Path, level: str, ids: LogIds) -> logging.Handler:
    """Send all logging of this process to `path`; return the handler, which the caller closes."""
    handler = RotatingFileHandler(
        path, maxBytes=_MAX_BYTES, backupCount=_N_OLD_FILES, encoding="utf-8", delay=True
    )
    handler.setFormatter(JsonLines(ids))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Our own events say all of this once, with numbers.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a full disk must not print tracebacks of log calls
    threading.excepthook = _log_dead_thread
    return handler


def stop_logging(handler: logging.Handler) -> None:
    """Detach and close what `start_logging` returned."""
    logging.getLogger().removeHandler(handler)
    threading.excepthook = threading.__excepthook__
    handler.close()


def _log_dead_thread(hook: threading.ExceptHookArgs) -> None:
    name = hook.thread.name if hook.thread else "?"
    exc_info = (hook.exc_type, hook.exc_value or hook.exc_type(), hook.exc_traceback)
    logging.getLogger(__name__).error("thread died", exc_info=exc_info, extra={"thread_name": name})


def _event(record: logging.LogRecord) -> dict[str, object]:
    """What happened: our own messages are fixed words, everybody else's are reduced to their place."""
    if record.name.partition(".")[0] in _OURS and isinstance(record.msg, str):
        return {"event": record.msg}
    return {
        "event": "library message",
        "where": f"{record.module}.{record.funcName}:{record.lineno}",
    }


def _is_loggable(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) and _is_loggable(item) for item in value)
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return value is None or isinstance(value, bool | int | float)


def _stack(traceback: TracebackType | None) -> list[str]:
    frames = []
    while traceback:
        frame = traceback.tb_frame
        module = frame.f_globals.get("__name__", "?")
        frames.append(f"{module}.{frame.f_code.co_name}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return frames[-12:]


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
