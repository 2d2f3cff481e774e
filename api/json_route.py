"""A route whose JSON body goes through `parse_json` instead of the permissive `json.loads`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.errors import ApiError
from api.json_text import JsonRefused, parse_json


class StrictJsonRequest(Request):
    """A request that refuses sloppy JSON with an `ApiError`."""

    async def json(self) -> Any:
        try:
            return parse_json(await self.body())
        except JsonRefused as error:
            raise ApiError(error.code, str(error), param=error.param) from None


class StrictJsonRoute(APIRoute):
    """For `APIRouter(route_class=StrictJsonRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return handle_strictly
