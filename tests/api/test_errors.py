"""The table of errors is complete, and only it knows status codes."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import adapters.errors
import api
import pushkin_runtime.errors
from api.errors import CODES, STATUSES, ApiError, as_api_error

LOWER = [
    error
    for module in (pushkin_runtime.errors, adapters.errors)
    for _, error in inspect.getmembers(module, inspect.isclass)
    if issubclass(error, Exception)
]


@pytest.mark.parametrize("error", LOWER)
def test_every_error_of_the_lower_floors_has_its_own_code(error):
    assert error in CODES


def test_every_code_has_a_status():
    assert set(CODES.values()) <= set(STATUSES)
    assert len(set(CODES.values())) == len(CODES)


def test_a_subclass_nobody_listed_is_answered_as_its_base():
    class Newer(pushkin_runtime.errors.ModelCorrupt):
        pass

    found = as_api_error(Newer("tensors are missing", param="model"))

    assert (found.code, found.status_code, found.param) == ("model_corrupt", 500, "model")
    assert found.detail == "tensors are missing"


def test_the_unforeseen_says_nothing_about_itself():
    found = as_api_error(ZeroDivisionError("the user's text"))

    assert (found.code, found.status_code) == ("internal_error", 500)
    assert "the user's text" not in str(found.body("req_1"))


def test_no_answer_makes_the_official_client_repeat_a_refusal():
    """It repeats 408, 409, 429 and 5xx, unless `x-should-retry: false` says otherwise."""
    assert not {408, 409, 429} & set(STATUSES.values())
    for error in [*LOWER, ZeroDivisionError]:
        made = error("x", retry_after_s=None) if error.__name__ == "NotReady" else error("x")
        found = as_api_error(made)
        if found.status_code >= 500:
            assert {"Retry-After", "x-should-retry"} & set(found.headers)


def test_codes_used_in_the_package_exist():
    used = set()
    for path in Path(api.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ApiError":
                used |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}

    assert used <= set(STATUSES)
    assert {"host_refused", "body_too_large", "request_not_found"} <= used


def test_the_body_has_the_shape_of_the_contract():
    body = ApiError("invalid_value", "no", param="n").body("req_1")

    assert body == {
        "error": {
            "code": "invalid_value",
            "message": "no",
            "type": "invalid_request_error",
            "param": "n",
            "request_id": "req_1",
        }
    }
