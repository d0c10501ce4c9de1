"""The broker through its management API, as an operator sees and treats it."""

import base64
import json
import urllib.request
from typing import Any
from urllib.parse import quote

from raidhub_dagster.settings import Settings


def manage(settings: Settings, path: str, method: str = "GET") -> Any:
    """The broker's own view, through its management API."""
    request = urllib.request.Request(
        f"http://{settings.rabbitmq_host}:{settings.rabbitmq_ui_port}/api/{path}", method=method
    )
    login = base64.b64encode(b"guest:guest").decode()
    request.add_header("Authorization", f"Basic {login}")
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  of a test's node
        return json.loads(answer.read() or b"null")


def kick(settings: Settings, name: str) -> bool:
    """Closes the connection of this name; False while the management database lacks it."""
    for connection in manage(settings, "connections"):
        if connection.get("client_properties", {}).get("connection_name") == name:
            manage(settings, f"connections/{quote(connection['name'])}", "DELETE")
            return True
    return False
