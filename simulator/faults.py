"""Everything that goes wrong: fates of ids, accidents of single requests, limits and sanctions.

An id's fate depends on seed and id, so it is repeatable; accidents are drawn per request. Each
has its switch in `Faults`, which `/sim/faults` changes while the server runs.
"""

import json
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any

from msgspec import Struct

from simulator import answers, chance
from simulator.answers import Answer
from simulator.publication import Publication
from simulator.world import World

_RUN_BLOCK = 4096  # ids; each such block may hold one run of holes


class Faults(Struct, frozen=True, forbid_unknown_fields=True):
    """Every odd behaviour and its size: a normal day by default, nothing at all when calm.

    Shares are 0..1 and per id or per request, times in seconds.
    """

    # Fates of ids.
    hole: float = 0.0005  # never published
    hole_run: float = 0.01  # of blocks of 4096 ids: a run of holes inside
    hole_run_ids: int = 400  # longest run
    late: float = 0.002  # 404 for a while after its neighbours
    late_s: float = 45.0  # longest while
    blocked: float = 0.01  # of raids: code 12
    blocked_s: float = 60.0  # released so long after publication
    blocked_forever: float = 0.02  # of the blocked
    malformed: float = 0.01  # of raids: a broken report
    malformed_forever: float = 0.1  # of the malformed
    malformed_s: float = 30.0  # those that heal with time do it so long after publication
    growing: float = 0.0  # of raids: published before the report is whole, in one of five ways
    growing_s: float = 900.0
    changeling: float = 0.0  # of raids: the id is of another activity after growing_s
    # Accidents of requests.
    unexpected: float = 0.0005  # code 1618
    bad_gateway: float = 0.0005  # a 502 page
    # This one and the game's throttle speak for the whole service and come together there;
    # a single one stops a polite crawler for 10 s, so a normal day has one in half an hour.
    unavailable: float = 0.000002  # a 503 page
    edge_block: float = 0.0  # a 403 page
    challenge: float = 0.0  # a page of the edge with HTTP 200
    html: float = 0.0  # another page with HTTP 200: some front end answers for the API
    game_throttle: float = 0.000002  # code 1672, every second one with HTTP 200
    reset: float = 0.0005  # connection cut before the answer
    truncated: float = 0.0005  # half of the compressed body, then the connection ends
    broken_json: float = 0.0002  # half of the JSON, with a length that fits
    stall: float = 0.0  # no answer for stall_s
    stall_s: float = 20.0
    # The network, log-normal.
    latency_ms: float = 15.0  # median
    latency_sigma: float = 0.5
    # Maintenance windows, counted from the epoch.
    maintenance_every_s: float = 0.0
    maintenance_s: float = 60.0
    # Limits of each source address, 0: none. The first is for reports, the second for the rest.
    report_limit_per_s: float = 0.0
    report_burst: float = 90.0
    other_limit_per_s: float = 0.0
    other_burst: float = 25.0
    throttle_seconds: int = 10
    enforce_limits: bool = True  # false: what breaks them is counted and passes

    @classmethod
    def calm(cls) -> "Faults":
        """No fault of any kind; limits and windows are off by default already."""
        return cls(**dict.fromkeys((*_ID_SHARES, *_ACCIDENTS, "latency_ms"), 0.0))  # type: ignore[arg-type]  # floats all


_ID_SHARES = ("hole", "hole_run", "late", "blocked", "malformed", "growing", "changeling")
_ACCIDENTS = (
    "unexpected", "bad_gateway", "unavailable", "edge_block", "challenge", "html",
    "game_throttle", "reset", "truncated", "broken_json", "stall",
)  # fmt: skip


class Fate(Enum):
    NORMAL = "normal"
    HOLE = "hole"
    LATE = "late"
    BLOCKED = "blocked"
    MALFORMED = "malformed"
    GROWING = "growing"
    CHANGELING = "changeling"


class Doom(Struct, frozen=True):
    """The fate of one id. `until` is when it ends in Unix seconds, infinite for ever.

    That of a changeling begins then: its first report is the one that counts. A report with
    `heals_on_retry` is whole for whoever asks with `malformed_retry`.
    """

    fate: Fate
    until: float = 0.0
    kind: str = ""
    heals_on_retry: bool = False


_NORMAL = Doom(Fate.NORMAL)
_HOLE = Doom(Fate.HOLE, float("inf"))


class Fates:
    """Looks up the fate of an id under the present faults."""

    def __init__(self, world: World, publication: Publication, faults: Faults) -> None:
        self._world, self._publication, self.faults = world, publication, faults
        seed = world.config.seed
        self._id_key, self._raid_key, self._run_key, self._detail_key = (
            chance.key(seed, name) for name in ("fate", "raid fate", "hole runs", "fate detail")
        )

    def of(self, instance_id: int) -> Doom:
        faults = self.faults
        luck = chance.unit(self._id_key, instance_id)
        if luck < faults.hole or (faults.hole_run and self._in_hole_run(instance_id)):
            return _HOLE
        if luck < faults.hole + faults.late:
            share = chance.unit(self._detail_key, instance_id)
            return Doom(Fate.LATE, self._after(instance_id, share * faults.late_s))
        if not self._world.is_raid(instance_id):
            return _NORMAL
        luck = chance.unit(self._raid_key, instance_id)
        detail = chance.unit(self._detail_key, instance_id)
        if luck < faults.blocked:
            wait = float("inf") if detail < faults.blocked_forever else faults.blocked_s
            return Doom(Fate.BLOCKED, self._after(instance_id, wait))
        luck -= faults.blocked
        if luck < faults.malformed:
            if detail < faults.malformed_forever:
                kinds = list(PERMANENT_KINDS)
                kind = kinds[instance_id % len(kinds)]
                return Doom(Fate.MALFORMED, float("inf"), kind)
            kinds = list(KINDS)
            kind = kinds[instance_id % len(kinds)]
            # A crawler may take these as they are once they are old: only a retry shows the rest.
            if kind not in PERMANENT_KINDS or detail > 0.6:
                return Doom(Fate.MALFORMED, kind=kind, heals_on_retry=True)
            return Doom(Fate.MALFORMED, self._after(instance_id, faults.malformed_s), kind)
        if luck < faults.malformed + faults.growing:
            kinds = list(GROWING_KINDS)
            kind = kinds[int(detail * len(kinds))]
            return Doom(Fate.GROWING, self._after(instance_id, faults.growing_s), kind)
        luck -= faults.malformed + faults.growing
        if luck < faults.changeling:
            until = self._after(instance_id, faults.growing_s)
            return Doom(Fate.CHANGELING, until, _CHANGELING)
        return _NORMAL

    def _after(self, instance_id: int, wait: float) -> float:
        return self._publication.published_at(instance_id) + wait

    def _in_hole_run(self, instance_id: int) -> bool:
        block, place = divmod(instance_id, _RUN_BLOCK)
        luck = chance.mix(self._run_key ^ block)
        if (luck & 0xFFFFFF) / 0x1000000 >= self.faults.hole_run:
            return False
        length = 1 + (luck >> 24) % max(self.faults.hole_run_ids, 1)
        first = (luck >> 44) % max(_RUN_BLOCK - length, 1)
        return first <= place < first + length


# --- malformed reports --------------------------------------------------------------------------

Response = dict[str, Any]  # a decoded report, which the functions below damage in place


def _stat(response: Response, name: str, value: float) -> None:
    for entry in response["entries"]:
        entry["values"][name]["basic"]["value"] = value


def _not_object(response: Response) -> None:
    response["activityDetails"] = [response["activityDetails"]]


def _other_id(response: Response) -> None:
    response["activityDetails"]["instanceId"] += "7"


def _bad_period(response: Response) -> None:
    response["period"] = "yesterday"


def _no_hash(response: Response) -> None:
    # With the mode, or a raid that only its hash marks would be none at all.
    response["activityDetails"].update(directorActivityHash=0, referenceId=0, mode=4)


def _no_entries(response: Response) -> None:
    response["entries"] = []


def _too_few_entries(response: Response) -> None:
    _stat(response, "playerCount", len(response["entries"]))
    response["entries"] = response["entries"][:-1] or response["entries"] * 2


def _no_duration(response: Response) -> None:
    _stat(response, "activityDurationSeconds", 0.0)


def _no_member(response: Response) -> None:
    response["entries"][-1]["player"]["destinyUserInfo"]["membershipId"] = "0"


def _no_extended(response: Response) -> None:
    del response["entries"][-1]["extended"]


def _no_start_marks(response: Response) -> None:
    del response["activityWasStartedFromBeginning"], response["startingPhaseIndex"]


# No crawler can use these, however old they are.
PERMANENT_KINDS: dict[str, Callable[[Response], None] | None] = {
    "no_response": None,
    "not_json_object": _not_object,
    "id_mismatch": _other_id,
    "period": _bad_period,
    "hash_missing": _no_hash,
    "entries_empty": _no_entries,
    "entry_count": _too_few_entries,
    "no_duration": _no_duration,
}
KINDS: dict[str, Callable[[Response], None] | None] = {
    **PERMANENT_KINDS,
    "membership_id": _no_member,
    "extended_missing": _no_extended,
    "era_field": _no_start_marks,
}


# --- reports that change ------------------------------------------------------------------------


def _half(response: Response) -> None:
    response["entries"] = response["entries"][: -(-len(response["entries"]) // 2)]


def _half_uncounted(response: Response) -> None:
    _stat(response, "playerCount", -1.0)  # otherwise it would tell
    _half(response)


def _half_counted(response: Response) -> None:
    _stat(response, "playerCount", len(response["entries"]))
    _half(response)


def _unextended(response: Response) -> None:
    for entry in response["entries"]:
        del entry["extended"]


def _unfinished(response: Response) -> None:
    """The result and half of the kills are not in yet."""
    _stat(response, "completed", 0.0)
    for entry in response["entries"]:
        kills = entry["values"]["kills"]["basic"]
        kills["value"] //= 2


def _unresolved(response: Response) -> None:
    """Who played, but not yet as whom."""
    for entry in response["entries"]:
        player = entry["player"]
        player.update(classHash=0, emblemHash=0)
        player["destinyUserInfo"] = {
            "membershipType": 0,
            "membershipId": player["destinyUserInfo"]["membershipId"],
        }


def _another(response: Response) -> None:
    """A raid that no definition knows; with the mode, or it would be none at all."""
    details = response["activityDetails"]
    other = details["directorActivityHash"] ^ 1
    details.update(directorActivityHash=other, referenceId=other, mode=4)


GROWING_KINDS: dict[str, Callable[[Response], None]] = {
    "half_uncounted": _half_uncounted,
    "half_counted": _half_counted,
    "unextended": _unextended,
    "unfinished": _unfinished,
    "unresolved": _unresolved,
}
_CHANGELING = "another"
_DAMAGES = {**KINDS, **GROWING_KINDS, _CHANGELING: _another}


def damaged(body: bytes, kind: str) -> bytes:
    """The envelope `body` with the defect `kind`."""
    envelope = json.loads(body)
    damage = _DAMAGES[kind]
    if damage is None:
        envelope["Response"] = None
    else:
        damage(envelope["Response"])
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()


# --- requests -----------------------------------------------------------------------------------


class Accidents:
    """Draws what befalls a single request."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def latency_s(self, faults: Faults) -> float:
        if not faults.latency_ms:
            return 0.0
        return faults.latency_ms / 1000 * self._rng.lognormvariate(0.0, faults.latency_sigma)

    def draw(self, faults: Faults) -> str:
        """The name of one accident, or an empty text; one random number in the usual case."""
        luck = self._rng.random()
        for name in _ACCIDENTS:
            share: float = getattr(faults, name)
            if luck < share:
                return name
            luck -= share
        return ""

    def answer(self, accident: str) -> Answer | None:
        """The answer of an accident that is one; None for those of the connection."""
        match accident:
            case "unexpected":
                return answers.error(1618)
            case "bad_gateway":
                return answers.page(502)
            case "unavailable":
                return answers.page(503)
            case "edge_block":
                return answers.page(403)
            case "challenge":
                return answers.page(200, answers.CHALLENGE)
            case "html":
                return answers.page(200)
            case "game_throttle":
                answer = answers.error(1672)
                return answer if self._rng.random() < 0.5 else Answer(200, answer.body)
        return None


class Limiter:
    """Token buckets of source addresses. Who goes on while refused meets sterner answers."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, when
        self._refused: dict[str, int] = {}  # in a row

    def is_over(self, address: str, rate: float, burst: float) -> bool:
        """Spends a token of the address; True when it has none. A rate of 0 is no limit."""
        if not rate:
            return False
        now = self._clock()
        tokens, when = self._buckets.get(address, (burst, now))
        tokens = min(burst, tokens + (now - when) * rate)
        over = tokens < 1
        self._buckets[address] = (tokens if over else tokens - 1, now)
        if not over:
            self._refused[address] = 0
        return over

    def refusal(self, address: str, seconds: int) -> tuple[Answer, str]:
        """Code 51, 31, 35 and then the edge's 403, ten of each; and its name for the log."""
        refused = self._refused.get(address, 0)
        self._refused[address] = refused + 1
        if refused >= 30:
            return answers.page(403), "page 403"
        code = (51, 31, 35)[refused // 10]
        return answers.error(code, throttle_seconds=seconds), str(code)


class Sanction(Struct, frozen=True, forbid_unknown_fields=True):
    """What a key or an address gets for every request, until it is lifted: a code or a page."""

    code: int | None = None
    page: int | None = None
    throttle_seconds: int = 0

    def answer(self) -> tuple[Answer, str]:
        """The answer and its name for the log. Raises KeyError for one that is never sent."""
        if self.code is not None:
            answer = answers.error(self.code, throttle_seconds=self.throttle_seconds)
            return answer, str(self.code)
        return answers.page(self.page or 403), f"page {self.page or 403}"


class Tally(Struct):
    """Requests of one address to one kind of endpoint, or with one key."""

    requests: int = 0
    over_budget: int = 0  # beyond its limit, whether that was enforced or not
    refused: dict[str, int] = {}  # by code, or "page" and the status

    def refuse(self, name: str) -> None:
        self.refused[name] = self.refused.get(name, 0) + 1
