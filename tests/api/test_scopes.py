"""Scopes: every route has one, a token reaches what its scope covers, and nothing else answers."""

from __future__ import annotations

import re

import pytest
from fastapi.routing import iter_route_contexts
from hypothesis import given
from hypothesis import strategies as st

from api.scopes import ROUTES, SCOPES, WEBSOCKET, RouteTable, broadest, covers

pytestmark = pytest.mark.anyio

TOKENS = {f"{scope}-token-of-the-tests": scope for scope in SCOPES}


def names_of(app):
    for route in iter_route_contexts(app.routes):
        for method in getattr(route, "methods", None) or {WEBSOCKET}:
            yield f"{method} {route.path}"


def request_for(name):
    """A method and a path that the route of this name would serve."""
    method, _, pattern = name.partition(" ")
    return method, re.sub(r"\{[^}]+\}", "x", pattern)


@pytest.fixture(scope="module")
def table():
    return RouteTable(ROUTES)


def test_every_route_of_the_application_has_a_scope(daemon):
    assert sorted(set(names_of(daemon.app)) - set(ROUTES)) == []


def test_only_health_and_pairing_are_open():
    is_open = {name for name, scope in ROUTES.items() if scope == "open"}

    assert is_open == {"GET /health", "GET /v1/health", "POST /v1/pair"}


@pytest.mark.parametrize("name", ROUTES)
def test_a_request_is_given_the_scope_of_its_route(table, name):
    method, path = request_for(name)

    assert table.needed(method, path) == ROUTES[name]
    assert method in table.methods(path)


@given(st.sampled_from(SCOPES), st.sampled_from(SCOPES))
def test_a_scope_includes_the_ones_before_it(held, needed):
    assert covers(held, needed) == (SCOPES.index(held) >= SCOPES.index(needed))
    assert covers(held, "open")
    assert broadest([held, needed]) == SCOPES[max(SCOPES.index(held), SCOPES.index(needed))]


@pytest.mark.parametrize("token", TOKENS)
async def test_a_token_opens_the_routes_its_scope_covers_and_no_other(start_daemon, token):
    daemon, held = start_daemon(tokens=TOKENS), TOKENS[token]
    async with daemon.client(Authorization=f"Bearer {token}") as client:
        for name in sorted(names_of(daemon.app)):
            method, path = request_for(name)
            if (
                method == WEBSOCKET or path == "/v1/events"
            ):  # the one has no end, the other no status
                continue
            answer = await client.request(method, path)
            error = answer.json()["error"] if answer.is_error else {}
            is_refused = "scope_insufficient" in (error.get("code"), error.get("reason"))

            assert is_refused != covers(held, ROUTES[name]), name
            if is_refused:
                assert answer.status_code == 403
                assert f"`{ROUTES[name]}`" in error["message"]


@pytest.mark.parametrize("token", [token for token in TOKENS if TOKENS[token] != "admin"])
async def test_what_no_entry_names_is_closed_and_says_what_it_would_to_the_admin(
    start_daemon, token
):
    daemon = start_daemon(tokens=TOKENS)

    @daemon.app.get("/v1/forgotten")
    async def forgotten() -> str:
        return "a route nobody gave a scope"

    async with daemon.client(Authorization=f"Bearer {token}") as client:
        route = await client.get("/v1/forgotten")
        nothing = await client.get("/nothing")
        method = await client.delete("/v1/continue")

    assert [route.status_code, nothing.status_code, method.status_code] == [404, 404, 405]
    assert method.headers["allow"] == "POST"


def test_where_two_patterns_fit_the_higher_scope_counts():
    table = RouteTable({"GET /a/{rest:path}": "menubar", "GET /a/{x}/b": "admin"})

    assert (table.needed("GET", "/a/1"), table.needed("GET", "/a/1/b")) == ("menubar", "admin")
    assert table.needed("GET", "/a") is None
