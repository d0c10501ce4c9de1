"""Messages, ids and delays without a broker."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.messaging.connection import delays
from raidhub_dagster.messaging.messages import (
    MAX_ID,
    effect_properties,
    id_message,
    instance_store_properties,
    read_character,
    read_id,
    read_origin,
    read_report,
)
from raidhub_dagster.messaging.topology import RETRY_DELAYS_S, retry_delay_s


@pytest.mark.parametrize(
    ("base_s", "expected"),
    [
        (1, [1, 2, 4, 8, 16, 32, 60, 120, 120, 300, 600, 1800, 1800, 1800]),
        (300, [300, 600, 1200, 1800, 1800]),
        (7, [4, 8, 16]),
    ],
)
def test_a_retry_waits_twice_as_long_rounded_down_to_a_known_delay(
    base_s: int, expected: list[int]
) -> None:
    """Every delay is a queue of its own; a free choice of delays would make hundreds of them."""
    delays_s = [retry_delay_s(base_s, retry) for retry in range(1, len(expected) + 1)]
    assert delays_s == expected
    assert set(delays_s) <= set(RETRY_DELAYS_S)


def test_lost_servers_are_tried_ever_more_rarely_but_for_ever() -> None:
    assert list(islice(delays(1, 30), 8)) == [1, 2, 4, 8, 16, 30, 30, 30]
    assert list(islice(delays(1, 1), 3)) == [1, 1, 1]


@pytest.mark.parametrize(
    "body",
    [
        b"4611686018467284386",
        b" 4611686018467284386\n",
        b'"4611686018467284386"',
        b'" 4611686018467284386 "',
        b'{"membershipId":"4611686018467284386"}',
        b'{"other":1,"membershipId":4611686018467284386}',
    ],
)
def test_every_generation_of_publishers_is_understood(body: bytes) -> None:
    assert read_id(body, "membershipId") == 4611686018467284386


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"0", b"-1", b"1.0", b"1e3", b"true", b"null", b"[1]", b"{}", b"12a", b"\xff\xfe"),
        *(b'{"instanceId":"5"}', b'{"membershipId":[5]}', b'{"membershipId":true}', b'"0x10"'),
        *('"\u0661"'.encode(), str(MAX_ID + 1).encode(), b"9" * 5000, b"[" * 100_000),
    ],
)
def test_a_body_without_id_is_answered_with_a_permanent_error(body: bytes) -> None:
    """Anything else would be retried for ever, or kill the worker."""
    with pytest.raises(PermanentError) as caught:
        read_id(body, "membershipId")
    assert len(str(caught.value)) < 300  # the body may be megabytes


@given(st.binary(max_size=200))
def test_reading_an_id_raises_nothing_else(body: bytes) -> None:
    with suppress(PermanentError):
        assert 0 < read_id(body, "membershipId") <= MAX_ID


def test_what_atlas_publishes_can_be_read_back() -> None:
    properties = instance_store_properties(
        16_000_000_001, datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC), "atlas", settled=True
    )
    assert properties == {
        "content_type": "application/json",
        "content_encoding": "gzip",
        "delivery_mode": 2,
        "message_id": "instance_store:16000000001",
        "headers": {
            "instance_id": 16_000_000_001,
            "fetched_at": "2025-01-02T03:04:05+00:00",
            "source": "atlas",
            "settled": True,
        },
    }
    origin = read_origin(properties["headers"])
    assert (origin.instance_id, origin.settled) == (16_000_000_001, True)


@pytest.mark.parametrize(
    "headers",
    [
        *(None, {}, {"instance_id": "16000000001", "settled": "true"}),
        *({"instance_id": True, "settled": 1}, {"instance_id": -4}, {"instance_id": 2**63}),
    ],
)
def test_headers_of_strangers_are_no_reason_to_fail(headers: dict[str, Any] | None) -> None:
    """Publishers outside send none, or their own: the body alone decides."""
    origin = read_origin(headers)
    assert (origin.instance_id, origin.settled) == (None, False)


def test_effects_tell_the_type_of_their_body() -> None:
    assert effect_properties("player_crawl", 7, b"7") == {
        "content_type": "text/plain",
        "delivery_mode": 2,
        "message_id": "player_crawl:7",
    }
    assert effect_properties("character_fill", 7, b'{"a":1}')["content_type"] == "application/json"


def test_a_character_to_fill_has_three_ids_in_any_form() -> None:
    body = b'{"instanceId": 3, "characterId": " 2 ", "membershipId": "1", "more": {}}'
    assert read_character(body) == (1, 2, 3)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"16", (16, False)),
        (b'"16"', (16, False)),
        (b'{"instanceId": "16"}', (16, False)),
        (b'{"instanceId": "16", "refetch": true}', (16, True)),
        (b'{"instanceId": 16, "refetch": "yes"}', (16, False)),
        (b'{"instanceId": 16, "refetch": null}', (16, False)),
    ],
)
def test_a_report_is_fetched_again_only_when_asked_so(
    body: bytes, wanted: tuple[int, bool]
) -> None:
    """Anything but true is no wish to fetch what is stored."""
    assert read_report(body) == wanted


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["membershipId", "characterId", "instanceId", "refetch"]), inner
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_body_breaks_a_reader(body: bytes) -> None:
    """Whatever somebody publishes is parked with a reason, or it is good."""
    for read in (read_character, read_report):
        with suppress(PermanentError):
            assert all(0 <= value <= MAX_ID for value in read(body))


def test_a_message_of_an_id_queue_reads_back() -> None:
    message = id_message("player_crawl", 77)
    assert (message.queue, read_id(message.body, "membershipId")) == ("player_crawl", 77)
    assert message.properties["message_id"] == "player_crawl:77"
