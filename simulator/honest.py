"""What raids look like in which nobody cheats: near real reports of the same raid.

`World` writes reports of every shape whose numbers mean nothing. Here kills, times and sizes are
those of `raids.py`, or nobody could tell the honest from the others. Runs are put together here as
well; who plays in which is not decided here.
"""

from collections.abc import Callable, Sequence
from random import Random

from simulator.definitions import Definitions, Version
from simulator.manifest import is_heavy
from simulator.raids import DAY, FLOORS, OTHER, RAIDS, Raid, Team, expected_s, is_broken_time
from simulator.world import (
    BEYOND_LIGHT,
    EDGE_OF_FATE,
    FEATS,
    HAUNTED,
    Entry,
    Run,
    World,
    WorldConfig,
)

GHOST_CLEAR = "ghost_clear"  # done in 59 s without a kill: a bug of checkpoints
UNKNOWN_FRESH = range(BEYOND_LIGHT, HAUNTED)  # when reports did not tell how a run began
_TRIES = 40  # for an occasion that suits a kind of run

Occasion = tuple[Version, int]  # what is played and when it ends
Fits = Callable[[Version, int], bool]


class NoOccasionError(LookupError):
    """The world plays nothing that suits such a run."""


class HonestWorld(World):
    """A world of ordinary raids."""

    def __init__(self, definitions: Definitions, config: WorldConfig) -> None:
        super().__init__(definitions, config)
        armory = [(item, is_heavy(n, item)) for n, item in enumerate(self.weapons)]
        self._heavy = {item: None for item, heavy in armory if heavy}  # in their order
        self._light = [item for item, heavy in armory if not heavy]

    def _ordinary(self, rng: Random, instance_id: int) -> Run:
        version, end, contest = self._occasion(rng, instance_id)
        run = self._play(rng, instance_id, version, end, contest)
        self._temper(rng, run, version)
        return run

    def _find(self, rng: Random, instance_id: int, fits: Fits) -> Occasion:
        """An occasion that suits. Raises NoOccasionError when the world has hardly any."""
        for _ in range(_TRIES):
            version, end, contest = self._occasion(rng, instance_id)
            if contest is None and not is_broken_time(end - DAY, end) and fits(version, end):
                return version, end
        raise NoOccasionError

    def _team(self, version: Version, fresh: bool, when: float) -> Team | None:
        """The smallest that has done it; a run whose beginning nobody knows may be either."""
        known = fresh and when not in UNKNOWN_FRESH
        return raid_of(version).smallest(version.version_id, known, when)

    def _best_s(self, version: Version, when: float) -> float | None:
        if version.activity.id == 102:
            return FLOORS.get(version.version_id)
        return raid_of(version).record_s(when - version.activity.release)

    def _has_record(self, version: Version, when: int) -> bool:
        return self._best_s(version, when) is not None and when not in UNKNOWN_FRESH

    def _not_too_fast(
        self, version: Version, when: float, duration: int, fresh: bool, bodies: float
    ) -> int:
        """`duration`, or somewhat more than the record of so many when it is below that."""
        best = self._best_s(version, when) if fresh else None
        if best is None:
            return duration
        return max(duration, int(expected_s(best, bodies) * 1.15) + 30)

    def _compose(
        self,
        rng: Random,
        instance_id: int,
        occasion: Occasion,
        *,
        fresh: bool,
        duration: int,
        players: Sequence[int],
        kills: int,
        conduct: str,
        cheating: int = 0,  # so many of the first players
        success: bool = True,
        deathless: bool = False,
        played: Sequence[int] | None = None,  # seconds of each at the end; default: all of it
    ) -> Run:
        version, end = occasion
        period = end - duration
        entries: list[Entry] = []
        for place, number in enumerate(players):
            stay = min(played[place] if played else duration, duration)
            self._join(rng, entries, number, duration - stay, stay, int(success), deathless, False)
            entries[-1].reason = 0 if success else 255
        phase, flag = self._start_marks(rng, version, period, fresh, deathless)
        skulls = [*rng.sample(FEATS, 2), 0] if period >= EDGE_OF_FATE and rng.random() < 0.2 else []
        run = Run(
            instance_id=instance_id,
            hash=version.hash,
            mode=4,
            modes=(7, 4),
            membership_type=self.player(entries[0].player).membership_type,
            period=period,
            duration=duration,
            phase=phase,
            flag=flag,
            player_count=len(entries),
            team_score=0 if version.activity.is_raid else int(50_000 + rng.random() * 400_000),
            skulls=skulls,
            entries=entries,
            conduct=conduct,
            cheating=tuple(entry.membership_id for entry in entries[:cheating]),
        )
        weights = [(e.played + 1) * rng.lognormvariate(0.0, 0.35) for e in entries]
        for entry, mine in zip(entries, split(kills, weights), strict=True):
            self._scale(entry, mine)
        return run

    def _join(
        self,
        rng: Random,
        entries: list[Entry],
        number: int,
        start: int,
        played: int,
        completed: int,
        deathless: bool,
        contest: bool,
        character: int | None = None,
    ) -> None:
        """The same, with the ammunition that there is: little of the heavy kind."""
        super()._join(
            *(rng, entries, number, start, played, completed, deathless, contest, character)
        )
        entry = entries[-1]
        if entry.character >= self.account(number).characters:
            self._identify(entry, number)
        entry.weapons = [
            (item, *((kills // 3 + 1, exact // 3) if item in self._heavy else (kills, exact)))
            for item, kills, exact in entry.weapons
        ]
        shot = sum(kills for _, kills, _ in entry.weapons)
        entry.kills = shot + entry.supers + entry.grenades + entry.melees
        entry.precision = sum(exact for _, _, exact in entry.weapons)

    def _share(self, run: Run, first: Sequence[int]) -> None:
        """Gives the first entries so many kills each, and the rest of the run's to the others."""
        others = run.entries[len(first) :]
        left = max(sum(entry.kills for entry in run.entries) - sum(first), 0)
        for entry, kills in zip(run.entries, first, strict=False):
            self._scale(entry, kills)
        weights = [entry.kills + 1.0 for entry in others]
        for entry, kills in zip(others, split(left, weights), strict=True):
            self._scale(entry, kills)

    def _scale(self, entry: Entry, kills: int) -> None:
        """Gives an entry `kills`, by the same means in the same proportions."""
        if not entry.weapons:
            self._least(entry)
        before = max(entry.kills, 1)
        entry.supers, entry.grenades, entry.melees = (
            count * kills // before for count in (entry.supers, entry.grenades, entry.melees)
        )
        left = kills - entry.supers - entry.grenades - entry.melees
        counts = split(left, [float(k) for _, k, _ in entry.weapons])
        entry.weapons = [
            (item, mine, min(exact * mine // was, mine))
            for (item, was, exact), mine in zip(entry.weapons, counts, strict=True)
            if mine
        ]
        entry.kills = kills
        entry.precision = sum(exact for _, _, exact in entry.weapons)

    def _least(self, entry: Entry) -> None:
        """Whoever was there too briefly for a weapon gets one."""
        entry.weapons = [(self._light[entry.player % len(self._light)], 1, 0)]
        entry.kills, entry.supers, entry.grenades, entry.melees = 1, 0, 0, 0

    def _identify(self, entry: Entry, number: int) -> None:
        """Puts another player in the place of an entry's."""
        player = self.player(number)
        if self.account(number).characters <= entry.character:
            entry.character = 0
        entry.player, entry.membership_id = number, player.membership_id
        entry.character_id = self.character_id(number, entry.character)
        if entry.membership_type:  # not of one that nobody could resolve
            entry.membership_type = player.membership_type
            entry.class_hash = self.class_of(number, entry.character)[0]
            entry.emblem_hash = self.emblem_of(number, entry.character)

    def _temper(self, rng: Random, run: Run, version: Version) -> None:
        """Makes an ordinary run what such runs are really like."""
        entries, raid = run.entries, raid_of(version)
        size = len({entry.player for entry in entries})
        fresh = run.duration >= 1500  # what `_play` takes for one
        end = run.period + run.duration
        if run.duration == 59 and not sum(entry.kills for entry in entries):
            run.conduct = GHOST_CLEAR
            return
        team = self._team(version, fresh, end)
        if size >= 50 or (team is not None and size < team.players):
            for entry in entries:  # bots at a checkpoint, and teams too small for this
                entry.completed, entry.reason = 0, 255
        elif size >= 12:
            entries[0].start, entries[0].played = 0, run.duration  # somebody was always there
        kills = int(raid.usual[not fresh] * rng.lognormvariate(0.0, 0.3))
        kills = max(kills, int(raid.fewest[not fresh] * 1.1) + 6)
        if run.duration >= 10_000:
            kills = int(kills * (1.5 + rng.random()))
        else:
            rate = (6 + 7 * rng.random()) / 60  # kills a second of each
            wanted = max(run.duration, int(kills / rate / min(size, 6)))
            if fresh:
                best = self._not_too_fast(version, end, wanted, True, min(size, 6))
                wanted = best if best == wanted else int(best * (1 + 0.4 * rng.random()))
            elif team is not None and size == team.players:
                wanted = max(wanted, int(team.quickest * 1.1))
            _stretch(run, wanted)
        weights = [(e.played + 1) * rng.lognormvariate(0.0, 0.4) for e in entries]
        for entry, mine in zip(entries, split(kills, weights), strict=True):
            self._scale(entry, mine)


def split(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in whole parts in proportion to `weights`, what is left over to the heaviest."""
    whole = sum(weights)
    parts = [int(total * weight / whole) for weight in weights]
    if parts:
        parts[max(range(len(parts)), key=weights.__getitem__)] += total - sum(parts)
    return parts


def _stretch(run: Run, duration: int) -> None:
    """Makes the run as long as that, with the same end."""
    factor = duration / run.duration
    if factor == 1:
        return
    for entry in run.entries:
        is_all = entry.start + entry.played == run.duration
        entry.start = int(entry.start * factor)
        entry.played = duration - entry.start if is_all else int(entry.played * factor)
    run.period -= duration - run.duration
    run.duration = duration


def raid_of(version: Version) -> Raid:
    return RAIDS.get(version.activity.id, OTHER)
