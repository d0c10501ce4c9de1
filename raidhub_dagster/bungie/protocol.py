"""Bungie's API without any I/O: addresses, headers, envelopes, and what an answer means.

Who sends the request is somebody else's business: the crawl does it with aiohttp, everything else
with `client.py`. Rules: docs/domain/bungie-api.md; for reports docs/domain/pgcr.md, Answers.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from raidhub_dagster.bungie.codes import CODES, CodeClass, Scope, class_of, pause_s
from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.pgcr.probe import probe
from raidhub_dagster.pgcr.wire import Undecodable, split_object

TIMEOUT_S = 15
# Open-world reports reach tens of MB; a body beyond this is no raid anybody played. Readers stop
# at one byte more.
MAX_BODY_BYTES = 32 * 1024 * 1024
TRANSPORT_FAILURE = -1  # pseudo code, below every code of the platform


class ResultKind(IntEnum):
    """The outcome of one fetch of a report; the number is the metric label `status`.

    7 and 8 are retired: never emit or reuse them.
    """

    SUCCESS = 1
    NON_RAID = 2
    NOT_FOUND = 3
    SYSTEM_DISABLED = 4
    INSUFFICIENT_PRIVILEGES = 5
    BAD_FORMAT = 6
    EXTERNAL_ERROR = 9
    RATE_LIMITED = 10


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Final addresses: a redirect would lose or leak the key, hence each trailing slash.

    `www` and `pgcr` are bases without a trailing slash, such as https://www.bungie.net.
    """

    www: str
    pgcr: str

    def pgcr_url(self, instance_id: int, *, malformed_retry: int | None = None) -> str:
        """A report; `malformed_retry` makes the address new, so that no cache answers."""
        query = "" if malformed_retry is None else f"?malformed_retry={malformed_retry}"
        path = f"/Platform/Destiny2/Stats/PostGameCarnageReport/{instance_id}/"
        return f"{self.pgcr}{path}{query}"

    def profile_url(self, membership_type: int, membership_id: int) -> str:
        """Account and characters (components 100 and 200)."""
        return f"{self._profile(membership_type, membership_id)}?components=100,200"

    def character_url(self, membership_type: int, membership_id: int, character_id: int) -> str:
        profile = self._profile(membership_type, membership_id)
        return f"{profile}Character/{character_id}/?components=200"

    def linked_profiles_url(self, membership_id: int, membership_type: int = -1) -> str:
        """All platform accounts of one person; the type may be unknown (-1)."""
        profile = self._profile(membership_type, membership_id)
        return f"{profile}LinkedProfiles/?getAllMemberships=true"

    def account_stats_url(self, membership_type: int, membership_id: int) -> str:
        """All characters, deleted ones included."""
        return f"{self._account(membership_type, membership_id)}Stats/"

    def activity_history_url(
        self,
        membership_type: int,
        membership_id: int,
        character_id: int,
        *,
        page: int,
        mode: int = 4,
        count: int = 250,
    ) -> str:
        """Newest first, `page` from 0; mode 4 = raid, 2 = story; at most 250 a page."""
        account = self._account(membership_type, membership_id)
        query = f"?mode={mode}&count={count}&page={page}"
        return f"{account}Character/{character_id}/Stats/Activities/{query}"

    def groups_of_member_url(self, membership_type: int, membership_id: int) -> str:
        """Clans of one account (filter 0 all, group type 1 clan)."""
        return f"{self.www}/Platform/GroupV2/User/{membership_type}/{membership_id}/0/1/"

    def group_url(self, group_id: int) -> str:
        return f"{self.www}/Platform/GroupV2/{group_id}/"

    def group_members_url(self, group_id: int, *, page: int) -> str:
        """`page` from 1. It works in the query only, whatever the specification says."""
        return f"{self.group_url(group_id)}Members/?currentpage={page}&memberType=0"

    def manifest_url(self) -> str:
        return f"{self.www}/Platform/Destiny2/Manifest/"

    def content_url(self, path: str, *, retry: int | None = None) -> str:
        """A file that the manifest names; `retry` is new for each address, for the edge's sake."""
        return f"{self.www}{path}" + ("" if retry is None else f"?retry={retry}")

    def settings_url(self) -> str:
        return f"{self.www}/Platform/Settings/"

    def global_alerts_url(self) -> str:
        return f"{self.www}/Platform/GlobalAlerts/"

    def _profile(self, membership_type: int, membership_id: int) -> str:
        return f"{self.www}/Platform/Destiny2/{membership_type}/Profile/{membership_id}/"

    def _account(self, membership_type: int, membership_id: int) -> str:
        return f"{self.www}/Platform/Destiny2/{membership_type}/Account/{membership_id}/"


def headers(api_key: str, user_agent: str) -> dict[str, str]:
    """What every request carries; the API refuses one without a User-Agent."""
    return {"X-API-Key": api_key, "User-Agent": user_agent, "Accept-Encoding": "gzip"}


class Problem(StrEnum):
    """Why an answer is no envelope."""

    NONE = ""
    TOO_LARGE = "too_large"
    BLOCK_PAGE = "block_page"  # the edge refuses us with a status of success
    NOT_JSON = "not_json"
    NO_CODE = "no_code"  # JSON, but without a usable ErrorCode


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, opened but not judged."""

    http_status: int
    code: int | None  # None: no usable ErrorCode
    status: str  # ErrorStatus as sent
    message: str
    throttle_seconds: int
    response: bytes | None  # JSON of Response, byte for byte, when it is an object or a list
    problem: Problem
    # Texts of MessageData, of errors only; a wrong membership type may come with the right one.
    message_data: Mapping[str, str] = field(default_factory=dict)

    @property
    def code_class(self) -> CodeClass:
        """What to do about it; without a code the HTTP status and the kind of body tell."""
        if self.code is not None:
            return class_of(self.code)
        if self.http_status in {403, 429, 503} or self.problem is Problem.BLOCK_PAGE:
            return CodeClass.THROTTLE
        if self.http_status == 401:
            return CodeClass.KEY_PROBLEM
        return CodeClass.RETRY

    @property
    def scope(self) -> Scope | None:
        """What has to slow down when `code_class` is THROTTLE, else None."""
        if self.code is not None:
            known = CODES.get(self.code)
            return known.scope if known else None
        if self.code_class is not CodeClass.THROTTLE:
            return None
        return Scope.GLOBAL if self.http_status == 503 else Scope.ADDRESS

    @property
    def pause_s(self) -> int:
        """Seconds that `scope` has to pause; 0 when this is no throttle."""
        if self.code_class is not CodeClass.THROTTLE:
            return 0
        return pause_s(self.code, self.throttle_seconds)

    @property
    def label(self) -> str:
        """One of a closed set of names, for metrics: the text that came is never a label."""
        if self.code is not None:
            known = CODES.get(self.code)
            return known.identifier if known else "UnknownCode"
        return f"Http{self.http_status}"


# Bounded, or a page full of half titles would take seconds.
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,200}?)</title>", re.IGNORECASE | re.DOTALL)
_TITLE_WITHIN = 64 * 1024  # a title stands at the top: no need to read a whole page of MBs
_BLOCK_PAGES = (
    "attention required! | cloudflare",
    "just a moment...",
    "checking your browser",
    "ddos protection by cloudflare",
    "access denied",
)


def read_answer(http_status: int, content_type: str, body: bytes) -> Answer:
    """Opens an answer with whatever status and body; never raises."""
    if len(body) > MAX_BODY_BYTES:
        return _without_code(http_status, Problem.TOO_LARGE)
    envelope = split_object(body) if "application/json" in content_type.lower() else None
    if envelope is None:
        blocked = 200 <= http_status < 300 and _is_block_page(body)  # else the status says it
        return _without_code(http_status, Problem.BLOCK_PAGE if blocked else Problem.NOT_JSON)
    response = envelope.get("Response", b"")
    code = _integer(envelope.get("ErrorCode"))
    if code == 0:
        code = 1 if response.startswith(b"{") else None
    return Answer(
        http_status=http_status,
        code=code,
        status=_text(envelope.get("ErrorStatus")),
        message=_text(envelope.get("Message")),
        throttle_seconds=max(_integer(envelope.get("ThrottleSeconds")) or 0, 0),
        response=response if response.startswith((b"{", b"[")) else None,
        problem=Problem.NO_CODE if code is None else Problem.NONE,
        message_data={} if code == 1 else _texts(envelope.get("MessageData")),
    )


def _without_code(http_status: int, problem: Problem) -> Answer:
    return Answer(
        http_status=http_status,
        code=None,
        status="",
        message="",
        throttle_seconds=0,
        response=None,
        problem=problem,
    )


_INTEGER = re.compile(rb'"?(-?[0-9]{1,18})"?')


def _integer(raw: bytes | None) -> int | None:
    """A JSON integer or a numeric string; nothing else is one."""
    match = _INTEGER.fullmatch(raw or b"")
    return int(match[1]) if match else None


def _text(raw: bytes | None) -> str:
    """At most 200 characters, without NUL: it ends in logs and in a column."""
    try:
        return msgspec.json.decode(raw or b"", type=str)[:200].replace("\0", "")
    except Undecodable:
        return ""


def _texts(raw: bytes | None) -> dict[str, str]:
    """The texts among the values of a JSON object."""
    try:
        found = msgspec.json.decode(raw or b"", type=dict[str, Any])
    except Undecodable:
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _is_block_page(body: bytes) -> bool:
    title = _TITLE.search(body[:_TITLE_WITHIN].decode("utf-8", "replace"))
    return title is not None and title[1].strip().lower().startswith(_BLOCK_PAGES)


@dataclass(frozen=True, slots=True)
class PgcrResult:
    """One fetch of a report, judged."""

    kind: ResultKind
    code: int | None  # ErrorCode; -1 for a transport failure; None when no code came
    status: str  # a name of a closed set, "Success" for code 1: label of get_pgcr_req
    detail: str  # for logs: what a person wants to know
    code_class: CodeClass = CodeClass.RETRY
    scope: Scope | None = None  # what slows down, RATE_LIMITED only
    throttle_seconds: int = 0  # how long at least, already raised to the minimum of the code
    response: bytes | None = None  # JSON of Response; SUCCESS and BAD_FORMAT
    instance: Instance | None = None  # SUCCESS
    rejection: Rejection | None = None  # BAD_FORMAT
    ended_at: datetime | None = None  # of a raid or not, when the report tells; for the lag
    is_unreachable: bool = False  # nobody took the request: whoever stands in front is away

    @property
    def is_poison(self) -> bool:
        """The request itself is refused: no later try brings anything else."""
        return self.code in _POISON

    @property
    def exists(self) -> bool | None:
        """Whether the id is published; None when the answer does not tell."""
        if self.code == 1 or self.kind is ResultKind.INSUFFICIENT_PRIVILEGES:
            return True
        return False if self.kind is ResultKind.NOT_FOUND else None


_KIND_OF_CLASS = {
    CodeClass.MAINTENANCE: ResultKind.SYSTEM_DISABLED,
    CodeClass.BLOCKED: ResultKind.INSUFFICIENT_PRIVILEGES,
    CodeClass.THROTTLE: ResultKind.RATE_LIMITED,
}
# Classes are about any entity; for a report only these say "not there" and "bad parameters".
_NOT_FOUND = frozenset({11, 21, 1653})
_POISON = frozenset({7, 8, 9, 18, 19})


def classify_pgcr(
    http_status: int,
    content_type: str,
    body: bytes,
    *,
    instance_id: int,
    tracked_hashes: Container[int],
    now: datetime,
    settled: bool = False,
) -> PgcrResult:
    """The outcome of fetching report `instance_id`; never raises.

    `now` (aware) bounds dates in the future; `settled`: see `parse`. `body` may be cut off one
    byte after MAX_BODY_BYTES.
    """
    answer = read_answer(http_status, content_type, body)
    if answer.code == 1:
        return _classify_report(
            answer, instance_id=instance_id, tracked_hashes=tracked_hashes, now=now, settled=settled
        )
    if answer.code in _POISON:
        rejection = Rejection("bad_request", "instance_id", answer.message)
        return _result(answer, ResultKind.BAD_FORMAT, rejection=rejection)
    if answer.code in _NOT_FOUND:
        return _result(answer, ResultKind.NOT_FOUND)
    if answer.problem is Problem.TOO_LARGE and 200 <= http_status < 300:
        rejection = Rejection("too_large", "body", f"more than {MAX_BODY_BYTES} bytes")
        return _result(answer, ResultKind.BAD_FORMAT, rejection=rejection)
    return _result(answer, _KIND_OF_CLASS.get(answer.code_class, ResultKind.EXTERNAL_ERROR))


def transport_failure(error: BaseException, *, is_unreachable: bool = False) -> PgcrResult:
    """No answer came, or none that could be read to its end: time-out, DNS, TLS, bad gzip.

    `is_unreachable`: no connection came about at all.
    """
    return PgcrResult(
        ResultKind.EXTERNAL_ERROR,
        TRANSPORT_FAILURE,
        "TransportFailure",
        f"no answer: {type(error).__name__}",
        is_unreachable=is_unreachable,
    )


def _classify_report(
    answer: Answer,
    *,
    instance_id: int,
    tracked_hashes: Container[int],
    now: datetime,
    settled: bool,
) -> PgcrResult:
    response = answer.response
    if response is None or not response.startswith(b"{"):
        rejection = Rejection("no_response", "Response", "success without a report")
        return _result(answer, ResultKind.BAD_FORMAT, rejection=rejection)
    seen = probe(response, tracked_hashes)
    if isinstance(seen, Rejection):
        return _result(answer, ResultKind.BAD_FORMAT, rejection=seen, response=response)
    if not seen.tracked:
        return _result(answer, ResultKind.NON_RAID, ended_at=seen.ended_at)
    parsed = parse(response, now=now, expected_id=instance_id, settled=settled)
    if isinstance(parsed, Rejection):
        return _result(
            answer,
            ResultKind.BAD_FORMAT,
            rejection=parsed,
            response=response,
            ended_at=seen.ended_at,
        )
    return _result(
        answer,
        ResultKind.SUCCESS,
        instance=parsed,
        response=response,
        ended_at=parsed.date_completed,
    )


def _result(
    answer: Answer,
    kind: ResultKind,
    *,
    response: bytes | None = None,
    instance: Instance | None = None,
    rejection: Rejection | None = None,
    ended_at: datetime | None = None,
) -> PgcrResult:
    if rejection is not None:
        detail = f"{rejection.reason} at {rejection.field}: {rejection.detail}"
    elif answer.code is None:
        detail = f"HTTP {answer.http_status} {answer.problem}"
    else:
        detail = answer.message
    return PgcrResult(
        kind=kind,
        code=answer.code,
        status=answer.label,
        detail=detail,
        code_class=answer.code_class,
        scope=answer.scope,
        throttle_seconds=answer.pause_s,
        response=response,
        instance=instance,
        rejection=rejection,
        ended_at=ended_at,
    )
