"""Zeus's own answers, in the shape of Bungie's: callers read them with the same code."""

import math

import msgspec
from aiohttp import web

# Closed: callers may act on these names.
NOT_ADMITTED = "ZeusKeyRequired"
BAD_REQUEST = "ZeusBadRequest"
METHOD_NOT_ALLOWED = "ZeusMethodNotAllowed"
TOO_BUSY = "ZeusThrottled"
KEYS_REFUSED = "ZeusKeysRefused"
UNREACHABLE = "ZeusUpstreamFailed"
TIMED_OUT = "ZeusUpstreamTimedOut"
BROKEN = "ZeusError"


class RefusedError(Exception):
    """The request ends with an answer of ours; never holds a header or a key."""

    def __init__(
        self, http_status: int, name: str, message: str, *, retry_s: float = 0, code: int = 0
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.name = name
        self.message = message
        self.retry_s = retry_s
        self.code = code

    def response(self) -> web.Response:
        seconds = math.ceil(self.retry_s)
        body = {
            "ErrorCode": self.code,
            "ThrottleSeconds": seconds,
            "ErrorStatus": self.name,
            "Message": self.message,
            "MessageData": {},
        }
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if seconds:
            headers["Retry-After"] = str(seconds)
        if self.http_status == 405:
            headers["Allow"] = "GET, HEAD"
        return web.Response(
            status=self.http_status, body=msgspec.json.encode(body), headers=headers
        )
