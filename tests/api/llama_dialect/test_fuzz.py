"""No body of any route of the dialect breaks the daemon, and the request after it is served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.llama_dialect.bodies import (
    DetokenizeBody,
    LlamaBody,
    LlamaCompletionBody,
    TokenizeBody,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, 0.5])
    | st.floats()
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PROMPTS = st.text(max_size=9) | st.lists(st.text(max_size=3) | st.integers(0, 259), max_size=4)


def bodies(model: type[LlamaBody], required: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects with a few fields of the model, of any type, and mostly what it needs; or anything at all."""
    names = st.sampled_from([*sorted(model.model_fields), "n", "max_tokens", "logprobs", "unknown"])
    fields = st.dictionaries(names, JSON, max_size=4)
    needed = st.fixed_dictionaries({}, optional=required)
    return st.builds(lambda some, most: some | most, fields, needed) | JSON


COMPLETION = {"prompt": PROMPTS, "n_predict": st.integers(-1, 4)}
ROUTES = {
    "/completion": bodies(LlamaCompletionBody, COMPLETION),
    "/tokenize": bodies(TokenizeBody, {"content": st.text(max_size=9)}),
    "/detokenize": bodies(DetokenizeBody, {"tokens": st.lists(st.integers(0, 300), max_size=4)}),
    "/lora-adapters": st.lists(st.fixed_dictionaries({"id": JSON, "scale": JSON}), max_size=2)
    | JSON,
    "/slots/0": JSON,
    "/infill": JSON,
}


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
def test_no_body_breaks_the_daemon(start_daemon: Callable[..., Any], path: str) -> None:
    daemon = start_daemon()
    loop = asyncio.new_event_loop()
    client = daemon.client()

    def post(where: str, body: object) -> Any:
        content = json.dumps(body)
        headers = {"Content-Type": "application/json"}
        return loop.run_until_complete(client.post(where, content=content, headers=headers))

    @settings(
        max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(ROUTES[path])
    def check(body: object) -> None:
        response = post(path, body)
        event = "data: " in response.text[:6]

        assert response.status_code in {200, 400, 404, 501}
        if response.status_code != 200:
            error = response.json()["error"]
            assert error["code"] == response.status_code
            assert error["reason"] != "internal_error"
        assert not event or '"error"' not in response.text
        assert post("/completion", {"prompt": "a", "n_predict": 1}).status_code == 200

    try:
        check()
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()
