"""Nobody waits for ever, and nobody with many requests makes another wait long."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushkin_runtime.engines.scripted_engine import ScriptedEngine
from pushkin_runtime.errors import QueueFull
from pushkin_runtime.fair_queue import FairQueue
from pushkin_runtime.pace import MAX_RETRY_AFTER_S
from pushkin_runtime.runtime import Runtime
from pushkin_runtime.types import Delta, Done, Event, GenerationRequest, Started

Start = Callable[..., Runtime]


@dataclass(frozen=True)
class Piece:
    client: str
    is_long: bool = False
    is_ahead: bool = False
    number: int = 0


def taken(waiting: FairQueue[Piece], *, is_long: bool) -> list[str]:
    found = []
    while (piece := waiting.take(is_long=is_long)) is not None:
        found.append(f"{piece.client}{piece.number}")
    return found


def test_clients_take_turns_however_much_each_has_brought() -> None:
    waiting: FairQueue[Piece] = FairQueue(16)
    for number in range(4):
        waiting.put(Piece("a", number=number))
    waiting.put(Piece("b"))
    waiting.put(Piece("c"))
    waiting.put(Piece("c", number=1))

    assert taken(waiting, is_long=False) == ["a0", "b0", "c0", "a1", "c1", "a2", "a3"]


def test_one_client_leaves_places_for_others() -> None:
    waiting: FairQueue[Piece] = FairQueue(8)
    for number in range(6):
        waiting.put(Piece("a", number=number))
    with pytest.raises(QueueFull, match="6 of them from this client"):
        waiting.put(Piece("a"))
    waiting.put(Piece("b"))
    waiting.put(Piece("b"))
    with pytest.raises(QueueFull, match="8 requests are already waiting"):
        waiting.put(Piece("c"))


def test_a_self_test_passes_a_full_queue() -> None:
    waiting: FairQueue[Piece] = FairQueue(1)
    waiting.put(Piece("a"))
    waiting.put(Piece("health"), is_urgent=True)

    assert taken(waiting, is_long=False) == ["health0", "a0"]


def test_the_time_to_come_back_is_what_was_measured() -> None:
    now = 0.0
    waiting: FairQueue[Piece] = FairQueue(4, clock=lambda: now)

    def retry_after() -> int:
        with pytest.raises(QueueFull) as caught:
            waiting.put(Piece("a"))
        return caught.value.retry_after_s

    def move(seconds: float) -> None:
        nonlocal now
        for _ in range(40):
            piece = waiting.take(is_long=False)
            assert piece is not None
            waiting.put(piece)
            now += seconds

    for number in range(3):
        waiting.put(Piece("a", number=number))
    assert retry_after() == 1  # nothing is known yet
    move(7)
    assert retry_after() == 7
    waiting.put(Piece("b"))
    assert retry_after() == 14  # two clients take turns
    move(700)
    assert retry_after() == MAX_RETRY_AFTER_S


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans())))
def test_what_is_put_in_comes_out_once(steps: list[tuple[str, bool, bool]]) -> None:
    waiting: FairQueue[Piece] = FairQueue(1000)
    put: Counter[Piece] = Counter()
    out: Counter[Piece] = Counter()
    for number, (client, is_long, is_put) in enumerate(steps):
        if is_put:
            piece = Piece(client, is_long, number)
            waiting.put(piece)
            put[piece] += 1
        elif (piece_out := waiting.take(is_long=is_long)) is not None:
            out[piece_out] += 1
    out.update(waiting.remove(lambda piece: piece.client == "a"))
    assert all(piece.client != "a" for piece in waiting)
    out.update(waiting.remove(lambda _: True))

    assert out == put
    assert len(waiting) == 0


def request(request_id: str, client: str, **fields: Any) -> GenerationRequest:
    fields = {"task": "continue", "text": "x", "max_tokens": 1024, **fields}
    return GenerationRequest(request_id=request_id, client=client, **fields)


def test_thirty_two_stories_of_one_client_do_not_delay_the_keystroke_of_another(
    start_runtime: Start, recorder: Any
) -> None:
    engine = ScriptedEngine(texts=["ab"], endless=True)
    runtime = start_runtime(scripted=engine, queue_limit=64)
    stories = [recorder() for _ in range(32)]
    handles = [
        runtime.submit(request(f"s{number}", "greedy", task="story"), sink)
        for number, sink in enumerate(stories)
    ]
    for story in stories[:3]:
        story.until(Delta)  # as many as may be active are under way
    units_at: dict[type[Event], int] = {}
    ended = threading.Event()

    def key(event: Event) -> None:
        units_at[type(event)] = engine.n_steps + engine.n_prefills
        if isinstance(event, Done):
            ended.set()

    runtime.submit(request("key", "typist", max_tokens=4), key)
    queued_at = engine.n_steps + engine.n_prefills
    assert ended.wait(20)
    n_stories_open = sum(not isinstance(sink.events[-1], Done) for sink in stories[:3])
    for handle in handles:
        handle.cancel()

    assert units_at[Started] - queued_at <= 2  # what was in hand
    assert units_at[Done] - units_at[Started] <= 2 * (1 + 4)  # its own, and a story's between
    assert n_stories_open == 3
    assert runtime.status().n_queued + runtime.status().n_active > 0


def test_long_work_goes_on_beside_keystrokes_without_end(
    start_runtime: Start, generate: Callable[..., Done], recorder: Any
) -> None:
    runtime = start_runtime(scripted=ScriptedEngine(texts=["ab"], endless=True), max_active=2)
    story = recorder()
    runtime.submit(request("story", "a", task="story", max_tokens=30), story)
    while not any(isinstance(event, Done) for event in story.events):
        generate(runtime, text="x", max_tokens=8, client="b")
        with contextlib.suppress(queue.Empty):
            while True:
                story.next(timeout_s=0)

    assert story.events[-1].result.choices[0].finish_reason == "length"


def test_a_warm_up_of_the_cache_gives_way(start_runtime: Start) -> None:
    runtime = start_runtime(scripted=ScriptedEngine())
    handles = [
        runtime.submit(request(name, "a", max_tokens=n), lambda _: None)
        for name, n in (("prefill", 0), ("key", 24), ("long", 65))
    ]

    assert [handle.is_long for handle in handles] == [True, False, True]
