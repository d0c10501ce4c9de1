"""Topic instance_cheat_check: batches, their flags and their ledger."""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import msgspec
import psycopg2
import pytest

from raidhub_dagster.cheat_detection.checking import Outcome, check_batch
from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.pgcr.envelope import open_body
from raidhub_dagster.pgcr.model import Instance, Weapon
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.store import Store
from raidhub_dagster.storage.young import Rechecks, ask_again
from streaming.hermes.process import run
from streaming.hermes.topic import Delivery
from streaming.hermes.topics.instance_cheat_check import TOPIC
from tests.support import worlds
from tests.support.cheats import broken_for
from tests.support.queues import consuming, publish, ready, take, until
from tests.support.topics import execute, outcome, rows, small, store

VERSION = load_parameters().version
LEDGER = (
    "SELECT instance_id, version, probability::float, bitmask, flagged_players, skipped,"
    " failed_rules FROM streaming.cheat_check ORDER BY 1, 2"
)
EVERYTHING = {
    "ledger": "SELECT * FROM streaming.cheat_check ORDER BY 1, 2",
    "instances": "SELECT * FROM flagging.flag_instance ORDER BY 1, 2",
    "players": "SELECT * FROM flagging.flag_instance_player ORDER BY 1, 2, 3",
    "messages": "SELECT * FROM streaming.outbox WHERE kind = 'webhook' ORDER BY 1",
}
_WEBHOOKS = " WHERE kind = 'webhook'"
ANN, BEN = worlds.FIRST_PLAYER, worlds.FIRST_PLAYER + 1
USED = (Weapon(5, 4, 1), Weapon(9, 3, 0))


def armed(instance: Instance) -> Instance:
    """With weapons, in everybody's hands."""
    players = tuple(
        msgspec.structs.replace(
            player,
            characters=tuple(msgspec.structs.replace(c, weapons=USED) for c in player.characters),
        )
        for player in instance.players
    )
    return msgspec.structs.replace(instance, players=players)


INSTANCE = armed(worlds.clear(1, hours=1, players=[ANN]))
DUO = armed(worlds.clear(2, hours=2, players=[ANN, BEN]))
# King's Fall from its beginning needs 460 kills: with fewer the chance of a cheat rises, and two
# players are too few for it anyway.
TEAM = armed(worlds.clear(4, hours=4, players=range(ANN, ANN + 6)))
CLEAN = [100] * 6
BODY = b"%d" % INSTANCE.instance_id


def play(settings: Settings, instance: Instance, *kills: int) -> None:
    """Gives the players so many kills, in their order."""
    for player, number in zip(instance.players, kills, strict=True):
        execute(
            settings,
            f"UPDATE extended.instance_character SET kills = {number}"
            f" WHERE instance_id = {instance.instance_id}"
            f" AND membership_id = {player.membership_id}",
        )


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    found = settings_for(postgres, cheat_check_webhook_url="http://127.0.0.1:1/nobody-listens")
    store(found, INSTANCE, DUO, TEAM)
    return found


def everything(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    return {name: rows(settings, statement) for name, statement in EVERYTHING.items()}


def batch(settings: Settings, *bodies: bytes) -> list[Exception | None]:
    """What one slot says to these messages as one batch."""
    with closing(TOPIC.open(settings)) as handler:
        return list(handler.handle([Delivery(body) for body in bodies]))


@pytest.mark.parametrize(
    ("instance", "kills", "bits", "flags"),
    [
        (DUO, [60, 60], [11, 54, 55, 62], 3),
        (TEAM, [74, 75, 75, 75, 75, 75], [11, 54], 1),  # 0.051
        (TEAM, [75] * 6, [11], 0),  # 0.049
        (TEAM, CLEAN, [11], 0),
    ],
    ids=["the run and both players", "the run", "just not", "clean"],
)
def test_every_check_is_recorded_a_clean_one_too(
    settings: Settings, instance: Instance, kills: list[int], bits: list[int], flags: int
) -> None:
    """Otherwise every run over the last weeks would check the clean ones again."""
    odd = 'with "quotes", {braces} and a \\'
    execute(settings, f"UPDATE definitions.activity_definition SET name = '{odd}'")
    play(settings, instance, *kills)
    body = b"%d" % instance.instance_id
    assert batch(settings, body, body) == [None, None]
    (line,) = rows(settings, LEDGER)
    mask = sum(1 << bit for bit in bits)
    assert line[:2] == (instance.instance_id, VERSION)
    assert line[3:] == (mask, max(flags - 1, 0), None, [])
    assert (line[2] > 0.05) is (flags > 0)
    found = rows(
        settings,
        "SELECT cheat_probability::float, cheat_check_bitmask, explanation"
        " FROM flagging.flag_instance UNION ALL"
        " SELECT cheat_probability, cheat_check_bitmask, explanation"
        " FROM flagging.flag_instance_player",
    )
    assert len(found) == flags
    assert all(odd in text for *_, text in found)
    assert [row[:2] for row in found[:1]] == [(line[2], mask)] * min(flags, 1)


def test_what_a_rule_could_not_say_is_in_the_ledger(settings: Settings) -> None:
    """Whoever wonders why a run is clean sees which rules were silent."""
    execute(settings, "UPDATE core.instance SET duration = 0")
    assert batch(settings, BODY) == [None]
    (line,) = rows(settings, LEDGER)
    assert line[-1] == [f"{rule}: the run took no time" for rule in ("time_dilation", "speed")]


def test_what_a_version_has_seen_is_not_looked_at_again(settings: Settings) -> None:
    """A second delivery is the rule, not the exception."""
    assert batch(settings, BODY) == [None]
    before = everything(settings)
    assert len(before["instances"]) == 1
    execute(settings, "UPDATE core.instance SET completed = false")  # nothing to flag any more
    assert batch(settings, BODY) == [None]
    assert everything(settings) == before


def test_another_version_checks_again_beside_the_first(settings: Settings) -> None:
    assert outcome(settings, TOPIC, BODY) is None
    other = settings.model_copy(update={"cheat_version": "compat-2.2.0"})
    assert outcome(other, TOPIC, BODY) is None
    assert [row[1] for row in rows(settings, LEDGER)] == ["compat-2.2.0", VERSION]
    versions = "SELECT cheat_check_version FROM flagging.flag_instance ORDER BY 1"
    assert rows(settings, versions) == [("compat-2.2.0",), (VERSION,)]


def test_a_replaced_report_gets_the_flags_of_its_new_rows_only(settings: Settings) -> None:
    """What looked like a cheat was half a report; the flag must go with the mistake."""
    instances = "SELECT instance_id, cheat_probability::float FROM flagging.flag_instance"
    bodies = [b"%d" % TEAM.instance_id, b"%d" % DUO.instance_id]
    play(settings, DUO, 60, 60)
    play(settings, TEAM, *[20] * 6)
    assert batch(settings, *bodies) == [None, None]
    before = dict(rows(settings, instances))
    assert set(before) == {TEAM.instance_id, DUO.instance_id}
    assert [row[:2] for row in rows(settings, EVERYTHING["players"])] == [
        (DUO.instance_id, ANN), (DUO.instance_id, BEN)
    ]  # fmt: skip
    messages = rows(settings, EVERYTHING["messages"])
    assert len(messages) == 2
    execute(settings, "DELETE FROM streaming.cheat_check")  # as the store does when it replaces
    execute(
        settings,
        f"UPDATE core.instance SET completed = false WHERE instance_id = {DUO.instance_id}",
    )
    play(settings, TEAM, *[60] * 6)
    assert batch(settings, *bodies) == [None, None]
    ((left, chance),) = rows(settings, instances)
    assert left == TEAM.instance_id
    assert 0.5 < chance < before[left]
    assert rows(settings, EVERYTHING["players"]) == []
    assert rows(settings, EVERYTHING["messages"]) == messages  # once an instance and version
    execute(settings, "DELETE FROM streaming.cheat_check")
    play(settings, TEAM, *CLEAN)
    assert batch(settings, *bodies) == [None, None]
    assert rows(settings, EVERYTHING["instances"]) == []
    assert [row[4:6] for row in rows(settings, LEDGER)] == [(0, "incomplete"), (0, None)]


def test_the_same_verdict_again_leaves_every_row_as_it_is(settings: Settings) -> None:
    """Readers order by the time of the flag: a repeat must not look like news."""
    assert batch(settings, BODY) == [None]
    flags = {name: found for name, found in everything(settings).items() if name != "ledger"}
    execute(settings, "DELETE FROM streaming.cheat_check")
    assert batch(settings, BODY) == [None]
    after = everything(settings)
    assert len(after["ledger"]) == len(after["instances"]) == 1
    assert {name: after[name] for name in flags} == flags


def test_an_instance_that_is_not_stored_is_done_with_a_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert batch(settings, b"5", BODY) == [None, None]
    assert [r.__dict__["instance_id"] for r in caplog.records if "action" in r.__dict__] == [5]
    assert [row[0] for row in rows(settings, LEDGER)] == [INSTANCE.instance_id]


@pytest.mark.parametrize("template", ["%d", '"%d"', '{"instanceId": "%d"}', '{"instanceId": %d}'])
def test_every_shape_of_message_is_taken(settings: Settings, template: str) -> None:
    body = (template % INSTANCE.instance_id).encode()
    assert outcome(settings, TOPIC, body) is None
    assert len(rows(settings, LEDGER)) == 1


@pytest.mark.parametrize("bad", [b"", b"x", b"-1", b"{}"])
def test_a_body_without_an_id_is_permanent_and_alone(settings: Settings, bad: bytes) -> None:
    wrong, fine = batch(settings, bad, BODY)
    assert isinstance(wrong, PermanentError)
    assert fine is None
    assert len(rows(settings, LEDGER)) == 1


def test_an_instance_that_the_rules_fail_on_costs_no_other_its_verdict(settings: Settings) -> None:
    """It has the error as its outcome, with its id, and is checked once the rule is mended."""
    hash_ = next(hash_ for hash_, raid in worlds.HASHES.items() if raid != worlds.HASHES[DUO.hash])
    other = msgspec.structs.replace(INSTANCE, instance_id=9, hash=hash_)
    store(settings, other)
    broken = broken_for(worlds.HASHES[DUO.hash])
    with connected(settings, "test") as connection, connection:
        found = check_batch(connection, broken, [9, DUO.instance_id])
    wrong = found[DUO.instance_id]
    assert found[9] is Outcome.CHECKED
    assert isinstance(wrong, PermanentError)
    assert str(DUO.instance_id) in str(wrong)
    assert [row[0] for row in rows(settings, LEDGER)] == [9]


def test_a_batch_that_postgresql_refuses_is_checked_one_by_one(settings: Settings) -> None:
    """One row that no rule foresaw must not hold up fifty raids for ever."""
    execute(
        settings,
        f"ALTER TABLE flagging.flag_instance ADD CHECK (instance_id <> {DUO.instance_id})",
    )
    fine, wrong = batch(settings, BODY, b"%d" % DUO.instance_id)
    assert fine is None
    assert isinstance(wrong, psycopg2.IntegrityError)
    assert [row[0] for row in rows(settings, LEDGER)] == [INSTANCE.instance_id]
    assert len(rows(settings, EVERYTHING["players"])) == 1  # nothing half done of the other


def test_a_lost_connection_costs_only_the_try_that_met_it(settings: Settings) -> None:
    with closing(TOPIC.open(settings)) as handler:
        assert list(handler.handle([Delivery(b"5")])) == [None]
        execute(
            settings,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'hermes-topics' AND datname = current_database()",
        )
        with pytest.raises((psycopg2.OperationalError, psycopg2.InterfaceError)):
            handler.handle([Delivery(BODY)])
        assert list(handler.handle([Delivery(BODY)])) == [None]
    assert len(rows(settings, LEDGER)) == 1


def test_slots_that_check_the_same_instances_at_once_check_them_once(
    settings: Settings,
) -> None:
    """Twice would be two messages to people about one verdict."""
    found: list[Exception | None] = []
    bodies = [BODY, b"%d" % DUO.instance_id]
    threads = [
        threading.Thread(target=lambda: found.extend(batch(settings, *bodies, *bodies[::-1])))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [None] * 16
    told = [key for (key,) in rows(settings, "SELECT key FROM streaming.outbox" + _WEBHOOKS)]
    assert sorted(told) == [INSTANCE.instance_id, DUO.instance_id]


def test_messages_go_through_and_park(
    settings: Settings,
    postgres: dict[str, Any],
    rabbitmq: dict[str, Any],
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for(postgres, rabbitmq)
    checks = small(TOPIC, TOPIC.workers_per_slot)
    publish(settings, checks, b"x", BODY)
    with consuming(settings, checks):
        until(lambda: len(rows(settings, LEDGER)) == 1)
        until(lambda: ready(settings, "instance_cheat_check.parked") == 1)
    parked = take(settings, "instance_cheat_check.parked")
    assert parked is not None
    assert (parked[1], parked[0]["reason"]) == (b"x", "poison")


@pytest.mark.parametrize(
    ("instance", "kills", "is_set", "told"),
    [
        (DUO, [60, 60], True, [BEN, ANN]),  # the worst first: it is BEN's first clear
        (TEAM, [63, 63, 63, 64, 64, 64], True, []),  # 0.507, and nobody's own fault
        (TEAM, [63, 63, 64, 64, 64, 64], True, None),  # 0.496
        (DUO, [60, 60], False, None),
    ],
    ids=["grave", "just grave", "just not", "without an address"],
)
def test_people_are_told_of_grave_verdicts_in_the_same_transaction(
    settings: Settings, instance: Instance, kills: list[int], is_set: bool, told: list[int] | None
) -> None:
    """Discord is away in these tests, and no verdict waits for it."""
    if not is_set:
        settings = settings.model_copy(update={"cheat_check_webhook_url": None})
    play(settings, instance, *kills)
    assert batch(settings, b"%d" % instance.instance_id) == [None]
    ((_, _, chance, *_),) = rows(settings, LEDGER)
    found = rows(settings, "SELECT destination, key, body FROM streaming.outbox" + _WEBHOOKS)
    if told is None:
        assert found == []
        return
    ((destination, key, body),) = found
    assert (destination, key) == ("cheat_check", instance.instance_id)
    (embed,) = json.loads(bytes(body))["embeds"]
    assert embed["title"] == "Flagged Instance"
    assert embed["footer"] == {"text": VERSION}
    assert [field["name"] for field in embed["fields"]] == [
        *("Instance", "Activity", "Probability"),
        *(f"Player {who}" for who in told),
    ]
    assert embed["fields"][2]["value"] == f"{chance:.3f}"
    assert all(field["value"].startswith("0.") for field in embed["fields"][3:])


def test_a_version_that_does_not_exist_ends_the_process_at_its_start(settings: Settings) -> None:
    """Else each message would fail by itself, for a typo in one setting."""
    wrong = settings.model_copy(update={"cheat_version": "compat-0"})
    with pytest.raises(ConfigurationError, match=r"CHEAT_VERSION.*compat-0.*there are .*compat-2"):
        run(wrong, ["instance_cheat_check"], slots=1, batch=1)


# --- Bad input, under the real rules ------------------------------------------------------------


def broken(settings: Settings, statement: str) -> tuple[Any, ...]:
    """The ledger's line of an instance after `statement`, checked in a batch with a sound one."""
    execute(settings, statement)
    assert batch(settings, BODY, b"%d" % DUO.instance_id) == [None, None]
    (first, second) = rows(settings, LEDGER)
    assert second[0] == DUO.instance_id
    before = everything(settings)
    execute(settings, "DELETE FROM streaming.cheat_check")
    assert batch(settings, BODY, b"%d" % DUO.instance_id) == [None, None]
    after = everything(settings)
    assert {n: after[n] for n in after if n != "ledger"} == {
        n: before[n] for n in before if n != "ledger"
    }
    return first


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE core.instance SET duration = 0",
        "UPDATE core.instance_player SET time_played_seconds = 0",
        "UPDATE core.instance SET skull_hashes = NULL, fresh = NULL, flawless = NULL",
        "DELETE FROM extended.instance_character_weapon",
        "UPDATE extended.instance_character_weapon SET weapon_hash = 4294967295 - weapon_hash % 9",
        "TRUNCATE definitions.weapon_definition",
        "UPDATE extended.instance_character SET kills = 2147483647, time_played_seconds = 32767",
        "UPDATE definitions.activity_definition SET release_date = '2099-01-01'",
        "UPDATE core.instance SET player_count = 0",
    ],
)
def test_odd_rows_get_a_verdict(settings: Settings, statement: str) -> None:
    """No batch crashes and no verdict is lost, whatever a report or a manifest lacks."""
    instance_id, version, probability, *_ = broken(settings, statement)
    assert (instance_id, version) == (INSTANCE.instance_id, VERSION)
    assert 0 <= probability <= 1


def test_an_activity_without_numbers_gets_a_verdict(settings: Settings) -> None:
    """A new raid comes before its parameters do."""
    execute(
        settings,
        "INSERT INTO definitions.activity_definition (id, name, path, release_date, splash_path)"
        " VALUES (30, 'New', 'new', '2025-01-01', 'new');"
        "UPDATE definitions.activity_version SET activity_id = 30"
        " WHERE hash IN (SELECT hash FROM core.instance)",
    )
    assert batch(settings, BODY) == [None]
    ((_, _, probability, bitmask, *_),) = rows(settings, LEDGER)
    assert bitmask >> 30 & 1
    assert 0 <= probability <= 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE core.instance SET player_count = player_count + 1",
        "TRUNCATE extended.instance_character CASCADE",
    ],
)
def test_a_report_that_may_grow_is_not_judged(settings: Settings, statement: str) -> None:
    """A missing entry looks like a lowman; the replacement brings a new check."""
    assert broken(settings, statement)[2:6] == (0.0, 0, 0, "unsettled")
    assert rows(settings, EVERYTHING["instances"]) == []


def test_a_kept_body_without_details_is_not_judged(settings: Settings) -> None:
    """Rows alone cannot tell a report without `extended` from a raid without a kill."""
    young = worlds.clear(3, hours=3, players=[BEN])
    report = worlds.report_of(young)
    plain = json.loads(open_body(report.body))
    plain["entries"][0].pop("extended", None)
    store(settings, young)
    with connected(settings, "test") as connection, connection, connection.cursor() as cursor:
        body = json.dumps(plain).encode()
        cursor.execute(
            "UPDATE raw.pgcr SET data = %s WHERE instance_id = %s", (body, young.instance_id)
        )
        cursor.execute(
            "DELETE FROM extended.instance_character_weapon WHERE instance_id = %s",
            (young.instance_id,),
        )
        cursor.execute(
            "UPDATE extended.instance_character SET precision_kills = 0, super_kills = 0,"
            " grenade_kills = 0, melee_kills = 0 WHERE instance_id = %s",
            (young.instance_id,),
        )
    assert batch(settings, b"%d" % young.instance_id, BODY) == [None, None]
    skipped = {row[0]: row[5] for row in rows(settings, LEDGER)}
    assert skipped == {young.instance_id: "unsettled", INSTANCE.instance_id: None}


def test_a_young_report_that_counts_no_entries_waits_for_its_last_fetch(settings: Settings) -> None:
    """Half a report is a lowman of three, flagged for certain, and nothing in it tells."""
    young = armed(worlds.clear(3, hours=3, players=[ANN]))
    ended = young.date_completed
    rechecks = Rechecks(timedelta(minutes=2), timedelta(minutes=15), timedelta(hours=48))
    with connected(settings, "test") as connection:
        report = worlds.report_of(young, fetched_at=ended + timedelta(seconds=30))
        Store(connection, rechecks=rechecks).store([report], source="test")
    body = b"%d" % young.instance_id
    assert batch(settings, body, BODY) == [None, None]
    assert {row[0]: row[5] for row in rows(settings, LEDGER)} == {
        INSTANCE.instance_id: None,
        young.instance_id: "unsettled",
    }
    execute(settings, "DELETE FROM streaming.outbox")
    asked = "SELECT destination, key FROM streaming.outbox ORDER BY 1, 2"
    with connected(settings, "test") as connection:
        ask_again(connection, rechecks, now=ended + timedelta(minutes=16))
        assert rows(settings, asked) == [("pgcr_crawl", young.instance_id)]
        ask_again(connection, rechecks, now=ended + timedelta(hours=49))
    assert rows(settings, asked) == [
        ("instance_cheat_check", young.instance_id),
        *[("pgcr_crawl", young.instance_id)] * 2,
    ]
    assert batch(settings, body) == [None]
    ((*_, skipped, _),) = [row for row in rows(settings, LEDGER) if row[0] == young.instance_id]
    assert skipped is None
    assert (young.instance_id,) in rows(settings, "SELECT instance_id FROM flagging.flag_instance")
