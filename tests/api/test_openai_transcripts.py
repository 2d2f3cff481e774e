"""Golden: what clients of the OpenAI dialect have come to read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio

TRANSCRIPTS = Path(__file__).with_name("transcripts") / "openai"
PATH = "/v1/completions"


@pytest.mark.parametrize("name", ["whole", "streamed", "refused"])
async def test_transcripts(start_daemon, golden, name):
    """Times are blanked."""
    fields = {
        "whole": {"n": 2, "logprobs": 1, "echo": True, "max_tokens": 3, "seed": 7},
        "streamed": {"n": 2, "stream": True, "stream_options": {"include_usage": True}},
        "refused": {"n": 9},
    }[name]
    body = {"model": "scripted", "prompt": "Сад", "stop": ["."]} | fields
    daemon = start_daemon([" ё.", " ok"])
    async with daemon.client() as client:
        response = await client.post(PATH, json=body, headers={"X-Request-Id": "golden"})

    shown = re.sub(r'("(?:created|\w+_ms|tokens_per_second)"):[\d.]+', r"\1:0", response.text)
    head = f"POST {PATH}\n{json.dumps(body, ensure_ascii=False)}\n\n"
    status = f"{response.status_code} {response.headers['content-type']}\n"
    golden(TRANSCRIPTS / f"{name}.txt", head + status + shown.rstrip("\n") + "\n")
