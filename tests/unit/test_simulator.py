"""The simulator over HTTP: what a crawler, a person and a test see of it."""

import asyncio
import gzip
import io
import json
import sqlite3
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from simulator.faults import GROWING_KINDS, KINDS, PERMANENT_KINDS, Faults, damaged
from simulator.publication import Schedule
from simulator.server import build_app
from simulator.service import Config
from simulator.world import CLAN_BASE, FIRST_ID, MEMBERSHIP_BASE, WorldConfig

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"
NOW = 1_795_000_000.0  # 2026-11-18
HEAD = FIRST_ID + 3000
KEY = {"X-API-Key": "anything"}
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no samples at {SAMPLES}")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Api:
    """A client of one simulator whose clock stands still unless a test moves it."""

    def __init__(self, client: TestClient[Any, Any], clock: Clock) -> None:
        self.client, self.clock = client, clock

    async def get(
        self, path: str, headers: dict[str, str] | None = None, **query: Any
    ) -> tuple[int, Any]:
        async with self.client.get(path, headers=KEY | (headers or {}), params=query) as answer:
            if "json" not in answer.content_type:
                return answer.status, await answer.text()
            return answer.status, await answer.json()

    async def code(self, path: str, **query: Any) -> int:
        return int((await self.get(path, **query))[1]["ErrorCode"])

    async def response(self, path: str, **query: Any) -> Any:
        status, body = await self.get(path, **query)
        assert (status, body["ErrorCode"]) == (200, 1), body
        return body["Response"]

    async def report(self, instance_id: int, **query: Any) -> tuple[int, Any]:
        return await self.get(report_path(instance_id), **query)

    async def lines(self, path: str, **query: Any) -> list[Any]:
        async with self.client.get(path, params=query) as answer:
            return [json.loads(line) for line in (await answer.text()).splitlines()]

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        async with self.client.post(path, json=body) as answer:
            return answer.status, await answer.json()


def report_path(instance_id: int | str) -> str:
    return f"/Platform/Destiny2/Stats/PostGameCarnageReport/{instance_id}/"


@asynccontextmanager
async def simulator(
    faults: Faults | None = None, *, head: int | None = HEAD, seed: int = 1, **more: Any
) -> AsyncIterator[Api]:
    world = WorldConfig(
        seed=seed,
        epoch=NOW - 100,
        players=more.pop("players", 500),
        historic_share=more.pop("historic_share", 0.25),
        unknown_share=more.pop("unknown_share", 0.0),
        cheaters=more.pop("cheaters", 0.0),
    )
    config = Config(
        world=world,
        schedule=Schedule(world.epoch, world.rate, world.first_id),
        faults=faults or Faults.calm(),
        head=head,
        **more,
    )
    clock = Clock()
    app = build_app(config, clock, Random(1))
    async with TestClient(TestServer(app)) as client:
        yield Api(client, clock)


def only(**changes: Any) -> Faults:
    """A calm day but for `changes`."""
    return msgspec.structs.replace(Faults.calm(), **changes)


# --- reports ------------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """Keys and types of a JSON value; of a list the shape of its richest item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [max((shape(item) for item in value), key=lambda s: len(str(s)), default=None)]
    return type(value).__name__


@needs_samples
@pytest.mark.asyncio
async def test_a_report_has_the_keys_and_types_of_a_real_one() -> None:
    """A parser that was only ever tested against an easier shape fails on the first real report."""
    name = "14720975287_root_of_nightmares_not_completed.json"
    real = json.loads((SAMPLES / "pgcr" / name).read_bytes())
    async with simulator() as api:
        for raid in await api.lines("/truth/raids"):
            _, body = await api.report(raid["instance_id"])
            ours = body["Response"]
            for newer in ("activityDifficultyTier", "selectedSkullHashes"):
                ours.pop(newer, None)
            for entry in ours["entries"]:
                entry["extended"].pop("scoreboardValues", None)
            if raid["player_count"] == 6 and len(ours["entries"]) == 6:
                break
        info = ours["entries"][0]["player"]["destinyUserInfo"]
        info.setdefault("bungieGlobalDisplayNameCode", 1)
        assert shape(body) == shape(real)
        assert list(ours) == list(real["Response"])


@pytest.mark.asyncio
async def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    """Tests compare what was stored with the truth of a simulator that was started again."""
    bodies = []
    for seed in (1, 1, 2):
        async with simulator(seed=seed) as api:
            ids = [raid["instance_id"] for raid in await api.lines("/truth/raids")]
            bodies.append([await api.report(i) for i in ids[:20]])
    assert bodies[0] == bodies[1] != bodies[2]


@pytest.mark.asyncio
async def test_sizes_are_those_of_real_reports() -> None:
    """Smaller bodies would make every benchmark of the platform a lie."""
    async with simulator() as api:
        sizes: dict[str, list[int]] = {"six": [], "contest": [], "other": []}
        raids = {raid["instance_id"]: raid for raid in await api.lines("/truth/raids")}
        for instance_id in [*raids, *range(FIRST_ID, FIRST_ID + 100)]:
            async with api.client.get(
                report_path(instance_id), headers=KEY | {"Accept-Encoding": "gzip"}
            ) as answer:
                assert answer.headers["Content-Encoding"] == "gzip"
                body = await answer.read()
            raid = raids.get(instance_id)
            if raid is None:
                sizes["other"].append(len(body))
            elif raid["duration"] >= 10_000 and raid["player_count"] < 14:
                sizes["contest"].append(len(body))
            elif len(json.loads(body)["Response"]["entries"]) == 6:
                sizes["six"].append(len(body))
    middle = {name: sorted(found)[len(found) // 2] for name, found in sizes.items()}
    assert 24_000 <= middle["six"] <= 26_000
    assert 50_000 <= middle["contest"] <= 70_000
    assert 3_000 <= middle["other"] <= 10_000


@pytest.mark.asyncio
async def test_truth_agrees_with_the_bodies() -> None:
    """The truth judges the platform, so it must itself be right about what was served."""
    async with simulator() as api:
        truth = await api.lines("/truth/raids")
        assert len(truth) > 100
        for raid in truth:
            response = (await api.report(raid["instance_id"]))[1]["Response"]
            entries = response["entries"]

            def stat(entry: Any, name: str) -> int:
                return int(entry["values"][name]["basic"]["value"])

            assert raid["date_started"] == response["period"]
            assert raid["duration"] == stat(entries[0], "activityDurationSeconds")
            assert raid["player_count"] == len(
                {e["player"]["destinyUserInfo"]["membershipId"] for e in entries}
            )
            finished = any(stat(e, "completed") == 1 for e in entries)
            assert raid["completed"] == (finished and stat(entries[0], "completionReason") == 0)
            characters = [c for p in raid["players"] for c in p["characters"]]
            for name in ("kills", "deaths", "assists"):
                assert sum(c[name] for c in characters) == sum(stat(e, name) for e in entries)
            assert sum(c["weapon_kills"] for c in characters) == sum(
                int(w["values"]["uniqueWeaponKills"]["basic"]["value"])
                for e in entries
                for w in e["extended"].get("weapons", [])
            )
            assert all(p["time_played_seconds"] <= raid["duration"] for p in raid["players"])
            assert stat(entries[0], "playerCount") in (-1, len(entries))


@pytest.mark.asyncio
async def test_the_world_has_everything_a_leaderboard_ranks() -> None:
    """An empty board in the demo looks like a bug of the platform."""
    async with simulator(head=FIRST_ID + 30_000, players=2000) as api:
        raids = await api.lines("/truth/raids")
        players = await api.lines("/truth/players")
    assert {r["activity"] for r in raids} == {*range(1, 17), 101, 102}
    assert {r["version"] for r in raids if r["activity"] > 100} == set(range(128, 142))
    assert {r["fresh"] for r in raids} == {True, False, None}
    assert any(r["flawless"] and r["player_count"] < 4 for r in raids)
    assert any(r["player_count"] > 12 for r in raids)
    assert any(len(p["characters"]) > 1 for r in raids for p in r["players"])
    assert any(p["membership_type"] is None for r in raids for p in r["players"])
    race = [r for r in raids if r["version"] == 134 and r["date_completed"] >= "2026-06-13T17"]
    assert any(len(set(r["skull_hashes"])) == 6 for r in race)
    assert max(p["clears"] for p in players) > 5
    assert any(p["sherpas"] for p in players)
    assert sum(p["clears"] for p in players) == sum(
        p["completed"] for r in raids for p in r["players"]
    )
    contest = [r for r in raids if r["activity"] == 14 and r["version"] == 32 and r["completed"]]
    assert contest
    assert all("2024-06-07T17" <= r["date_completed"] < "2024-06-09T17" for r in contest)


@pytest.mark.asyncio
async def test_player_totals_follow_the_definition_of_first_clears() -> None:
    """Sherpas are the totals that are easiest to get wrong; here they are counted the slow way."""
    async with simulator(players=40) as api:
        raids = [r for r in await api.lines("/truth/raids") if r["completed"]]
        players = {p["membership_id"]: p for p in await api.lines("/truth/players")}
    raids.sort(key=lambda r: (r["date_completed"], r["instance_id"]))
    seen: set[tuple[int, int]] = set()
    sherpas: dict[int, int] = {}
    for raid in raids:
        done = [p["membership_id"] for p in raid["players"] if p["completed"]]
        new = [who for who in done if (who, raid["activity"]) not in seen]
        for who in set(done) - set(new):
            sherpas[who] = sherpas.get(who, 0) + len(new)
        for who in new:
            seen.add((who, raid["activity"]))
            first = players[who]["activities"][str(raid["activity"])]["first_clear"]
            assert first == raid["instance_id"]
    assert {who: p["sherpas"] for who, p in players.items() if p["sherpas"]} == {
        who: n for who, n in sherpas.items() if n
    }


@pytest.mark.asyncio
async def test_unknown_raids_are_served_and_told_apart() -> None:
    """A raid newer than the definitions must be kept; the truth says how many there are."""
    async with simulator(unknown_share=0.5) as api:
        summary = (await api.get("/truth/summary"))[1]
        unknown = [r for r in await api.lines("/truth/raids") if r["activity"] is None]
        players = await api.lines("/truth/players")
    assert len(unknown) == summary["unknown_raids"] > 20
    assert all(r["version"] is None for r in unknown)
    assert all(p["activities"] for p in players)


# --- publication and fates ----------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_head_can_be_held_moved_and_freed() -> None:
    async with simulator(head=FIRST_ID + 10) as api:
        assert (await api.report(FIRST_ID + 10))[0] == 200
        assert (await api.report(FIRST_ID + 11))[1]["ErrorCode"] == 1653
        assert (await api.report(FIRST_ID - 1))[1]["ErrorCode"] == 1653
        await api.post("/sim/head", {"advance": 1})
        assert (await api.report(FIRST_ID + 11))[0] == 200
        assert (await api.post("/sim/head", {"head": FIRST_ID}))[0] == 400
        assert (await api.post("/sim/head", {"head": None}))[1]["head"] > FIRST_ID + 4000
        api.clock.now += 1000
        assert (await api.get("/sim"))[1]["head"] > FIRST_ID + 50_000


@pytest.mark.asyncio
async def test_late_ids_resolve_after_their_neighbours() -> None:
    async with simulator(only(late=1.0, late_s=40.0)) as api:
        assert (await api.get("/truth/summary"))[1]["late"] > 2900
        assert (await api.report(FIRST_ID))[1]["ErrorCode"] == 1653
        api.clock.now += 41
        assert (await api.report(FIRST_ID))[0] == 200
        assert (await api.get("/truth/summary"))[1]["late"] == 0


@pytest.mark.asyncio
async def test_holes_stay_holes() -> None:
    async with simulator(only(hole=0.1, hole_run=1.0, hole_run_ids=200)) as api:
        before = (await api.get("/truth/summary"))[1]
        answers = [(await api.report(i))[0] for i in range(FIRST_ID, HEAD + 1)]
        api.clock.now += 1e6
        after = (await api.get("/truth/summary"))[1]
    assert before == after
    assert answers.count(404) == before["holes"] > 300
    assert "0" * 15 in "".join("01"[status == 200] for status in answers)


@pytest.mark.asyncio
async def test_blocked_raids_are_released_or_never() -> None:
    async with simulator(only(blocked=1.0, blocked_s=60.0, blocked_forever=0.3)) as api:
        counts = (await api.get("/truth/summary"))[1]
        assert counts["raids"] == 0
        assert counts["blocked"] > counts["blocked_forever"] > 10
        api.clock.now += 61
        released = await api.lines("/truth/raids")
        assert len(released) == counts["blocked"]
        assert (await api.report(released[0]["instance_id"]))[0] == 200


@pytest.mark.asyncio
async def test_malformed_raids_heal_by_time_by_retry_or_never() -> None:
    """What heals must be in the truth, what never does must not: a test compares with it."""
    async with simulator(only(malformed=1.0, malformed_forever=0.2)) as api:
        whole = {r["instance_id"] for r in await api.lines("/truth/raids")}
        counts = (await api.get("/truth/summary"))[1]
        api.clock.now += 31
        assert len(await api.lines("/truth/raids")) == len(whole) + counts["malformed"]
        async with simulator() as calm:
            everything = {r["instance_id"]: r for r in await calm.lines("/truth/raids")}
            for instance_id in whole:
                first, again = (
                    await api.report(instance_id),
                    await api.report(instance_id, malformed_retry="1"),
                )
                assert first[0] == again[0] == 200
                assert first[1] != again[1]
                assert again == await calm.report(instance_id)
    assert counts["malformed_forever"] == len(everything) - len(whole) - counts["malformed"] > 10


@pytest.mark.asyncio
async def test_every_kind_of_malformed_report_is_valid_json_with_its_defect() -> None:
    async with simulator() as api:
        raid = (await api.lines("/truth/raids"))[0]["instance_id"]
        async with api.client.get(report_path(raid), headers=KEY) as answer:
            body = await answer.read()
    broken = {kind: json.loads(damaged(body, kind)) for kind in [*KINDS, *GROWING_KINDS]}
    assert all(found != json.loads(body) for found in broken.values())
    assert broken["no_response"]["Response"] is None
    assert len({json.dumps(found) for found in broken.values()}) == len(broken)
    assert set(PERMANENT_KINDS) < set(KINDS)


@pytest.mark.asyncio
async def test_growing_reports_are_whole_later() -> None:
    """Each lacks something of its kind until then, and the truth has it only from then on."""
    async with simulator(only(growing=1.0, growing_s=900.0)) as api, simulator() as calm:
        assert await api.lines("/truth/raids") == []
        assert (await api.get("/truth/summary"))[1]["growing"] > 100
        raids = [raid["instance_id"] for raid in await calm.lines("/truth/raids")]
        young = [(await api.report(raid))[1]["Response"] for raid in raids]
        api.clock.now += 901
        grown = [(await api.report(raid))[1]["Response"] for raid in raids]
        assert [raid["instance_id"] for raid in await api.lines("/truth/raids")] == raids
    changed = [(y, g) for y, g in zip(young, grown, strict=True) if y != g]
    shorter = [(y, g) for y, g in changed if len(y["entries"]) < len(g["entries"])]
    assert all(len(y["entries"]) == -(-len(g["entries"]) // 2) for y, g in shorter)
    bare = [y for y, _ in changed if "extended" not in y["entries"][0]]
    assert len(shorter) > len(bare) > len(raids) // 10


@pytest.mark.asyncio
async def test_a_changeling_is_another_raid_later_but_not_in_the_truth() -> None:
    async with simulator(only(changeling=1.0, growing_s=900.0)) as api:
        raids = await api.lines("/truth/raids")
        instance_id = raids[0]["instance_id"]
        first = (await api.report(instance_id))[1]["Response"]
        api.clock.now += 901
        later = (await api.report(instance_id))[1]["Response"]
        assert await api.lines("/truth/raids") == raids
    assert first["activityDetails"] != later["activityDetails"]
    assert first["entries"] == later["entries"]


# --- requests -----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_requests_without_credentials_are_refused() -> None:
    path = report_path(FIRST_ID)
    async with simulator(keys=frozenset({"good"})) as api:
        assert (await api.get(path, {"X-API-Key": "good"}))[0] == 200
        assert (await api.get(path, {"X-API-Key": "bad"}))[1]["ErrorCode"] == 2101
        assert (await api.get(path, {"X-API-Key": ""}))[1]["ErrorCode"] == 2102
        status, page = await api.get(path, {"X-API-Key": "good", "User-Agent": ""})
    assert (status, "Access denied" in page) == (403, True)


@pytest.mark.asyncio
async def test_an_address_above_its_limit_meets_sterner_answers() -> None:
    async with simulator(only(report_limit_per_s=10.0, report_burst=5.0)) as api:
        answers = [await api.report(FIRST_ID) for _ in range(37)]
        codes = [body["ErrorCode"] if isinstance(body, dict) else 403 for _, body in answers]
        assert codes == [1] * 5 + [51] * 10 + [31] * 10 + [35] * 10 + [403] * 2
        assert answers[6][1]["ThrottleSeconds"] == 10
        assert (await api.get("/Platform/Settings/"))[0] == 200  # a limit of its own
        api.clock.now += 0.2
        assert [(await api.report(FIRST_ID))[0] for _ in range(3)] == [200, 200, 429]
        assert (await api.get("/truth/requests"))[1] == {"127.0.0.1": 41}


@pytest.mark.asyncio
async def test_what_breaks_a_budget_is_counted_whether_it_is_refused_or_not() -> None:
    """A crawler's promise to keep its limits is checked against this count."""
    limits = only(report_limit_per_s=10.0, report_burst=5.0, enforce_limits=False)
    async with simulator(limits) as api:
        assert [(await api.report(FIRST_ID))[0] for _ in range(8)] == [200] * 8
        await api.get("/Platform/Settings/")
        mine = (await api.get("/truth/budgets"))[1]["127.0.0.1"]
        assert mine["report"] == {"requests": 8, "over_budget": 3, "refused": {}}
        assert mine["other"] == {"requests": 1, "over_budget": 0, "refused": {}}
        await api.post("/sim/faults", {"enforce_limits": True})
        assert await api.code(report_path(FIRST_ID)) == 51
        mine = (await api.get("/truth/budgets"))[1]["127.0.0.1"]
        assert mine["report"] == {"requests": 9, "over_budget": 4, "refused": {"51": 1}}
        assert (await api.get("/truth/requests"))[1] == {"127.0.0.1": 10}


@pytest.mark.asyncio
async def test_a_key_can_be_refused_while_others_go_on() -> None:
    path = report_path(FIRST_ID)
    async with simulator() as api:
        await api.post("/sim/keys", {"key": "bad", "code": 2101})
        await api.post("/sim/keys", {"key": "slow", "code": 54, "throttle_seconds": 7})
        assert (await api.get(path, {"X-API-Key": "bad"}))[0] == 401
        slow = await api.get(path, {"X-API-Key": "slow"})
        assert (slow[0], slow[1]["ErrorCode"], slow[1]["ThrottleSeconds"]) == (429, 54, 7)
        assert (await api.get(path, {"X-API-Key": "good"}))[0] == 200
        await api.post("/sim/keys", {"key": "bad"})
        assert (await api.get(path, {"X-API-Key": "bad"}))[0] == 200
        use = (await api.get("/truth/keys"))[1]
        told = (await api.get("/sim/keys"))[1]
    assert sorted((t["requests"], tuple(t["refused"])) for t in use.values()) == [
        (1, ()), (1, ("54",)), (2, ("2101",)),
    ]  # fmt: skip
    assert "slow" not in str(use) + str(told)  # somebody may try it with a real one


@pytest.mark.asyncio
async def test_an_address_can_be_shut_out() -> None:
    async with simulator() as api:
        await api.post("/sim/addresses", {"address": "127.0.0.1", "page": 403})
        status, page = await api.report(FIRST_ID)
        assert (status, "Access denied" in page) == (403, True)
        await api.post("/sim/addresses", {"address": "127.0.0.1", "code": 36})
        assert await api.code(report_path(FIRST_ID)) == 36
        await api.post("/sim/addresses", {"address": "127.0.0.1"})
        assert (await api.report(FIRST_ID))[0] == 200
        assert (await api.get("/sim/addresses"))[1] == {}


@pytest.mark.parametrize(
    ("accident", "status", "says"),
    [
        ("unexpected", 500, "DestinyUnexpectedError"),
        ("bad_gateway", 502, "502 Bad Gateway"),
        ("unavailable", 503, "503 Service Temporarily Unavailable"),
        ("edge_block", 403, "Access denied"),
        ("challenge", 200, "Just a moment..."),
        ("html", 200, "Bungie.net"),
    ],
)
@pytest.mark.asyncio
async def test_accidents_answer_in_place_of_the_report(
    accident: str, status: int, says: str
) -> None:
    async with simulator(only(**{accident: 1.0})) as api:
        found, body = await api.report(FIRST_ID)
    assert (found, says in str(body)) == (status, True)


@pytest.mark.asyncio
async def test_the_game_throttles_with_either_status() -> None:
    async with simulator(only(game_throttle=1.0)) as api:
        answers = [await api.report(FIRST_ID) for _ in range(20)]
    assert {(status, body["ErrorCode"]) for status, body in answers} == {(200, 1672), (503, 1672)}


@pytest.mark.parametrize("accident", ["reset", "truncated"])
@pytest.mark.asyncio
async def test_connections_break(accident: str) -> None:
    async with simulator(only(**{accident: 1.0})) as api:
        with pytest.raises(aiohttp.ClientError):
            await api.report(FIRST_ID)


@pytest.mark.asyncio
async def test_broken_json_comes_whole() -> None:
    async with (
        simulator(only(broken_json=1.0)) as api,
        api.client.get(report_path(FIRST_ID), headers=KEY) as answer,
    ):
        text = await answer.text()
    with pytest.raises(ValueError, match=r"."):
        json.loads(text)


@pytest.mark.asyncio
async def test_latency_and_stalls_delay_the_answer() -> None:
    async with simulator(only(stall=1.0, stall_s=3600.0)) as api:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await api.report(FIRST_ID)
        await api.post("/sim/faults", {"stall": 0.0, "latency_ms": 1.0})
        assert (await api.report(FIRST_ID))[0] == 200


@pytest.mark.asyncio
async def test_maintenance_closes_systems_by_hand_and_by_window() -> None:
    async with simulator() as api:
        await api.post("/sim/maintenance", {"on": True, "systems": ["Groups"]})
        assert await api.code(f"/Platform/GroupV2/{CLAN_BASE}/") == 5
        assert (await api.report(FIRST_ID))[0] == 200
        await api.post("/sim/maintenance", {"on": True})
        assert (await api.report(FIRST_ID))[1]["ErrorCode"] == 5
        systems = (await api.response("/Platform/Settings/"))["systems"]
        assert not any(system["enabled"] for system in systems.values())
        assert len(await api.response("/Platform/GlobalAlerts/")) == 1
        await api.post("/sim/maintenance", {"on": False})
        assert (await api.report(FIRST_ID))[0] == 200
        await api.post("/sim/faults", {"maintenance_every_s": 1000.0, "maintenance_s": 200.0})
        assert (await api.report(FIRST_ID))[1]["ErrorCode"] == 5
        api.clock.now += 150
        assert (await api.report(FIRST_ID))[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sim/head", {}),
        ("/sim/head", {"head": "soon"}),
        ("/sim/head", []),
        ("/sim/faults", {"holes": 1.0}),
        ("/sim/faults", {"hole": "often"}),
        ("/sim/keys", {}),
        ("/sim/keys", {"keys": "a"}),
        ("/sim/keys", {"keys": [1]}),
        ("/sim/maintenance", {"on": "yes"}),
        ("/sim/maintenance", {"on": True, "systems": ["Nope"]}),
        ("/sim/maintenance", {"on": True, "systems": 5}),
        ("/sim/maintenance", {"on": True, "systems": [[]]}),
        ("/sim/keys", {"code": 2101}),
        ("/sim/keys", {"key": "a", "code": 1}),
        ("/sim/addresses", {"address": "127.0.0.1", "page": 418}),
        ("/sim/addresses", {"address": "127.0.0.1", "pages": 403}),
        ("/sim/manifest", {"flaws": ["none"]}),
        ("/sim/manifest", {"flaws": "page"}),
        ("/sim/manifest", {"flaws": [1]}),
        ("/sim/manifest", {"revision": "2"}),
        ("/sim/manifest", {"hidden": None}),
        ("/sim/manifest", {"unsettled": 1}),
    ],
)
@pytest.mark.asyncio
async def test_controls_name_what_they_cannot_use(path: str, body: Any) -> None:
    async with simulator() as api:
        status, answer = await api.post(path, body)
    assert (status, list(answer)) == (400, ["error"])


@pytest.mark.asyncio
async def test_ids_that_are_no_ids_and_paths_that_are_no_paths() -> None:
    async with simulator() as api:
        assert await api.code(report_path("12x")) == 7
        assert (await api.get("/Platform/Destiny2/Nope/"))[0] == 404
        assert (await api.get("/Platform/Settings"))[0] == 404
        assert (await api.get("/truth/raids", to="x"))[0] == 400


@pytest.mark.asyncio
async def test_metrics_and_health() -> None:
    async with simulator() as api:
        await api.report(FIRST_ID)
        await api.report(HEAD + 1)
        _, text = await api.get("/metrics")
        assert (await api.get("/healthz"))[1]["status"] == "ok"
    assert "simulator_head_id 1.6790003001e+10" in text
    assert 'simulator_requests_total{endpoint="report",outcome="not_found"} 1.0' in text


# --- replay -------------------------------------------------------------------------------------


@needs_samples
@pytest.mark.asyncio
async def test_replayed_reports_are_served_byte_for_byte() -> None:
    """Real reports must arrive as they are, or storing them proves nothing."""
    folder = SAMPLES / "pgcr"
    async with simulator(replay_folder=folder) as api:
        for path in folder.glob("*.json"):
            text = path.read_text("utf-8").strip()
            response = text if not text.startswith('{"Response"') else text[12:]
            async with api.client.get(report_path(path.name.split("_")[0]), headers=KEY) as answer:
                served = (await answer.text())[12:]
            kept = json.JSONDecoder().raw_decode(response)[1]
            assert served[:kept] == response[:kept]
        real = {r["instance_id"]: r for r in await api.lines("/truth/raids", to=FIRST_ID - 1)}
        assert (await api.get("/truth/summary", to=FIRST_ID - 1))[1]["non_raids"] == 1
    # id: activity, version, duration, players, completed, fresh, flawless, kills, seconds
    expected = {
        10629996107: (10, 4, 2765, 6, True, None, False, 1658, 16327),
        11756061781: (11, 1, 4961, 3, True, True, True, 1534, 14875),
        14287236297: (12, 1, 3187, 1, True, True, True, 747, 3187),
        14720975287: (12, 1, 4835, 6, False, True, False, 1670, 28812),
        15820091265: (12, 1, 383, 4, True, False, False, 52, 1499),
        6870306963: (5, 1, 3187, 6, True, True, False, 501, 16452),
        7315438924: (8, 1, 77731, 10, True, None, False, 22476, 248235),
    }
    assert {
        i: (
            *(r[k] for k in ("activity", "version", "duration", "player_count", "completed")),
            r["fresh"],
            r["flawless"],
            sum(c["kills"] for p in r["players"] for c in p["characters"]),
            sum(p["time_played_seconds"] for p in r["players"]),
        )
        for i, r in real.items()
    } == expected


# --- the other endpoints ------------------------------------------------------------------------

Ask = Callable[[Api, str], Awaitable[Any]]
PLAYER = "/Platform/Destiny2/{type}/Profile/{id}"


async def identity(api: Api, number: int) -> tuple[int, int]:
    """Membership id and type of a member of the population."""
    member = MEMBERSHIP_BASE + 7 * number
    linked = await api.response(f"/Platform/Destiny2/-1/Profile/{member}/LinkedProfiles/")
    return member, linked["profiles"][0]["membershipType"]


async def numbers(api: Api, *, private: bool) -> list[int]:
    found = []
    for number in range(60):
        member, kind = await identity(api, number)
        profile = await api.response(
            f"/Platform/Destiny2/{kind}/Profile/{member}/", components="100,200"
        )
        if ("data" not in profile["characters"]) == private:
            found.append(number)
    return found


@pytest.mark.asyncio
async def test_histories_hold_exactly_the_raids_of_a_player() -> None:
    """Crawling histories must lead to the raids that the crawl by id finds."""
    async with simulator(players=60) as api:
        raids = await api.lines("/truth/raids")
        number = (await numbers(api, private=False))[0]
        member, kind = await identity(api, number)
        account = f"/Platform/Destiny2/{kind}/Account/{member}"
        found: list[int] = []
        for character in (await api.response(f"{account}/Stats/"))["characters"]:
            path = f"{account}/Character/{character['characterId']}/Stats/Activities/"
            page = 0
            while rows := (await api.response(path, mode=4, count=5, page=page)).get("activities"):
                periods = [row["period"] for row in rows]
                assert periods == sorted(periods, reverse=True)
                found += [int(row["activityDetails"]["instanceId"]) for row in rows]
                page += 1
            assert await api.code(path, count=251) == 8
            assert await api.code(path, count="many") == 18
    mine = {r["instance_id"] for r in raids if member in [p["membership_id"] for p in r["players"]]}
    assert set(found) == mine
    assert len(mine) > 5


@pytest.mark.asyncio
async def test_private_players_hide_history_and_characters() -> None:
    async with simulator(players=60) as api:
        number = (await numbers(api, private=True))[0]
        member, kind = await identity(api, number)
        stats = await api.response(f"/Platform/Destiny2/{kind}/Account/{member}/Stats/")
        character = stats["characters"][0]["characterId"]
        path = f"/Platform/Destiny2/{kind}/Account/{member}/Character/{character}/Stats/Activities/"
        assert (await api.get(path))[1]["ErrorCode"] == 1665
        path = f"/Platform/Destiny2/{kind}/Profile/{member}/Character/{character}/"
        assert (await api.response(path, components="200"))["character"] == {"privacy": 2}


@pytest.mark.asyncio
async def test_profiles_agree_with_the_reports() -> None:
    async with simulator(players=60) as api:
        number = (await numbers(api, private=False))[0]
        member, kind = await identity(api, number)
        profile = await api.response(
            f"/Platform/Destiny2/{kind}/Profile/{member}/", components="100,200"
        )
        raids = await api.lines("/truth/raids")
        seen = [
            (r, c)
            for r in raids
            for p in r["players"]
            if p["membership_id"] == member and p["membership_type"]
            for c in p["characters"]
        ]
        raid, mine = seen[-1]
        character = profile["characters"]["data"][str(mine["character_id"])]
        assert character["classHash"] == mine["class_hash"]
        assert character["emblemHash"] == mine["emblem_hash"]
        info = profile["profile"]["data"]["userInfo"]
        entries = (await api.report(raid["instance_id"]))[1]["Response"]["entries"]
        players = [e["player"]["destinyUserInfo"] for e in entries]
        assert info in players
        wrong = 1 if kind != 1 else 2
        assert await api.code(f"/Platform/Destiny2/{wrong}/Profile/{member}/") == 18
        assert await api.code(f"/Platform/Destiny2/{kind}/Profile/{member + 1}/") == 1601
        assert await api.code("/Platform/Destiny2/3/Profile/5/") == 217
        assert await api.code("/Platform/Destiny2/3/Profile/-5/") == 8
        path = f"/Platform/Destiny2/{kind}/Profile/{member}/Character/5/"
        assert await api.code(path) == 1620


@pytest.mark.asyncio
async def test_clans_page_their_members_and_members_know_their_clan() -> None:
    async with simulator(players=11_000) as api:
        codes, sizes = set(), []
        for group in range(CLAN_BASE, CLAN_BASE + 100):
            status, body = await api.get(f"/Platform/GroupV2/{group}/")
            codes.add(body["ErrorCode"])
            if status != 200:
                continue
            detail = body["Response"]["detail"]
            members: list[int] = []
            page, more = 1, True
            while more:
                result = await api.response(
                    f"/Platform/GroupV2/{group}/Members/", currentpage=page, memberType=0
                )
                ids = [int(m["destinyUserInfo"]["membershipId"]) for m in result["results"]]
                members += [member for member in ids if member]
                page, more = page + 1, result["hasMore"]
            assert len(members) == detail["memberCount"]
            sizes.append(len(members))
        assert codes == {1, 686}
        assert max(sizes) > 100
        assert await api.code(f"/Platform/GroupV2/{CLAN_BASE + 100}/") == 622
        assert await api.code(f"/Platform/GroupV2/{group}/Members/", currentpage="x") == 18
        found = await api.response(f"/Platform/GroupV2/User/-1/{members[0]}/0/1/")
        active = [g for g, gone in found["areAllMembershipsInactive"].items() if not gone]
        assert active == [str(detail["groupId"])]


@needs_samples
@pytest.mark.parametrize(
    ("sample", "path"),
    [
        ("groups_for_member/one_clan_assembled.json", "GroupV2/User/-1/{member}/0/1/"),
        ("group/clan_2022.json", "GroupV2/{group}/"),
        ("group_members/members_87.json", "GroupV2/{group}/Members/"),
        ("linked_profiles/cross_save_2022.json", "Destiny2/-1/Profile/{member}/LinkedProfiles/"),
    ],
)
@pytest.mark.asyncio
async def test_other_answers_have_the_fields_that_matter(sample: str, path: str) -> None:
    """Whoever reads the real answer must find the same fields at the same places here."""
    matters = {
        *("results", "member", "group", "destinyUserInfo", "membershipId", "membershipType"),
        *("areAllMembershipsInactive", "detail", "groupId", "groupType", "name", "motto"),
        *("memberCount", "clanInfo", "clanCallsign", "clanBannerData", "decalId", "gonfalonId"),
        *("hasMore", "query", "profiles", "profilesWithErrors", "errorCode", "infoCard"),
        *("bnetMembership", "isCrossSavePrimary", "dateLastPlayed", "displayName", "memberType"),
    }

    def places(value: Any, at: str = "") -> set[str]:
        found: set[str] = set()
        for key, item in value.items() if isinstance(value, dict) else []:
            found |= {f"{at}.{key}"} if key in matters else set()
            found |= places(item, f"{at}.{key}")
        for item in value if isinstance(value, list) else []:
            found |= places(item, f"{at}[]")
        return found

    real = json.loads((SAMPLES / sample).read_bytes())
    async with simulator(players=11_000) as api:
        ours: set[str] = set()
        for number in range(0, 3300, 110):
            member = MEMBERSHIP_BASE + 7 * number
            where = path.format(member=member, group=CLAN_BASE + number // 110)
            _, body = await api.get(f"/Platform/{where}")
            ours |= places(body.get("Response", {}))
    assert places(real.get("Response", real)) <= ours


@pytest.mark.asyncio
async def test_the_manifest_knows_every_weapon_and_raid() -> None:
    """Weapons that no definition names would show as unknown all over the platform."""
    async with simulator() as api:
        raids = await api.lines("/truth/raids")
        manifest = await api.response("/Platform/Destiny2/Manifest/")
        path = manifest["mobileWorldContentPaths"]["en"]
        async with api.client.get(path) as answer:
            archive = zipfile.ZipFile(io.BytesIO(await answer.read()))
        await api.post("/sim/manifest", {})
        changed = await api.response("/Platform/Destiny2/Manifest/")
        assert changed["version"] != manifest["version"]
        assert (await api.client.get(path)).status == 404
    database = sqlite3.connect(":memory:")
    database.deserialize(archive.read(archive.namelist()[0]))
    tables = {
        name: {
            key & 0xFFFFFFFF: json.loads(text)
            for key, text in database.execute(f"SELECT id, json FROM {name}")
        }
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    database.close()
    assert all(key == record["hash"] for table in tables.values() for key, record in table.items())
    used = {
        w[0] for r in raids for p in r["players"] for c in p["characters"] for w in c["weapons"]
    }
    assert used <= set(tables["DestinyInventoryItemDefinition"])
    assert {r["hash"] for r in raids} <= set(tables["DestinyActivityDefinition"])


async def _path(api: Api) -> str:
    manifest = await api.response("/Platform/Destiny2/Manifest/")
    path: str = manifest["mobileWorldContentPaths"]["en"]
    return path


@pytest.mark.asyncio
async def test_a_new_manifest_is_hidden_for_those_who_ask_too_early() -> None:
    """The edge remembers the 404 of an address, so only another address finds the file."""
    async with simulator() as api:
        await api.post("/sim/manifest", {"hidden": 2})
        path = await _path(api)
        asked = [path, path, f"{path}?retry=1", path, f"{path}?retry=1", f"{path}?retry=2", path]
        answers = [(await api.client.get(each)).status for each in asked]
    assert answers == [404, 404, 404, 404, 404, 200, 404]


@pytest.mark.asyncio
async def test_servers_disagree_about_the_manifest_and_it_may_go_back() -> None:
    async with simulator() as api:
        first = await _path(api)
        await api.post("/sim/manifest", {"unsettled": True})
        seen = [await _path(api) for _ in range(4)]
        assert len(set(seen)) == 2
        assert {(await api.client.get(path)).status for path in seen} == {200}
        await api.post("/sim/manifest", {"revision": 1})
        assert await _path(api) == first
        assert (await api.client.get(first)).status == 200
        assert (await api.client.get(next(p for p in seen if p != first))).status == 404


@pytest.mark.asyncio
async def test_bodies_come_plain_to_who_takes_no_gzip() -> None:
    async with simulator() as api:
        headers = KEY | {"Accept-Encoding": "identity"}
        async with api.client.get(report_path(FIRST_ID), headers=headers) as answer:
            plain = await answer.read()
            assert "Content-Encoding" not in answer.headers
    assert gzip.decompress(gzip.compress(plain)) == plain
    assert json.loads(plain)["ErrorCode"] == 1


# --- cheaters -----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_truth_tells_who_cheats_and_what_only_looks_like_it() -> None:
    """What the platform found out is compared with it, run by run and player by player."""
    async with simulator(cheaters=0.4, players=2000) as api:
        raids = await api.lines("/truth/raids")
        players = {p["membership_id"]: p["cheater"] for p in await api.lines("/truth/players")}
    kinds = {raid["conduct"] for raid in raids}
    assert {"lowman", "record", None} < kinds
    caught = {
        (p["membership_id"], raid["conduct"])
        for raid in raids
        for p in raid["players"]
        if p["cheats"]
    }
    assert caught
    assert all(players[who] == style for who, style in caught)
    assert None in players.values()


@pytest.mark.asyncio
async def test_the_truth_of_a_world_without_cheaters_accuses_nobody() -> None:
    async with simulator() as api:
        raids = await api.lines("/truth/raids")
        players = await api.lines("/truth/players")
    assert {raid["conduct"] for raid in raids} == {None}
    assert not any(p["cheats"] for raid in raids for p in raid["players"])
    assert {p["cheater"] for p in players} == {None}


@pytest.mark.asyncio
async def test_the_profile_of_a_cheater_is_that_of_a_fresh_account() -> None:
    """Levels weigh the account: one character, nothing bought, a low rank."""
    async with simulator(cheaters=0.4, players=2000) as api:
        players = await api.lines("/truth/players")
        fresh = [p["membership_id"] for p in players if p["cheater"] == "fresh_account"]
        for member in fresh:
            profile: dict[str, Any] = {}
            for kind in (1, 2, 3, 6):
                path = f"/Platform/Destiny2/{kind}/Profile/{member}/"
                _, body = await api.get(path, components="100,200")
                profile = body.get("Response") or profile
            data = profile["profile"].get("data")
            if data is None:
                continue  # private
            assert (len(data["characterIds"]), data["versionsOwned"]) == (1, 1)
            assert data["seasonHashes"] == []
            assert data["lifetimeHighestGuardianRank"] < 5
            if "data" in profile["characters"]:
                assert list(profile["characters"]["data"]) == data["characterIds"]
    assert fresh
