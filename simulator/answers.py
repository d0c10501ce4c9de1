"""Answers of the platform: the JSON envelope, its error codes, and the pages of the edge."""

import json
from dataclasses import dataclass

JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"

# code: (HTTP status, ErrorStatus, Message)
_ERRORS = {
    5: (503, "SystemDisabled", "This system is temporarily disabled for maintenance."),
    7: (400, "ParameterParseFailure", "A parameter could not be read."),
    8: (400, "ParameterInvalidRange", "A parameter is outside of its valid range."),
    12: (403, "InsufficientPrivileges", "You lack the privileges to read or write this data."),
    18: (400, "InvalidParameters", "A parameter of this request is not valid."),
    31: (429, "ThrottleLimitExceeded", "You have exceeded the rate limit."),
    35: (429, "ThrottleLimitExceededMinutes", "Wait a few minutes before trying again."),
    36: (429, "ThrottleLimitExceededMomentarily", "Wait a moment before trying again."),
    37: (429, "ThrottleLimitExceededSeconds", "Wait some seconds before trying again."),
    51: (429, "PerEndpointRequestThrottleExceeded", "Too many requests for this endpoint."),
    54: (429, "PerApplicationThrottleExceeded", "This application makes too many requests."),
    55: (429, "PerApplicationAnonymousThrottleExceeded", "Too many anonymous requests."),
    56: (429, "PerApplicationAuthenticatedThrottleExceeded", "Too many requests of users."),
    57: (429, "PerUserThrottleExceeded", "This user makes too many requests."),
    99: (401, "WebAuthRequired", "Please sign-in to continue."),
    217: (404, "UserCannotResolveCentralAccount", "This account could not be resolved."),
    622: (404, "GroupNotFound", "The group was not found."),
    686: (404, "ClanNotFound", "The clan was not found."),
    1601: (500, "DestinyAccountNotFound", "No Destiny account was found."),
    1618: (500, "DestinyUnexpectedError", "An unexpected error has occurred."),
    1620: (404, "DestinyCharacterNotFound", "The character was not found."),
    1653: (404, "DestinyPGCRNotFound", "The activity you were looking for was not found."),
    1665: (500, "DestinyPrivacyRestriction", "This data is private."),
    1672: (503, "DestinyThrottledByGameServer", ""),
    2101: (401, "ApiInvalidOrExpiredKey", "The given API key is invalid."),
    2102: (401, "ApiKeyMissingFromRequest", "The request carries no API key."),
    2103: (403, "ApplicationDisabled", "This application is disabled."),
    2107: (403, "OriginHeaderDoesNotMatchKey", "The origin does not match that of the key."),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes over the wire, before compression."""

    status: int
    body: bytes
    content_type: str = JSON


def success(response: object) -> Answer:
    return Answer(200, envelope(response))


def envelope(response: object) -> bytes:
    return json.dumps(
        {
            "Response": response,
            "ErrorCode": 1,
            "ThrottleSeconds": 0,
            "ErrorStatus": "Success",
            "Message": "Ok",
            "MessageData": {},
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def error(code: int, *, throttle_seconds: int = 0, data: dict[str, str] | None = None) -> Answer:
    """The error `code`, without Response. Raises KeyError for a code the simulator never sends."""
    status, name, message = _ERRORS[code]
    body = {
        "ErrorCode": code,
        "ThrottleSeconds": throttle_seconds,
        "ErrorStatus": name,
        "Message": message,
        "MessageData": data or {},
    }
    return Answer(status, json.dumps(body, separators=(",", ":")).encode())


CODES = frozenset(_ERRORS)

_PAGES = {
    200: "Bungie.net",
    401: "401 Unauthorized",
    403: "Access denied",
    404: "404 - File or directory not found.",
    429: "429 Too Many Requests",
    500: "500 Internal Server Error",
    502: "502 Bad Gateway",
    503: "503 Service Temporarily Unavailable",
}
PAGES = frozenset(_PAGES)


CHALLENGE = "Just a moment..."  # title of the edge's page for those it takes for robots


def page(status: int, title: str | None = None) -> Answer:
    """What the edge says instead of the API; `title` instead of the usual one."""
    title = title or _PAGES[status]
    head, body = f"<head><title>{title}</title></head>", f"<body><h1>{title}</h1></body>"
    return Answer(status, f"<!DOCTYPE html><html>{head}{body}</html>".encode(), HTML)
