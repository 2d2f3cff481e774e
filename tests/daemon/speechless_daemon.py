"""A daemon that breaks when it should say that it is ready. Run by the tests."""

from __future__ import annotations

from typing import Any

from daemon.announce import JsonAnnouncer
from daemon.config import load
from daemon.lifecycle import Serving, serve


class Speechless(JsonAnnouncer):
    """Breaks at the last moment of the start."""

    def ready(self, *_: Any) -> None:
        raise LookupError("no words")


if __name__ == "__main__":
    serve(Serving(loaded=load(), announcer=Speechless()))
