"""The world: what happened in every activity and who played, as pure functions of (config, id).

Nothing here knows about time passing, HTTP or JSON: an id has one content for ever. How it is
written down is in `reports.py`, when it can be read in `publication.py` and `faults.py`.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random

from msgspec import Struct

from simulator import chance
from simulator.definitions import Activity, Definitions, Version

# The newest id known when the definitions were compiled is 16 787 546 313; ours come after it.
FIRST_ID = 16_790_000_001
MEMBERSHIP_BASE, MEMBERSHIP_STEP = 4_611_686_018_600_000_003, 7
CHARACTER_BASE = 2_305_843_010_000_000_000
CLAN_BASE, CLAN_BLOCK = 5_000_000, 110  # players a clan is drawn from; some stay without one
CLASSES = ((671679327, "Hunter"), (2271682572, "Warlock"), (3655393761, "Titan"))
SATURATED = 32767  # start and played seconds are int16 in the game
DAY = 86_400

BEYOND_LIGHT = 1_605_027_600  # 2020-11-10T17:00:00Z
WITCH_QUEEN = 1_645_549_200  # 2022-02-22T17:00:00Z
HAUNTED = 1_653_411_600  # 2022-05-24T17:00:00Z
EDGE_OF_FATE = 1_752_598_800  # 2025-07-15T17:00:00Z: reports gain tiers and skulls
# When the activities that left the game could be played last; the definitions only say that.
_VAULTED = {101: 1_717_434_000}  # 2024-06-03; the raids left with Beyond Light
CUSTOM_RACE_VERSION = 134
FEATS = tuple(2_950_000_000 + 7_919 * n for n in range(12))  # skulls that the manifest knows
EMPTY_FEAT = 790421403
# A raid that came out after the definitions were compiled.
UNKNOWN_RAID = 4_001_000_001

_SYLLABLES = (
    *("ka", "zo", "mir", "tel", "van", "dru", "shi", "lek", "or", "una"),
    *("pra", "fex", "wil", "dor", "an", "qui", "sol", "bri", "ney", "tam"),
)
# What else goes on, which is most of it: mode, modes, activity hash, most players, seconds.
_OTHERS = (
    (3, (7, 18, 3), 743628305, 3, 900),  # strike
    (46, (7, 18, 46), 3879949581, 3, 1500),  # nightfall
    (6, (7, 6), 3497767639, 1, 1200),  # open world
    (2, (7, 2), 1658347443, 2, 700),  # story
    (82, (7, 82), 1077850348, 3, 2400),  # dungeon
    (87, (7, 87), 2829206727, 1, 400),  # lost sector
    (48, (5, 48), 3292922825, 4, 600),  # player against player
    (63, (64, 63), 3577607128, 4, 800),  # gambit
)


class Entry(Struct, gc=False):
    """One character in one report, in the report's own terms."""

    membership_id: int
    membership_type: int  # 0: unresolved
    player: int  # number in the population, -1 outside of it (replayed files)
    character: int  # 0..2
    character_id: int
    class_hash: int
    emblem_hash: int
    completed: int
    reason: int
    start: int
    played: int
    kills: int
    deaths: int
    assists: int
    score: int
    precision: int
    supers: int
    grenades: int
    melees: int
    weapons: list[tuple[int, int, int]]  # hash, kills, precision kills


class Run(Struct, gc=False):
    """One raid as it was played; `period` in Unix seconds, `duration` in seconds."""

    instance_id: int
    hash: int
    mode: int
    modes: tuple[int, ...]
    membership_type: int
    period: int
    duration: int
    phase: int | None  # startingPhaseIndex
    flag: bool | None  # activityWasStartedFromBeginning
    player_count: int  # as reported: entries, or -1
    team_score: int
    skulls: list[int]
    entries: list[Entry]
    conduct: str = ""  # what is unfair about it, or unusual and fair; names in `conduct.py`
    cheating: tuple[int, ...] = ()  # membership ids


@dataclass(frozen=True)
class Account:
    """What a profile tells of an account beside its name."""

    characters: int  # 1..3
    versions_owned: int  # a bit a release, from the base game on
    seasons: int  # passes bought
    rank: int  # guardian rank now
    lifetime_rank: int


@dataclass(frozen=True)
class Player:
    """A member of the population; `global_code` is None for those without a Bungie name."""

    number: int
    membership_id: int
    membership_type: int
    applicable: tuple[int, ...]
    display_name: str
    global_name: str
    global_code: int | None
    is_public: bool
    is_private: bool  # hides history and profile, never reports
    icon: str


@dataclass(frozen=True)
class Clan:
    group_id: int
    name: str
    callsign: str
    motto: str
    members: range  # player numbers
    is_gone: bool


@dataclass(frozen=True)
class WorldConfig:
    """Everything that the content of an id depends on besides the definitions."""

    seed: int = 1
    epoch: float = 0.0  # Unix seconds at which `first_id` ends
    rate: float = 50.0  # ids a second
    first_id: int = FIRST_ID
    players: int = 20_000
    raid_share: float = 0.05
    historic_share: float = 0.25  # of raids: old reports that are published late
    contest_share: float = 0.4  # of these: played inside a contest or race window
    odd_share: float = 1.0  # scales the rare shapes; 0 gives ordinary raids only
    unknown_share: float = 0.0  # of raids: a hash that no definition knows
    cheaters: float = 0.0  # of raids: somebody cheats; above 0 honest runs are near real ones too


class World:
    """Reads of the world; safe to call from several threads.

    Made by `conduct.make_world`: this one has no cheaters, whatever `config.cheaters` says.
    """

    def __init__(self, definitions: Definitions, config: WorldConfig) -> None:
        self.definitions, self.config = definitions, config
        self._raid_limit = int(config.raid_share * float(1 << 64))
        self._kind = chance.key(config.seed, "kind")
        self._body = chance.key(config.seed, "body")
        self._people = chance.key(config.seed, "people")
        self.player = lru_cache(maxsize=32_768)(self._player)
        now = [(v, w) for v in definitions.versions.values() if (w := self._weight_now(v))]
        old = [(v, w) for v in definitions.versions.values() if (w := self._weight_old(v))]
        self._now, self._now_sums = [v for v, _ in now], list(accumulate(w for _, w in now))
        self._old, self._old_sums = [v for v, _ in old], list(accumulate(w for _, w in old))
        self._races = [
            v
            for v in definitions.versions.values()
            if (v.is_world_first or v.version_id == CUSTOM_RACE_VERSION)
            and v.release + 8 * DAY < config.epoch
        ]
        self.weapons = tuple(
            3_000_000_000 + 104_729 * n + chance.mix(n) % 100_000 for n in range(160)
        )
        # Half of all kills come from a dozen weapons, as in the game.
        self._weapon_sums = list(accumulate(1.0 / (n + 4) for n in range(len(self.weapons))))

    # --- ids ------------------------------------------------------------------------------------

    def nominal(self, instance_id: int) -> float:
        """Unix seconds at which the id's activity ends, historic ones apart."""
        return self.config.epoch + (instance_id - self.config.first_id) / self.config.rate

    def is_raid(self, instance_id: int) -> bool:
        return chance.mix(self._kind ^ instance_id) < self._raid_limit

    def luck(self, instance_id: int) -> int:
        """64 bits that belong to the id's content."""
        return chance.mix(self._body ^ instance_id)

    def ended(self, instance_id: int) -> int:
        """Unix seconds at which a non-historic activity ended.

        That is 2 to 20 s before its nominal time: reports come a little after the end.
        """
        return int(self.nominal(instance_id)) - 2 - self.luck(instance_id) % 19

    # --- people ---------------------------------------------------------------------------------

    def _player(self, number: int) -> Player:
        bits = chance.mix(self._people ^ number)
        membership_type = (3, 3, 3, 3, 3, 3, 2, 2, 2, 1, 1, 6)[bits % 12]
        name = "".join(_SYLLABLES[(bits >> shift) % 20] for shift in (4, 9, 14)).capitalize()
        if bits >> 20 & 127 == 0:
            name = f"{name}\u30c4"  # names outside of ASCII
        elif bits >> 20 & 127 == 1:
            name = f'{name} "{number}" \\o/'  # names that need escaping
        cross_save = (bits >> 26) & 3 == 0
        nameless = (bits >> 28) % 200 == 0
        return Player(
            number=number,
            membership_id=MEMBERSHIP_BASE + number * MEMBERSHIP_STEP,
            membership_type=membership_type,
            applicable=(1, 2, 3, 6) if cross_save else (membership_type,),
            display_name=name,
            global_name="" if nameless else name,
            global_code=None if nameless else (bits >> 36) % 9999 + 1,
            is_public=(bits >> 50) % 20 != 0,
            is_private=(bits >> 54) % 16 == 0,
            icon=f"/common/destiny2_content/icons/{chance.mix(bits):016x}{bits:016x}.jpg",
        )

    def player_of(self, membership_id: int) -> Player | None:
        number, rest = divmod(membership_id - MEMBERSHIP_BASE, MEMBERSHIP_STEP)
        return self.player(number) if rest == 0 and 0 <= number < self.config.players else None

    def account(self, number: int) -> Account:
        return Account(
            characters=3,
            versions_owned=(1 << 13) - 1 if number % 3 else 255,
            seasons=2,
            rank=number % 11 + 1,
            lifetime_rank=11,
        )

    def style_of(self, _number: int) -> str | None:
        """How a player of the population cheats; None for the honest."""
        return None

    def character_id(self, player: int, character: int) -> int:
        return CHARACTER_BASE + player * 8 + character

    def class_of(self, player: int, character: int) -> tuple[int, str]:
        return CLASSES[(player + character) % 3]

    def emblem_of(self, player: int, character: int) -> int:
        return 1_000_000_000 + chance.mix(self._people ^ (player * 8 + character)) % 3_000_000_000

    @property
    def clans(self) -> int:
        return -(-self.config.players // CLAN_BLOCK)

    def clan(self, number: int) -> Clan | None:
        if not 0 <= number < self.clans:
            return None
        bits = chance.mix(self._people ^ (number << 40))
        first = number * CLAN_BLOCK
        size = min(10 + bits % 94, self.config.players - first)  # up to 103, above the page of 100
        name = " ".join(_SYLLABLES[(bits >> s) % 20].capitalize() for s in (8, 13))
        return Clan(
            group_id=CLAN_BASE + number,
            name=("\u3164 " + name, f"{name} &amp; Friends", name, name)[bits >> 18 & 3],
            callsign=name[:3].upper(),
            motto=f"  {name} never wipes &#33;",
            members=range(first, first + size),
            is_gone=(bits >> 30) % 20 == 19,
        )

    def clan_of(self, player: int) -> Clan | None:
        clan = self.clan(player // CLAN_BLOCK)
        return clan if clan is not None and player in clan.members and not clan.is_gone else None

    # --- which raid, and when -------------------------------------------------------------------

    def _weight_now(self, version: Version) -> float:
        """Share among what is played today: newer raids more, guided games and contest hardly."""
        if version.activity.is_sunset or version.release + DAY > self.config.epoch:
            return 0.0
        if version.is_world_first and version.version_id != 1:
            return 0.0  # contest versions close with their window
        if not version.activity.is_raid:
            return 1.0
        share = {1: 10.0, 2: 0.1}.get(version.version_id, 2.0)
        return share * (1 + version.activity.id / 8)

    def _weight_old(self, version: Version) -> float:
        if version.release + DAY > self.config.epoch:
            return 0.0
        same = sum(
            (v.activity.id, v.version_id) == (version.activity.id, version.version_id)
            for v in self.definitions.versions.values()
        )
        return {1: 5.0, 2: 0.3}.get(version.version_id, 2.0) / same

    def closes(self, activity: Activity) -> float:
        """Unix seconds after which the activity could not be played any more."""
        if not activity.is_sunset:
            return self.config.epoch
        return float(_VAULTED.get(activity.id, BEYOND_LIGHT))

    def run(self, instance_id: int) -> Run:
        """The raid of an id for which `is_raid` holds; costs about 0.1 ms."""
        rng = Random(self.luck(instance_id))  # noqa: S311  repeatable, not secret
        return self._play(rng, instance_id, *self._occasion(rng, instance_id))

    def _occasion(self, rng: Random, instance_id: int) -> tuple[Version, int, int | None]:
        """What is played, when it ends, and how long it is when it is a contest."""
        uniform = rng.random
        if not self._old or uniform() >= self.config.historic_share:
            version = self._now[bisect_right(self._now_sums, uniform() * self._now_sums[-1])]
            return version, self.ended(instance_id), None
        if self._races and uniform() < self.config.contest_share:
            version = self._races[int(uniform() * len(self._races))]
            window = 2 * DAY
            if version.version_id != CUSTOM_RACE_VERSION:
                window = (version.activity.contest_end or version.release + DAY) - version.release
            duration = int(10_000 + uniform() * 40_000)
            period = version.release + int(60 + uniform() * (window - duration - 120))
            return version, period + duration, duration
        version = self._old[bisect_right(self._old_sums, uniform() * self._old_sums[-1])]
        closes = self.closes(version.activity)
        if version.is_world_first and version.version_id != 1:
            closes = float(version.activity.contest_end or closes)
        span = max(closes - version.release - 12_000, 1.0)
        return version, version.release + 11_000 + int(uniform() * span), None

    def other(self, variant: int) -> Run:
        """An activity that nobody tracks; ids share a few dozen of them."""
        rng = Random(self._body ^ variant)  # noqa: S311
        mode, modes, activity_hash, most, seconds = _OTHERS[variant % len(_OTHERS)]
        duration = int(seconds * (0.6 + rng.random()))
        entries: list[Entry] = []
        for number in self.lineup(rng, min(1 + int(rng.random() * most), self.config.players)):
            self._join(rng, entries, number, 0, duration, 1, False, False)
            del entries[-1].weapons[4:]
        lost = mode == 82 and rng.random() < 0.3  # reports of accounts that nobody could resolve
        if lost:
            entries[0].membership_type = entries[0].class_hash = entries[0].emblem_hash = 0
        return Run(
            instance_id=0,
            hash=activity_hash,
            mode=mode,
            modes=modes,
            membership_type=self.player(entries[0].player).membership_type,
            period=0,
            duration=duration,
            phase=0,
            flag=False,
            player_count=-1 if lost else len(entries),
            team_score=0,
            skulls=[],
            entries=entries,
        )

    # --- how it went ----------------------------------------------------------------------------

    def lineup(self, rng: Random, size: int) -> list[int]:
        """Players of one run: a standing team whose share falls with its number, and guests."""
        teams = max(self.config.players // 4, 1)
        first = int(teams * rng.random() ** 2) * 4
        chosen: list[int] = []
        while len(chosen) < size:
            guest = rng.random() < 0.15 or len(chosen) >= 6
            place = int(rng.random() * self.config.players) if guest else first + len(chosen)
            while (place := place % self.config.players) in chosen:
                place += 1
            chosen.append(place)
        return chosen

    def _play(
        self, rng: Random, instance_id: int, version: Version, end: int, contest: int | None
    ) -> Run:
        uniform = rng.random
        odd = uniform() / self.config.odd_share if self.config.odd_share else 1.0
        kind = uniform()
        fresh = contest is not None or kind < 0.72
        success = uniform() < (0.6 if contest else 0.85)
        size = min(
            int(uniform() * 3) + 1 if 0.6 < kind < 0.63 and not contest else 6, self.config.players
        )
        crowd = 0
        if odd < 0.0005:
            crowd = 50  # a checkpoint bot: everybody joins for a minute
        elif odd < 0.004:
            crowd = 14
        size = min(max(size, crowd), self.config.players)
        if contest is not None:
            duration = contest
        elif crowd == 50:
            duration = 108_000
        elif fresh:
            duration = int(1500 + 3600 * uniform() ** 2 + (7 - min(size, 6)) * 200)
        else:
            duration = int(240 + 1500 * uniform())
        ghost_clear = 0.004 <= odd < 0.005  # the checkpoint bug: done in 59 s without a kill
        if ghost_clear:
            duration, success, fresh = 59, True, False
        deathless = ghost_clear or uniform() < (0.04 if fresh else 0.25)
        period = end - duration
        entries: list[Entry] = []
        for place, number in enumerate(self.lineup(rng, size)):
            start = 0 if place < 6 and not crowd else int(uniform() * duration * 0.9)
            played = (
                duration - start if not crowd else min(60 + int(uniform() * 60), duration - start)
            )
            done = int(success and (not crowd or start + played > duration * 0.8))
            self._join(rng, entries, number, start, played, done, deathless, contest is not None)
        self._changes(rng, entries, duration, success, deathless, contest is not None, odd)
        if success and not any(e.completed for e in entries):
            entries[0].completed = 1
        for entry in entries:
            entry.reason = 0 if success else 255
            if ghost_clear:
                entry.kills = entry.assists = entry.precision = 0
                entry.supers = entry.grenades = entry.melees = 0
                entry.weapons = []
        if 0.005 <= odd < 0.010:  # completed, yet failed: one entry says so, or all
            entries[-1].completed = 1
            for entry in entries[-1:] if odd < 0.0075 else entries:
                entry.reason = 2
        phase, flag = self._start_marks(rng, version, period, fresh, deathless)
        skulls: list[int] = []
        if version.version_id == CUSTOM_RACE_VERSION and contest is not None:
            skulls = [*rng.sample(FEATS, 5), EMPTY_FEAT]
        elif period >= EDGE_OF_FATE and uniform() < 0.3:
            skulls = [*rng.sample(FEATS, 1 + int(uniform() * 4)), 0]
        known = uniform() >= self.config.unknown_share
        unmarked = 0.010 <= odd < 0.015 and known  # a raid by its hash only
        return Run(
            instance_id=instance_id,
            hash=version.hash if known else UNKNOWN_RAID,
            mode=0 if unmarked else 4,
            modes=() if unmarked else (7, 4),
            membership_type=self.player(entries[0].player).membership_type,
            period=period,
            duration=duration,
            phase=phase,
            flag=flag,
            player_count=-1 if 0.015 <= odd < 0.025 else len(entries),
            team_score=0 if version.activity.is_raid else int(50_000 + uniform() * 400_000),
            skulls=skulls,
            entries=entries,
        )

    def _start_marks(
        self, rng: Random, version: Version, period: int, fresh: bool, deathless: bool
    ) -> tuple[int, bool]:
        """Index of the first phase and flag of a beginning, as the era reported them."""
        if period >= HAUNTED:
            return 0, fresh
        if period >= WITCH_QUEEN:
            return 0, fresh and deathless  # a wipe made the flag false
        if period >= BEYOND_LIGHT:
            return 0, False
        if not fresh:
            return 3 + int(rng.random() * 2), False
        beginnings = {1: (0, 2), 5: (0, 1)}.get(version.activity.id, (0, 0))
        return beginnings[int(rng.random() * 2)], False

    def _changes(
        self,
        rng: Random,
        entries: list[Entry],
        duration: int,
        success: bool,
        deathless: bool,
        contest: bool,
        odd: float,
    ) -> None:
        """Leavers, substitutes, character swaps and re-joins; contest days have many of them."""
        changes = 5 if contest else int(rng.random() < 0.15)
        for _ in range(changes if len(entries) <= 6 and duration > 100 else 0):
            leaver = entries[int(rng.random() * len(entries))]
            if leaver.start or leaver.played < 100 or len(entries) == 1:
                continue
            cut = int(leaver.played * (0.2 + 0.6 * rng.random()))
            self._leave(leaver, cut, contest)
            number = leaver.player
            character = (leaver.character + 1) % 3
            is_full = len({e.player for e in entries}) >= self.config.players
            if rng.random() < 0.6 and not is_full:  # another player takes the place
                number, character = self._substitute(rng, entries), 0
            start = min(cut + 20, duration - 1)
            self._join(
                rng,
                entries,
                number,
                start,
                duration - start,
                int(success),
                deathless,
                contest,
                character,
            )
        if 0.025 <= odd < 0.035 and len(entries) > 1 and duration > 100:  # the same character twice
            cut = duration // 3
            first = entries[-1]
            if first.start == 0:
                self._leave(first, cut, contest)
                self._join(
                    rng,
                    entries,
                    first.player,
                    2 * cut,
                    duration - 2 * cut,
                    int(success),
                    deathless,
                    contest,
                    first.character,
                )
        if 0.035 <= odd < 0.045:  # nobody could resolve this account when the report was written
            lost = entries[-1]
            if any(e.player == lost.player for e in entries[:-1]):
                return
            lost.membership_type = lost.class_hash = lost.emblem_hash = 0

    def _substitute(self, rng: Random, entries: list[Entry]) -> int:
        """A player who is not there yet; somebody has to be left."""
        number = int(rng.random() * self.config.players)
        while any(e.player == number for e in entries):
            number = (number + 1) % self.config.players
        return number

    def _leave(self, entry: Entry, cut: int, contest: bool) -> None:
        entry.played, entry.completed = (min(cut, SATURATED) if contest else cut), 0

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
        uniform = rng.random
        if character is None:
            character = 0 if uniform() < 0.7 else 1 + int(uniform() * 2)
        player = self.player(number)
        weapons: list[tuple[int, int, int]] = []
        kills = precision = 0
        if played > 30:
            count = int(12 + uniform() * 5) if contest else int(7 + uniform() * 3.5)
            scale = min(played, 20_000) / (25 * count)
            seen: set[int] = set()
            for _ in range(count):
                place = bisect_right(self._weapon_sums, uniform() * self._weapon_sums[-1])
                while place in seen:
                    place = (place + 1) % len(self.weapons)
                seen.add(place)
                mine = 1 + int(2 * scale * uniform() ** 2)
                exact = int(mine * uniform())
                weapons.append((self.weapons[place], mine, exact))
                kills, precision = kills + mine, precision + exact
        supers, grenades = int(kills * 0.1 * uniform()), int(kills * 0.2 * uniform())
        melees = int(kills * 0.2 * uniform())
        entries.append(
            Entry(
                membership_id=player.membership_id,
                membership_type=player.membership_type,
                player=number,
                character=character,
                character_id=self.character_id(number, character),
                class_hash=self.class_of(number, character)[0],
                emblem_hash=self.emblem_of(number, character),
                completed=completed,
                reason=0,
                start=min(start, SATURATED),
                played=min(played, SATURATED),
                kills=kills + supers + grenades + melees,
                deaths=0 if deathless else int(uniform() ** 2 * (3 + played / 300)),
                assists=int(kills * 0.4 * uniform()),
                score=0,
                precision=precision,
                supers=supers,
                grenades=grenades,
                melees=melees,
                weapons=weapons,
            )
        )
