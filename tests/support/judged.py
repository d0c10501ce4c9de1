"""Runs of simulated worlds as the cheat rules get them, with what a judge should find in each.

No database and no HTTP: bodies of the simulator go through our parser, and definitions are the
simulator's.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from raidhub_dagster.cheat_detection.facts import InstanceFacts, Norms, PlayerFacts, WeaponUse
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.pgcr.model import Instance, Player
from raidhub_dagster.pgcr.parse import parse
from simulator import definitions
from simulator.conduct import STYLES, JudgedWorld
from simulator.faults import GROWING_KINDS, damaged
from simulator.manifest import is_heavy
from simulator.reports import Reports
from simulator.world import FIRST_ID, WorldConfig

EPOCH = 1_795_000_000.0  # 2026-11-18
NOW = datetime.fromtimestamp(EPOCH + 10 * 86_400, UTC)
CHEATED = 0.15  # of the runs of a world, unless it says otherwise
GROWING = "growing"  # a report that was fetched before it was whole, and says so
GROWING_UNSEEN = "growing_unseen"  # one that does not, for it counts none: young, and that is all
_SATURATED_S = 32_767


class Tally(NamedTuple):
    """Counts of one player's characters that learned scores look at, beside those of the facts."""

    deaths: int
    assists: int
    precise: int
    start: int  # seconds after the run's own
    weapons: int  # different ones
    top: int  # kills of the most used row of them


class Case(NamedTuple):
    """One run: `conduct` is a style of cheating, a kind of hard innocent, or "" for the rest."""

    conduct: str
    cheating: frozenset[int]
    facts: InstanceFacts
    tallies: tuple[Tally, ...] = ()  # in the order of the players

    @property
    def is_cheated(self) -> bool:
        return self.conduct in STYLES


def make_world(seed: int, *, players: int = 20_000, cheaters: float = CHEATED) -> JudgedWorld:
    """A world of raids only."""
    config = WorldConfig(seed=seed, epoch=EPOCH, players=players, raid_share=1.0, cheaters=cheaters)
    return JudgedWorld(definitions.load(definitions.DEFAULT_FOLDER), config)


def read_cases(world: JudgedWorld, runs: int) -> Iterator[Case]:
    """The first `runs` of a world; every 25th ordinary one was fetched while it still grew.

    What the parser refuses is not stored, and nobody judges it.
    """
    reports, teller = Reports(world), _Teller(world)
    for instance_id in range(FIRST_ID, FIRST_ID + runs):
        run = world.run(instance_id)
        body, conduct = reports.response(run).encode(), run.conduct
        if not conduct and instance_id % 25 == 0:
            kinds = list(GROWING_KINDS)
            kind = kinds[instance_id // 25 % len(kinds)]
            conduct = GROWING_UNSEEN if kind == "half_uncounted" else GROWING
            young = damaged(reports.raid(run).encode(), kind)
            body = bytes(msgspec.json.decode(young, type=dict[str, msgspec.Raw])["Response"])
        parsed = parse(body, now=NOW, expected_id=instance_id)
        if isinstance(parsed, Instance):
            is_young = conduct in (GROWING, GROWING_UNSEEN)
            facts = teller.tell(parsed, is_settled=_is_settled(body, is_young=is_young))
            tallies = tuple(map(_tally, parsed.players))
            yield Case(conduct, frozenset(run.cheating), facts, tallies)


class _Teller:
    """Makes facts of instances in the order of their ids, which is that of first clears here."""

    def __init__(self, world: JudgedWorld) -> None:
        self._versions = world.definitions.versions
        self._heavy = {item for n, item in enumerate(world.weapons) if is_heavy(n, item)}
        self._cleared: set[tuple[int, int]] = set()

    def tell(self, run: Instance, *, is_settled: bool) -> InstanceFacts:
        version = self._versions[run.hash]
        activity = version.activity
        return InstanceFacts(
            instance_id=run.instance_id,
            activity_id=activity.id,
            activity_name=activity.name,
            is_raid=activity.is_raid,
            version_id=version.version_id,
            release_date=datetime.fromtimestamp(activity.release, UTC),
            date_started=run.date_started,
            date_completed=run.date_completed,
            duration=run.duration,
            player_count=run.player_count,
            completed=run.completed,
            fresh=run.fresh,
            flawless=run.flawless,
            skull_hashes=run.skull_hashes,
            is_saturated=any(
                _SATURATED_S in (c.time_played_seconds, c.start_seconds)
                for p in run.players
                for c in p.characters
            ),
            is_settled=is_settled,
            players=tuple(self._player(player, activity.id) for player in run.players),
        )

    def _player(self, player: Player, activity_id: int) -> PlayerFacts:
        clear = (player.membership_id, activity_id)
        is_first_clear = player.completed and clear not in self._cleared
        if player.completed:
            self._cleared.add(clear)
        characters = player.characters
        return PlayerFacts(
            membership_id=player.membership_id,
            completed=player.completed,
            is_first_clear=is_first_clear,
            time_played_seconds=player.time_played_seconds,
            kills=sum(c.kills for c in characters),
            super_kills=sum(c.super_kills for c in characters),
            grenade_kills=sum(c.grenade_kills for c in characters),
            melee_kills=sum(c.melee_kills for c in characters),
            weapons=tuple(
                WeaponUse(w.kills, w.weapon_hash in self._heavy)
                for c in characters
                for w in c.weapons
            ),
        )


def _tally(player: Player) -> Tally:
    characters = player.characters
    weapons = [w for c in characters for w in c.weapons]
    return Tally(
        deaths=sum(c.deaths for c in characters),
        assists=sum(c.assists for c in characters),
        precise=sum(c.precision_kills for c in characters),
        start=min(c.start_seconds for c in characters),
        weapons=len({w.weapon_hash for w in weapons}),
        top=max((w.kills for w in weapons), default=0),
    )


class _Count(msgspec.Struct):
    value: float


class _Stat(msgspec.Struct):
    basic: _Count


class _Values(msgspec.Struct, rename="camel"):
    player_count: _Stat


class _Entry(msgspec.Struct):
    values: _Values
    extended: dict[str, object] | None = None


class _Response(msgspec.Struct):
    entries: list[_Entry]


def _is_settled(body: bytes, *, is_young: bool) -> bool:
    """False when the report itself says that something of it is missing, or a young one nothing."""
    entries = msgspec.json.decode(body, type=_Response).entries
    expected = entries[0].values.player_count.basic.value
    is_counted = expected == len(entries) or (expected < 0 and not is_young)
    return is_counted and all(entry.extended is not None for entry in entries)


def with_norms(parameters: Parameters, cases: Sequence[Case]) -> list[Case]:
    """The cases with what is usual among the honest of them.

    In a store one run in thousands is cheated, and blacklisted ones do not count; here it is one
    in seven, so that they are left out by what is known of them.
    """
    generic = parameters.generic
    kills: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
    seconds: dict[tuple[int, int], list[int]] = defaultdict(list)
    for case in cases:
        facts = case.facts
        if case.is_cheated or not facts.completed or case.conduct in (GROWING, GROWING_UNSEEN):
            continue
        kind = (facts.activity_id, facts.version_id)
        kills[*kind, facts.fresh is True].append(sum(p.kills for p in facts.players))
        if facts.fresh:
            seconds[kind].append(facts.duration)
    low = {
        kind: _quantile(found[-generic.kills_quantile.clears :], generic.kills_quantile.quantile)
        for kind, found in kills.items()
        if len(found) >= generic.kills_quantile.clears
    }
    quick = {
        kind: _quantile(found, generic.speed_quantile.quantile)
        for kind, found in seconds.items()
        if len(found) >= generic.speed_quantile.min_clears
    }
    return [
        case._replace(
            facts=msgspec.structs.replace(
                case.facts,
                norms=Norms(
                    low.get(
                        (
                            case.facts.activity_id,
                            case.facts.version_id,
                            case.facts.fresh is True,
                        )
                    ),
                    quick.get((case.facts.activity_id, case.facts.version_id)),
                ),
            )
        )
        for case in cases
    ]


def _quantile(values: Iterable[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[int(share * len(ordered))]
