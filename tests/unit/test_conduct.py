"""Worlds with cheaters: every run is what the world says of it, and the report shows it.

The rules of the platform are not asked here: a world that only echoed them would prove nothing.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from statistics import median

import pytest

from simulator import definitions
from simulator.conduct import INNOCENTS, STYLES, JudgedWorld, make_world
from simulator.definitions import Activity, Definitions, Version
from simulator.manifest import is_heavy
from simulator.raids import BUG_WEEKS, FLOORS, RAIDS, expected_s
from simulator.reports import Reports
from simulator.truth import facts, fresh, seconds_together
from simulator.world import DAY, FIRST_ID, SATURATED, Entry, Run, World, WorldConfig

EPOCH = 1_795_000_000.0  # 2026-11-18
RUNS = 3000
DEFINITIONS = definitions.load(definitions.DEFAULT_FOLDER)


def world_of(**changes: float) -> JudgedWorld:
    values = {"seed": 7, "players": 3000, "raid_share": 1.0, "cheaters": 0.3} | changes
    world = make_world(DEFINITIONS, WorldConfig(epoch=EPOCH, **values))  # type: ignore[arg-type]  # numbers of the right kind
    assert isinstance(world, JudgedWorld)
    return world


@cache
def runs() -> tuple[JudgedWorld, dict[str, list[Run]]]:
    """A world, and its runs by what they are."""
    world = world_of()
    found: dict[str, list[Run]] = defaultdict(list)
    for instance_id in range(FIRST_ID, FIRST_ID + RUNS):
        run = world.run(instance_id)
        found[run.conduct].append(run)
    return world, found


def all_runs() -> list[Run]:
    return [run for found in runs()[1].values() for run in found]


# --- the world as a whole -----------------------------------------------------------------------


def test_a_world_without_cheaters_is_what_it_was() -> None:
    """Stacks keep their world over an upgrade: stored reports must stay true."""
    raid = Activity(11, "King's Fall", False, True, 1_661_533_200, 1_661_619_600, 1_661_878_800)
    race = Activity(102, "Pantheon", False, False, 1_781_024_400, None, None)
    known = Definitions(
        {11: raid, 102: race},
        {
            1374392663: Version(1374392663, raid, 1, "Standard", False, raid.release),
            1063970578: Version(1063970578, raid, 65, "Regicide", True, raid.release),
            747671496: Version(747671496, race, 134, "Race", False, 1_781_370_000),
        },
    )
    config = WorldConfig(seed=3, epoch=EPOCH, players=400, raid_share=0.5, unknown_share=0.01)
    world = make_world(known, config)
    assert type(world) is World
    reports, digest = Reports(world), hashlib.sha256()
    for instance_id in range(FIRST_ID, FIRST_ID + 600):
        if world.is_raid(instance_id):
            digest.update(reports.raid(world.run(instance_id)).encode())
    expected = "15ad38f40d9fdb378c02dbb5f11103ac51aca58d90a5c6b1db1fc5f734b6b845"
    assert digest.hexdigest() == expected


def test_a_run_depends_on_seed_and_id_alone() -> None:
    """A restarted simulator must serve the reports that were stored, and the same truth."""
    first, second = world_of(), world_of()
    ids = range(FIRST_ID, FIRST_ID + 200)
    there = [first.run(i) for i in ids]
    assert [second.run(i) for i in reversed(ids)] == there[::-1]
    assert [world_of(seed=8).run(i) for i in ids] != there


def test_a_share_of_the_raids_is_cheated_and_as_many_only_look_odd() -> None:
    world = world_of(cheaters=0.1)
    kinds = [world.run(i).conduct for i in range(FIRST_ID, FIRST_ID + 2000)]
    assert 0.07 < sum(kind in STYLES for kind in kinds) / len(kinds) < 0.12
    assert 0.06 < sum(kind in INNOCENTS for kind in kinds) / len(kinds) < 0.12


@pytest.mark.parametrize("players", [1, 6, 200])
def test_a_world_with_few_players_has_no_cheaters(players: int) -> None:
    """Half a population of cheaters is nobody's world; raids go on all the same."""
    world = world_of(players=players)
    assert world.cheaters == 0
    assert not any(world.style_of(number) for number in range(players))
    found = [world.run(i) for i in range(FIRST_ID, FIRST_ID + 100)]
    assert not any(run.cheating or run.conduct in STYLES for run in found)


def test_a_world_of_one_raid_and_no_weapon_rule_still_runs() -> None:
    """A raid that is newer than what is written about raids has no record and no smallest team."""
    raid = Activity(77, "Tomorrow", False, True, int(EPOCH) - 90 * DAY, None, None)
    known = Definitions({77: raid}, {5: Version(5, raid, 1, "Standard", False, raid.release)})
    world = make_world(known, WorldConfig(epoch=EPOCH, players=3000, raid_share=1.0, cheaters=0.4))
    kinds = {world.run(i).conduct for i in range(FIRST_ID, FIRST_ID + 600)}
    assert "kill_rate" in kinds
    assert not kinds & {"lowman", "speedrun", "record", "wish_wall"}


def test_every_style_and_every_kind_of_innocent_occurs() -> None:
    found = runs()[1]
    assert {kind for kind in found if kind} == {*STYLES, *INNOCENTS}
    assert all(len(found[kind]) >= 20 for kind in (*STYLES, *INNOCENTS))


def test_reports_add_up_whatever_the_run_is() -> None:
    """A sum that is off would tell a cheater by the pen of the simulator."""
    for run in all_runs():
        for entry in run.entries:
            shot = sum(kills for _, kills, _ in entry.weapons)
            assert entry.kills == shot + entry.supers + entry.grenades + entry.melees
            assert entry.precision == sum(exact for _, _, exact in entry.weapons) <= shot
            assert all(0 < kills >= exact >= 0 for _, kills, exact in entry.weapons)
            assert min(entry.supers, entry.grenades, entry.melees, entry.start) >= 0
            assert len({item for item, _, _ in entry.weapons}) == len(entry.weapons)
            assert entry.start + entry.played <= run.duration or entry.start == SATURATED
        assert run.duration > 0
        assert run.player_count in (-1, len(run.entries))


# --- cheaters -----------------------------------------------------------------------------------


def minutes(entry: Entry) -> float:
    return entry.played / 60


def team_kills(run: Run) -> int:
    return sum(entry.kills for entry in run.entries)


def age_s(run: Run) -> float:
    return run.period + run.duration - DEFINITIONS.versions[run.hash].activity.release


def best_s(run: Run) -> float:
    """The record of a full team on the day of the run."""
    version = DEFINITIONS.versions[run.hash]
    if version.activity.id == 102:
        return FLOORS[version.version_id]
    record = RAIDS[version.activity.id].record_s(age_s(run))
    assert record is not None
    return record


def is_fresh(run: Run) -> bool:
    return fresh(run, DEFINITIONS.versions[run.hash].activity.id) is True


def smallest(run: Run) -> int:
    version = DEFINITIONS.versions[run.hash]
    team = RAIDS[version.activity.id].smallest(
        version.version_id, is_fresh(run), run.period + run.duration
    )
    return team.players if team else 1


def heavy_kills(entry: Entry) -> int:
    heavy = {item for n, item in enumerate(runs()[0].weapons) if is_heavy(n, item)}
    return sum(kills for item, kills, _ in entry.weapons if item in heavy)


def shot(entry: Entry) -> int:
    return sum(kills for _, kills, _ in entry.weapons)


def is_cleared(run: Run) -> bool:
    return facts(run, DEFINITIONS.versions[run.hash])["completed"] is True


def cheats(run: Run) -> list[Entry]:
    return [entry for entry in run.entries if entry.membership_id in run.cheating]


SIGNS: dict[str, Callable[[Run, Entry], bool]] = {
    "lowman": lambda run, _: is_cleared(run) and len(run.entries) < smallest(run),
    "speedrun": lambda run, _: (
        is_fresh(run)
        and is_cleared(run)
        and run.duration - 25 < expected_s(best_s(run), len(run.entries))
        and len(run.entries) >= smallest(run)
    ),
    "infinite_heavy": lambda _, e: heavy_kills(e) > 0.8 * shot(e) and e.kills > 35 * minutes(e),
    "kill_rate": lambda run, e: (
        e.kills > 42 * minutes(e) and e.kills > 0.7 * team_kills(run) and len(e.weapons) < 5
    ),
    "infinite_super": lambda _, e: e.supers > 8 * minutes(e),
    "one_weapon": lambda _, e: max(kills for _, kills, _ in e.weapons) > 0.9 * shot(e),
    "carry": lambda run, e: (
        len(run.cheating) == 2 and len(run.entries) == 6 and e.kills > 0.35 * team_kills(run)
    ),
    "time_dilation": lambda run, _: (
        seconds_together(run.entries, run.duration) < 0.6 * run.duration
        and sum(entry.played for entry in run.entries) < 0.6 * run.duration
        and run.duration > 360
    ),
    "fresh_account": lambda _, e: (
        e.deaths == 0 and e.precision > 0.8 * shot(e) and 19 * minutes(e) < e.kills
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_cheated_run_shows_how(style: str) -> None:
    """The figures of the rules are worth what these runs are."""
    for run in runs()[1][style]:
        assert run.cheating
        assert all(SIGNS[style](run, entry) for entry in cheats(run)), run


def test_a_cheater_has_one_style_and_cheats_in_most_of_their_runs() -> None:
    """Levels of players are measured by them: who cheats once in a while would prove nothing."""
    world, found = runs()
    unfair: dict[int, int] = defaultdict(int)
    fair: dict[int, int] = defaultdict(int)
    for kind, listed in found.items():
        for run in listed:
            for entry in run.entries:
                style = world.style_of(entry.player)
                if entry.membership_id in run.cheating:
                    assert style == kind
                    unfair[entry.player] += 1
                elif style:
                    assert kind not in STYLES
                    fair[entry.player] += 1
    assert len(unfair) > 0.8 * world.cheaters
    assert 0.1 < sum(fair.values()) / sum(unfair.values()) < 0.5
    assert set(fair) <= {world.cheater(i) for i in range(world.cheaters)}


def test_nobody_else_cheats() -> None:
    world, found = runs()
    for run in found[""] + [run for kind in INNOCENTS for run in found[kind]]:
        assert run.cheating == ()
    assert sum(world.style_of(n) is not None for n in range(3000)) == world.cheaters > 0


def test_fresh_accounts_are_fresh_everywhere() -> None:
    """One character, no expansion, a low rank, and no run older than a month."""
    world, found = runs()
    mine = {n for n in range(3000) if world.style_of(n) == "fresh_account"}
    for number in mine:
        account = world.account(number)
        assert (account.characters, account.versions_owned, account.seasons) == (1, 1, 0)
        assert account.rank == account.lifetime_rank < 5
    seen = [(run, e) for run in all_runs() for e in run.entries if e.player in mine]
    assert len({run.conduct for run, _ in seen}) > 1
    assert all(run.period > EPOCH - 31 * DAY and e.character == 0 for run, e in seen)
    assert not mine & {e.player for run in found["lowman"] for e in run.entries}


# --- innocents ----------------------------------------------------------------------------------


def together_s(run: Run) -> int:
    by_player: dict[int, list[Entry]] = defaultdict(list)
    for entry in run.entries:
        by_player[entry.membership_id].append(entry)
    return sum(seconds_together(mine, run.duration) for mine in by_player.values())


FAIR_SIGNS: dict[str, Callable[[Run], bool]] = {
    "record": lambda run: (
        is_fresh(run)
        and is_cleared(run)
        and run.duration >= expected_s(best_s(run), len(run.entries))
        and team_kills(run) >= RAIDS[DEFINITIONS.versions[run.hash].activity.id].fewest[0]
    ),
    "legal_lowman": lambda run: is_cleared(run) and len(run.entries) == smallest(run) <= 3,
    "checkpoint_snipe": lambda run: (
        is_cleared(run) and not is_fresh(run) and run.duration < 300 and team_kills(run) < 200
    ),
    "wish_wall": lambda run: (
        DEFINITIONS.versions[run.hash].activity.id == 4
        and is_fresh(run)
        and team_kills(run) < 100
        and len(run.entries) >= smallest(run)
    ),
    "ghost_clear": lambda run: (
        run.duration == 59 and is_cleared(run) and team_kills(run) == 0 and not is_fresh(run)
    ),
    "saturated": lambda run: (
        run.duration > SATURATED and any(SATURATED in (e.start, e.played) for e in run.entries)
    ),
    "afk": lambda run: (
        len(run.entries) == 6
        and run.duration >= 3600
        and (
            max(e.kills for e in run.entries) > 0.9 * team_kills(run)
            if is_cleared(run)
            else team_kills(run) < 10
        )
    ),
    "bug_week": lambda run: any(
        run.period + run.duration > first and run.period < last for first, last in BUG_WEEKS
    ),
}


@pytest.mark.parametrize("kind", INNOCENTS)
def test_a_hard_innocent_is_what_it_claims(kind: str) -> None:
    for run in runs()[1][kind]:
        assert FAIR_SIGNS[kind](run), run


def test_records_come_near_the_curve_and_legal_teams_are_often_alone() -> None:
    """Innocents that are easy to tell would make every rule look good."""
    found = runs()[1]
    near = [r.duration / expected_s(best_s(r), len(r.entries)) for r in found["record"]]
    assert sum(ratio < 1.1 for ratio in near) > len(near) / 4
    sizes = [len(run.entries) for run in found["legal_lowman"]]
    assert sizes.count(1) > 10
    assert sizes.count(2) > 10


def test_honest_raids_are_near_real_ones() -> None:
    """A rule that flags them is wrong; one that is measured on easier ones proves nothing."""
    by_raid: dict[int, list[int]] = defaultdict(list)
    for run in runs()[1][""]:
        version = DEFINITIONS.versions[run.hash]
        assert together_s(run) >= 0.95 * min(run.duration, 30_000) or len(run.entries) >= 50
        if not is_cleared(run):
            continue
        activity, is_whole = version.activity.id, is_fresh(run)
        assert len({e.player for e in run.entries}) >= smallest(run)
        raid = RAIDS[activity]
        assert team_kills(run) >= raid.fewest[not is_whole]
        if is_whole and (record := raid.record_s(age_s(run))) is not None:
            assert run.duration > record
        if is_whole:
            by_raid[activity].append(team_kills(run))
    many = {activity: kills for activity, kills in by_raid.items() if len(kills) > 15}
    assert len(many) > 5
    for activity, kills in many.items():
        usual, _ = RAIDS[activity].usual
        assert 0.7 * usual < median(kills) < 2 * usual
