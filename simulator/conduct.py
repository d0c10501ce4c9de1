"""Who cheats and how, who only looks like it, and what everybody else's raids are like.

A world with cheaters differs from `World` in all raids: kills, times and sizes of honest ones are
near those of real reports of their raid (`raids.py`), or nobody could tell the others apart. Each
raid is a pure function of (config, id) here too.
"""

from collections.abc import Callable, Sequence
from random import Random

from simulator.definitions import Definitions, Version
from simulator.manifest import weapon
from simulator.raids import (
    BUG_WEEKS,
    DAY,
    FLOORS,
    OTHER,
    RAIDS,
    Raid,
    Team,
    expected_s,
    is_broken_time,
)
from simulator.world import (
    BEYOND_LIGHT,
    EDGE_OF_FATE,
    FEATS,
    HAUNTED,
    SATURATED,
    Account,
    Entry,
    Run,
    World,
    WorldConfig,
)

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

# What is fair and looks odd.
RECORD = "record"
LEGAL_LOWMAN = "legal_lowman"  # as few players as have done it, where and when they could
CHECKPOINT_SNIPE = "checkpoint_snipe"  # the last encounter in a minute or two, few kills
WISH_WALL = "wish_wall"  # Last Wish from its last encounter, which counts as the beginning
GHOST_CLEAR = "ghost_clear"  # done in 59 s without a kill: a bug of checkpoints
IS_SATURATED = "saturated"  # seconds beyond what the game counts
AFK = "afk"
BUG_WEEK = "bug_week"
INNOCENTS = (
    *(RECORD, LEGAL_LOWMAN, CHECKPOINT_SNIPE, WISH_WALL, GHOST_CLEAR, IS_SATURATED),
    *(AFK, BUG_WEEK),
)

_FAIR_SHARE = 0.25  # of a cheater's runs
_HONEST_FOR_EACH, _LEAST_HONEST = 500, 12  # players for a cheater; with fewer there are none
_TRIES = 40  # for an occasion that suits a kind of run
_RECENT = 30 * DAY  # a fresh account has no older runs
_LAST_WISH = 4
_UNKNOWN_FRESH = range(BEYOND_LIGHT, HAUNTED)  # when reports did not tell how a run began

Occasion = tuple[Version, int]  # what is played and when it ends
Fits = Callable[[Version, int], bool]


def make_world(definitions: Definitions, config: WorldConfig) -> World:
    """The world of `config`, with cheaters or without."""
    return (JudgedWorld if config.cheaters else World)(definitions, config)


class JudgedWorld(World):
    """A world whose every raid says in `conduct` and `cheating` what a judge should find."""

    def __init__(self, definitions: Definitions, config: WorldConfig) -> None:
        super().__init__(definitions, config)
        # Of each style an even number, because they know each other in pairs.
        self._of_style = max(config.players // _HONEST_FOR_EACH // len(STYLES) & ~1, 2)
        self.cheaters = self._of_style * len(STYLES)
        if config.players < _LEAST_HONEST * self.cheaters:
            self.cheaters = 0
        self._stride = config.players // self.cheaters if self.cheaters else 0
        heavy = [weapon(n, item)["equippingBlock"]["ammoType"] == 3 for n, item in _all(self)]
        self._heavy = [item for item, is_heavy in zip(self.weapons, heavy, strict=True) if is_heavy]
        self._light = [w for w in self.weapons if w not in self._heavy]

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

    def _driver(self, rng: Random) -> int:
        """Every style is as common; some cheaters play much more than others of theirs."""
        style = int(rng.random() * len(STYLES))
        return self.cheater(style * self._of_style + int(self._of_style * rng.random() ** 2))

    def _partner(self, number: int) -> int:
        return self.cheater(((number + 1) // self._stride - 1) ^ 1)

    def _companions(self, rng: Random, size: int) -> list[int]:
        """Clean players from anywhere, whoever looks for a group."""
        chosen: list[int] = []
        while len(chosen) < size:
            number = int(rng.random() * self.config.players)
            if number not in chosen and not self.style_of(number):
                chosen.append(number)
        return chosen

    # --- which run ------------------------------------------------------------------------------

    def run(self, instance_id: int) -> Run:
        rng = Random(self.luck(instance_id))  # noqa: S311  repeatable, not secret
        luck = rng.random() / self.config.cheaters
        found: Run | None = None
        if not self.cheaters or luck >= 2 + _FAIR_SHARE:
            pass
        elif luck < 1:
            found = self._unfair(rng, instance_id)
        elif luck < 2:
            found = self._innocent(rng, instance_id)
        else:
            found = self._fair_for_once(rng, instance_id)
        return found or self._ordinary(rng, instance_id)

    def _ordinary(self, rng: Random, instance_id: int) -> Run:
        version, end, contest = self._occasion(rng, instance_id)
        run = self._play(rng, instance_id, version, end, contest)
        self._temper(rng, run, version)
        return run

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

    def _find(self, rng: Random, instance_id: int, fits: Fits) -> Occasion | None:
        """An occasion that suits; None when the world has hardly any."""
        for _ in range(_TRIES):
            version, end, contest = self._occasion(rng, instance_id)
            if contest is None and not is_broken_time(end - DAY, end) and fits(version, end):
                return version, end
        return None

    def _unfair(self, rng: Random, instance_id: int) -> Run | None:
        driver = self._driver(rng)
        style = self.style_of(driver) or ""
        make = {LOWMAN: self._lowman, SPEEDRUN: self._speedrun, TIME_DILATION: self._dilation}
        return make.get(style, self._slaughter)(rng, instance_id, driver, style)

    def _innocent(self, rng: Random, instance_id: int) -> Run | None:
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

    def _lowman(self, rng: Random, instance_id: int, driver: int, style: str) -> Run | None:
        fresh = rng.random() < 0.6

        def fits(version: Version, end: int) -> bool:
            team = self._team(version, fresh, end)
            return team is not None and team.players > 1

        found = self._find(rng, instance_id, fits)
        if found is None:
            return None
        version, end = found
        team, raid = self._team(version, fresh, end), _raid_of(version)
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

    def _speedrun(self, rng: Random, instance_id: int, driver: int, style: str) -> Run | None:
        def fits(version: Version, end: int) -> bool:
            return self._best_s(version, end) is not None and end not in _UNKNOWN_FRESH

        found = self._find(rng, instance_id, fits)
        if found is None:
            return None
        version, end = found
        raid, best = _raid_of(version), self._best_s(version, end)
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
            players=[driver, *self._companions(rng, size - 1)],
            kills=kills,
            conduct=style,
            cheating=1,
            deathless=rng.random() < 0.3,
        )
        self._share(run, [int(kills * (0.3 + 0.3 * rng.random()))])
        return run

    def _dilation(self, rng: Random, instance_id: int, driver: int, style: str) -> Run | None:
        fresh = rng.random() < 0.5

        def fits(version: Version, end: int) -> bool:
            team = self._team(version, fresh, end)
            return team is None or team.players <= 3

        found = self._find(rng, instance_id, fits)
        if found is None:
            return None
        version, end = found
        team, raid = self._team(version, fresh, end), _raid_of(version)
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
            players=[driver, *self._companions(rng, size - 1)],
            kills=int(raid.usual[not fresh] * (0.6 + 0.4 * rng.random())),
            conduct=style,
            cheating=1,
            success=rng.random() < 0.75,
            played=[played] * size,
        )

    def _slaughter(self, rng: Random, instance_id: int, driver: int, style: str) -> Run | None:
        """One or two who kill nearly everything, and four or five who watch."""
        found = self._find(rng, instance_id, lambda _version, end: self._may_play(driver, end))
        if found is None:
            return None
        version, end = found
        uniform = rng.random
        fresh = uniform() < 0.75 or style in (INFINITE_SUPER, FRESH_ACCOUNT)
        duration = int(1100 + 1300 * uniform()) if fresh else int(400 + 700 * uniform())
        duration = self._not_too_fast(version, end, duration, fresh, 6)
        pair = style == CARRY
        players = [driver, self._partner(driver)] if pair else [driver]
        rate, share = {
            FRESH_ACCOUNT: (20 + 12 * uniform(), 0.42 + 0.15 * uniform()),
            CARRY: (46 + 50 * uniform(), 0.84 + 0.12 * uniform()),
            INFINITE_HEAVY: (46 + 60 * uniform(), 0.7 + 0.26 * uniform()),
        }.get(style, (52 + 60 * uniform(), 0.8 + 0.17 * uniform()))
        each = int(rate * duration / 60)
        total = max(int(each * len(players) / share), _raid_of(version).fewest[not fresh] + 20)
        run = self._compose(
            rng,
            instance_id,
            found,
            fresh=fresh,
            duration=duration,
            players=[*players, *self._companions(rng, 6 - len(players))],
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
        weapons = rng.sample(self._heavy, heavy) + rng.sample(self._light, light)
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

    def _record(self, rng: Random, instance_id: int) -> Run | None:
        def fits(version: Version, end: int) -> bool:
            return self._best_s(version, end) is not None and end not in _UNKNOWN_FRESH

        found = self._find(rng, instance_id, fits)
        if found is None:
            return None
        version, end = found
        raid, best = _raid_of(version), self._best_s(version, end)
        size = 6 if rng.random() < 0.8 else 5
        near = 1.0 + 0.07 * rng.random()
        return self._compose(
            rng,
            instance_id,
            found,
            fresh=True,
            duration=int(expected_s(best or 600.0, size) * near) + 27,
            players=self._companions(rng, size),
            kills=int(raid.fewest[0] * (1.03 + 0.4 * rng.random())) + 12,
            conduct=RECORD,
            deathless=rng.random() < 0.3,
        )

    def _legal_lowman(self, rng: Random, instance_id: int) -> Run | None:
        fresh = rng.random() < 0.5

        def fits(version: Version, end: int) -> bool:
            team = self._team(version, fresh, end)
            return team is not None and team.players <= 3 and end not in _UNKNOWN_FRESH

        found = self._find(rng, instance_id, fits)
        if found is None:
            return None
        version, end = found
        team, raid = self._team(version, fresh, end), _raid_of(version)
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

    def _snipe(self, rng: Random, instance_id: int) -> Run | None:
        found = self._find(rng, instance_id, lambda _version, _end: True)
        if found is None:
            return None
        fewest = _raid_of(found[0]).fewest[1]
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

    def _wish_wall(self, rng: Random, instance_id: int) -> Run | None:
        def fits(version: Version, end: int) -> bool:
            return version.activity.id == _LAST_WISH and end not in _UNKNOWN_FRESH

        wished = [v for v in self._now if v.activity.id == _LAST_WISH]
        if not wished:
            return None
        found = wished[int(rng.random() * len(wished))], self.ended(instance_id)
        if rng.random() < 0.3:
            found = self._find(rng, instance_id, fits) or found
        team = self._team(*found[:1], True, found[1])
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

    def _ghost(self, rng: Random, instance_id: int) -> Run | None:
        found = self._find(rng, instance_id, lambda _version, _end: True)
        return found and self._compose(
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

    def _long_run(self, rng: Random, instance_id: int) -> Run | None:
        found = self._find(rng, instance_id, lambda _version, _end: True)
        if found is None:
            return None
        raid = _raid_of(found[0])
        duration = int(36_000 + 80_000 * rng.random())
        size = (6, 6, 4, 2)[int(rng.random() * 4)]
        team = self._team(found[0], True, found[1])
        run = self._compose(
            rng,
            instance_id,
            found,
            fresh=rng.random() < 0.7,
            duration=duration,
            players=self._companions(rng, size),
            kills=int(raid.usual[0] * (1.5 + 3 * rng.random())),
            conduct=IS_SATURATED,
            success=(team is None or size >= max(team.players, 4)) and rng.random() < 0.5,
        )
        if size > 2:  # who came when the counter was at its end already
            run.entries[-1].start, run.entries[-1].played = SATURATED, 3000
        return run

    def _idle_run(self, rng: Random, instance_id: int) -> Run | None:
        """Nobody does anything, or one does everything for five who watch."""
        found = self._find(rng, instance_id, lambda _version, _end: True)
        if found is None:
            return None
        raid, carried = _raid_of(found[0]), rng.random() < 0.4
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

    def _bug_week(self, rng: Random, instance_id: int) -> Run | None:
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
            return None
        version = fits[int(rng.random() * len(fits))]
        raid = _raid_of(version)
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

    # --- how it went ----------------------------------------------------------------------------

    def _team(self, version: Version, fresh: bool, when: float) -> Team | None:
        """The smallest that has done it; a run whose beginning nobody knows may be either."""
        known = fresh and when not in _UNKNOWN_FRESH
        return _raid_of(version).smallest(version.version_id, known, when)

    def _best_s(self, version: Version, when: float) -> float | None:
        if version.activity.id == 102:
            return FLOORS.get(version.version_id)
        return _raid_of(version).record_s(when - version.activity.release)

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
            character = 0 if self.account(number).characters == 1 else None
            self._join(
                *(rng, entries, number, duration - stay, stay, int(success)),
                *(deathless, False, character),
            )
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
        entries, raid = run.entries, _raid_of(version)
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


def _raid_of(version: Version) -> Raid:
    return RAIDS.get(version.activity.id, OTHER)


def _all(world: World) -> list[tuple[int, int]]:
    return list(enumerate(world.weapons))
