"""`GET /health?nonce=`: the daemon proves that it knows the token, to this nonce, at this address."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.identity import is_proof, key_id, new_nonce, proof
from api.tokens import token_digest

pytestmark = pytest.mark.anyio

TOKEN = b"token-of-the-tests-0123456789"
DIGEST = token_digest(TOKEN)
ADDRESS = "127.0.0.1:1799"


async def ask(daemon, **question):
    async with daemon.client(**{"X-None": "1"}) as client:
        return await client.get("/health", params=question)


async def test_the_proof_is_the_documented_construction(daemon):
    nonce = new_nonce()
    answer = await ask(daemon, nonce=nonce, key=key_id(DIGEST))

    key = hmac.new(DIGEST, b"pushkin identity key 1", hashlib.sha256).digest()
    message = f"{nonce}\n{ADDRESS}".encode()
    assert answer.json()["proof"] == hmac.new(key, message, hashlib.sha256).hexdigest()
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


async def test_a_key_of_no_token_gets_none_and_no_question_gets_nothing(daemon):
    unknown = await ask(daemon, nonce=new_nonce(), key="0" * 16)
    silent = await ask(daemon)

    assert unknown.json()["proof"] is None
    assert "proof" not in silent.json()


@pytest.mark.parametrize(
    "question",
    [
        {"nonce": "x" * 32},
        {"key": "0" * 16},
        {"nonce": "short", "key": "0" * 16},
        {"nonce": "x" * 129, "key": "0" * 16},
        {"nonce": "é" * 32, "key": "0" * 16},
        {"nonce": "x" * 32, "key": "0" * 15},
        {"nonce": "x" * 32, "key": "Z" * 16},
    ],
)
async def test_a_malformed_question_is_refused(daemon, question):
    assert (await ask(daemon, **question)).status_code == 400


NONCES = st.text("abcXYZ019_-", min_size=16, max_size=40)


@given(NONCES, NONCES, st.binary(min_size=16, max_size=40))
def test_a_proof_is_good_for_its_nonce_address_and_token_only(nonce, other_nonce, other_token):
    given_proof = proof(DIGEST, nonce, ADDRESS)

    assert is_proof(given_proof, DIGEST, nonce, ADDRESS)
    assert not is_proof(given_proof, DIGEST, nonce, "127.0.0.1:1800")
    assert not is_proof(given_proof, token_digest(other_token), nonce, ADDRESS)
    assert is_proof(given_proof, DIGEST, other_nonce, ADDRESS) == (nonce == other_nonce)


@given(st.none() | st.integers() | st.text() | st.lists(st.text()))
def test_nothing_else_passes_for_a_proof(answer):
    assert not is_proof(answer, DIGEST, "x" * 32, ADDRESS)


def test_neither_the_key_name_nor_a_proof_shows_the_digest():
    assert DIGEST.hex()[:16] != key_id(DIGEST)
    assert DIGEST.hex() not in proof(DIGEST, "x" * 32, ADDRESS)
