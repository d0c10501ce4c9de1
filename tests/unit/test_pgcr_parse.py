"""Each rule of docs/domain/pgcr.md and each odd shape, one small report at a time."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import MAX_PLAIN_BYTES, gunzip, open_body
from raidhub_dagster.pgcr.model import Character, Instance, Player, Rejection, Weapon
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.pgcr.probe import Probe, probe
from tests.support.reports import (
    FIRST_CHARACTER,
    FIRST_PLAYER,
    KINGS_FALL,
    encode,
    envelope,
    flatten,
    make_entry,
    make_report,
    stat,
)

NOW = datetime(2025, 2, 1, tzinfo=UTC)
MAX = 2**31 - 1
LAST_WISH, SCOURGE, LEVIATHAN = 2122313384, 548750096, 2693136600
NAN, INF = float("nan"), float("inf")

Report = dict[str, Any]
Change = Callable[[Report], object]
MISSING = object()


def put(path: str, value: object) -> Change:
    """A change that sets what is at `path` (keys and indexes, dotted), or removes it."""

    def change(report: Report) -> None:
        *parents, last = (int(p) if p.isdigit() else p for p in path.split("."))
        place: Any = report
        for key in parents:
            place = place[key]
        if value is MISSING:
            del place[last]
        else:
            place[last] = value

    return change


def try_parse(report: object, *, settled: bool = False, **options: Any) -> Instance | Rejection:
    return parse(encode(report), now=NOW, settled=settled, **options)


def parsed(report: object, *, settled: bool = False) -> Instance:
    result = try_parse(report, settled=settled)
    assert isinstance(result, Instance), result
    return result


def player_of(*entries: Report, **options: Any) -> Player:
    """The only player of a report with these entries."""
    (player,) = parsed(make_report(players=entries, **options)).players
    return player


def character_of(change: Change | None = None, **options: Any) -> Character:
    """The only character after `change` of its entry."""
    entry = make_entry(1, **options)
    report = make_report(players=[entry])
    if change:
        change(entry)
    ((character,),) = (player.characters for player in parsed(report).players)
    return character


def user_changed(changes: Report) -> Player:
    entry = make_entry(1)
    entry["player"]["destinyUserInfo"] |= changes
    return player_of(entry)


def test_tells_everything_about_a_plain_run() -> None:
    """The whole result at once, so that a field added or lost is seen."""
    entry = make_entry(1, kills=10, deaths=2, start=5, time=3000, weapons=[(9, 2, 1), (7, 6, 2)])
    instance = parsed(make_report(players=[entry], instance_id=77, skulls=[5, 0, 3, 5]))
    started, ended = datetime(2025, 1, 20, 20, tzinfo=UTC), datetime(2025, 1, 20, 21, tzinfo=UTC)
    assert instance == Instance(
        instance_id=77,
        hash=KINGS_FALL,
        platform_type=3,
        date_started=started,
        date_completed=ended,
        duration=3600,
        score=0,
        player_count=1,
        completed=True,
        deathless=False,
        fresh=True,
        flawless=False,
        skull_hashes=(5, 3),
        players=(
            Player(
                membership_id=FIRST_PLAYER + 1,
                membership_type=3,
                icon_path="/common/icons/1.jpg",
                display_name="Guardian 1",
                bungie_global_display_name="Guardian 1",
                bungie_global_display_name_code="0001",
                completed=True,
                time_played_seconds=3000,
                first_seen=started,
                last_seen=datetime(2025, 1, 20, 20, 50, 5, tzinfo=UTC),
                characters=(
                    Character(
                        character_id=FIRST_CHARACTER + 10,
                        class_hash=671679327,
                        emblem_hash=1918663075,
                        completed=True,
                        score=0,
                        kills=10,
                        assists=3,
                        deaths=2,
                        precision_kills=2,
                        super_kills=2,
                        grenade_kills=1,
                        melee_kills=1,
                        time_played_seconds=3000,
                        start_seconds=5,
                        weapons=(Weapon(7, 6, 2), Weapon(9, 2, 1)),
                    ),
                ),
            ),
        ),
    )


REJECTED: list[tuple[str, Change, str, str]] = [
    ("no details", put("activityDetails", MISSING), "not_json_object", "activityDetails"),
    ("details are a list", put("activityDetails", []), "not_json_object", "activityDetails"),
    ("no entries key", put("entries", MISSING), "not_json_object", "entries"),
    ("entries are null", put("entries", None), "not_json_object", "entries"),
    ("entries are an object", put("entries", {}), "not_json_object", "entries"),
    ("an entry is text", put("entries.1", "x"), "not_json_object", "entries[1]"),
    ("no id", put("activityDetails.instanceId", MISSING), "id_mismatch", "instanceId"),
    ("id 0", put("activityDetails.instanceId", "0"), "id_mismatch", "instanceId"),
    ("negative id", put("activityDetails.instanceId", -5), "id_mismatch", "instanceId"),
    ("id beyond 64 bit", put("activityDetails.instanceId", 2**63), "id_mismatch", "instanceId"),
    ("id is true", put("activityDetails.instanceId", True), "id_mismatch", "instanceId"),
    ("id is a fraction", put("activityDetails.instanceId", 1.5), "id_mismatch", "instanceId"),
    ("id in other digits", put("activityDetails.instanceId", "١٢"), "id_mismatch", "instanceId"),
    ("no period", put("period", MISSING), "period", "period"),
    ("period is a number", put("period", 1737403200), "period", "period"),
    ("period without zone", put("period", "2025-01-20T20:00:00"), "period", "period"),
    ("no such day", put("period", "2025-02-30T20:00:00Z"), "period", "period"),
    ("a day only", put("period", "2025-01-20"), "period", "period"),
    ("before the game", put("period", "2016-12-31T23:59:59Z"), "period", "period"),
    ("before the game in UTC", put("period", "2017-01-01T00:30:00+01:00"), "period", "period"),
    ("year 1", put("period", "0001-01-01T00:00:00+14:00"), "period", "period"),
    ("year 9999", put("period", "9999-12-31T23:59:59-12:00"), "period", "period"),
    ("in two days", put("period", "2025-02-02T00:00:01Z"), "period", "period"),
    ("hash too large", put("activityDetails.directorActivityHash", 2**32), "hash_missing", "Hash"),
    ("hash negative", put("activityDetails.directorActivityHash", -1), "hash_missing", "Hash"),
    ("hash is text", put("activityDetails.directorActivityHash", "x"), "hash_missing", "Hash"),
    ("nobody", put("entries", []), "entries_empty", "entries"),
    ("one of three came", put("entries.0.values.playerCount", stat(3)), "entry_count", "Count"),
    ("none of two", put("entries.0.values.playerCount", stat(0)), "entry_count", "Count"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [pytest.param(*rest, id=name) for name, *rest in REJECTED],
)
@pytest.mark.parametrize("settled", [False, True])
def test_rejects_what_no_second_fetch_makes_usable(
    change: Change, reason: str, field: str, settled: bool
) -> None:
    """A run stored with wrong facts is worse than one that waits for a person."""
    report = make_report()
    change(report)
    result = try_parse(report, settled=settled)
    assert isinstance(result, Rejection)
    assert (result.reason, result.field.endswith(field)) == (reason, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'"x"', b"{", b"{}x", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"\0"],
    ids=lambda body: repr(body[:8]),
)
def test_rejects_what_is_no_object(body: bytes) -> None:
    """Half an answer must not stop a consumer."""
    result = parse(body, now=NOW)
    assert isinstance(result, Rejection)
    assert (result.reason, result.field) == ("not_json_object", "Response")


def test_rejects_another_activity_than_was_asked_for() -> None:
    """One id was seen answering with another run."""
    report = make_report(instance_id=5)
    assert isinstance(try_parse(report, expected_id=5), Instance)
    result = try_parse(report, expected_id=6)
    assert isinstance(result, Rejection)
    assert (result.reason, result.field) == ("id_mismatch", "activityDetails.instanceId")


@pytest.mark.parametrize("duration", [0, -1])
@pytest.mark.parametrize("settled", [False, True])
def test_rejects_a_run_without_time(duration: int, settled: bool) -> None:
    """Nobody played; speed leaderboards would be led by it."""
    result = try_parse(make_report(duration=duration), settled=settled)
    assert isinstance(result, Rejection)
    assert result.reason == "no_duration"


TEMPORARY: list[tuple[str, Change, str, str]] = [
    (
        "member without id",
        put("entries.1.player.destinyUserInfo.membershipId", MISSING),
        "membership_id",
        "entries[1].player.destinyUserInfo.membershipId",
    ),
    (
        "entry without player",
        put("entries.1.player", None),
        "membership_id",
        "entries[1].player.destinyUserInfo.membershipId",
    ),
    ("no extended", put("entries.1.extended", MISSING), "extended_missing", "entries[1].extended"),
    (
        "extended is a list",
        put("entries.1.extended", []),
        "extended_missing",
        "entries[1].extended",
    ),
    (
        "no flag",
        put("activityWasStartedFromBeginning", MISSING),
        "era_field",
        "activityWasStartedFromBeginning",
    ),
    (
        "flag is null",
        put("activityWasStartedFromBeginning", None),
        "era_field",
        "activityWasStartedFromBeginning",
    ),
]


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [pytest.param(*rest, id=name) for name, *rest in TEMPORARY],
)
def test_waits_for_what_may_still_come(change: Change, reason: str, field: str) -> None:
    """Reports are completed after they are published: the same run stored early would stay thin."""
    report = make_report()
    change(report)
    result = try_parse(report)
    assert isinstance(result, Rejection)
    assert (result.reason, result.field) == (reason, field)
    assert isinstance(try_parse(report, settled=True), Instance)


def test_drops_members_without_id_when_settled() -> None:
    """The others' run counts all the same; what happened to the team stays as reported."""
    report = make_report(players=[make_entry(1, deaths=1), make_entry(2)])
    put("entries.0.player.destinyUserInfo.membershipId", "0")(report)
    instance = parsed(report, settled=True)
    assert [player.membership_id for player in instance.players] == [FIRST_PLAYER + 2]
    assert (instance.player_count, instance.deathless) == (1, False)


def test_rejects_a_run_of_nobody_known_even_when_settled() -> None:
    """An instance without players breaks every reader."""
    report = make_report(players=[make_entry(1)])
    put("entries.0.player.destinyUserInfo.membershipId", "")(report)
    result = try_parse(report, settled=True)
    assert isinstance(result, Rejection)
    assert result.reason == "membership_id"


def test_counts_nothing_where_extended_never_came() -> None:
    """Accepted after two days: zeros and no weapons are all there is."""
    report = make_report(players=[make_entry(1)])
    put("entries.0.extended", MISSING)(report)
    ((character,),) = (player.characters for player in parsed(report, settled=True).players)
    assert (character.precision_kills, character.weapons, character.kills) == (0, (), 10)


@pytest.mark.parametrize("count", [stat(-1), None, stat("x"), stat(NAN), {}, MISSING])
def test_trusts_no_entry_count_that_says_nothing(count: object) -> None:
    """-1 is displayed as "-": the count was never filled in."""
    report = make_report()
    put("entries.0.values.playerCount", count)(report)
    assert parsed(report).player_count == 2


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("2025-01-20T20:00:00Z", 0),
        ("2025-01-20T20:00:01.999Z", 1),
        ("2025-01-20T20:00:01.1234567891Z", 1),
        ("2025-01-20T22:30:02+02:30", 2),
        ("2025-01-20t20:00:03z", 3),
    ],
)
def test_reads_the_start_to_the_second(text: str, second: int) -> None:
    """The column would round up, and a run would end after its report was fetched."""
    instance = parsed(make_report(period=text))
    assert instance.date_started == datetime(2025, 1, 20, 20, 0, second, tzinfo=UTC)


@pytest.mark.parametrize("director", [0, None, MISSING])
def test_takes_the_reference_when_the_director_hash_is_missing(director: object) -> None:
    """Otherwise the run is parked as unknown for ever."""
    report = make_report()
    put("activityDetails.directorActivityHash", director)(report)
    assert parsed(report).hash == KINGS_FALL


@pytest.mark.parametrize(
    ("given", "stored"), [(-1, -1), (0, 0), (6, 6), (7, 0), (254, 0), (-2, 0), ("3", 3), (None, 0)]
)
def test_knows_the_platforms(given: object, stored: int) -> None:
    """The column is an enumeration to its readers."""
    report = make_report()
    put("activityDetails.membershipType", given)(report)
    assert parsed(report).platform_type == stored


def test_takes_the_longest_duration() -> None:
    """Entries agree in every real report; a missing one must not make the run instant."""
    report = make_report(duration=100)
    put("entries.0.values.activityDurationSeconds", MISSING)(report)
    assert parsed(report).duration == 100


@pytest.mark.parametrize("score", [(-5, 0), (1234, 1234)])
def test_never_stores_a_negative_score(score: tuple[int, int]) -> None:
    """Boards sort by it."""
    report = make_report()
    put("entries.0.values.teamScore", stat(score[0]))(report)
    assert parsed(report).score == score[1]


@pytest.mark.parametrize(
    ("reason", "first", "second", "finished"),
    [
        (0, True, True, [True, True]),
        (0, True, False, [True, False]),
        (0, False, False, [False, False]),
        (255, True, True, [False, False]),
        (2, True, True, [False, False]),
    ],
)
def test_completion_needs_player_and_objective(
    reason: int, first: bool, second: bool, finished: list[bool]
) -> None:
    """A 1 was seen together with a failed objective; a character keeps what was said."""
    entries = [make_entry(1, completed=first), make_entry(2, completed=second)]
    instance = parsed(make_report(players=entries, completion_reason=reason))
    assert [player.completed for player in instance.players] == finished
    assert instance.completed == any(finished)
    assert [p.characters[0].completed for p in instance.players] == [first, second]


def test_asks_only_the_first_entry_for_the_reason() -> None:
    """It is a fact about the run, and entries repeat it."""
    report = make_report()
    put("entries.1.values.completionReason", stat(255))(report)
    assert all(player.completed for player in parsed(report).players)


@pytest.mark.parametrize(
    ("fresh", "deaths", "completed", "flawless"),
    [
        (True, 0, True, True),
        (False, 0, True, False),
        (True, 1, True, False),
        (True, 0, False, False),
    ],
)
def test_flawless_is_fresh_deathless_and_completed(
    fresh: bool, deaths: int, completed: bool, flawless: bool
) -> None:
    """The rarest title there is: a checkpoint without deaths does not earn it."""
    entries = [make_entry(1, completed=completed), make_entry(2, completed=False, deaths=deaths)]
    instance = parsed(make_report(players=entries, fresh=fresh))
    assert (instance.deathless, instance.flawless) == (deaths == 0, flawless)


def test_flawless_is_unknown_where_freshness_is() -> None:
    """Null says that nobody can know; false would take it away from those who did it."""
    instance = parsed(make_report(period="2021-06-01T00:00:00Z"))
    assert (instance.fresh, instance.flawless) == (None, None)
    wiped = make_report(period="2021-06-01T00:00:00Z", players=[make_entry(1, deaths=1)])
    assert parsed(wiped).flawless is False


@pytest.mark.parametrize(
    ("skulls", "kept"),
    [
        (MISSING, ()),
        (None, ()),
        ({}, ()),
        ([0], ()),
        ([3, 1, 3, 0, 2], (3, 1, 2)),
        (["7", "x", None, 2**32, -1, 8.0], (7, 8)),
    ],
)
def test_lists_skulls_once_in_order(skulls: object, kept: tuple[int, ...]) -> None:
    """A list to its readers always, never null."""
    report = make_report(skulls=[1])
    put("selectedSkullHashes", skulls)(report)
    assert parsed(report).skull_hashes == kept


# The last second before an era, and its first.
BEFORE = {"BL": "2020-11-10T16:59:59Z", "WQ": "2022-02-22T16:59:59Z", "HA": "2022-05-24T16:59:59Z"}
SINCE = {"BL": "2020-11-10T17:00:00Z", "WQ": "2022-02-22T17:00:00Z", "HA": "2022-05-24T17:00:00Z"}


@pytest.mark.parametrize(
    ("period", "activity", "flag", "phase", "deaths", "fresh"),
    [
        (SINCE["HA"], LAST_WISH, True, 1, 1, True),
        (SINCE["HA"], LAST_WISH, False, 0, 0, False),
        (BEFORE["HA"], LAST_WISH, True, 1, 1, True),
        (BEFORE["HA"], LAST_WISH, False, 0, 1, None),
        (BEFORE["HA"], LAST_WISH, False, 0, 0, False),
        (SINCE["WQ"], LAST_WISH, False, 0, 0, False),
        (BEFORE["WQ"], LAST_WISH, True, 0, 0, None),
        (SINCE["BL"], LAST_WISH, True, 0, 0, None),
        (BEFORE["BL"], LAST_WISH, False, 0, 1, True),
        (BEFORE["BL"], LAST_WISH, True, 1, 1, False),
        (BEFORE["BL"], SCOURGE, False, 0, 1, True),
        (BEFORE["BL"], SCOURGE, False, 1, 1, True),
        (BEFORE["BL"], SCOURGE, False, 2, 1, False),
        (BEFORE["BL"], LEVIATHAN, False, 0, 1, True),
        (BEFORE["BL"], LEVIATHAN, False, 1, 1, False),
        (BEFORE["BL"], LEVIATHAN, False, 2, 1, True),
        (BEFORE["BL"], LEVIATHAN, False, 3, 1, False),
    ],
)
def test_judges_freshness_by_era(
    period: str, activity: int, flag: bool, phase: int, deaths: int, fresh: bool | None
) -> None:
    """Fresh clears are a leaderboard; each era's fields lie in their own way."""
    entries = [make_entry(1, deaths=deaths)]
    report = make_report(period=period, hash=activity, players=entries, fresh=flag)
    report["startingPhaseIndex"] = phase
    assert parsed(report).fresh is fresh


@pytest.mark.parametrize(
    ("period", "field"),
    [
        (BEFORE["BL"], "startingPhaseIndex"),
        (SINCE["BL"], None),
        (BEFORE["WQ"], None),
        (SINCE["WQ"], "activityWasStartedFromBeginning"),
    ],
)
def test_needs_the_field_of_the_era_only(period: str, field: str | None) -> None:
    """Where neither field means anything its absence is no defect."""
    report = make_report(period=period)
    del report["startingPhaseIndex"], report["activityWasStartedFromBeginning"]
    result = try_parse(report)
    if field is None:
        assert isinstance(result, Instance)
    else:
        assert isinstance(result, Rejection)
        assert (result.reason, result.field) == ("era_field", field)
    assert parsed(report, settled=True).fresh is None


@pytest.mark.parametrize("phase", ["x", None, NAN, 0.5, True, []])
def test_an_unreadable_phase_is_a_missing_one(phase: object) -> None:
    """Read as 0 it would hand out a fresh clear."""
    report = make_report(period="2019-01-01T00:00:00Z")
    report["startingPhaseIndex"] = phase
    result = try_parse(report)
    assert isinstance(result, Rejection)
    assert result.reason == "era_field"


@pytest.mark.parametrize(("given", "known"), [(0, None), (1, 1), (6, 6), (7, None), (-1, None)])
def test_leaves_an_unresolved_identity_empty(given: int, known: int | None) -> None:
    """What is null is looked up later; a made-up type never would be."""
    player = user_changed({"membershipType": given})
    named = known is not None
    assert player.membership_type == known
    assert (player.icon_path, player.display_name) == (
        ("/common/icons/1.jpg", "Guardian 1") if named else (None, None)
    )


@pytest.mark.parametrize(
    ("name", "code", "stored"),
    [
        ("Zoë", 7, ("Zoë", "0007")),
        ("Zoë", 0, ("Zoë", "0000")),
        ("Zoë", "42", ("Zoë", "0042")),
        ("Zoë", 12345, ("Zoë", "12345")),
        ("Zoë", -1, (None, None)),
        ("Zoë", None, (None, None)),
        ("Zoë", "x", (None, None)),
        ("Zoë", 2**40, (None, None)),
        ("", 7, (None, None)),
        (None, 7, (None, None)),
        (5, 7, (None, None)),
        ("Z\0oë", 7, ("Zoë", "0007")),
        ("\0", 7, (None, None)),
    ],
)
def test_global_name_and_code_are_a_pair(
    name: object, code: object, stored: tuple[str | None, str | None]
) -> None:
    """One without the other names somebody else."""
    player = user_changed({"bungieGlobalDisplayName": name, "bungieGlobalDisplayNameCode": code})
    pair = (player.bungie_global_display_name, player.bungie_global_display_name_code)
    assert pair == stored


def test_survives_half_a_surrogate_in_a_name() -> None:
    """Neither UTF-8 nor PostgreSQL can hold it, and one name must not cost the run."""
    body = encode(make_report()).replace(b"Guardian 1", b"A\\ud800B")
    result = parse(body, now=NOW)
    assert isinstance(result, Instance)
    assert result.players[0].display_name == "A?B"


def test_empty_texts_are_null() -> None:
    """Readers test for null."""
    player = user_changed({"iconPath": "", "displayName": ""})
    assert (player.icon_path, player.display_name) == (None, None)


def test_takes_the_identity_from_the_resolved_entry() -> None:
    """An account that Bungie resolved in one entry is the same one in the other."""
    unresolved, resolved = make_entry(1, character=10), make_entry(1, character=11)
    unresolved["player"]["destinyUserInfo"] = {"membershipId": str(FIRST_PLAYER + 1)}
    assert player_of(unresolved, resolved).display_name == "Guardian 1"


@pytest.mark.parametrize(
    ("spans", "duration", "seconds", "last"),
    [
        ([(42, 2127), (2198, 567)], 2765, 2694, 2765),
        ([(989, 857), (3, 3184), (858, 98)], 3187, 3184, 3187),
        ([(0, 10), (10, 10)], 100, 20, 20),
        ([(0, 10), (20, 10)], 100, 20, 30),
        ([(5, 50), (0, 100)], 100, 100, 100),
        ([(0, 101)], 100, 100, 100),
        ([(200, 50)], 100, 0, 100),
        ([(-5, 50)], 100, 50, 50),
        ([(0, 0)], 100, 0, 0),
        ([(MAX, MAX)], 100, 0, 100),
    ],
)
def test_plays_as_long_as_some_character_does(
    spans: list[tuple[int, int]], duration: int, seconds: int, last: int
) -> None:
    """Time played is a leaderboard, and nobody plays longer than the run lasted."""
    entries = [
        make_entry(1, character=number, start=start, time=time)
        for number, (start, time) in enumerate(spans)
    ]
    player = player_of(*entries, duration=duration)
    assert player.time_played_seconds == seconds
    assert (player.last_seen - player.first_seen).total_seconds() == last


def test_merges_entries_of_one_character() -> None:
    """It left and joined again; the key of the table is the character."""
    first = make_entry(
        1, kills=4, deaths=1, completed=False, start=100, time=50, weapons=[(9, 1, 0)]
    )
    second = make_entry(1, kills=5, deaths=2, start=20, time=100, weapons=[(9, 2, 1), (3, 1, 0)])
    first["player"]["classHash"] = 0
    player = player_of(first, second)
    (character,) = player.characters
    assert (character.kills, character.deaths, character.completed) == (9, 3, True)
    assert (character.start_seconds, character.time_played_seconds) == (20, 130)
    assert character.weapons == (Weapon(3, 1, 0), Weapon(9, 3, 1))
    assert (character.class_hash, player.time_played_seconds) == (671679327, 130)


def test_keeps_characters_of_a_player_apart() -> None:
    """A class swapped in the middle of a run gives two rows of one player."""
    player = player_of(make_entry(1, character=12), make_entry(1, character=11))
    assert [c.character_id - FIRST_CHARACTER for c in player.characters] == [11, 12]


@pytest.mark.parametrize("given", [MISSING, None, "", "x", -1])
def test_a_character_without_id_is_number_0(given: object) -> None:
    """The row stays, and character_fill finds it."""
    assert character_of(put("characterId", given)).character_id == 0


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (0, None),
        (MISSING, None),
        (2**32, None),
        ("671679327", 671679327),
        (2**32 - 1, 2**32 - 1),
        (671679327.0, 671679327),
        (True, None),
    ],
)
def test_reads_hashes(given: object, stored: int | None) -> None:
    """0 is how the API says that it does not know."""
    assert character_of(put("player.classHash", given)).class_hash == stored
    assert character_of(put("player.emblemHash", given)).emblem_hash == stored


NUMBERS = [
    (7.9, 7),
    (0.99, 0),
    (-3, 0),
    ("12", 12),
    (" 12.7 ", 12),
    ("1e3", 1000),
    ("1_000", 0),
    ("٣", 0),
    ("x", 0),
    ("", 0),
    ("NaN", 0),
    (None, 0),
    (NAN, 0),
    (INF, 0),
    (-INF, 0),
    (True, 0),
    ([], 0),
    ({}, 0),
    (MAX, MAX),
    (MAX + 1, MAX),
    (1e300, MAX),
    (10**99, MAX),
]


@pytest.mark.parametrize(("given", "stored"), NUMBERS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_reads_any_number_as_a_count(given: object, stored: int, wrapped: bool) -> None:
    """A count is a 32-bit column: whatever comes must fit, and nonsense counts as nothing."""
    value = {"basic": {"value": given}} if wrapped else given
    character = character_of(put("values.kills", value))
    assert character.kills == stored
    assert character_of(put("extended.values.precisionKills", value)).precision_kills == stored
    weapon = put("extended.weapons.0.values.uniqueWeaponKills", value)
    assert character_of(weapon).weapons[0].kills == stored


@pytest.mark.parametrize("text", [b"1e400", b"9" * 400, b"-" + b"9" * 5000])
def test_numbers_beyond_any_float_count_as_nothing(text: bytes) -> None:
    """Infinity by the rules; Python itself refuses integers of 5000 digits."""
    body = encode(make_report()).replace(
        b'"kills":{"basic":{"value":10.0', b'"kills":{"basic":{"value":' + text
    )
    result = parse(body, now=NOW)
    assert isinstance(result, Instance)
    assert {c.kills for p in result.players for c in p.characters} == {0}


def test_sums_stay_in_the_column() -> None:
    """Two saturated halves of a character are still one 32-bit number."""
    entry = make_entry(1, kills=MAX, time=MAX, weapons=[(1, MAX, MAX), (1, 5, 5)])
    other = make_entry(1, kills=MAX, start=MAX, time=MAX, weapons=[])
    character = player_of(entry, other).characters[0]
    assert (character.kills, character.time_played_seconds) == (MAX, MAX)
    assert character.weapons == (Weapon(1, MAX, MAX),)


@pytest.mark.parametrize(
    ("weapons", "kept"),
    [
        (MISSING, ()),
        (None, ()),
        ({}, ()),
        ([], ()),
        (["x", None], ()),
        ([{}], ()),
        ([{"referenceId": 0, "values": {}}], ()),
        ([{"referenceId": 2**32, "values": {}}], ()),
        ([{"referenceId": "5"}], (Weapon(5, 0, 0),)),
        ([{"referenceId": 5, "values": {"uniqueWeaponKills": 3}}], (Weapon(5, 3, 0),)),
    ],
)
def test_reads_weapons(weapons: object, kept: tuple[Weapon, ...]) -> None:
    """No list is how the API says that nothing was killed with a weapon."""
    assert character_of(put("extended.weapons", weapons)).weapons == kept


@pytest.mark.parametrize("values", [MISSING, None, [], "x", {}])
def test_an_entry_without_values_played_no_part(values: object) -> None:
    """One broken entry must not cost the others their run."""
    report = make_report()
    put("entries.1.values", values)(report)
    player = parsed(report).players[1]
    assert (player.completed, player.time_played_seconds) == (False, 0)


def test_stores_a_crowd() -> None:
    """Checkpoint bots bring fifty characters and more; the first generation refused them."""
    crowd = [make_entry(number) for number in range(1, 81)]
    assert parsed(make_report(players=crowd)).player_count == 80


def test_stores_a_clear_without_kills() -> None:
    """A known checkpoint bug; judging it is for the cheat rules."""
    instance = parsed(make_report(duration=59, players=[make_entry(1, kills=0, time=59)]))
    assert (instance.completed, instance.duration) == (True, 59)


def test_is_independent_of_the_order_of_keys() -> None:
    """JSON objects have none."""

    def backwards(value: Any) -> Any:
        if isinstance(value, list):
            return [backwards(item) for item in value]
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return value

    report = make_report(skulls=[3, 1])
    assert parsed(backwards(report)) == parsed(report)


def test_takes_the_last_of_equal_keys() -> None:
    """As every JSON reader does, in both ways of decoding."""
    body = b'{"period":"x",' + encode(make_report())[1:]
    assert parse(body, now=NOW) == parsed(make_report())
    odd = b'{"period":5,' + encode(make_report())[1:]
    assert parse(odd, now=NOW) == parsed(make_report())


def test_survives_bytes_that_are_no_text() -> None:
    """The API has sent broken UTF-8 in names."""
    body = encode(make_report()).replace(b"Guardian 1", b"Guardian \xff")
    result = parse(body, now=NOW)
    assert isinstance(result, Instance)
    assert result.players[0].display_name == "Guardian \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("change", "tracked"),
    [
        (put("teams", []), True),
        (put("activityDetails.mode", 0), True),
        (put("activityDetails.mode", "4"), True),
        (put("activityDetails.modes", None), True),
        (put("activityDetails", {"mode": 18, "modes": [7, 18]}), False),
        (put("activityDetails", {"mode": 18, "modes": [7, "4"]}), True),
        (put("activityDetails", {"directorActivityHash": 42}), True),
        (put("activityDetails", {"directorActivityHash": "42"}), True),
        (put("activityDetails", {"directorActivityHash": 43}), False),
        (put("activityDetails", {}), False),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_tracks_raids_by_mode_or_hash(change: Change, tracked: bool, flat: bool) -> None:
    """The mode is sometimes 0 or wrong, and a raid lost here is never looked at again."""
    report = make_report()
    change(report)
    seen = probe(encode(flatten(report) if flat else report), {42})
    assert seen == Probe(tracked=tracked, ended_at=datetime(2025, 1, 20, 21, tzinfo=UTC))


@pytest.mark.parametrize(
    ("change", "ended_at"),
    [
        (put("period", "x"), None),
        (put("period", None), None),
        (put("period", "9999-12-31T23:30:00Z"), None),
        (put("entries", None), datetime(2025, 1, 20, 20, tzinfo=UTC)),
        (put("entries", ["x", {}, {"values": 1}]), datetime(2025, 1, 20, 20, tzinfo=UTC)),
    ],
)
def test_probes_whatever_the_rest_looks_like(change: Change, ended_at: datetime | None) -> None:
    """A strike with a broken date is still no raid; only its lag is unknown."""
    report = make_report(mode=18)
    change(report)
    assert probe(encode(report), ()) == Probe(tracked=False, ended_at=ended_at)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"activityDetails":1}', b"{" * 100_000])
def test_a_probe_of_no_report_is_a_rejection(body: bytes) -> None:
    """Neither raid nor not: it has to be fetched again."""
    result = probe(body, ())
    assert isinstance(result, Rejection)
    assert result.reason == "not_json_object"


REPORT = encode(make_report())


@pytest.mark.parametrize(
    "body",
    [
        REPORT,
        b" " + REPORT + b"\n",
        encode(envelope(make_report())),
        encode({"Response": make_report()}),
        encode({"instance": {"x": 1}, "pgcr": make_report()}),
        encode({"activity": {"x": 1}, "raw": make_report()}),
        encode({"activity": {"x": 1}, "raw": envelope(make_report())}),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_opens_every_wrapper_there_was(body: bytes, compressed: bool) -> None:
    """Old messages and files of operators still come in; the report inside is kept as it stands."""
    opened = open_body(gzip.compress(body) if compressed else body)
    assert opened.strip() == REPORT


def test_opens_several_gzip_members() -> None:
    """A file put together from parts is one stream to every tool."""
    half = len(REPORT) // 2
    assert open_body(gzip.compress(REPORT[:half]) + gzip.compress(REPORT[half:])) == REPORT


def test_opens_an_envelope_that_only_python_reads() -> None:
    """NaN is no JSON, but a report with one is a report."""
    report = make_report()
    put("entries.0.values.kills", NAN)(report)
    opened = open_body(json.dumps(envelope(report)).encode())
    assert parse(opened, now=NOW) == parsed(report)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"\x1f\x8b", "truncated gzip"),
        (gzip.compress(REPORT)[:-20], "truncated gzip"),
        (b"\x1f\x8b" + b"x" * 50, "broken gzip"),
        (b'{"a":1}', "no report"),
        (b'{"Response":null}', "no JSON object"),
        (b'{"Response":{"x":1}}', "no report"),
        (b'{"ErrorCode":1653,"Message":"gone"}', "error answer"),
        (b'{"raw":{"raw":{"raw":{"raw":{"activityDetails":1}}}}}', "no report"),
    ],
)
def test_names_what_is_wrong_with_a_file(body: bytes, says: str) -> None:
    """One bad file among thousands: the operator has to see which and why."""
    with pytest.raises(PermanentError, match=says):
        open_body(body)


def test_refuses_a_gzip_bomb() -> None:
    """A consumer must not die of one message."""
    with pytest.raises(PermanentError, match="more than 1000 bytes"):
        gunzip(gzip.compress(b"0" * 1001), limit=1000)
    assert gunzip(gzip.compress(b"0" * 1000), limit=1000) == b"0" * 1000
    assert MAX_PLAIN_BYTES == 2**27
