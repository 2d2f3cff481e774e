"""The load of the soak, on the engine without a model: every request ends as it was meant to."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import pytest

from benchmarks.cancellation import measure_cancellation
from benchmarks.harness import running_daemon
from benchmarks.soak_load import CANCELS, Worker, make_job
from benchmarks.typing_trace import LANGUAGES, read_script

TEXTS = {language: read_script(language)["before"] for language in LANGUAGES}


def test_three_in_ten_are_cancelled_in_every_way() -> None:
    endings = Counter(make_job(number, 0, TEXTS).ending for number in range(2000))
    assert set(endings) == {"none", *CANCELS}
    assert 0.27 < 1 - endings["none"] / 2000 < 0.33


@pytest.mark.slow
def test_every_request_ends_as_it_was_meant_to() -> None:
    with running_daemon({"engine": "scripted"}) as daemon:
        with closing(Worker(daemon.target, 0)) as worker:
            for number in range(80):
                worker.do(number)
        times = measure_cancellation(daemon.target, n=2)

    assert worker.tally.n_done == 80
    assert worker.tally.wrong == Counter()
    assert times.n_wrong == 0
