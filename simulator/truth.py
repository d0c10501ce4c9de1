"""Ground truth: what a correct platform must know about the published world.

Written anew from the public rules, slow and plain, and sharing no code with the parser and the
store it judges. Times are Unix seconds inside, RFC 3339 outside; ids are JSON numbers.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

from simulator.definitions import Definitions, Version
from simulator.faults import Doom, Fate, Fates
from simulator.publication import Publication
from simulator.replay import Replayed
from simulator.reports import timestamp
from simulator.world import BEYOND_LIGHT, HAUNTED, WITCH_QUEEN, Entry, Run, World

Facts = dict[str, Any]


class Standing(Enum):
    """Whether a crawler can have an id's report by now."""

    READY = "ready"
    PENDING = "pending"
    NEVER = "never"


def _standing(doom: Doom, now: float) -> Standing:
    is_whole_at_first = doom.fate in (Fate.NORMAL, Fate.CHANGELING)
    if is_whole_at_first or doom.heals_on_retry or doom.until <= now:
        return Standing.READY
    return Standing.NEVER if doom.until == float("inf") else Standing.PENDING


# --- one report ---------------------------------------------------------------------------------


def fresh(run: Run, activity_id: int | None) -> bool | None:
    """Whether the run started from the beginning, as far as its era can tell."""
    if run.period >= HAUNTED:
        return run.flag
    if run.period >= WITCH_QUEEN:
        return run.flag if run.flag or _deathless(run) else None
    if run.period >= BEYOND_LIGHT or run.phase is None:
        return None
    if activity_id == 1:
        return run.phase in (0, 2)
    return run.phase <= 1 if activity_id == 5 else run.phase == 0


def _deathless(run: Run) -> bool:
    return all(entry.deaths == 0 for entry in run.entries)


def seconds_together(entries: list[Entry], duration: int) -> int:
    """Seconds of the run in which at least one of the characters was there."""
    total = until = 0
    for start, end in sorted((e.start, min(e.start + e.played, duration)) for e in entries):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


def facts(run: Run, version: Version | None) -> Facts:
    """Everything derivable from one report; activity and version are None for unknown hashes."""
    by_player: dict[int, list[Entry]] = defaultdict(list)
    for entry in run.entries:
        by_player[entry.membership_id].append(entry)
    players = [_player_facts(run, who, mine) for who, mine in sorted(by_player.items())]
    completed = any(player["completed"] for player in players)
    beginning = fresh(run, version.activity.id if version else None)
    deathless = _deathless(run)
    return {
        "instance_id": run.instance_id,
        "hash": run.hash,
        "activity": version.activity.id if version else None,
        "version": version.version_id if version else None,
        "platform_type": run.membership_type,
        "date_started": timestamp(run.period),
        "date_completed": timestamp(run.period + run.duration),
        "duration": run.duration,
        "score": run.team_score,
        "completed": completed,
        "fresh": beginning,
        "deathless": deathless,
        "flawless": beginning if completed and deathless else False,
        "player_count": len(players),
        "skull_hashes": list(dict.fromkeys(skull for skull in run.skulls if skull)),
        "conduct": run.conduct or None,
        "players": players,
    }


def _player_facts(run: Run, membership_id: int, entries: list[Entry]) -> Facts:
    by_character: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_character[entry.character_id].append(entry)
    return {
        "membership_id": membership_id,
        "membership_type": next((e.membership_type for e in entries if e.membership_type), None),
        # The reason is the run's: what the first entry says holds for all.
        "completed": run.entries[0].reason == 0 and any(e.completed == 1 for e in entries),
        "time_played_seconds": seconds_together(entries, run.duration),
        "cheats": membership_id in run.cheating,
        "characters": [_character_facts(run, *item) for item in sorted(by_character.items())],
    }


def _character_facts(run: Run, character_id: int, entries: list[Entry]) -> Facts:
    weapons: dict[int, list[int]] = {}
    for entry in entries:
        for reference, kills, precision in entry.weapons:
            mine = weapons.setdefault(reference, [0, 0])
            mine[0] += kills
            mine[1] += precision
    # A character that comes back has two entries: together they are one, with the time of both.
    played = entries[0].played if len(entries) == 1 else seconds_together(entries, run.duration)
    return {
        "character_id": character_id,
        "class_hash": entries[0].class_hash or None,
        "emblem_hash": entries[0].emblem_hash or None,
        "completed": any(e.completed for e in entries),
        "score": sum(e.score for e in entries),
        "kills": sum(e.kills for e in entries),
        "assists": sum(e.assists for e in entries),
        "deaths": sum(e.deaths for e in entries),
        "precision_kills": sum(e.precision for e in entries),
        "super_kills": sum(e.supers for e in entries),
        "grenade_kills": sum(e.grenades for e in entries),
        "melee_kills": sum(e.melees for e in entries),
        "start_seconds": min(e.start for e in entries),
        "time_played_seconds": played,
        "weapon_kills": sum(kills for kills, _ in weapons.values()),
        "weapons": [[reference, *weapons[reference]] for reference in sorted(weapons)],
    }


# --- all reports --------------------------------------------------------------------------------


class Truth:
    """Reads of the whole published world. Each walks the ids asked for: 0.5 s for 100 000 ids."""

    def __init__(
        self,
        world: World,
        publication: Publication,
        fates: Fates,
        replayed: dict[int, Replayed],
        clock: Callable[[], float],
    ) -> None:
        self._world, self._publication, self._fates = world, publication, fates
        self._replayed, self._clock = replayed, clock
        self._versions = world.definitions.versions

    @property
    def definitions(self) -> Definitions:
        return self._world.definitions

    def version(self, run: Run) -> Version | None:
        return self._versions.get(run.hash)

    def standing(self, instance_id: int) -> Standing:
        """Of a published id."""
        return _standing(self._fates.of(instance_id), self._clock())

    def runs(self, first: int, last: int) -> Iterator[Run]:
        """Every raid of the ids first..last that a crawler can have by now, ascending."""
        now = self._clock()
        before, after = self._replayed_between(first, last)
        yield from before
        world = self._world
        for instance_id in range(*self._span(first, last)):
            if instance_id in self._replayed:
                if (run := self._replayed_raid(instance_id)) is not None:
                    yield run
            elif (
                world.is_raid(instance_id)
                and _standing(self._fates.of(instance_id), now) is Standing.READY
            ):
                yield world.run(instance_id)
        yield from after

    def raids(self, first: int, last: int) -> Iterator[Facts]:
        for run in self.runs(first, last):
            yield facts(run, self.version(run))

    def players(self, last: int) -> Iterator[Facts]:
        """Totals of every player over all known raids up to `last`, ascending membership_id."""
        games = sorted(_game(game) for game in self.raids(0, last) if game["activity"] is not None)
        stats: dict[int, dict[int, Facts]] = defaultdict(dict)
        for game in games:
            mine = {who: _stats(stats[who], game.activity) for who, _, _ in game.players}
            done = [who for who, completed, _ in game.players if completed]
            beginners = [who for who in done if mine[who]["first_clear"] is None]
            for who, _, seconds in game.players:
                mine[who]["total_time_played_seconds"] += seconds
            for who in done:
                mine[who]["clears"] += 1
                mine[who]["fresh_clears"] += game.fresh is True
                if who in beginners:
                    mine[who]["first_clear"] = game.instance_id
                else:
                    mine[who]["sherpas"] += len(beginners)
                fastest = (game.duration, game.date_completed, game.instance_id)
                if game.fresh and fastest < mine[who]["fastest"]:
                    mine[who]["fastest"] = fastest
        for membership_id in sorted(stats):
            yield self._totals(membership_id, stats[membership_id])

    def _totals(self, membership_id: int, stats: dict[int, Facts]) -> Facts:
        activities = {}
        for activity_id, mine in sorted(stats.items()):
            duration, _, fastest = mine.pop("fastest")
            mine["fastest_instance_id"] = fastest or None
            mine["fastest_duration"] = duration if fastest else None
            activities[activity_id] = mine
        needed = [
            activities.get(activity.id, {}).get("fastest_duration")
            for activity in self.definitions.activities.values()
            if activity.is_raid and not activity.is_sunset
        ]
        player = self._world.player_of(membership_id)
        return {
            "membership_id": membership_id,
            "cheater": self._world.style_of(player.number) if player else None,
            **{
                total: sum(mine[total] for mine in activities.values())
                for total in ("clears", "fresh_clears", "sherpas", "total_time_played_seconds")
            },
            "sum_of_best": None if None in needed else sum(needed),
            "activities": activities,
        }

    def summary(self, first: int, last: int) -> dict[str, int]:
        """Counts of the ids first..last by what a crawler can find out about them now."""
        now = self._clock()
        counts: Counter[str] = Counter(
            dict.fromkeys(
                ("raids", "unknown_raids", "non_raids", "holes", "late", "blocked",
                 "blocked_forever", "malformed", "malformed_forever", "growing"), 0
            )
        )  # fmt: skip
        for run in self.runs(first, last):
            counts["raids" if run.hash in self._versions else "unknown_raids"] += 1
        begin, end = self._span(first, last)
        for instance_id in range(begin, end):
            if instance_id in self._replayed:
                continue
            doom = self._fates.of(instance_id)
            state = _standing(doom, now)
            if doom.fate is Fate.HOLE:
                counts["holes"] += 1
            elif state is Standing.NEVER:
                counts[f"{doom.fate.value}_forever"] += 1
            elif state is Standing.PENDING:
                counts[doom.fate.value] += 1
            elif not self._world.is_raid(instance_id):
                counts["non_raids"] += 1
        counts["non_raids"] += sum(
            first <= i <= last and not self._is_raid(r.run) for i, r in self._replayed.items()
        )
        counts["head"] = self._publication.head
        return dict(counts)

    def _span(self, first: int, last: int) -> tuple[int, int]:
        begin = max(first, self._world.config.first_id)
        return begin, max(begin, min(last, self._publication.head) + 1)

    def _is_raid(self, run: Run) -> bool:
        return run.mode == 4 or 4 in run.modes or run.hash in self._versions

    def _replayed_raid(self, instance_id: int) -> Run | None:
        run = self._replayed[instance_id].run
        return run if self._is_raid(run) else None

    def _replayed_between(self, first: int, last: int) -> tuple[list[Run], list[Run]]:
        """Replayed raids of first..last below and above the ids of the world."""
        begin, end = self._span(first, last)
        wanted = [
            run
            for instance_id in sorted(self._replayed)
            if first <= instance_id <= last
            and not begin <= instance_id < end
            and (run := self._replayed_raid(instance_id)) is not None
        ]
        return (
            [run for run in wanted if run.instance_id < begin],
            [run for run in wanted if run.instance_id >= begin],
        )


class _Game(NamedTuple):
    """What the totals need of a raid, in the order in which they count it; 1 kB instead of 15."""

    date_completed: str
    instance_id: int
    activity: int
    duration: int
    fresh: bool | None
    players: list[tuple[int, bool, int]]  # membership id, completed, seconds


def _game(raid: Facts) -> _Game:
    return _Game(
        raid["date_completed"],
        raid["instance_id"],
        raid["activity"],
        raid["duration"],
        raid["fresh"],
        [
            (player["membership_id"], player["completed"], player["time_played_seconds"])
            for player in raid["players"]
        ],
    )


def _stats(of_player: dict[int, Facts], activity_id: int) -> Facts:
    return of_player.setdefault(
        activity_id,
        {
            "clears": 0,
            "fresh_clears": 0,
            "sherpas": 0,
            "total_time_played_seconds": 0,
            "first_clear": None,
            "fastest": (1 << 31, "", 0),
        },
    )
