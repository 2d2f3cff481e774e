"""Whole exchanges with a client of llama-server, compared with files: times are zeroed, all else is as sent."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE
from pushkin_runtime.runtime import Runtime, RuntimeOptions
from pushkin_runtime.sampling_types import SamplingOverrides
from pushkin_runtime.types import Done, Event, Failed, GenerationRequest

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parent / "transcripts"
MINI = Path(__file__).parents[3] / "models" / "pushkin-mini"
TIME = re.compile(r'("[a-z_]*(?:_ms|_per_second)":)[-+.e0-9]+')

Exchange = tuple[str, str, Any]

SEEDED = {"seed": 1, "prompt": "Мой дядя"}
COMPLETIONS: list[Exchange] = [
    ("POST", "/completion", {**SEEDED, "n_predict": 8}),
    ("POST", "/completion", {**SEEDED, "n_predict": 0}),
    ("POST", "/completion", {**SEEDED, "stop": ["чест"], "n_probs": 1, "return_tokens": True}),
    ("POST", "/completion", {**SEEDED, "n_predict": 2, "n_probs": 2, "post_sampling_probs": True}),
    (
        "POST",
        "/completions",
        {
            **SEEDED,
            "prompt": ["a", [2, 102]],
            "n_predict": 1,
            "response_fields": ["content", "timings/prompt_n"],
        },
    ),
    (
        "POST",
        "/completion",
        {**SEEDED, "n_predict": 1, "samplers": "kt", "logit_bias": [[101, False]]},
    ),
]
STREAMS: list[Exchange] = [
    ("POST", "/completion", {**SEEDED, "n_predict": 5, "stream": True}),
    (
        "POST",
        "/completion",
        {
            **SEEDED,
            "n_predict": 2,
            "stream": True,
            "n_probs": 1,
            "return_progress": True,
            "timings_per_token": True,
            "cache_prompt": False,
        },
    ),
    ("POST", "/completion", {**SEEDED, "prompt": ["a", "b"], "n_predict": 1, "stream": True}),
]
ERRORS: list[Exchange] = [
    ("POST", "/completion", {}),
    ("POST", "/completion", {"prompt": "a", "n_predict": "8"}),
    ("POST", "/completion", {"prompt": "x" * 5000}),
    ("POST", "/completion", {"prompt": "a", "grammar": 'root ::= "a"'}),
    ("POST", "/completion", {"prompt": "a", "lora": [{"id": 9, "scale": 1}]}),
    ("POST", "/completion", {"prompt": [2, 9999]}),
    ("POST", "/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ("POST", "/slots/0?action=save", {"filename": "a.bin"}),
    ("POST", "/apply-template", {"messages": []}),
]
SERVER: list[Exchange] = [
    ("GET", "/props", None),
    ("GET", "/slots", None),
    ("GET", "/lora-adapters", None),
    ("POST", "/lora-adapters", [{"id": 0, "scale": 0.5}]),
    ("POST", "/completion", {**SEEDED, "n_predict": 1, "response_fields": ["adapters"]}),
    ("POST", "/tokenize", {"content": "á", "with_pieces": True}),
    ("POST", "/detokenize", {"tokens": [2, 101]}),
]


@pytest.mark.parametrize(
    ("name", "exchanges"),
    [
        ("completions", COMPLETIONS),
        ("streams", STREAMS),
        ("errors", ERRORS),
        ("server", SERVER),
    ],
)
async def test_exchanges_are_as_recorded(
    name: str,
    exchanges: list[Exchange],
    start_daemon: Callable[..., Any],
    tmp_path: Path,
    write_adapter: Callable[..., None],
    golden: Callable[[Path, str], None],
) -> None:
    write_adapter(tmp_path, "formal", BASE, seed=0, task="rephrase")
    daemon = start_daemon(
        (" самых честных правил,\nкогда не в шутку",),
        adapters=AdapterOptions(roots=(tmp_path,)),
    )
    async with daemon.client() as client:
        parts = [part async for part in _transcript(client, exchanges)]

    golden(FOLDER / f"{name}.txt", "\n".join(parts))


async def _transcript(client: httpx.AsyncClient, exchanges: list[Exchange]) -> AsyncIterator[str]:
    for number, (method, path, body) in enumerate(exchanges):
        response = await client.request(
            method, path, json=body, headers={"X-Request-Id": f"exchange-{number}"}
        )
        sent = "" if body is None else json.dumps(body, ensure_ascii=False)
        shortened = re.sub(r"x{99,}", "xxx…", sent)
        kind = response.headers["content-type"]
        yield f">>> {method} {path}\n{shortened}\n<<< {response.status_code} {kind}"
        yield TIME.sub(r"\g<1>0", response.text.rstrip("\n")) + "\n"


def test_the_little_model_continues_greedily_as_recorded(
    golden: Callable[[Path, str], None],
) -> None:
    """The numbers of a real model are left to the engines' tests; its text and tokens are not."""
    runtime = Runtime(RuntimeOptions(model_dir=MINI, engine="torch"))
    runtime.start()
    runtime.wait_loaded(60)
    try:
        lines = [
            _greedy(runtime, prompt)
            for prompt in ("The old house stood by the", "Старый дом стоял у", "Он вошёл и сказал:")
        ]
    finally:
        assert runtime.close(drain_s=10)

    golden(FOLDER / "pushkin-mini.txt", "\n".join(lines) + "\n")


def _greedy(runtime: Runtime, prompt: str) -> str:
    from concurrent.futures import Future

    ended: Future[Done] = Future()

    def sink(event: Event) -> None:
        match event:
            case Done():
                ended.set_result(event)
            case Failed(error):
                ended.set_exception(error)

    runtime.submit(
        GenerationRequest(
            request_id=prompt,
            task="continue",
            text=prompt,
            raw=True,
            max_tokens=12,
            sampling=SamplingOverrides(temperature=0.0, samplers=("top_k", "temperature")),
            adapters=(),
            return_tokens=True,
        ),
        sink,
    )
    [choice] = ended.result(timeout=60).result.choices
    return json.dumps(
        {"prompt": prompt, "content": choice.text, "tokens": [t.token for t in choice.tokens]},
        ensure_ascii=False,
    )
