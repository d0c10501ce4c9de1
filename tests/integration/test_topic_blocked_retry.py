"""Topic pgcr_blocked_retry: withheld reports and the floodgates."""

import threading
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest

from raidhub_dagster.discord.alerts import Alert
from raidhub_dagster.errors import (
    MaintenanceError,
    PermanentError,
    TransientError,
    UnavailableError,
)
from raidhub_dagster.messaging.messages import id_message
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from simulator.world import FIRST_ID
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Delivery, PostponedError
from streaming.hermes.topics.instance_store import TOPIC as STORE
from streaming.hermes.topics.pgcr_blocked_retry import TOPIC, BlockedRetry
from tests.support.bungie import IDS, Bungie
from tests.support.queues import channel_of, consuming, publish, ready, take, until
from tests.support.topics import execute, outcome, outcomes, rows, small

OPEN_IDS = "SELECT instance_id FROM streaming.withheld_pgcr WHERE closed_at IS NULL ORDER BY 1"
SUCCESSES = "SELECT instance_id FROM streaming.blocked_success ORDER BY 1"
MISSED = "SELECT instance_id, state, reason, source FROM streaming.missed_pgcr ORDER BY 1"


def body(instance_id: int) -> bytes:
    return b"%d" % instance_id


def bodies(ids: Iterable[int]) -> list[bytes]:
    return [body(i) for i in ids]


def withhold(bungie: Bungie) -> None:
    bungie.faults(blocked=1.0, blocked_forever=1.0)


def open_gates(settings: Settings) -> None:
    """Four reports came out a moment ago."""
    execute(settings, "INSERT INTO streaming.blocked_success SELECT generate_series(1, 4)")


def pass_time(settings: Settings, minutes: float) -> None:
    """Everything that is remembered was so much earlier."""
    execute(
        settings,
        "UPDATE streaming.withheld_pgcr SET"
        f" returns_at = returns_at - interval '{minutes} minutes',"
        f" tried_at = tried_at - interval '{minutes} minutes',"
        f" closed_at = closed_at - interval '{minutes} minutes';"
        "UPDATE streaming.blocked_success"
        f" SET succeeded_at = succeeded_at - interval '{minutes} minutes'",
    )


def is_postponed(error: Exception | None) -> bool:
    return isinstance(error, PostponedError) and error.queue == "pgcr_blocked"


def declared(settings: Settings) -> None:
    with channel_of(settings) as channel:
        channel.queue_declare("instance_store", durable=True)


def test_a_report_that_came_out_goes_to_the_store_and_counts(
    bungie: Bungie, api_settings: Settings
) -> None:
    """The status page takes the gauge's change for open floodgates."""
    first, second = list(bungie.raids())[:2]
    assert outcomes(api_settings, TOPIC, bodies([first, second])) == [None, None]
    assert rows(api_settings, SUCCESSES) == [(first,), (second,)]
    assert metrics.FLOODGATES_RECENT_PGCR._value.get() == second
    taken = take(api_settings, "instance_store")
    assert taken is not None
    assert (taken[0]["instance_id"], taken[0]["source"]) == (first, "pgcr_blocked_retry")
    assert rows(api_settings, OPEN_IDS) == []


def test_the_store_closes_the_row_of_a_report_that_came_out(
    bungie: Bungie, api_settings: Settings
) -> None:
    instance_id = next(bungie.raids())
    execute(
        api_settings,
        "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
        f" VALUES ({instance_id}, 'blocked', 'insufficient_privileges', 'atlas')",
    )
    topic = small(TOPIC)
    publish(api_settings, topic, body(instance_id))
    with consuming(api_settings, topic), consuming(api_settings, small(STORE, 10)):
        until(
            lambda: (
                rows(api_settings, "SELECT state FROM streaming.missed_pgcr")[0][0] == "resolved"
            )
        )
    assert rows(api_settings, "SELECT instance_id FROM core.instance") == [(instance_id,)]


@pytest.mark.parametrize("template", ["%d", '"%d"', '{"instanceId": "%d"}', " %d\n"])
def test_every_shape_of_message_is_taken(
    bungie: Bungie, api_settings: Settings, template: str
) -> None:
    """A predecessor published ids in quotes and its own consumer dropped them."""
    instance_id = next(bungie.raids())
    assert outcome(api_settings, TOPIC, (template % instance_id).encode()) is None
    assert rows(api_settings, SUCCESSES) == [(instance_id,)]


@pytest.mark.parametrize("bad", [b"", b"x", b'"x"', b"0", b"{}"])
def test_a_body_without_an_id_is_permanent(api_settings: Settings, bad: bytes) -> None:
    assert isinstance(outcome(api_settings, TOPIC, bad), PermanentError)


def test_what_is_no_raid_counts_and_is_closed(bungie: Bungie, api_settings: Settings) -> None:
    other = next(i for i in range(FIRST_ID, FIRST_ID + IDS) if not bungie.world.is_raid(i))
    execute(
        api_settings,
        "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
        f" VALUES ({other}, 'blocked', 'insufficient_privileges', 'atlas')",
    )
    assert outcome(api_settings, TOPIC, body(other)) is None
    assert rows(api_settings, SUCCESSES) == [(other,)]
    assert rows(api_settings, "SELECT state FROM streaming.missed_pgcr") == [("resolved",)]
    declared(api_settings)
    assert ready(api_settings, "instance_store") == 0


def test_what_is_not_there_is_left_to_the_ledger(api_settings: Settings) -> None:
    """The predecessor gave such an id up without a word."""
    gone = FIRST_ID + IDS
    assert outcome(api_settings, TOPIC, body(gone)) is None
    assert rows(api_settings, MISSED) == [(gone, "waiting", "not_found", "pgcr_blocked_retry")]
    assert rows(api_settings, OPEN_IDS) == []


def test_a_withheld_report_waits_uncounted_while_the_gates_are_closed(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Contests last for two days: no number of tries may use an id up."""
    withhold(bungie)
    instance_id = next(bungie.raids())
    for _ in range(6):
        assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))
        pass_time(api_settings, 1.1)
    assert rows(api_settings, OPEN_IDS) == [(instance_id,)]
    assert rows(api_settings, MISSED) == []


def test_three_successes_do_not_open_the_gates_and_four_do(
    bungie: Bungie, api_settings: Settings
) -> None:
    withhold(bungie)
    instance_id = next(bungie.raids())
    execute(api_settings, "INSERT INTO streaming.blocked_success SELECT generate_series(1, 3)")
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))
    execute(api_settings, "INSERT INTO streaming.blocked_success VALUES (4)")
    pass_time(api_settings, 1.1)
    error = outcome(api_settings, TOPIC, body(instance_id))
    assert isinstance(error, TransientError)
    assert "InsufficientPrivileges" in str(error)
    pass_time(api_settings, 3)  # what came out long ago says nothing about now
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))


def test_twenty_a_minute_are_tried_the_oldest_and_the_newest(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Two slots or two processes share the number, and 46 000 ids wait without a request."""
    withhold(bungie)
    ids = list(bungie.raids())[:60]
    with (
        closing(BlockedRetry(api_settings)) as one,
        closing(BlockedRetry(api_settings)) as other,
    ):
        handlers = [one, other]

        def round_of() -> int:
            """All messages come by once; how many requests that cost."""
            before = bungie.requests_so_far()
            for number, instance_id in enumerate(ids):
                (error,) = handlers[number % 2].handle([Delivery(body(instance_id))])
                assert is_postponed(error)
            return bungie.requests_so_far() - before

        assert round_of() == 20  # nobody knows yet what else will come
        pass_time(api_settings, 1.1)
        assert round_of() == 20
    tried = "SELECT instance_id FROM streaming.withheld_pgcr WHERE tried_at > {} ORDER BY 1"
    last = rows(api_settings, tried.format("now() - interval '1 minute'"))
    assert last == [(i,) for i in [*ids[:10], *ids[-10:]]]


def test_all_are_tried_when_the_gates_open(bungie: Bungie, api_settings: Settings) -> None:
    """Bungie releases tens of thousands within minutes; the boards wait for them."""
    withhold(bungie)
    ids = list(bungie.raids())[:40]
    assert all(map(is_postponed, outcomes(api_settings, TOPIC, bodies(ids))))
    pass_time(api_settings, 1.1)
    bungie.faults(blocked_forever=0.0, blocked_s=0.0)
    first = outcomes(api_settings, TOPIC, bodies(ids[-10:]))
    assert first == [None] * 10  # the newest are the edge: they came out and opened the gates
    assert outcomes(api_settings, TOPIC, bodies(ids[:-10])) == [None] * 30
    assert rows(api_settings, SUCCESSES) == [(i,) for i in ids]
    assert ready(api_settings, "instance_store") == 40


def test_with_open_gates_the_fourth_failure_leaves_the_id_to_the_ledger_and_alerts(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Some reports stay withheld for ever; they must not go round for ever."""
    withhold(bungie)
    open_gates(api_settings)
    instance_id = next(bungie.raids())
    alerts: list[Alert] = []

    def note(alert: Alert) -> bool:
        alerts.append(alert)
        return True

    with closing(BlockedRetry(api_settings)) as handler:
        handler.shared.alerts.send = note  # type: ignore[method-assign]
        for retry, rest_s in enumerate((8, 16, 32)):
            delivery = Delivery(body(instance_id), {"x-retry-count": retry})
            (error,) = handler.handle([delivery])
            assert isinstance(error, TransientError)
            assert rows(
                api_settings,
                "SELECT round(extract(epoch FROM returns_at - tried_at)) FROM"
                " streaming.withheld_pgcr",
            ) == [(rest_s,)]
            pass_time(api_settings, 0.6)
        assert list(handler.handle([Delivery(body(instance_id), {"x-retry-count": 3})])) == [None]
    assert rows(api_settings, MISSED) == [
        (instance_id, "blocked", "insufficient_privileges", "pgcr_blocked_retry")
    ]
    assert rows(api_settings, OPEN_IDS) == []
    (alert,) = alerts
    assert dict(alert.fields) == {
        "Instance Id": instance_id,
        "Answer": "InsufficientPrivileges",
        "Given up by now": 1,
    }


def test_pauses_of_what_stays_withheld_grow_to_an_hour(
    bungie: Bungie, api_settings: Settings
) -> None:
    withhold(bungie)
    open_gates(api_settings)
    instance_id = next(bungie.raids())
    rests = []
    for _ in range(8):
        last = outcome(api_settings, TOPIC, body(instance_id), **{"x-retry-count": 3})
        assert last is None
        ((rest_s,),) = rows(
            api_settings,
            "SELECT extract(epoch FROM next_attempt_at - last_attempt_at)"
            " FROM streaming.missed_pgcr",
        )
        rests.append(float(rest_s))
    wanted = [60.0, 120, 240, 480, 960, 1920, 3600, 3600]
    assert all(0.79 * w <= r <= 1.21 * w for r, w in zip(rests, wanted, strict=True)), rests


def test_a_broken_report_that_came_out_is_malformed_not_withheld(
    bungie: Bungie, api_settings: Settings
) -> None:
    bungie.faults(malformed=1.0, malformed_forever=1.0)
    instance_id = next(
        i for i in bungie.raids() if bungie.world.run(i).period > bungie.world.config.epoch - 86_400
    )
    assert outcome(api_settings, TOPIC, body(instance_id), **{"x-retry-count": 3}) is None
    ((found, state, _, _),) = rows(api_settings, MISSED)
    assert (found, state) == (instance_id, "malformed")


def test_a_second_message_of_an_id_ends(bungie: Bungie, api_settings: Settings) -> None:
    """Atlas crawls a block twice after a crash: the id must not go round twice."""
    withhold(bungie)
    instance_id = next(bungie.raids())
    before = bungie.requests_so_far()
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))
    assert outcome(api_settings, TOPIC, body(instance_id)) is None  # the first rests till then
    assert bungie.requests_so_far() == before + 1
    pass_time(api_settings, 1.1)
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))


@pytest.mark.parametrize("known", ["stored", "came_out"])
def test_a_message_of_an_id_that_is_done_ends(
    bungie: Bungie, api_settings: Settings, known: str
) -> None:
    withhold(bungie)
    instance_id = next(bungie.raids())
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))
    pass_time(api_settings, 1.1)
    if known == "stored":
        execute(
            api_settings,
            "INSERT INTO core.instance (instance_id, hash, completed, player_count, date_started,"
            f" date_completed, duration, platform_type) SELECT {instance_id}, min(hash), true, 1,"
            " now(), now(), 1, 3 FROM definitions.activity_version",
        )
    else:
        execute(api_settings, f"INSERT INTO streaming.blocked_success VALUES ({instance_id})")
    before = bungie.requests_so_far()
    assert outcome(api_settings, TOPIC, body(instance_id)) is None
    assert bungie.requests_so_far() == before
    assert rows(api_settings, OPEN_IDS) == []


def test_an_id_that_is_withheld_again_goes_round_again(
    bungie: Bungie, api_settings: Settings
) -> None:
    """It was given up an hour ago; the crawl asked for it since and got code 12."""
    instance_id = next(bungie.raids())
    execute(
        api_settings,
        "INSERT INTO streaming.withheld_pgcr (instance_id, entered_at, returns_at, closed_at)"
        f" VALUES ({instance_id}, '2020-01-01Z', '2020-01-01Z', now())",
    )
    withhold(bungie)
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))
    assert rows(
        api_settings,
        "SELECT closed_at IS NULL, entered_at > now() - interval '1 minute'"
        " FROM streaming.withheld_pgcr",
    ) == [(True, True)]


def test_throttles_and_outages_say_nothing_about_an_id(
    bungie: Bungie, api_settings: Settings
) -> None:
    instance_id = next(bungie.raids())
    open_gates(api_settings)
    bungie.faults(edge_block=1.0)
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id), **{"x-retry-count": 3}))
    bungie.calm()
    bungie.ask("/sim/maintenance", on=True, systems=["Destiny2"])
    pass_time(api_settings, 1.1)
    assert isinstance(outcome(api_settings, TOPIC, body(instance_id)), MaintenanceError)
    away = api_settings.model_copy(update={"pgcr_url_base": f"http://{HOST}:{free_port()}"})
    assert isinstance(outcome(away, TOPIC, body(instance_id)), UnavailableError)
    bungie.calm()  # and the same message, again, finds itself in its own way nowhere
    assert outcome(api_settings, TOPIC, body(instance_id)) is None
    assert rows(api_settings, SUCCESSES)[-1] == (instance_id,)


def sweep(settings: Settings) -> None:
    """One step of the chore."""
    (chore,) = TOPIC.chores
    loop = chore(settings, Threads())
    with loop._open_step() as step:
        assert step() is False


def test_an_id_whose_message_was_lost_is_sent_again(bungie: Bungie, api_settings: Settings) -> None:
    """The broker lost its disk, or a process died between two steps: the row is the truth."""
    withhold(bungie)
    first, second = list(bungie.raids())[:2]
    assert all(map(is_postponed, outcomes(api_settings, TOPIC, bodies([first, second]))))
    sent = "SELECT key, convert_from(body, 'UTF8') FROM streaming.outbox ORDER BY 1"
    sweep(api_settings)
    assert rows(api_settings, sent) == []  # they rest where they should
    pass_time(api_settings, 7)
    sweep(api_settings)
    sweep(api_settings)
    assert rows(api_settings, sent) == [(first, str(first)), (second, str(second))]


def test_ids_that_wait_for_a_slot_are_not_lost(bungie: Bungie, api_settings: Settings) -> None:
    """In maintenance all messages wait in the queue; sending them again would double it."""
    withhold(bungie)
    instance_id = next(bungie.raids())
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))
    pass_time(api_settings, 7)
    publish(api_settings, TOPIC, id_message(TOPIC.name, instance_id).body)
    until(lambda: ready(api_settings, TOPIC.name) == 1)
    sweep(api_settings)
    assert rows(api_settings, "SELECT count(*) FROM streaming.outbox") == [(0,)]


def test_what_is_parked_goes_round_no_more(bungie: Bungie, api_settings: Settings) -> None:
    """It would be parked once more whenever its message was found missing."""
    withhold(bungie)
    instance_id = next(bungie.raids())
    assert is_postponed(outcome(api_settings, TOPIC, body(instance_id)))
    with closing(BlockedRetry(api_settings)) as handler:
        for parked in (body(instance_id), b"x"):
            handler.give_up(Delivery(parked), ValueError("a mistake of ours"))
    assert rows(api_settings, OPEN_IDS) == []
    assert rows(api_settings, MISSED) == [
        (instance_id, "blocked", "retry_failed", "pgcr_blocked_retry")
    ]


def test_what_is_over_is_forgotten_after_an_hour(api_settings: Settings) -> None:
    execute(
        api_settings,
        "INSERT INTO streaming.withheld_pgcr (instance_id, returns_at, closed_at) VALUES"
        " (1, now(), now() - interval '2 hours'), (2, now(), now()), (3, now(), NULL);"
        "INSERT INTO streaming.blocked_success VALUES (1, now() - interval '2 hours'), (2, now())",
    )
    sweep(api_settings)
    assert rows(api_settings, "SELECT instance_id FROM streaming.withheld_pgcr ORDER BY 1") == [
        (2,),
        (3,),
    ]
    assert rows(api_settings, SUCCESSES) == [(2,)]


def test_parallel_slots_agree_about_the_tries(bungie: Bungie, api_settings: Settings) -> None:
    """Counted one after the other, or each slot would spend the whole minute's tries."""
    withhold(bungie)
    ids = list(bungie.raids())[:48]
    failures: list[Any] = []

    def work(mine: list[int]) -> None:
        found = outcomes(api_settings, TOPIC, bodies(mine))
        failures.extend(error for error in found if not is_postponed(error))

    before = bungie.requests_so_far()
    threads = [threading.Thread(target=work, args=(ids[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert bungie.requests_so_far() - before == 20
