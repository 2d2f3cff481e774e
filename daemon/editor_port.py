"""The shipped editor's port beside the daemon's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp


def with_editor_port(app: FastAPI, port: int | None) -> ASGIApp:
    """The application, and on `port` the editor's, with the same runtime; None: there is no such port.

    The editor knows no token, so its port has no other route than those it asks for.
    """
    if port is None:
        return app
    from api.app import create_editor_app
    from api.by_port import ByPort
    from api.services import LoraChoice, loopback_hosts

    services = replace(
        app.state.services,
        allowed_hosts=loopback_hosts(port),
        without_token="editor",
        lora=LoraChoice(),
    )
    return ByPort(app, {port: create_editor_app(services)})
