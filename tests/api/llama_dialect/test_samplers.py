"""The samplers of `POST /completion`: upstream's names, order and defaults."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio


async def complete(daemon, **body):
    async with daemon.client() as client:
        return await client.post("/completion", json={"prompt": "a", "n_predict": 1, **body})


@pytest.mark.parametrize(
    ("given", "chain"),
    [
        (["top_k", "temperature", "top_k"], ("top_k", "temperature", "top_k")),
        ("dkt", ("dry", "top_k", "temperature")),
        (["temperature", "dry"], ("temperature", "dry")),
        ([], ()),
    ],
)
async def test_samplers_run_in_the_given_order(start_daemon, given, chain):
    daemon = start_daemon((" one two",))
    answer = (await complete(daemon, samplers=given)).json()

    assert daemon.runtime.requests[-1].sampling.samplers == chain
    assert len(answer["generation_settings"]["samplers"]) == len(given)


async def test_dry_is_as_upstream_has_it(start_daemon):
    daemon = start_daemon((" one two",))
    plain = (await complete(daemon)).json()["generation_settings"]
    sent = {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3}
    sent |= {"dry_penalty_last_n": 9, "dry_sequence_breakers": ["\n", "—", ""]}
    told = (await complete(daemon, **sent)).json()["generation_settings"]
    edge = {"dry_base": 0.5, "dry_penalty_last_n": -1, "dry_multiplier": 1}
    odd = (await complete(daemon, **edge)).json()["generation_settings"]

    expected = {"dry_multiplier": 0.0, "dry_base": 1.75, "dry_allowed_length": 2}
    expected |= {"dry_penalty_last_n": 64, "dry_sequence_breakers": ["\n", ":", '"', "*"]}
    assert {name: plain[name] for name in expected} == expected
    assert {name: told[name] for name in sent} == sent
    assert (odd["dry_base"], odd["dry_penalty_last_n"]) == (1.75, 4096)
    sampling = daemon.runtime.requests[1].sampling
    assert {name: getattr(sampling, name) for name in sent} == sent | {
        "dry_sequence_breakers": ("\n", "—", "")
    }


@pytest.mark.parametrize("version", [1, 2])
async def test_mirostat_is_as_upstream_has_it(start_daemon, version):
    daemon = start_daemon((" one two",))
    told = (await complete(daemon, mirostat=version)).json()["generation_settings"]
    sampling = daemon.runtime.requests[-1].sampling

    assert (told["mirostat"], told["mirostat_tau"], told["mirostat_eta"]) == (version, 5.0, 0.1)
    assert (sampling.mirostat, sampling.mirostat_tau, sampling.mirostat_eta) == (version, 5.0, 0.1)
