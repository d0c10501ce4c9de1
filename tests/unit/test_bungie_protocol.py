"""Every row of the tables of docs/domain/bungie-api.md and of docs/domain/pgcr.md, Answers."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raidhub_dagster.bungie.codes import CODES, MAX_PAUSE_S, CodeClass, Scope, class_of
from raidhub_dagster.bungie.protocol import (
    MAX_BODY_BYTES,
    Endpoints,
    PgcrResult,
    Problem,
    ResultKind,
    classify_pgcr,
    headers,
    read_answer,
    transport_failure,
)
from tests.support.reports import encode, envelope, make_report

ERRORS = Path(__file__).resolve().parents[3] / "shared" / "samples" / "errors"
NOW = datetime(2025, 2, 1, tzinfo=UTC)
JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=UTF-8"
ENDED = datetime(2025, 1, 20, 21, tzinfo=UTC)
REPORT = make_report(instance_id=7)
Kind = ResultKind


def judge(
    body: bytes, *, status: int = 200, content_type: str = JSON, **options: Any
) -> PgcrResult:
    usual: dict[str, Any] = {"instance_id": 7, "tracked_hashes": (), "now": NOW}
    return classify_pgcr(status, content_type, body, **(usual | options))


def error(code: object, **fields: object) -> bytes:
    usual = {"ErrorCode": code, "ThrottleSeconds": 0, "ErrorStatus": "Name", "Message": "Why"}
    return encode(usual | fields)


def page(title: str) -> bytes:
    return f"<html><head>\n<title lang=en> {title} </title></head><body>x</body></html>".encode()


EXTERNAL_CODES = [
    2, 3, 20, 22, 23, 27, 30, 38, 42, *range(1602, 1607), 1618, 1626, 1628, 1643, 1649, 1651, 1652,
    1665, 1688, 205,
    4, 24, 43, 46, 47, 48, 52, 53, 58, 59, 217, 622, 630, 686, 1600, 1601, 1620, 2012, 2126,
    6, 13, 999, 123456, -7,
]  # fmt: skip
KINDS = {
    **dict.fromkeys(EXTERNAL_CODES, Kind.EXTERNAL_ERROR),
    **dict.fromkeys([*range(2100, 2109), 10, 99], Kind.EXTERNAL_ERROR),
    5: Kind.SYSTEM_DISABLED,
    12: Kind.INSUFFICIENT_PRIVILEGES,
    **dict.fromkeys([1653, 11, 21], Kind.NOT_FOUND),
    **dict.fromkeys([1672, 31, 35, 36, 37, 51, 54, 55, 56, 57], Kind.RATE_LIMITED),
    **dict.fromkeys([7, 8, 9, 18, 19], Kind.BAD_FORMAT),
}


@pytest.mark.parametrize(("code", "kind"), KINDS.items())
@pytest.mark.parametrize("status", [200, 404, 500, 503])
@pytest.mark.parametrize("as_text", [False, True])
def test_the_code_decides_whatever_the_status(
    code: int, kind: Kind, status: int, as_text: bool
) -> None:
    """Bungie over-uses 500, and answers a throttle with 200."""
    result = judge(error(str(code) if as_text else code), status=status)
    assert (result.kind, result.code, result.instance) == (kind, code, None)
    assert (result.rejection is not None) == (kind is Kind.BAD_FORMAT)


NO_CODES: list[object] = [None, "x", 1.5, True, [], {}, "", 0, "0"]


@pytest.mark.parametrize(
    ("status", "content_type", "body", "kind"),
    [
        *[(status, HTML, page("Oops"), Kind.RATE_LIMITED) for status in (403, 429, 503)],
        *[
            (status, HTML, page("Oops"), Kind.EXTERNAL_ERROR)
            for status in (404, 401, 500, 502, 504, 400, 418, 520, 301, 302, 304, 200, 204)
        ],
        *[
            (200, HTML, page(title), Kind.RATE_LIMITED)
            for title in (
                "Attention Required! | Cloudflare",
                "Just a moment...",
                "Checking your browser",
                "Checking your browser before accessing",
                "DDoS protection by Cloudflare",
                "Access denied",
                "ACCESS DENIED",
            )
        ],
        (500, HTML, page("Just a moment..."), Kind.EXTERNAL_ERROR),
        (200, HTML, b" " * 70_000 + page("Access denied"), Kind.EXTERNAL_ERROR),
        (200, HTML, b"<title>Access denied", Kind.EXTERNAL_ERROR),
        (200, "text/plain", b"ok", Kind.EXTERNAL_ERROR),
        (200, "", b"", Kind.EXTERNAL_ERROR),
        (200, JSON, b"", Kind.EXTERNAL_ERROR),
        (200, JSON, b'{"ErrorCode":1,"Respo', Kind.EXTERNAL_ERROR),
        (200, JSON, b"[1]", Kind.EXTERNAL_ERROR),
        (200, JSON, b"[" * 100_000, Kind.EXTERNAL_ERROR),
        (200, JSON, b"\xff\xfe", Kind.EXTERNAL_ERROR),
        (200, JSON, encode({"Response": {}}), Kind.EXTERNAL_ERROR),
        (200, HTML, encode(envelope(REPORT)), Kind.EXTERNAL_ERROR),
        (404, HTML, error(1653), Kind.EXTERNAL_ERROR),
        (404, JSON, b"{}", Kind.EXTERNAL_ERROR),
        (503, JSON, b"{}", Kind.RATE_LIMITED),
        *[(200, JSON, error(code), Kind.EXTERNAL_ERROR) for code in NO_CODES],
    ],
)
def test_without_a_code_status_and_page_decide(
    status: int, content_type: str, body: bytes, kind: Kind
) -> None:
    """The edge speaks HTML; a bare 404 is a wrong address and never "not published"."""
    result = judge(body, status=status, content_type=content_type)
    assert (result.kind, result.code) == (kind, None)
    assert result.status == f"Http{status}"
    assert str(status) in result.detail


@pytest.mark.parametrize("response", [None, False, [], "x", 5])
def test_success_without_a_report_is_malformed(response: object) -> None:
    """Some calls answer `false` where others leave the key out."""
    result = judge(encode(envelope(response)))
    assert result.kind is Kind.BAD_FORMAT
    assert result.rejection is not None
    assert result.rejection.reason == "no_response"


def test_success_without_the_key_is_malformed() -> None:
    """The same when the key is not there."""
    result = judge(error(1))
    assert (result.kind, result.status) == (Kind.BAD_FORMAT, "Success")


@pytest.mark.parametrize("code", [1, "1", 0])
def test_a_raid_succeeds(code: object) -> None:
    """Code 0 with a report is a success too."""
    body = encode(envelope(REPORT, ErrorCode=code))
    result = judge(body)
    assert (result.kind, result.code, result.status) == (Kind.SUCCESS, 1, "Success")
    assert result.instance is not None
    assert (result.instance.instance_id, result.ended_at) == (7, ENDED)
    assert (result.throttle_seconds, result.scope, result.rejection) == (0, None, None)


def test_the_report_is_kept_byte_for_byte() -> None:
    """What is stored is what the API sent, blanks and odd escapes included."""
    report = json.dumps(REPORT, indent=1).replace("Guardian 1", "\\u0047uardian 1").encode()
    body = b'{ "ErrorCode" : 1, "Response" : ' + report + b' ,\n"ThrottleSeconds":0}'
    result = judge(body)
    assert (result.kind, result.response) == (Kind.SUCCESS, report)


def test_a_report_with_nan_is_still_read() -> None:
    """It is no JSON, so the bytes are written anew, and the statistic counts as 0."""
    body = encode(envelope(REPORT)).replace(
        b'"kills":{"basic":{"value":10.0', b'"kills":{"basic":{"value":NaN'
    )
    result = judge(body)
    assert result.kind is Kind.SUCCESS
    assert result.instance is not None
    assert {c.kills for p in result.instance.players for c in p.characters} == {0}


@pytest.mark.parametrize(
    ("changes", "ended_at"), [({}, ENDED), ({"period": "x"}, None), ({"period": None}, None)]
)
def test_what_is_no_raid_is_dropped_unread(
    changes: dict[str, object], ended_at: datetime | None
) -> None:
    """95 % of all reports: only their lag is of interest, whatever else is wrong with them."""
    report = make_report(instance_id=99, mode=18) | changes
    report["entries"][1]["player"] = None
    result = judge(encode(envelope(report)))
    assert (result.kind, result.ended_at) == (Kind.NON_RAID, ended_at)
    assert (result.response, result.instance) == (None, None)


def test_a_tracked_hash_makes_a_raid_of_any_mode() -> None:
    """The mode is sometimes 0 or wrong."""
    report = make_report(instance_id=7, mode=0, hash=42)
    assert judge(encode(envelope(report)), tracked_hashes={42}).kind is Kind.SUCCESS


@pytest.mark.parametrize(
    ("change", "reason", "ended_at"),
    [
        ({"activityDetails": None}, "not_json_object", None),
        ({"entries": []}, "entries_empty", datetime(2025, 1, 20, 20, tzinfo=UTC)),
        ({"period": "x"}, "period", None),
        ({"activityWasStartedFromBeginning": None}, "era_field", ENDED),
    ],
)
def test_a_broken_raid_keeps_reason_and_body(
    change: dict[str, object], reason: str, ended_at: datetime | None
) -> None:
    """The end tells when it counts as settled, the body what a person has to look at."""
    report = REPORT | change
    result = judge(encode(envelope(report)))
    assert (result.kind, result.status, result.ended_at) == (Kind.BAD_FORMAT, "Success", ended_at)
    assert result.rejection is not None
    assert result.rejection.reason == reason
    assert result.rejection.field
    assert result.response == encode(report)


def test_a_settled_raid_is_accepted_with_what_it_has() -> None:
    """It will not get better."""
    body = encode(envelope(REPORT | {"activityWasStartedFromBeginning": None}))
    assert judge(body, settled=True).kind is Kind.SUCCESS


def test_another_activity_than_asked_for_is_malformed() -> None:
    """One id was seen answering with another run."""
    result = judge(encode(envelope(REPORT)), instance_id=8)
    assert result.rejection is not None
    assert (result.kind, result.rejection.reason) == (Kind.BAD_FORMAT, "id_mismatch")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, Kind.BAD_FORMAT), (503, Kind.RATE_LIMITED), (500, Kind.EXTERNAL_ERROR)],
)
def test_a_body_too_large_is_not_read(status: int, kind: Kind) -> None:
    """A report of 32 MiB would cost more memory than the whole crawl."""
    result = judge(b"{" + b" " * MAX_BODY_BYTES, status=status)
    assert result.kind is kind
    assert (result.rejection is not None and result.rejection.reason == "too_large") == (
        kind is Kind.BAD_FORMAT
    )


@pytest.mark.parametrize(
    ("body", "status", "scope", "pause_s"),
    [
        (error(31), 200, Scope.ADDRESS, 10),
        (error(31, ThrottleSeconds=5), 200, Scope.ADDRESS, 10),
        (error(31, ThrottleSeconds=25), 200, Scope.ADDRESS, 25),
        (error(31, ThrottleSeconds="25"), 200, Scope.ADDRESS, 25),
        (error(31, ThrottleSeconds=-1), 200, Scope.ADDRESS, 10),
        (error(31, ThrottleSeconds="x"), 200, Scope.ADDRESS, 10),
        (error(31, ThrottleSeconds=10**9), 200, Scope.ADDRESS, MAX_PAUSE_S),
        (error(35), 200, Scope.ADDRESS, 60),
        (error(35, ThrottleSeconds=90), 200, Scope.ADDRESS, 90),
        (error(36), 200, Scope.ADDRESS, 10),
        (error(37), 200, Scope.ADDRESS, 10),
        (error(51), 200, Scope.ADDRESS, 10),
        *[(error(code), 200, Scope.KEY, 10) for code in (54, 55, 56, 57)],
        (error(1672), 200, Scope.GLOBAL, 10),
        (error(1672), 503, Scope.GLOBAL, 10),
        (b"", 403, Scope.ADDRESS, 10),
        (b"", 429, Scope.ADDRESS, 10),
        (b"", 503, Scope.GLOBAL, 10),
        (page("Just a moment..."), 200, Scope.ADDRESS, 10),
        (error(3, ThrottleSeconds=10), 200, None, 0),
        (error(52), 200, None, 0),
    ],
)
def test_a_throttle_says_who_pauses_how_long(
    body: bytes, status: int, scope: Scope | None, pause_s: int
) -> None:
    """0 is what the API sends where it means "almost always 10"."""
    result = judge(body, status=status)
    assert (result.scope, result.throttle_seconds) == (scope, pause_s)
    assert (result.code_class is CodeClass.THROTTLE) == (scope is not None)


@pytest.mark.parametrize(
    ("body", "status"), [(error(2101), 200), (error(10), 401), (error(99), 200), (b"", 401)]
)
def test_a_refused_key_is_told_apart(body: bytes, status: int) -> None:
    """The id is not to blame: the key is quarantined and no attempt is used up."""
    result = judge(body, status=status)
    assert (result.kind, result.code_class) == (Kind.EXTERNAL_ERROR, CodeClass.KEY_PROBLEM)


def test_no_answer_is_an_external_error() -> None:
    """With a pseudo code of its own, and without the text, which holds addresses."""
    result = transport_failure(TimeoutError("https://host/?key=secret"))
    assert (result.kind, result.code) == (Kind.EXTERNAL_ERROR, -1)
    assert result.detail == "no answer: TimeoutError"


def test_labels_come_from_a_closed_set() -> None:
    """A label for every text that a server makes up would fill the memory of the metrics."""
    assert judge(error(999, ErrorStatus="x" * 5000)).status == "UnknownCode"
    assert judge(error(1653, ErrorStatus="y")).status == "DestinyPGCRNotFound"


CLASSES = {
    CodeClass.SUCCESS: [1],
    CodeClass.RETRY: [
        2, 3, 20, 22, 23, 27, 38, 42, 30, 52, 53, 58, 59, 1600, *range(1602, 1607), 1628, 1618,
        1626, 1643, 1649, 1651, 1652, 1688, 2012, 77777,
    ],
    CodeClass.THROTTLE: [31, 35, 36, 37, 51, 54, 55, 56, 57, 1672],
    CodeClass.NOT_FOUND: [11, 21, 622, 686, 630, 1601, 1620, 1653],
    CodeClass.PRIVATE: [1665],
    CodeClass.PERMANENT: [
        4, 7, 8, 9, 18, 19, 24, 43, 48, 46, 47, 205, 217, *range(1607, 1610), *range(1612, 1618),
        1644, 1630, 1631, 1662, *range(1668, 1671), 1682, 2111, 2115, *range(2123, 2127),
    ],
    CodeClass.MAINTENANCE: [5],
    CodeClass.KEY_PROBLEM: [10, 99, *range(2100, 2109)],
    CodeClass.BLOCKED: [12],
}  # fmt: skip


def test_every_code_has_its_class() -> None:
    """What is missing here is retried for ever or given up at once."""
    expected = {code: kind for kind, codes in CLASSES.items() for code in codes}
    assert {code: class_of(code) for code in expected} == expected
    assert set(CODES) == set(expected) - {77777}


def test_kinds_keep_their_numbers() -> None:
    """They are a label that dashboards outside this project read."""
    numbers = [kind.value for kind in Kind]
    assert numbers == [1, 2, 3, 4, 5, 6, 9, 10]


@pytest.mark.skipif(not ERRORS.is_dir(), reason=f"no samples at {ERRORS}")
def test_reads_every_real_error() -> None:
    """Bodies as Bungie sent them, by the code that their file is named after."""
    kinds = {}
    for path in sorted(ERRORS.rglob("*.json")):
        answer = read_answer(500, JSON, path.read_bytes())
        assert answer.code == int(path.name[:4])
        assert answer.response is None
        kinds[answer.code] = judge(path.read_bytes(), status=500).kind
    assert kinds == {
        5: Kind.SYSTEM_DISABLED,
        12: Kind.INSUFFICIENT_PRIVILEGES,
        31: Kind.RATE_LIMITED,
        36: Kind.RATE_LIMITED,
        205: Kind.EXTERNAL_ERROR,
        606: Kind.EXTERNAL_ERROR,
        611: Kind.EXTERNAL_ERROR,
        676: Kind.EXTERNAL_ERROR,
        699: Kind.EXTERNAL_ERROR,
        1601: Kind.EXTERNAL_ERROR,
        1618: Kind.EXTERNAL_ERROR,
        1643: Kind.EXTERNAL_ERROR,
        1653: Kind.NOT_FOUND,
        1665: Kind.EXTERNAL_ERROR,
        1672: Kind.RATE_LIMITED,
        1688: Kind.EXTERNAL_ERROR,
        2101: Kind.EXTERNAL_ERROR,
    }


def test_an_answer_may_hold_a_list() -> None:
    """GlobalAlerts answers with one."""
    answer = read_answer(200, JSON, encode(envelope([1, 2])))
    assert (answer.code, answer.response, answer.problem) == (1, b"[1,2]", Problem.NONE)


def test_texts_of_an_answer_are_kept_short() -> None:
    """They go to logs, and PostgreSQL refuses NUL."""
    answer = read_answer(200, JSON, error(5, Message="m\0" * 5000, ErrorStatus=7))
    assert (answer.message, answer.status) == ("m" * 100, "")


ENDPOINTS = Endpoints("https://www.example", "https://stats.example")
WWW = "https://www.example/Platform"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            ENDPOINTS.pgcr_url(5),
            "https://stats.example/Platform/Destiny2/Stats/PostGameCarnageReport/5/",
        ),
        (
            ENDPOINTS.pgcr_url(5, malformed_retry=2),
            "https://stats.example/Platform/Destiny2/Stats/PostGameCarnageReport/5/"
            "?malformed_retry=2",
        ),
        (ENDPOINTS.profile_url(3, 4), f"{WWW}/Destiny2/3/Profile/4/?components=100,200"),
        (
            ENDPOINTS.character_url(3, 4, 5),
            f"{WWW}/Destiny2/3/Profile/4/Character/5/?components=200",
        ),
        (
            ENDPOINTS.linked_profiles_url(4),
            f"{WWW}/Destiny2/-1/Profile/4/LinkedProfiles/?getAllMemberships=true",
        ),
        (ENDPOINTS.account_stats_url(3, 4), f"{WWW}/Destiny2/3/Account/4/Stats/"),
        (
            ENDPOINTS.activity_history_url(3, 4, 5, page=0),
            f"{WWW}/Destiny2/3/Account/4/Character/5/Stats/Activities/?mode=4&count=250&page=0",
        ),
        (ENDPOINTS.groups_of_member_url(3, 4), f"{WWW}/GroupV2/User/3/4/0/1/"),
        (ENDPOINTS.group_url(4), f"{WWW}/GroupV2/4/"),
        (
            ENDPOINTS.group_members_url(4, page=1),
            f"{WWW}/GroupV2/4/Members/?currentpage=1&memberType=0",
        ),
        (ENDPOINTS.manifest_url(), f"{WWW}/Destiny2/Manifest/"),
        (ENDPOINTS.content_url("/common/x.content"), "https://www.example/common/x.content"),
        (ENDPOINTS.content_url("/x", retry=1), "https://www.example/x?retry=1"),
        (ENDPOINTS.settings_url(), f"{WWW}/Settings/"),
        (ENDPOINTS.global_alerts_url(), f"{WWW}/GlobalAlerts/"),
    ],
)
def test_addresses_are_final(url: str, expected: str) -> None:
    """Without the trailing slash Bungie redirects, and a redirect loses the key."""
    assert url == expected


def test_every_request_names_key_and_caller() -> None:
    """Bungie refuses requests without a User-Agent since May 2025."""
    assert headers("k", "App/1") == {
        "X-API-Key": "k",
        "User-Agent": "App/1",
        "Accept-Encoding": "gzip",
    }
