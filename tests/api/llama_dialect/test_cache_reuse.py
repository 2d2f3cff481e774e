"""`n_cache_reuse`, upstream's name for moving what stands behind an edit instead of reading it again."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio


async def test_n_cache_reuse_moves_what_follows_an_edit(start_daemon):
    daemon = start_daemon()
    text = " ".join(str(number) for number in range(150))
    edited = f"{text[:50]}{text[55:]}"

    async def cached(prompt=edited, **body):
        async with daemon.client() as client:
            sent = {"prompt": prompt, "n_predict": 1, **body}
            answer = (await client.post("/completion", json=sent)).json()
        return answer["timings"]["cache_n"], answer["tokens_evaluated"]

    await cached(text)
    n_cached, n_prompt = await cached(n_cache_reuse=128)
    assert n_prompt - n_cached == 32 + 64
    assert (await cached())[0] < 100  # nobody else gets what was moved
