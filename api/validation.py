"""From pydantic's findings to one error a person can act on, without quoting what was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from api.errors import ApiError
from api.json_text import printable

# How many findings one message lists.
MAX_LISTED = 4

_EXPECTED_TYPES = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
_OWN_CODES = frozenset({"text_empty", "invalid_type", "invalid_value", "capability_missing"})


async def answer_invalid_request(request: Request, error: Exception) -> Response:
    """The handler for RequestValidationError."""
    assert isinstance(error, RequestValidationError)
    return refusal(error.errors()).response(request.state.request_id, request.url.path)


def refusal(findings: Sequence[Mapping[str, Any]]) -> ApiError:
    """One ApiError for all findings: `code` and `param` are the first one's."""
    described = [_describe(finding) for finding in findings]
    code, param, _ = described[0]
    sentences = [message for _, _, message in described[:MAX_LISTED]]
    if len(described) > MAX_LISTED:
        sentences.append(f"and {len(described) - MAX_LISTED} more")
    return ApiError(code, "; ".join(sentences), param=param)


def _describe(finding: Mapping[str, Any]) -> tuple[str, str | None, str]:
    """(code, param, message) of one finding."""
    kind: str = finding["type"]
    given: object = finding.get("input")
    context: Mapping[str, Any] = finding.get("ctx", {})
    param = _param(finding["loc"])
    what = f"`{param}`" if param else "the body"

    if kind == "unknown_field":
        field = context["field"]
        return kind, f"{param}.{field}" if param else field, finding["msg"]
    if kind in _OWN_CODES:
        return kind, param, f"{what} {finding['msg']}"
    if kind == "missing":
        if param is None:
            return "invalid_json", None, "the body is empty: send a JSON object"
        return "missing_field", param, f"{what} is required"
    if kind in _EXPECTED_TYPES:
        expected = _EXPECTED_TYPES[kind]
        return "invalid_type", param, f"{what} must be {expected}, got {_json_type(given)}"
    return "invalid_value", param, f"{what} {_constraint(kind, given, context)}"


def _constraint(kind: str, given: object, context: Mapping[str, Any]) -> str:
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {_number(context[key])}, got {_number(given)}"
    if kind == "finite_number":
        return "must be a finite number"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "string_too_long" and isinstance(given, str):
        return f"is {len(given)} characters long, at most {context['max_length']} are taken"
    if kind == "string_too_short":
        return f"needs at least {context['min_length']} character"
    if kind == "too_long":
        return f"has {context['actual_length']} items, at most {context['max_length']} are taken"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}"
    return f"is not valid ({kind})"


def _param(location: Sequence[str | int]) -> str | None:
    """`("body", "adapters", 0, "name")` is written `adapters[0].name`; `<tags>` of unions are left out."""
    path = ""
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<"):
            path += f".{printable(part)}" if path else printable(part)
    return path or None


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number with a fraction"}
    names |= {str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _json_type(value)
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a huge integer"
    return repr(int(value) if float(value).is_integer() else value)
