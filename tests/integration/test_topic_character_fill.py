"""Topic character_fill against the simulated API, PostgreSQL and RabbitMQ."""

from typing import Any

import msgspec
import pytest

from raidhub_dagster.errors import MaintenanceError, PermanentError
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.settings import Settings
from simulator.world import Player
from streaming.hermes.topics.character_fill import TOPIC
from tests.support.bungie import Bungie
from tests.support.queues import consuming, publish, ready, take, until
from tests.support.reports import encode
from tests.support.topics import execute, outcome, outcomes, rows, small, store

FILLED = "SELECT class_hash, emblem_hash FROM extended.instance_character WHERE character_id = {}"
CORRECTIONS = "SELECT instance_id, revision FROM streaming.clickhouse_correction"


class Case:
    """A stored raid in which nobody could resolve the characters of one player."""

    def __init__(self, bungie: Bungie, settings: Settings, player: Player, **known: int) -> None:
        self.player = player
        self.settings = settings
        self.instance_id = min(bungie.raids_of(player))
        instance = bungie.instance(self.instance_id)
        entry = next(
            e for e in bungie.world.run(self.instance_id).entries if e.player == player.number
        )
        self.character_id = entry.character_id
        self.class_hash, self.emblem_hash = entry.class_hash, entry.emblem_hash
        store(settings, _unresolved(instance, player.membership_id, known))

    def body(self, **changes: Any) -> bytes:
        usual = {
            "membershipId": str(self.player.membership_id),
            "characterId": str(self.character_id),
            "instanceId": str(self.instance_id),
        }
        return encode(usual | changes)

    def filled(self) -> tuple[Any, ...]:
        (row,) = rows(self.settings, FILLED.format(self.character_id))
        return row


def _unresolved(instance: Instance, membership_id: int, known: dict[str, int]) -> Instance:
    nothing = {"class_hash": None, "emblem_hash": None}
    players = tuple(
        player
        if player.membership_id != membership_id
        else msgspec.structs.replace(
            player,
            membership_type=None,
            characters=tuple(
                msgspec.structs.replace(c, **(nothing | known)) for c in player.characters
            ),
        )
        for player in instance.players
    )
    return msgspec.structs.replace(instance, players=players)


def is_open(player: Player) -> bool:
    return not player.is_private


def test_class_and_emblem_are_filled_and_clickhouse_is_corrected(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Population by class would miss every player whose account was slow to resolve."""
    case = Case(bungie, api_settings, bungie.player(is_open))
    assert case.filled() == (None, None)
    assert outcomes(api_settings, TOPIC, [case.body()] * 2) == [None, None]
    assert case.filled() == (case.class_hash, case.emblem_hash)
    # Once: a second delivery changes nothing, so nothing has to be sent again.
    assert rows(api_settings, CORRECTIONS) == [(case.instance_id, 2)]


def test_only_what_is_missing_is_filled(bungie: Bungie, api_settings: Settings) -> None:
    """The emblem that a player wore in the raid is not the one they wear today."""
    case = Case(bungie, api_settings, bungie.player(is_open), emblem_hash=4242)
    assert outcome(api_settings, TOPIC, case.body()) is None
    assert case.filled() == (case.class_hash, 4242)


def test_a_complete_character_costs_no_request(bungie: Bungie, api_settings: Settings) -> None:
    case = Case(bungie, api_settings, bungie.player(is_open), class_hash=1, emblem_hash=2)
    before = bungie.requests_so_far()
    assert outcome(api_settings, TOPIC, case.body()) is None
    assert bungie.requests_so_far() == before
    assert (case.filled(), rows(api_settings, CORRECTIONS)) == ((1, 2), [])


def test_an_instance_that_is_not_stored_is_done(bungie: Bungie, api_settings: Settings) -> None:
    case = Case(bungie, api_settings, bungie.player(is_open))
    assert outcome(api_settings, TOPIC, case.body(instanceId=case.instance_id + 1)) is None
    assert case.filled() == (None, None)


def test_hidden_and_deleted_characters_stay_unknown(bungie: Bungie, api_settings: Settings) -> None:
    """No later try brings more, so the message is done."""
    hidden = Case(bungie, api_settings, bungie.player(lambda p: p.is_private))
    assert outcome(api_settings, TOPIC, hidden.body()) is None
    assert hidden.filled() == (None, None)
    deleted = Case(bungie, api_settings, bungie.player(is_open))
    gone = deleted.character_id + 5
    execute(
        api_settings,
        "DELETE FROM extended.instance_character_weapon;"
        f"UPDATE extended.instance_character SET character_id = {gone}"
        f" WHERE character_id = {deleted.character_id}",
    )
    deleted.character_id = gone
    assert outcome(api_settings, TOPIC, deleted.body()) is None
    assert deleted.filled() == (None, None)
    assert rows(api_settings, CORRECTIONS) == []


@pytest.mark.parametrize(
    "template",
    [
        '{{"membershipId": {0}, "characterId": {1}, "instanceId": {2}}}',
        '{{"instanceId": "{2}", "characterId": "{1}", "membershipId": "{0}", "more": []}}',
        ' {{"characterId": {1}, "membershipId": "{0}", "instanceId": {2}}}\n',
    ],
)
def test_ids_may_be_text_or_numbers_in_any_order(
    bungie: Bungie, api_settings: Settings, template: str
) -> None:
    case = Case(bungie, api_settings, bungie.player(is_open))
    ids = (case.player.membership_id, case.character_id, case.instance_id)
    assert outcome(api_settings, TOPIC, template.format(*ids).encode()) is None
    assert case.filled() == (case.class_hash, case.emblem_hash)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"5", "three ids"),
        (b"[]", "three ids"),
        (b"{}", "membershipId"),
        (b'{"membershipId": "1"}', "characterId"),
        (b'{"membershipId": "1", "characterId": "2"}', "instanceId"),
        (b'{"membershipId": "1", "characterId": "0", "instanceId": "3"}', "characterId"),
        (b'{"membershipId": true, "characterId": "2", "instanceId": "3"}', "membershipId"),
        (b'{"membershipId": "1"', "JSON"),
    ],
)
def test_a_bad_body_is_permanent_and_names_the_field(
    api_settings: Settings, body: bytes, named: str
) -> None:
    error = outcome(api_settings, TOPIC, body)
    assert isinstance(error, PermanentError)
    assert named in str(error)


def test_maintenance_is_nobodys_failure(bungie: Bungie, api_settings: Settings) -> None:
    case = Case(bungie, api_settings, bungie.player(is_open))
    bungie.ask("/sim/maintenance", on=True, systems=["D2Characters"])
    assert isinstance(outcome(api_settings, TOPIC, case.body()), MaintenanceError)


def test_messages_go_through_and_park(bungie: Bungie, api_settings: Settings) -> None:
    case = Case(bungie, api_settings, bungie.player(is_open))
    topic = small(TOPIC)
    publish(api_settings, topic, case.body(), b"{}")
    with consuming(api_settings, topic):
        until(lambda: case.filled() == (case.class_hash, case.emblem_hash))
        until(lambda: ready(api_settings, "character_fill.parked") == 1)
    parked = take(api_settings, "character_fill.parked")
    assert parked is not None
    assert (parked[1], parked[0]["reason"]) == (b"{}", "poison")
