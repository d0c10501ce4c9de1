"""What passes in either direction, and what a look at a body tells."""

import gzip

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from raidhub_dagster.bungie.codes import CodeClass, Scope
from simulator import answers
from streaming.zeus import look
from streaming.zeus.headers import forwarded, returned
from streaming.zeus.shared import may_be_kept

JSON = {"Content-Type": "application/json; charset=utf-8"}


def test_only_what_may_decide_about_the_answer_goes_on() -> None:
    """Keys, cookies and addresses of callers are none of Bungie's business."""
    given = CIMultiDict(
        {
            "accept": "application/json",
            "IF-NONE-MATCH": '"abc"',
            "x-api-key": "ours",
            "User-Agent": "someone",
            "Cookie": "a=b",
            "Authorization": "Bearer x",
            "X-Forwarded-For": "10.0.0.1",
            "Forwarded": "for=10.0.0.1",
            "Connection": "keep-alive, X-Own",
            "X-Own": "1",
            "Origin": "https://example.org",
            "Referer": "https://example.org/x",
            "Via": "1.1 other",
            "Accept-Encoding": "br, gzip",
        }
    )
    assert forwarded(CIMultiDictProxy(given)) == {
        "Accept": "application/json",
        "If-None-Match": '"abc"',
        "Accept-Encoding": "gzip",
    }


@pytest.mark.parametrize(
    ("accepted", "sent"),
    [
        ("gzip", "gzip"),
        ("deflate, GZIP;q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip; q=0.000, br", "identity"),
        ("br", "identity"),
        ("", "identity"),
    ],
)
def test_gzip_is_offered_when_the_caller_takes_it(accepted: str, sent: str) -> None:
    """A caller without gzip would get bytes that he cannot read."""
    assert forwarded({"Accept-Encoding": accepted})["Accept-Encoding"] == sent


def test_headers_of_the_connection_and_cookies_stay_behind() -> None:
    given = CIMultiDict(
        [
            ("Content-Type", "application/json"),
            ("Content-Encoding", "gzip"),
            ("ETag", '"x"'),
            ("Transfer-Encoding", "chunked"),
            ("connection", "close, X-Hop"),
            ("X-Hop", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("X-Frame-Options", "SAMEORIGIN"),
            ("Vary", "Accept"),
            ("Vary", "Origin"),
        ]
    )
    assert list(returned(CIMultiDictProxy(given)).items()) == [
        ("Content-Type", "application/json"),
        ("Content-Encoding", "gzip"),
        ("ETag", '"x"'),
        ("X-Frame-Options", "SAMEORIGIN"),
        ("Vary", "Accept"),
        ("Vary", "Origin"),
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("status", [200, 503])
def test_a_throttle_is_seen_packed_or_not_and_with_any_status(status: int, packed: bool) -> None:
    body = answers.error(1672).body
    headers = JSON | ({"Content-Encoding": "gzip"} if packed else {})
    answer = look.look(status, headers, gzip.compress(body) if packed else body)
    assert answer is not None
    assert (answer.code, answer.scope) == (1672, Scope.GLOBAL)


def test_a_long_success_and_a_redirect_need_no_look() -> None:
    """At 640 reports a second the look would cost more than the way."""
    long = b'{"Response":{}}'.ljust(4000)
    assert look.look(200, JSON, long) is None
    assert look.look(200, JSON | {"Content-Encoding": "gzip"}, gzip.compress(long)) is None
    assert look.look(301, JSON, b"") is None


def test_a_block_page_with_a_status_of_success_is_seen_at_any_length() -> None:
    page = answers.page(200, answers.CHALLENGE)
    answer = look.look(200, {"Content-Type": page.content_type}, page.body + b" " * 20_000)
    assert answer is not None
    assert answer.code_class is CodeClass.THROTTLE


@pytest.mark.parametrize(
    "body", [b"no gzip", gzip.compress(answers.error(51).body, mtime=0)[:20], b"", b"\xff" * 70_000]
)
def test_a_body_that_does_not_open_is_judged_by_its_status(body: bytes) -> None:
    answer = look.look(429, JSON | {"Content-Encoding": "gzip"}, body)
    assert answer is not None
    assert (answer.code, answer.scope) == (None, Scope.ADDRESS)


def test_a_bomb_is_opened_no_further_than_needed() -> None:
    bomb = gzip.compress(bytes(200_000_000), 1)
    answer = look.look(403, JSON | {"Content-Encoding": "gzip"}, bomb)
    assert answer is not None
    assert answer.code is None


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/Platform/Settings/", True),
        ("/Platform/Destiny2/Manifest/", True),
        ("/Platform/GroupV2/123/", True),
        ("/Platform/GroupV2/123/Members/?currentpage=2&memberType=0", True),
        ("/Platform/Destiny2/3/Profile/4611686018467284386/?components=100,200", True),
        ("/Platform/Destiny2/-1/Profile/4611686018467284386/LinkedProfiles/", False),
        ("/Platform/GroupV2/User/3/123/0/1/", False),
        ("/Platform/Destiny2/Stats/PostGameCarnageReport/16790000001/", False),
        ("/common/destiny2_content/sqlite/en/world.content", False),
        ("/Platform/Destiny2/3/Account/1/Character/2/Stats/Activities/?page=0", False),
    ],
)
def test_only_what_changes_slowly_is_answered_from_memory(path: str, kept: bool) -> None:
    assert may_be_kept(path) is kept
