"""Zeus's own answers, read by those who call it."""

from datetime import UTC, datetime

import pytest

from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.bungie.protocol import ResultKind, classify_pgcr, read_answer
from streaming.zeus import envelope
from streaming.zeus.envelope import RefusedError

BUSY = RefusedError(503, envelope.TOO_BUSY, "spent", retry_s=16.2)
KEYS = RefusedError(401, envelope.KEYS_REFUSED, "refused", retry_s=3600, code=2103)


@pytest.mark.parametrize(
    ("refused", "kind", "code_class"),
    [
        (BUSY, ResultKind.RATE_LIMITED, CodeClass.THROTTLE),
        (KEYS, ResultKind.EXTERNAL_ERROR, CodeClass.KEY_PROBLEM),
        (
            RefusedError(401, envelope.NOT_ADMITTED, "no"),
            ResultKind.EXTERNAL_ERROR,
            CodeClass.KEY_PROBLEM,
        ),
        (
            RefusedError(502, envelope.UNREACHABLE, "gone"),
            ResultKind.EXTERNAL_ERROR,
            CodeClass.RETRY,
        ),
        (
            RefusedError(504, envelope.TIMED_OUT, "late"),
            ResultKind.EXTERNAL_ERROR,
            CodeClass.RETRY,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, RefusedError) else "",
)
def test_a_crawler_understands_them_as_it_does_bungies(
    refused: RefusedError, kind: ResultKind, code_class: CodeClass
) -> None:
    """Read as a hole or a broken report, they would cost an id."""
    response = refused.response()
    assert isinstance(response.body, bytes)
    result = classify_pgcr(
        response.status,
        response.headers["Content-Type"],
        response.body,
        instance_id=1,
        tracked_hashes=(),
        now=datetime.now(UTC),
    )
    assert (result.kind, result.code_class) == (kind, code_class)


def test_the_pause_is_told_in_both_ways() -> None:
    response = BUSY.response()
    assert isinstance(response.body, bytes)
    assert response.headers["Retry-After"] == "17"
    answer = read_answer(503, response.headers["Content-Type"], response.body)
    assert (answer.throttle_seconds, answer.pause_s, answer.status) == (17, 17, "ZeusThrottled")
    refused = RefusedError(502, envelope.UNREACHABLE, 'with "quotes"\n').response()
    assert "Retry-After" not in refused.headers
