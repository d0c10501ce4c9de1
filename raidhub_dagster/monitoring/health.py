"""The port every long-running process listens on: metrics for Prometheus, answers for probes.

/healthz says whether the process does its work, /livez only whether its loops turn: a restart mends
a loop that hangs, and never a database that is away.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Mapping
from errno import EADDRNOTAVAIL
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from raidhub_dagster.errors import ConfigurationError


class Note(str):
    """What a check tells without failing: nothing is wrong here, but a reader wants to know."""

    __slots__ = ()


# None or a Note when all is well, else the reason in a few words. Called from the server's threads.
Check = Callable[[], str | None]


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class HealthServer:
    """Answers until it is closed; a context manager."""

    def __init__(
        self,
        host: str,
        port: int,
        checks: Mapping[str, Check],
        loops: Mapping[str, Check],
        variable: str,
    ) -> None:
        paths = {"/healthz": {**checks}, "/livez": {**loops}}
        handler = type("Handler", (_Handler,), {"paths": paths})
        server = _Server6 if ":" in host else ThreadingHTTPServer
        try:
            self._server = server((host, port), handler)
        except OSError as error:
            wrong = "METRICS_HOST" if error.errno == EADDRNOTAVAIL else variable
            raise ConfigurationError(
                f"cannot serve metrics on {host}, port {port}: {error.strerror or error};"
                f" set another {wrong}"
            ) from None
        self.port: int = self._server.server_address[1]
        # The short poll only bounds how long close() takes; requests are answered at once.
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="health", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    port: int,
    checks: Mapping[str, Check],
    *,
    variable: str,
    loops: Mapping[str, Check] | None = None,
    host: str = "127.0.0.1",
) -> HealthServer:
    """Starts the server in a thread; port 0 takes a free one, `host` is an address (METRICS_HOST).

    /healthz answers 200, or 503 when a check gives a reason, with `{"status", "checks"}` where
    each check is "ok", its reason or its Note; /livez the same of `loops`. Raises
    ConfigurationError naming `variable`, the setting that chose the port, when it is taken.
    """
    return HealthServer(host, port, checks, loops or {}, variable)


def turns(loop: asyncio.AbstractEventLoop, *, within_s: float = 5.0) -> Check:
    """A check of `loop` for `serve`, whose threads ask it: it must take its turn in time."""

    def ask() -> str | None:
        turned = threading.Event()
        loop.call_soon_threadsafe(turned.set)
        return None if turned.wait(within_s) else f"the event loop hangs for {within_s:g} s"

    return ask


class _Handler(BaseHTTPRequestHandler):
    paths: Mapping[str, Mapping[str, Check]] = {}
    timeout = 10  # a scraper that stalls must not hold its thread for ever

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(REGISTRY))
        elif path in self.paths:
            results = {name: _result(check) for name, check in self.paths[path].items()}
            well = all(result == "ok" or isinstance(result, Note) for result in results.values())
            body = {"status": "ok" if well else "failing", "checks": results}
            self._answer(200 if well else 503, "application/json", json.dumps(body).encode())
        else:
            self._answer(404, "text/plain", b"only /metrics, /healthz and /livez\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the base class
        """Probes and scrapes every few seconds are not worth a line."""


def _result(check: Check) -> str:
    try:
        return check() or "ok"
    except Exception as error:  # noqa: BLE001  a check that cannot look is not healthy
        return f"check failed: {error!r}"


def reason(body: str) -> str:
    """Why a /healthz that answered is not well: its checks that fail, else how the text begins."""
    try:
        checks: dict[str, str] = json.loads(body)["checks"]
        return "; ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok")
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(body.split())[:200]
