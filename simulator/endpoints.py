"""The platform's other endpoints: profiles, histories, clans, settings, manifest.

Pure lookups in the world: path and query in, `Answer` out. Reports have their own fast path in
`server.py`, because there are a thousand of them for each request here.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from simulator import answers
from simulator.answers import Answer
from simulator.manifest import Manifest
from simulator.reports import count, ratio, seconds, timestamp, user_info
from simulator.truth import Standing, Truth, seconds_together
from simulator.world import CLAN_BASE, Clan, Entry, Player, Run, World

SYSTEMS = ("Destiny2", "Activities", "D2Profiles", "D2Characters", "Groups", "Clans")
_PLATFORMS = {1: "TigerXbox", 2: "TigerPsn", 3: "TigerSteam", 5: "TigerStadia", 6: "TigerEgs"}
_PAGE = 100  # members
_MEMBER = r"(?P<type>-?\d+)/(?:Profile|Account)/(?P<member>-?\d+)"

Query = Mapping[str, str]


class Histories:
    """Which raids a player was in; grows with the head as somebody asks.

    Reading a raid costs 0.12 ms, so that the first question of a world with 100 000 published ids
    takes about a second: ask in a thread.
    """

    def __init__(self, world: World, truth: Truth) -> None:
        self._world, self._truth = world, truth
        self._next = world.config.first_id
        self._raids: dict[int, list[int]] = defaultdict(list)
        self._lock = Lock()

    def of(self, player: int, head: int) -> list[int]:
        """Ids of the player's raids that can be read by now."""
        with self._lock:
            for instance_id in range(self._next, head + 1):
                if self._world.is_raid(instance_id):
                    for number in {entry.player for entry in self._world.run(instance_id).entries}:
                        self._raids[number].append(instance_id)
            self._next = max(self._next, head + 1)
        ready = Standing.READY
        return [i for i in self._raids.get(player, ()) if self._truth.standing(i) is ready]


class Platform:
    """Answers every request below /Platform but those for reports."""

    def __init__(
        self,
        world: World,
        truth: Truth,
        manifest: Manifest,
        head: Callable[[], int],
        disabled: Callable[[], frozenset[str]],
    ) -> None:
        self._world, self._manifest, self._head = world, manifest, head
        self._disabled = disabled
        self._histories = Histories(world, truth)
        self._routes: list[tuple[re.Pattern[str], tuple[str, ...], Callable[..., Answer]]] = [
            (re.compile(pattern), systems, handler)
            for pattern, systems, handler in (
                (r"Settings", (), self.settings),
                (r"GlobalAlerts", (), self.alerts),
                (r"Destiny2/Manifest", ("Destiny2",), self.manifest),
                (rf"Destiny2/{_MEMBER}", ("Destiny2", "D2Profiles"), self.profile),
                (
                    rf"Destiny2/{_MEMBER}/Character/(?P<character>\d+)",
                    ("Destiny2", "D2Characters"),
                    self.character,
                ),
                (
                    rf"Destiny2/{_MEMBER}/LinkedProfiles",
                    ("Destiny2", "D2Profiles"),
                    self.linked_profiles,
                ),
                (rf"Destiny2/{_MEMBER}/Stats", ("Destiny2", "Activities"), self.account_stats),
                (
                    rf"Destiny2/{_MEMBER}/Character/(?P<character>\d+)/Stats/Activities",
                    ("Destiny2", "Activities"),
                    self.history,
                ),
                (
                    r"GroupV2/User/(?P<type>-?\d+)/(?P<member>-?\d+)/\d+/\d+",
                    ("Groups", "Clans"),
                    self.groups_of,
                ),
                (r"GroupV2/(?P<group>\d+)", ("Groups", "Clans"), self.group),
                (r"GroupV2/(?P<group>\d+)/Members", ("Groups", "Clans"), self.members),
            )
        ]

    def answer(self, path: str, query: Query) -> Answer:
        """`path` without the leading /Platform/ and the closing slash."""
        for pattern, systems, handler in self._routes:
            if match := pattern.fullmatch(path):
                if self._disabled().intersection(systems):
                    return answers.error(5)
                return handler(query, **match.groupdict())
        return answers.page(404)

    # --- common ---------------------------------------------------------------------------------

    def settings(self, _query: Query) -> Answer:
        disabled = self._disabled()
        systems = {name: {"enabled": name not in disabled, "parameters": {}} for name in SYSTEMS}
        return answers.success(
            {
                "environment": "live",
                "systems": systems,
                "ignoreReasons": [],
                "forumCategories": [],
                "groupAvatars": [],
                "destinyMembershipTypes": [
                    {"identifier": str(number), "displayName": name, "isDefault": False}
                    for number, name in _PLATFORMS.items()
                ],
            }
        )

    def alerts(self, _query: Query) -> Answer:
        alert = {
            "AlertKey": "D2-Maintenance",
            "AlertHtml": "Destiny 2 is offline for maintenance.",
            "AlertTimestamp": timestamp(self._world.nominal(self._head())),
            "AlertLevel": 2,
            "AlertType": 0,
        }
        return answers.success([alert] if self._disabled() else [])

    def manifest(self, _query: Query) -> Answer:
        return answers.success(self._manifest.response())

    # --- players --------------------------------------------------------------------------------

    def _find(self, membership_type: str, member: str) -> Player | Answer:
        membership_id = int(member)
        if not 0 < membership_id < 1 << 63:
            return answers.error(8)
        if membership_id < 1 << 62:
            return answers.error(217)  # no membership of the game
        player = self._world.player_of(membership_id)
        if player is None:
            return answers.error(1601)
        if int(membership_type) not in (-1, player.membership_type):
            platform = _PLATFORMS[player.membership_type]
            hint = {"membershipInfo.membershipType": platform} if player.number % 2 else {}
            return answers.error(18, data=hint)
        return player

    def profile(self, query: Query, type: str, member: str) -> Answer:  # noqa: A002  path's word
        player = self._find(type, member)
        if isinstance(player, Answer):
            return player
        if type == "-1":
            return answers.error(18)
        components = query.get("components", "").split(",")
        response: dict[str, Any] = {}
        characters = self._characters(player)
        if "100" in components:
            response["profile"] = {"privacy": 2}
            if not player.is_private or player.number % 2:
                response["profile"] = {"data": self._profile(player, characters), "privacy": 1}
        if "200" in components:
            hidden = {"privacy": 2}
            response["characters"] = (
                hidden if player.is_private else {"data": characters, "privacy": 1}
            )
        return answers.success(response)

    def _profile(self, player: Player, characters: dict[str, Any]) -> dict[str, Any]:
        account = self._world.account(player.number)
        return {
            "userInfo": user_info(player),
            "dateLastPlayed": max(c["dateLastPlayed"] for c in characters.values()),
            "versionsOwned": account.versions_owned,
            "characterIds": list(characters),
            "seasonHashes": [3612906877, 2007338097][: account.seasons],
            "currentSeasonHash": 2007338097,
            "currentGuardianRank": account.rank,
            "lifetimeHighestGuardianRank": account.lifetime_rank,
        }

    def _characters(self, player: Player) -> dict[str, Any]:
        last = dict.fromkeys(range(3), self._world.config.epoch - player.number)
        for _, run, entry in self._raids_of(player):
            end = run.period + min(entry.start + entry.played, run.duration)
            last[entry.character] = max(last[entry.character], end)
        return {
            str(self._world.character_id(player.number, number)): {
                "membershipId": str(player.membership_id),
                "membershipType": player.membership_type,
                "characterId": str(self._world.character_id(player.number, number)),
                "dateLastPlayed": timestamp(last[number]),
                "minutesPlayedThisSession": "94",
                "minutesPlayedTotal": str(3000 + player.number),
                "light": 1800 + player.number % 200,
                "stats": {},
                "raceHash": 898834093,
                "genderHash": 3111576190,
                "classHash": self._world.class_of(player.number, number)[0],
                "raceType": 2,
                "classType": (player.number + number) % 3,
                "genderType": 0,
                "emblemPath": f"/common/destiny2_content/icons/{emblem:032x}.jpg",
                "emblemBackgroundPath": f"/common/destiny2_content/icons/{emblem:032d}.jpg",
                "emblemHash": emblem,
                "baseCharacterLevel": 50,
                "percentToNextLevel": 0.0,
            }
            for number in range(self._world.account(player.number).characters)
            for emblem in (self._world.emblem_of(player.number, number),)
        }

    def character(self, _query: Query, type: str, member: str, character: str) -> Answer:  # noqa: A002
        player = self._find(type, member)
        if isinstance(player, Answer):
            return player
        data = self._characters(player).get(character)
        if data is None:
            return answers.error(1620)
        return answers.success(
            {"character": {"privacy": 2} if player.is_private else {"data": data, "privacy": 1}}
        )

    def linked_profiles(self, _query: Query, member: str, **_type: str) -> Answer:
        player = self._find("-1", member)
        if isinstance(player, Answer):
            return player
        played = max(c["dateLastPlayed"] for c in self._characters(player).values())
        info = user_info(player)
        return answers.success(
            {
                "profiles": [
                    {
                        "dateLastPlayed": played,
                        "isOverridden": False,
                        "isCrossSavePrimary": len(player.applicable) > 1,
                        **info,
                    }
                ],
                "bnetMembership": self._bungie_net(player),
                "profilesWithErrors": [
                    {
                        "errorCode": 1601,
                        "infoCard": {
                            **info,
                            "applicableMembershipTypes": [],
                            "membershipType": other,
                            "membershipId": str((1 << 62) + 50_000 + player.number * 8 + other),
                        },
                    }
                    for other in player.applicable
                    if other != player.membership_type
                ],
            }
        )

    def _bungie_net(self, player: Player) -> dict[str, Any]:
        return {
            "supplementalDisplayName": f"{player.global_name}#{player.global_code or 0:04d}",
            "iconPath": "/img/profile/avatars/cc25.jpg",
            "crossSaveOverride": 0,
            "isPublic": player.is_public,
            "membershipType": 254,
            "membershipId": str(10_000_000 + player.number),
            "displayName": player.display_name,
            "bungieGlobalDisplayName": player.global_name,
        }

    # --- histories ------------------------------------------------------------------------------

    def _raids_of(self, player: Player) -> list[tuple[int, Run, Entry]]:
        """Raids with one entry of the player each, newest first; a row for each entry."""
        rows = [
            (run.period, run, entry)
            for instance_id in self._histories.of(player.number, self._head())
            for run in (self._world.run(instance_id),)
            for entry in run.entries
            if entry.player == player.number
        ]
        return sorted(rows, key=lambda row: (row[0], row[1].instance_id), reverse=True)

    def account_stats(self, _query: Query, type: str, member: str) -> Answer:  # noqa: A002
        player = self._find(type, member)
        if isinstance(player, Answer):
            return player
        empty: dict[str, Any] = {"results": {}, "merged": {}}
        present = self._world.account(player.number).characters
        kept = present + (player.number % 10 == 0)  # one was deleted
        return answers.success(
            {
                "mergedDeletedCharacters": empty,
                "mergedAllCharacters": empty,
                "characters": [
                    {
                        "characterId": str(self._world.character_id(player.number, number)),
                        "deleted": number == present,
                        **empty,
                    }
                    for number in range(kept)
                ],
            }
        )

    def history(self, query: Query, type: str, member: str, character: str) -> Answer:  # noqa: A002
        player = self._find(type, member)
        if isinstance(player, Answer):
            return player
        if player.is_private:
            return answers.error(1665)
        try:
            size, page = int(query.get("count", "25")), int(query.get("page", "0"))
            mode = int(query.get("mode", "0"))
        except ValueError:
            return answers.error(18)
        if not 1 <= size <= 250 or page < 0:
            return answers.error(8)
        rows = [
            (run, entry)
            for _, run, entry in self._raids_of(player)
            if str(entry.character_id) == character
        ]
        if mode not in (0, 4, 7):  # the world keeps histories of raids only
            rows = []
        shown = dict.fromkeys(run.instance_id for run, _ in rows)
        wanted = set(list(shown)[page * size : (page + 1) * size])
        activities = []
        for run, entry in rows:
            if run.instance_id in wanted:
                wanted.discard(run.instance_id)
                activities.append(_activity(run, entry))
        return answers.success({"activities": activities} if activities else {})

    # --- clans ----------------------------------------------------------------------------------

    def groups_of(self, _query: Query, type: str, member: str) -> Answer:  # noqa: A002
        player = self._find(type, member)
        if isinstance(player, Answer):
            return player
        found = [(clan, False)] if (clan := self._world.clan_of(player.number)) else []
        if len(player.applicable) > 1:  # the clan of the account that cross save left behind
            ghost = self._world.clan((player.number * 7) % self._world.clans)
            if ghost is not None and not ghost.is_gone and ghost != clan:
                found.append((ghost, True))
        return answers.success(
            {
                "areAllMembershipsInactive": {str(c.group_id): ghost for c, ghost in found},
                "results": [
                    {"member": self._member(c, player), "group": self._group(c)} for c, _ in found
                ],
                "totalResults": len(found),
                "hasMore": False,
                "query": {"itemsPerPage": _PAGE, "currentPage": 1},
                "useTotalResults": True,
            }
        )

    def _clan(self, group: str) -> Clan | Answer:
        clan = self._world.clan(int(group) - CLAN_BASE)
        if clan is None:
            return answers.error(622)
        return answers.error(686) if clan.is_gone else clan

    def group(self, _query: Query, group: str) -> Answer:
        clan = self._clan(group)
        if isinstance(clan, Answer):
            return clan
        founder = self._world.player(clan.members[0])
        return answers.success(
            {
                "detail": self._group(clan),
                "founder": self._member(clan, founder),
                "alliedIds": [],
                "allianceStatus": 0,
                "groupJoinInviteCount": 0,
                "currentUserMembershipsInactiveForDestiny": False,
                "currentUserMemberMap": {},
                "currentUserPotentialMemberMap": {},
            }
        )

    def members(self, query: Query, group: str) -> Answer:
        clan = self._clan(group)
        if isinstance(clan, Answer):
            return clan
        try:
            page = int(query.get("currentpage", "1"))
        except ValueError:
            return answers.error(18)
        if page < 1:
            return answers.error(8)
        shown = clan.members[(page - 1) * _PAGE : page * _PAGE]
        results = [self._member(clan, self._world.player(number)) for number in shown]
        if results and page == 1 and clan.group_id % 20 == 0:  # an account that was deleted
            results.append({**results[-1], "destinyUserInfo": {"membershipId": "0"}})
        return answers.success(
            {
                "results": results,
                "totalResults": len(clan.members),
                "hasMore": page * _PAGE < len(clan.members),
                "query": {"itemsPerPage": _PAGE, "currentPage": page},
                "useTotalResults": True,
            }
        )

    def _group(self, clan: Clan) -> dict[str, Any]:
        banner = (
            *("decalId", "decalColorId", "decalBackgroundColorId", "gonfalonId"),
            *("gonfalonColorId", "gonfalonDetailId", "gonfalonDetailColorId"),
        )
        return {
            "groupId": str(clan.group_id),
            "name": clan.name,
            "groupType": 1,
            "membershipIdCreated": str(10_000_000 + clan.members[0]),
            "creationDate": "2018-04-05T18:10:58.836Z",
            "modificationDate": "2021-05-13T11:40:48.856Z",
            "about": "",
            "tags": [],
            "memberCount": len(clan.members),
            "isPublic": True,
            "motto": clan.motto,
            "locale": "en",
            "theme": "Group_Community1",
            "clanInfo": {
                "d2ClanProgressions": {},
                "clanCallsign": clan.callsign,
                "clanBannerData": {
                    part: 1_000_000_000 + clan.group_id * 7 + n for n, part in enumerate(banner)
                },
            },
        }

    def _member(self, clan: Clan, player: Player) -> dict[str, Any]:
        member: dict[str, Any] = {
            "memberType": 5 if player.number == clan.members[0] else 2,
            "isOnline": player.number % 17 == 0,
            "lastOnlineStatusChange": str(int(self._world.config.epoch) - player.number * 60),
            "groupId": str(clan.group_id),
            "destinyUserInfo": {
                "LastSeenDisplayName": player.display_name,
                "LastSeenDisplayNameType": player.membership_type,
                **user_info(player),
            },
            "bungieNetUserInfo": self._bungie_net(player),
            "joinDate": "2019-12-02T22:23:19Z",
        }
        if player.number % 25 == 3:
            del member["bungieNetUserInfo"], member["lastOnlineStatusChange"]
        return member


def _activity(run: Run, entry: Entry) -> dict[str, Any]:
    """One row of an activity history; its values carry `statId`, which reports do not."""
    lives = max(entry.deaths, 1)
    stats: dict[str, str] = {
        "assists": count(entry.assists),
        "score": count(entry.score),
        "kills": count(entry.kills),
        "deaths": count(entry.deaths),
        "completed": count(entry.completed),
        "opponentsDefeated": count(entry.kills + entry.assists),
        "efficiency": ratio((entry.kills + entry.assists) / lives),
        "killsDeathsRatio": ratio(entry.kills / lives),
        "activityDurationSeconds": seconds(run.duration),
        "completionReason": count(entry.reason),
        "startSeconds": seconds(entry.start),
        "timePlayedSeconds": seconds(seconds_together([entry], run.duration)),
        "playerCount": count(max(run.player_count, 0)),
        "teamScore": count(run.team_score),
    }
    return {
        "period": timestamp(run.period),
        "activityDetails": {
            "referenceId": run.hash,
            "directorActivityHash": run.hash,
            "instanceId": str(run.instance_id),
            "mode": run.mode,
            "modes": list(run.modes),
            "isPrivate": False,
            "membershipType": run.membership_type,
        },
        "values": {name: {"statId": name, **json.loads(value)} for name, value in stats.items()},
    }
