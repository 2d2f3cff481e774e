"""Pairing: six digits, one use, two minutes, five tries; then a token that writes and does no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pairing import CODE_LIFETIME_S, MAX_WRONG, Pairing, PairingRefused
from api.tokens import KnownToken, find_token

pytestmark = pytest.mark.anyio


class Book(dict):
    """Keeps clients in memory, as the daemon keeps them in files."""

    add = dict.__setitem__

    def current(self):
        return [KnownToken("editor", digest) for digest in self.values()]


class Desk:
    """A Pairing with a clock to turn and everything it tells written down."""

    def __init__(self):
        self.now, self.book, self.told = 0.0, Book(), []
        tell = lambda *end: self.told.append(end)  # noqa: E731
        self.pairing = Pairing(self.book, tell, clock=lambda: self.now)

    def wrong(self, offer):
        return f"{(int(offer.code) + 1) % 10**6:06}"

    def try_(self, code):
        try:
            return self.pairing.redeem(code, "Killah")
        except PairingRefused:
            return None


@pytest.fixture
def desk():
    return Desk()


def test_a_code_gives_one_token_once_which_is_kept_as_its_digest_only(desk):
    offer = desk.pairing.open()
    token = desk.pairing.redeem(offer.code, "Killah")

    assert find_token(token.encode(), desk.book.current()).scope == "editor"
    assert token not in repr(dict(desk.book))
    assert desk.try_(offer.code) is None
    assert desk.told == [(offer.id, "paired", "Killah")]


def test_codes_have_six_digits_and_are_not_foreseeable(desk):
    codes = [desk.pairing.open().code for _ in range(300)]

    assert all(len(code) == 6 and code.isdecimal() for code in codes)
    assert len(set(codes)) > 290
    assert len({digit for code in codes for digit in code}) == 10


def test_the_code_dies_at_the_fifth_wrong_try_whoever_makes_them(desk):
    offer = desk.pairing.open()
    for _ in range(MAX_WRONG):
        assert desk.try_(desk.wrong(offer)) is None

    assert desk.try_(offer.code) is None
    assert desk.told == [(offer.id, "refused", None)]
    assert not desk.book


def test_four_wrong_tries_are_forgiven(desk):
    offer = desk.pairing.open()
    for _ in range(MAX_WRONG - 1):
        desk.try_(desk.wrong(offer))

    assert desk.try_(offer.code) is not None


@given(st.floats(0, 10 * CODE_LIFETIME_S))
def test_a_code_works_for_two_minutes(after_s):
    desk = Desk()
    offer = desk.pairing.open()
    desk.now = after_s

    assert (desk.try_(offer.code) is not None) == (after_s < CODE_LIFETIME_S)


def test_a_new_code_ends_the_one_before_and_closing_ends_its_own_only(desk):
    first, second = desk.pairing.open(), desk.pairing.open()
    desk.pairing.close(first.id)

    assert first.code == second.code or desk.try_(first.code) is None
    assert desk.try_(second.code) is not None
    desk.pairing.close(second.id)
    assert [end[:2] for end in desk.told] == [(first.id, "ended"), (second.id, "paired")]


def test_a_client_that_cannot_be_remembered_gets_no_token_and_may_try_again(desk):
    offer = desk.pairing.open()
    desk.book.add = None
    with pytest.raises(TypeError):
        desk.pairing.redeem(offer.code, "Killah")
    del desk.book.add

    assert desk.try_(offer.code) is not None


async def test_over_http_the_admin_opens_and_anybody_with_the_code_is_let_in(start_daemon):
    desk = Desk()
    daemon = start_daemon(pairing=desk.pairing)
    async with daemon.client() as admin, daemon.client(**{"X-None": "1"}) as editor:
        unasked = await editor.post("/v1/pair", json={"code": "000000", "client": "Killah"})
        opened_by_nobody = await editor.post("/v1/pairings", json={})
        offer = (await admin.post("/v1/pairings", json={})).json()
        paired = await editor.post("/v1/pair", json={"code": offer["code"], "client": "Killah"})
        again = await editor.post("/v1/pair", json={"code": offer["code"], "client": "Other"})
        closed = await admin.delete(f"/v1/pairings/{offer['id']}")

    assert (unasked.status_code, unasked.json()["error"]["code"]) == (403, "pairing_refused")
    assert opened_by_nobody.status_code == 401
    assert offer["expires_in_s"] == CODE_LIFETIME_S
    answer = paired.json()
    assert (paired.status_code, answer["scope"], answer["client"]) == (200, "editor", "Killah")
    assert find_token(answer["token"].encode(), desk.book.current()) is not None
    assert (again.status_code, closed.status_code) == (403, 204)
    assert again.json()["error"]["message"] == unasked.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"code": "12345", "client": "x"},
        {"code": "1234567", "client": "x"},
        {"code": "١٢٣٤٥٦", "client": "x"},
        {"code": 123456, "client": "x"},
        {"code": "123456", "client": "../../x"},
        {"code": "123456", "client": "a/b"},
        {"code": "123456", "client": ".hidden"},
        {"code": "123456", "client": "x\x00"},
        {"code": "123456", "client": ""},
        {"code": "123456"},
    ],
)
async def test_a_code_is_six_digits_and_a_client_is_a_name(start_daemon, body):
    desk = Desk()
    daemon = start_daemon(pairing=desk.pairing)
    async with daemon.client() as client:
        assert (await client.post("/v1/pair", json=body)).status_code == 400


async def test_a_web_page_cannot_pair(start_daemon):
    desk = Desk()
    daemon = start_daemon(pairing=desk.pairing)
    body = {"code": desk.pairing.open().code, "client": "page"}
    async with daemon.client(**{"X-None": "1"}) as page:
        foreign = await page.post("/v1/pair", json=body, headers={"Origin": "https://evil.com"})
        rebound = await page.post("/v1/pair", json=body, headers={"Host": "evil.com:1799"})

    assert (foreign.status_code, rebound.status_code) == (403, 421)
    assert not desk.book
