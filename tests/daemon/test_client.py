"""The client's own parts: the event stream parser and what each refusal becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.client import fault, parse_sse

TRICKY = 'line\u2028separator, \x85, "quotes", ёлка, 🎻 and \n newline'


def stream(texts: list[str], newline: str = "\n") -> bytes:
    frames = []
    for text in texts:
        data = json.dumps({"text": text}, ensure_ascii=False)
        frames.append(
            f": ping{newline}{newline}event: delta{newline}data: {data}{newline}{newline}"
        )
    return "".join(frames).encode()


def cut(content: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield content[:size]
        content = content[size:]
    yield content


@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs",))) | st.just(TRICKY), max_size=5),
    st.lists(st.integers(1, 9), max_size=60),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_survive_any_cut_of_the_stream(
    texts: list[str], sizes: list[int], newline: str
) -> None:
    events = list(parse_sse(cut(stream(texts, newline), sizes)))

    assert events == [("delta", {"text": text}) for text in texts]


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("unauthorized", 401, 4),
        ("invalid_type", 400, 2),
        ("adapter_not_found", 404, 2),
        ("body_too_large", 413, 2),
        ("queue_full", 503, 75),
        ("draining", 503, 75),
        ("not_ready", 503, 1),
        ("engine_failed", 500, 1),
        ("engine_failed", None, 1),
        (None, 502, 1),
    ],
)
def test_each_refusal_has_an_exit_code(
    code: str | None, status: int | None, exit_code: int
) -> None:
    error = fault({"code": code, "message": "why"}, status=status)

    assert error.exit_code == exit_code
    assert status == 401 or str(error) == "why"
