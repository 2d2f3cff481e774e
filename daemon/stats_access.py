"""The usage statistics for the command line: through the running daemon, or opened here when none runs.

Both ways speak the API's JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from daemon.client import DaemonClient, fault
from daemon.instance import find_daemon

if TYPE_CHECKING:
    from daemon.config import Loaded
    from usage.desk import UsageDesk

Answer = dict[str, Any]
T = TypeVar("T")


class StatsAccess(Protocol):
    """What the commands need; answers are those of the API. Raises DaemonError subclasses."""

    def report(self) -> Answer: ...

    def decide(self, change: dict[str, bool]) -> Answer: ...

    def forget(self) -> Answer: ...

    def export(self) -> str: ...

    def pairs(self) -> str: ...


@contextmanager
def open_stats(loaded: Loaded) -> Iterator[StatsAccess]:
    """The way that is open: the daemon's if it runs, else the file itself."""
    endpoint = find_daemon(loaded.paths)
    if endpoint is not None:
        with DaemonClient(loaded, endpoint) as client:
            yield RemoteStats(client)
        return
    with open_desk(loaded) as desk:
        yield LocalStats(desk)


@contextmanager
def open_desk(loaded: Loaded) -> Iterator[UsageDesk]:
    """The statistics in this process, while no daemon has them."""
    from daemon.lifecycle import harden_process
    from daemon.paths import prepare
    from usage.desk import UsageDesk

    harden_process()
    prepare(loaded.paths)
    desk = UsageDesk(loaded.paths.usage_file)
    try:
        yield desk
    finally:
        desk.close()


class RemoteStats:
    """Through the daemon."""

    def __init__(self, client: DaemonClient) -> None:
        self._client = client

    def report(self) -> Answer:
        return self._client.get("/v1/stats")

    def decide(self, change: dict[str, bool]) -> Answer:
        return self._client.send("PUT", "/v1/stats/consent", json=change)

    def forget(self) -> Answer:
        return self._client.send("DELETE", "/v1/stats")

    def export(self) -> str:
        return "".join(self._client.text_of("/v1/stats/export"))

    def pairs(self) -> str:
        return "".join(self._client.text_of("/v1/stats/pairs"))


class LocalStats:
    """The file, opened in this process."""

    def __init__(self, desk: UsageDesk) -> None:
        self._desk = desk

    def report(self) -> Answer:
        from api.usage_answers import stats_answer

        return dict(stats_answer(settled(self._desk.report())))

    def decide(self, change: dict[str, bool]) -> Answer:
        from api.usage_answers import usage_consent_answer

        return dict(usage_consent_answer(settled(self._desk.decide(**change))))

    def forget(self) -> Answer:
        from api.usage_answers import erased_answer

        return dict(erased_answer(settled(self._desk.forget())))

    def export(self) -> str:
        lines: list[str] = settled(self._desk.export())
        return "".join(lines)

    def pairs(self) -> str:
        lines: list[str] = settled(self._desk.pairs())
        return "".join(lines)


def settled(future: Future[T]) -> T:
    """Wait; errors of the statistics become those of the command line, by way of the API's."""
    from usage.errors import UsageError

    try:
        return future.result()
    except UsageError as error:
        from api.errors import as_api_error

        answer = as_api_error(error)
        raise fault(dict(answer.body("local")["error"]), status=answer.status_code) from error
