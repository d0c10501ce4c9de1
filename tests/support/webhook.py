"""A webhook of our own in place of Discord: what arrives there, and when."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import SecretStr


class Hook:
    """Plays Discord: answers the statuses it was given, then 204, and keeps what came."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.got: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []  # one for each request
        self.arrived: list[float] = []  # by the monotonic clock, one for each of `got`
        self.requests = 0
        self.hold = threading.Event()
        self.hold.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.hold.wait(10)
                hook.requests += 1
                hook.authorizations.append(self.headers["Authorization"])
                status = hook.statuses.pop(0) if hook.statuses else 204
                if status < 300:
                    hook.got.append(json.loads(body))
                    hook.arrived.append(time.monotonic())
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = SecretStr(f"http://127.0.0.1:{self._server.server_address[1]}/secret-token")
        # For a resource, whose configuration Dagster writes down as text.
        self.address = self.url.get_secret_value()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
