"""Wrong tokens: the guesser waits, who knows the token never does, and the refusal is not retried."""

from __future__ import annotations

import asyncio

import pytest

from api.brake import FREE_PER_MINUTE, Brake
from api.services import ApiLimits

pytestmark = pytest.mark.anyio

WRONG = {"Authorization": "Bearer wrong"}


class Waits:
    """A clock that is turned by hand and a sleep that only says it was asked for."""

    def __init__(self):
        self.now, self.slept = 0.0, []
        self.brake = Brake(1.0, clock=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds):
        self.slept.append(seconds)


async def test_some_mistakes_are_free_and_then_each_refusal_waits(caplog):
    waits = Waits()
    for _ in range(FREE_PER_MINUTE):
        await waits.brake.hold()
    assert waits.slept == []

    for _ in range(3):
        await waits.brake.hold()
    assert waits.slept == [1.0] * 3
    assert [record.message for record in caplog.records] == ["many wrong tokens"]


async def test_a_minute_later_all_is_forgotten():
    waits = Waits()
    for _ in range(FREE_PER_MINUTE + 1):
        await waits.brake.hold()
    waits.now = 61.0
    await waits.brake.hold()

    assert len(waits.slept) == 1


async def test_waiting_refusals_are_bounded():
    never = asyncio.Event()
    brake = Brake(1.0, sleep=lambda _: never.wait())
    tasks = [asyncio.create_task(brake.hold()) for _ in range(FREE_PER_MINUTE + 16)]
    await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await brake.hold()  # the 17th is answered at once
    assert sum(not task.done() for task in tasks) == 16
    never.set()
    await asyncio.gather(*tasks)


async def test_the_right_token_does_not_wait_while_wrong_ones_do(start_daemon):
    daemon = start_daemon(limits=ApiLimits(wrong_token_pause_s=3600))
    async with daemon.client() as client:
        wrong = [
            asyncio.create_task(client.get("/v1/status", headers=WRONG))
            for _ in range(FREE_PER_MINUTE + 1)
        ]
        async with asyncio.timeout(5):
            answers = [await task for task in wrong[:FREE_PER_MINUTE]]
            right = await client.get("/v1/status")
        wrong[-1].cancel()

    assert {answer.status_code for answer in answers} == {401}
    assert right.status_code == 200
