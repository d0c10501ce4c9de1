"""Who cheats and how, and who only looks like it; everybody else's raids are `honest.py`'s.

Each raid is a pure function of (config, id) here too.
"""

from contextlib import suppress
from random import Random

from simulator.definitions import Definitions, Version
from simulator.honest import (
    GHOST_CLEAR,
    UNKNOWN_FRESH,
    HonestWorld,
    NoOccasionError,
    raid_of,
    split,
)
from simulator.raids import BUG_WEEKS, DAY, expected_s
from simulator.world import Account, Entry, Run, World, WorldConfig

# What is unfair about a run; each cheater has one style.
LOWMAN = "lowman"  # fewer players than it takes
SPEEDRUN = "speedrun"  # past the encounters
INFINITE_HEAVY = "infinite_heavy"
KILL_RATE = "kill_rate"
INFINITE_SUPER = "infinite_super"
ONE_WEAPON = "one_weapon"  # and its damage
CARRY = "carry"  # two cheaters, and clean players with them
TIME_DILATION = "time_dilation"  # the clock runs on while the players lag
FRESH_ACCOUNT = "fresh_account"  # too good for its age: nothing impossible in a single run
STYLES = (
    *(LOWMAN, SPEEDRUN, INFINITE_HEAVY, KILL_RATE, INFINITE_SUPER, ONE_WEAPON),
    *(CARRY, TIME_DILATION, FRESH_ACCOUNT),
)

# What is fair and looks odd, beside GHOST_CLEAR.
RECORD = "record"
LEGAL_LOWMAN = "legal_lowman"  # as few players as have done it, where and when they could
CHECKPOINT_SNIPE = "checkpoint_snipe"  # the last encounter in a minute or two, few kills
WISH_WALL = "wish_wall"  # Last Wish from its last encounter, which counts as the beginning
IS_SATURATED = "saturated"  # seconds beyond what the game counts
AFK = "afk"
BUG_WEEK = "bug_week"
INNOCENTS = (
    *(RECORD, LEGAL_LOWMAN, CHECKPOINT_SNIPE, WISH_WALL, GHOST_CLEAR, IS_SATURATED),
    *(AFK, BUG_WEEK),
)

_FAIR_SHARE = 0.25  # of a cheater's runs
_HONEST_FOR_EACH, _LEAST_HONEST = 1000, 12  # players for a cheater; with fewer there are none
_FRIENDS_SHARE = 0.4  # of a cheater's unfair runs
_FASTEST_KILLS = 0.3  # a second, of an honest player
_RECENT = 30 * DAY  # a fresh account has no older runs
_LAST_WISH = 4


def make_world(definitions: Definitions, config: WorldConfig) -> World:
    """The world of `config`, with cheaters or without."""
    return (JudgedWorld if config.cheaters else World)(definitions, config)


class JudgedWorld(HonestWorld):
    """A world whose every raid says in `conduct` and `cheating` what a judge should find."""

    def __init__(self, definitions: Definitions, config: WorldConfig) -> None:
        super().__init__(definitions, config)
        # Of each style an even number, because they know each other in pairs.
        self._of_style = max(config.players // _HONEST_FOR_EACH // len(STYLES) & ~1, 2)
        self.cheaters = self._of_style * len(STYLES)
        if config.players < _LEAST_HONEST * self.cheaters:
            self.cheaters = 0
        self._stride = config.players // self.cheaters if self.cheaters else 0

    # --- people ---------------------------------------------------------------------------------

    def cheater(self, index: int) -> int:
        """The player number of a cheater, 0 <= index < `cheaters`."""
        return (index + 1) * self._stride - 1

    def style_of(self, number: int) -> str | None:
        index, rest = divmod(number + 1, self._stride) if self._stride else (0, 1)
        if rest or not 1 <= index <= self.cheaters:
            return None
        return STYLES[(index - 1) // self._of_style]

    def account(self, number: int) -> Account:
        """Fresh ones, and accounts to throw away: every second of the other cheaters'."""
        style = self.style_of(number)
        if style == FRESH_ACCOUNT:
            rank = 1 + number % 4
            return Account(characters=1, versions_owned=1, seasons=0, rank=rank, lifetime_rank=rank)
        if style and (number + 1) // self._stride % 2:
            rank = 3 + number % 3
            return Account(characters=2, versions_owned=7, seasons=1, rank=rank, lifetime_rank=rank)
        return super().account(number)

    def lineup(self, rng: Random, size: int) -> list[int]:
        """Cheaters are in no standing team: they play in the raids that they are put into."""
        chosen: list[int] = []
        for place in super().lineup(rng, size):
            number = place
            while number in chosen or self.style_of(number):
                number = (number + 1) % self.config.players
            chosen.append(number)
        return chosen

    def _substitute(self, rng: Random, entries: list[Entry]) -> int:
        number = super()._substitute(rng, entries)
        while self.style_of(number) or any(e.player == number for e in entries):
            number = (number + 1) % self.config.players
        return number

    def _driver(self, rng: Random) -> int:
        """Every style is as common; some cheaters play much more than others of theirs."""
        style = int(rng.random() * len(STYLES))
        return self.cheater(style * self._of_style + int(self._of_style * rng.random() ** 2))

    def _partner(self, number: int) -> int:
        return self.cheater(((number + 1) // self._stride - 1) ^ 1)

    def _companions(self, rng: Random, size: int, friend_of: int | None = None) -> list[int]:
        """Clean players: whoever looks for a group, or those whom a cheater always takes along.

        Friends are for large teams: two who go through the walls together every day are cheaters.
        """
        chosen: list[int] = []
        are_friends = rng.random() < _FRIENDS_SHARE
        while len(chosen) < size:
            number = int(rng.random() * self.config.players)
            if friend_of is not None and are_friends and size > 3:
                number = (friend_of + 1 + len(chosen)) % self.config.players
            if number not in chosen and not self.style_of(number):
                chosen.append(number)
        return chosen

    # --- which run ------------------------------------------------------------------------------

    def run(self, instance_id: int) -> Run:
        rng = Random(self.luck(instance_id))  # noqa: S311  repeatable, not secret
        luck = rng.random() / self.config.cheaters
        if self.cheaters and luck < 2 + _FAIR_SHARE:
            with suppress(NoOccasionError):
                if luck < 1:
                    return self._unfair(rng, instance_id)
                if luck < 2:
                    return self._innocent(rng, instance_id)
                return self._fair_for_once(rng, instance_id)
        return self._ordinary(rng, instance_id)

    def _fair_for_once(self, rng: Random, instance_id: int) -> Run:
        """A cheater plays as everybody does."""
        run = self._ordinary(rng, instance_id)
        driver, guest = self._driver(rng), run.entries[0].player
        if self._may_play(driver, run.period):
            for entry in run.entries:
                if entry.player == guest:
                    self._identify(entry, driver)
        return run

    def _may_play(self, number: int, when: float) -> bool:
        return self.style_of(number) != FRESH_ACCOUNT or when > self.config.epoch - _RECENT

    def _unfair(self, rng: Random, instance_id: int) -> Run:
        driver = self._driver(rng)
        style = self.style_of(driver) or ""
        make = {LOWMAN: self._lowman, SPEEDRUN: self._speedrun, TIME_DILATION: self._dilation}
        return make.get(style, self._slaughter)(rng, instance_id, driver, style)

    def _innocent(self, rng: Random, instance_id: int) -> Run:
        make = {
            RECORD: self._record,
            LEGAL_LOWMAN: self._legal_lowman,
            CHECKPOINT_SNIPE: self._snipe,
            WISH_WALL: self._wish_wall,
            GHOST_CLEAR: self._ghost,
            IS_SATURATED: self._long_run,
            AFK: self._idle_run,
            BUG_WEEK: self._bug_week,
        }
        return make[INNOCENTS[int(rng.random() * len(INNOCENTS))]](rng, instance_id)

    # --- cheats ---------------------------------------------------------------------------------

    def _lowman(self, rng: Random, instance_id: int, driver: int, style: str) -> Run:
        fresh = rng.random() < 0.6

        def fits(version: Version, end: int) -> bool:
            team = self._team(version, fresh, end)
            return team is not None and team.players > 1

        found = self._find(rng, instance_id, fits)
        version, end = found
        team, raid = self._team(version, fresh, end), raid_of(version)
        pair = team is not None and team.players > 2 and rng.random() < 0.4
        duration = int((1500 if fresh else 300) * (1 + 1.3 * rng.random()))
        duration = self._not_too_fast(version, end, duration, fresh, 1 + pair)
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=fresh,
            duration=duration,
            players=[driver, self._partner(driver)][: 1 + pair],
            kills=int(raid.usual[not fresh] * (0.5 + 0.5 * rng.random())),
            conduct=style,
            cheating=1 + pair,
        )

    def _speedrun(self, rng: Random, instance_id: int, driver: int, style: str) -> Run:
        found = self._find(rng, instance_id, self._has_record)
        version, end = found
        raid, best = raid_of(version), self._best_s(version, end)
        team = self._team(version, True, end)
        size = max((6, 6, 3, 2)[int(rng.random() * 4)], team.players if team else 1)
        # Past an encounter or two, or all of them.
        part = 0.35 + 0.6 * rng.random()
        duration = max(int(expected_s(best or 600.0, size) * part) + 20, 60)
        kills = int(raid.fewest[0] * (0.3 + 0.9 * rng.random())) + 6
        run = self._compose(
            rng,
            instance_id,
            found,
            fresh=True,
            duration=duration,
            players=[driver, *self._companions(rng, size - 1, driver)],
            kills=kills,
            conduct=style,
            cheating=1,
            deathless=rng.random() < 0.3,
        )
        self._share(run, [int(kills * (0.3 + 0.3 * rng.random()))])
        return run

    def _dilation(self, rng: Random, instance_id: int, driver: int, style: str) -> Run:
        fresh = rng.random() < 0.5

        def fits(version: Version, end: int) -> bool:
            team = self._team(version, fresh, end)
            return team is None or team.players <= 3

        found = self._find(rng, instance_id, fits)
        version, end = found
        team, raid = self._team(version, fresh, end), raid_of(version)
        size = max(team.players if team else 1, 1 + int(3 * rng.random()))
        duration = int(2200 + 2500 * rng.random()) if fresh else int(700 + 1500 * rng.random())
        lag = 0.08 + 0.5 * rng.random()  # seconds of all players together in one of the run
        played = max(int(duration * lag / size), 40)
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=fresh,
            duration=duration,
            players=[driver, *self._companions(rng, size - 1, driver)],
            kills=int(raid.usual[not fresh] * (0.6 + 0.4 * rng.random())),
            conduct=style,
            cheating=1,
            success=rng.random() < 0.75,
            played=[played] * size,
        )

    def _slaughter(self, rng: Random, instance_id: int, driver: int, style: str) -> Run:
        """One or two who kill nearly everything, and four or five who watch."""
        found = self._find(rng, instance_id, lambda _version, end: self._may_play(driver, end))
        version, end = found
        uniform = rng.random
        fresh = uniform() < 0.75 or style in (INFINITE_SUPER, FRESH_ACCOUNT)
        duration = int(1100 + 1300 * uniform()) if fresh else int(400 + 700 * uniform())
        duration = self._not_too_fast(version, end, duration, fresh, 6)
        pair = style == CARRY
        players = [driver, self._partner(driver)] if pair else [driver]
        rate, share = {
            FRESH_ACCOUNT: (20 + 12 * uniform(), 0.42 + 0.15 * uniform()),
            CARRY: (40 + 50 * uniform(), 0.84 + 0.12 * uniform()),
            INFINITE_HEAVY: (38 + 60 * uniform(), 0.65 + 0.3 * uniform()),
        }.get(style, (44 + 60 * uniform(), 0.74 + 0.23 * uniform()))
        each = int(rate * duration / 60)
        total = max(int(each * len(players) / share), raid_of(version).fewest[not fresh] + 20)
        run = self._compose(
            rng,
            instance_id,
            found,
            fresh=fresh,
            duration=duration,
            players=[*players, *self._companions(rng, 6 - len(players), driver)],
            kills=total,
            conduct=style,
            cheating=len(players),
        )
        self._share(run, [each] * len(players))
        for entry in run.entries[: len(players)]:
            self._arm(rng, entry, style)
        return run

    def _arm(self, rng: Random, entry: Entry, style: str) -> None:
        """Rewrites what a cheater's kills were made with; their number stays."""
        uniform = rng.random
        supers = 0.0
        heavy, light = 1, 5
        if style == INFINITE_SUPER:
            supers = 0.2 + 0.4 * uniform()
        elif style in (INFINITE_HEAVY, CARRY):
            heavy, light = 2 + int(2 * uniform()), 2
        elif style == ONE_WEAPON:
            heavy, light = int(2 * uniform()), 1
        elif style == KILL_RATE:
            heavy, light = 0, 2 + int(3 * uniform())
        entry.supers = int(entry.kills * supers)
        entry.grenades = entry.melees = int(entry.kills * 0.04 * uniform())
        left = entry.kills - entry.supers - entry.grenades - entry.melees
        weapons = rng.sample(list(self._heavy), heavy) + rng.sample(self._light, light)
        weights = [1 + uniform() for _ in weapons]
        if style in (INFINITE_HEAVY, CARRY):
            weights[heavy:] = [0.08 * weight for weight in weights[heavy:]]
        elif style == ONE_WEAPON:
            weights[1:] = [0.05 * weight for weight in weights[1:]]
        precise = 0.88 + 0.1 * uniform() if style == FRESH_ACCOUNT else 0.6 * uniform()
        counts = split(left, weights)
        entry.weapons = [
            (item, kills, int(kills * precise))
            for item, kills in zip(weapons, counts, strict=True)
            if kills
        ]
        entry.precision = sum(exact for _, _, exact in entry.weapons)
        if style == FRESH_ACCOUNT:
            entry.deaths = 0

    # --- innocents ------------------------------------------------------------------------------

    def _record(self, rng: Random, instance_id: int) -> Run:
        found = self._find(rng, instance_id, self._has_record)
        version, end = found
        raid, best = raid_of(version), self._best_s(version, end)
        size = 6 if rng.random() < 0.8 else 5
        near = 1.0 + 0.07 * rng.random()
        kills = int(raid.fewest[0] * (1.03 + 0.4 * rng.random())) + 12
        possible = kills / size / _FASTEST_KILLS  # some curves have gone below what anybody can do
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=True,
            duration=int(max(expected_s(best or 600.0, size) * near, possible)) + 27,
            players=self._companions(rng, size),
            kills=kills,
            conduct=RECORD,
            deathless=rng.random() < 0.3,
        )

    def _legal_lowman(self, rng: Random, instance_id: int) -> Run:
        fresh = rng.random() < 0.5

        def fits(version: Version, end: int) -> bool:
            team = self._team(version, fresh, end)
            return team is not None and team.players <= 3 and end not in UNKNOWN_FRESH

        found = self._find(rng, instance_id, fits)
        version, end = found
        team, raid = self._team(version, fresh, end), raid_of(version)
        size = team.players if team else 3
        kills = int(max(raid.usual[not fresh] * 0.7, raid.fewest[not fresh] * 1.06) + 4)
        rate = (6 + 8 * rng.random()) / 60  # kills a second of each
        slow = int(kills / rate / size)
        if fresh:
            duration = self._not_too_fast(version, end, max(slow, 1500), True, size)
        else:
            quickest = team.quickest if team else 0
            duration = max(slow, 240, int(quickest * (1.02 + 0.6 * rng.random())) + 1)
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=fresh,
            duration=duration,
            players=self._companions(rng, size),
            kills=kills,
            conduct=LEGAL_LOWMAN,
            deathless=rng.random() < 0.1,
        )

    def _snipe(self, rng: Random, instance_id: int) -> Run:
        found = self._find(rng, instance_id, lambda _version, _end: True)
        fewest = raid_of(found[0]).fewest[1]
        kills = int(fewest * (1.0 + 0.3 * rng.random())) + int(4 * rng.random()) + 1
        duration = int(55 + 200 * rng.random())
        late = [int(duration * 0.2 * (1 + rng.random())) + 5 for _ in range(2)]
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=False,
            duration=duration,
            players=self._companions(rng, 6),
            kills=kills,
            conduct=CHECKPOINT_SNIPE,
            deathless=rng.random() < 0.6,
            played=[duration] * 4 + late,
        )

    def _wish_wall(self, rng: Random, instance_id: int) -> Run:
        def fits(version: Version, end: int) -> bool:
            return version.activity.id == _LAST_WISH and end not in UNKNOWN_FRESH

        wished = [v for v in self._now if v.activity.id == _LAST_WISH]
        if not wished:
            raise NoOccasionError
        found = wished[int(rng.random() * len(wished))], self.ended(instance_id)
        if rng.random() < 0.3:
            with suppress(NoOccasionError):
                found = self._find(rng, instance_id, fits)
        team = self._team(found[0], True, found[1])
        size = (6, 6, 3, 2, team.players if team else 1)[int(rng.random() * 5)]
        best = expected_s(self._best_s(*found) or 210.0, size)
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=True,
            duration=int(best * (1.04 + 1.2 * rng.random())) + 26,
            players=self._companions(rng, size),
            kills=20 + int(60 * rng.random()),
            conduct=WISH_WALL,
            deathless=rng.random() < 0.5,
        )

    def _ghost(self, rng: Random, instance_id: int) -> Run:
        found = self._find(rng, instance_id, lambda _version, _end: True)
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=False,
            duration=59,
            players=self._companions(rng, 6),
            kills=0,
            conduct=GHOST_CLEAR,
            deathless=True,
        )

    def _long_run(self, rng: Random, instance_id: int) -> Run:
        found = self._find(rng, instance_id, lambda _version, _end: True)
        raid = raid_of(found[0])
        duration = int(36_000 + 80_000 * rng.random())
        size = (6, 6, 4, 2)[int(rng.random() * 4)]
        team = self._team(found[0], True, found[1])
        # The last came when the counter was at its end already.
        played = [*[duration] * (size - 1), 3000 if size > 2 else duration]
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=rng.random() < 0.7,
            duration=duration,
            players=self._companions(rng, size),
            kills=int(raid.usual[0] * (1.5 + 3 * rng.random())),
            conduct=IS_SATURATED,
            success=(team is None or size >= max(team.players, 4)) and rng.random() < 0.5,
            played=played,
        )

    def _idle_run(self, rng: Random, instance_id: int) -> Run:
        """Nobody does anything, or one does everything for five who watch."""
        found = self._find(rng, instance_id, lambda _version, _end: True)
        raid, carried = raid_of(found[0]), rng.random() < 0.4
        kills = int(raid.usual[0] * 0.9) + 30 if carried else int(8 * rng.random())
        duration = int(3600 + 9000 * rng.random())
        run = self._compose(
            rng,
            instance_id,
            found,
            fresh=True,
            duration=max(duration, int(kills / 12 * 60)) if carried else duration,
            players=self._companions(rng, 6),
            kills=kills,
            conduct=AFK,
            success=carried,
            deathless=not carried,
        )
        self._share(run, [int(kills * 0.96)])
        return run

    def _bug_week(self, rng: Random, instance_id: int) -> Run:
        """Weapons did what nobody had meant; everybody used them."""
        first, last = BUG_WEEKS[int(rng.random() * len(BUG_WEEKS))]
        end = int(first + 7200 + (last - first - 10_000) * rng.random())
        fits = [
            v
            for v in (self._old if end < self.config.epoch else [])
            if not (v.is_world_first and v.version_id != 1)
            and v.release + DAY < end < self.closes(v.activity)
        ]
        if not fits:
            raise NoOccasionError
        version = fits[int(rng.random() * len(fits))]
        raid = raid_of(version)
        size = 2 + int(5 * rng.random())
        return self._compose(
            rng,
            instance_id,
            (version, end),
            fresh=True,
            duration=int(300 + 900 * rng.random()),
            players=self._companions(rng, size),
            kills=int(raid.usual[0] * (0.3 + 0.9 * rng.random())),
            conduct=BUG_WEEK,
        )
