"""One simulator: a world, when it can be read, and what happens to requests for it.

Time and chance come in as parameters. What else is served beside the platform is in `controls.py`,
how all of it gets onto a port in `server.py`.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from aiohttp import web
from isal import igzip
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client import Counter as Metric

from simulator import answers, definitions, replay
from simulator.answers import Answer
from simulator.conduct import make_world
from simulator.endpoints import SYSTEMS, Platform
from simulator.faults import (
    Accidents,
    Doom,
    Fate,
    Fates,
    Faults,
    Limiter,
    Sanction,
    Tally,
    damaged,
)
from simulator.manifest import Manifest
from simulator.publication import Publication, Schedule
from simulator.reports import Reports
from simulator.truth import Truth
from simulator.world import WorldConfig

_PLATFORM = "/Platform/"
_REPORT = "/Platform/Destiny2/Stats/PostGameCarnageReport/"
_GZIP = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}


@dataclass(frozen=True)
class Config:
    """Everything a simulator starts from; `keys` empty accepts any API key."""

    world: WorldConfig
    schedule: Schedule
    faults: Faults
    head: int | None = None  # held there from the start
    keys: frozenset[str] = frozenset()
    definitions_folder: Path = definitions.DEFAULT_FOLDER
    replay_folder: Path | None = None


@dataclass
class _Metrics:
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.requests = Metric(
            "simulator_requests",
            "Requests below /Platform by what became of them.",
            ["endpoint", "outcome"],
            registry=self.registry,
        )
        self.head = Gauge("simulator_head_id", "Newest published id.", registry=self.registry)


class Simulator:
    """One world, served. Raises DefinitionError and ReplayError for unusable files."""

    def __init__(self, config: Config, clock: Callable[[], float], rng: Random) -> None:
        self.config, self._clock = config, clock
        self.world = make_world(definitions.load(config.definitions_folder), config.world)
        self.publication = Publication(config.schedule, clock, config.head)
        self.fates = Fates(self.world, self.publication, config.faults)
        self.replayed = replay.load(config.replay_folder) if config.replay_folder else {}
        self.truth = Truth(self.world, self.publication, self.fates, self.replayed, clock)
        self.manifest = Manifest(self.world)
        self.switched_off: frozenset[str] = frozenset()
        self.addresses: Counter[str] = Counter()
        # (address, asked for a report) -> what came of it; key's fingerprint -> the same
        self.tallies: dict[tuple[str, bool], Tally] = {}
        self.key_tallies: dict[str, Tally] = {}
        self.key_sanctions: dict[str, Sanction] = {}
        self.address_sanctions: dict[str, Sanction] = {}
        self.metrics = _Metrics()
        self.metrics.head.set_function(lambda: self.publication.head)
        self._reports = Reports(self.world)
        self._accidents = Accidents(rng)
        self._limits = {True: Limiter(clock), False: Limiter(clock)}
        self._platform = Platform(
            self.world, self.truth, self.manifest, lambda: self.publication.head, self.disabled
        )

    def disabled(self) -> frozenset[str]:
        """Systems that are off now, by hand or by a maintenance window."""
        faults = self.fates.faults
        if faults.maintenance_every_s:
            elapsed = (self._clock() - self.config.world.epoch) % faults.maintenance_every_s
            if elapsed < faults.maintenance_s:
                return frozenset(SYSTEMS)
        return self.switched_off

    # --- reports --------------------------------------------------------------------------------

    def report(self, text: str, retry: bool) -> tuple[Answer, str]:
        """The report of the id `text` as it can be read now, and a word for what it was."""
        if not (text.isascii() and text.isdigit()):
            return answers.error(7), "bad_request"
        instance_id = int(text)
        if not self.disabled().isdisjoint(("Destiny2", "Activities")):
            return answers.error(5), "maintenance"
        if instance_id in self.replayed:
            return Answer(200, self.replayed[instance_id].body), "replayed"
        if not self.config.world.first_id <= instance_id <= self.publication.head:
            return answers.error(1653), "not_found"
        doom = self.fates.of(instance_id)
        if doom.fate is not Fate.NORMAL and not (retry and doom.heals_on_retry):
            return self._fateful(instance_id, doom)
        return self._whole(instance_id)

    def _whole(self, instance_id: int) -> tuple[Answer, str]:
        if not self.world.is_raid(instance_id):
            return Answer(200, self._reports.other(instance_id).encode()), "non_raid"
        return Answer(200, self._reports.raid(self.world.run(instance_id)).encode()), "raid"

    def _fateful(self, instance_id: int, doom: Doom) -> tuple[Answer, str]:
        has_ended = doom.until <= self._clock()
        if has_ended != (doom.fate is Fate.CHANGELING) and not doom.heals_on_retry:
            return self._whole(instance_id)
        match doom.fate:
            case Fate.HOLE | Fate.LATE:
                return answers.error(1653), doom.fate.value
            case Fate.BLOCKED:
                return answers.error(12), doom.fate.value
        whole, _ = self._whole(instance_id)
        return Answer(200, damaged(whole.body, doom.kind)), doom.fate.value

    # --- requests -------------------------------------------------------------------------------

    async def platform(self, request: web.Request) -> web.StreamResponse:
        """Any request below /Platform, with everything that can happen to it on the way."""
        path = request.path
        is_report = path.startswith(_REPORT)
        endpoint = "report" if is_report else "other"
        refusal, outcome = self._refusal(request, is_report)
        if refusal is not None:
            self.metrics.requests.labels(endpoint, outcome).inc()
            return respond(request, refusal)
        faults = self.fates.faults
        accident = self._accidents.draw(faults)
        wait = self._accidents.latency_s(faults)
        if accident == "stall":
            wait += faults.stall_s
        if wait:
            await asyncio.sleep(wait)
        answer = self._accidents.answer(accident) if accident else None
        if answer is None and not path.endswith("/"):
            answer, outcome = answers.page(404), "no_slash"
        elif answer is not None:
            outcome = accident
        elif is_report:
            retry = "malformed_retry" in request.query_string
            answer, outcome = self.report(path[len(_REPORT) : -1], retry)
        else:
            inner, query = path[len(_PLATFORM) : -1], dict(request.query)
            answer = await asyncio.to_thread(self._platform.answer, inner, query)
            outcome = str(answer.status)
        self.metrics.requests.labels(endpoint, accident or outcome).inc()
        if accident in ("reset", "truncated"):
            return await _cut_off(request, answer, after=0.5 if accident == "truncated" else 0.0)
        if accident == "broken_json":
            answer = Answer(answer.status, answer.body[: len(answer.body) // 2])
        return respond(request, answer)

    def _refusal(self, request: web.Request, is_report: bool) -> tuple[Answer | None, str]:
        """What stops a request before anybody looks at its path, and a word for it."""
        address, key = request.remote or "", request.headers.get("X-API-Key") or ""
        self.addresses[address] += 1
        mine = self.tallies.setdefault((address, is_report), Tally())
        keys = self.key_tallies.setdefault(fingerprint(key), Tally())
        faults = self.fates.faults
        rate, burst = (
            (faults.report_limit_per_s, faults.report_burst)
            if is_report
            else (faults.other_limit_per_s, faults.other_burst)
        )
        over = self._limits[is_report].is_over(address, rate, burst)
        for tally in (mine, keys):
            tally.requests += 1
            tally.over_budget += over
        stopped = self._stopped(request, address, key, is_report, over)
        if stopped is None:
            return None, ""
        answer, name, outcome = stopped
        for tally in (mine, keys):
            tally.refuse(name)
        return answer, outcome

    def _stopped(
        self, request: web.Request, address: str, key: str, is_report: bool, over: bool
    ) -> tuple[Answer, str, str] | None:
        """The answer, its name in the tallies, and the outcome for the metric."""
        faults = self.fates.faults
        if not request.headers.get("User-Agent"):
            return answers.page(403), "page 403", "no_user_agent"
        if not key:
            return answers.error(2102), "2102", "no_key"
        if self.config.keys and key not in self.config.keys:
            return answers.error(2101), "2101", "bad_key"
        for sanctions, who in ((self.key_sanctions, key), (self.address_sanctions, address)):
            if who in sanctions:
                return (*sanctions[who].answer(), "sanctioned")
        if over and faults.enforce_limits:
            seconds = faults.throttle_seconds
            return (*self._limits[is_report].refusal(address, seconds), "throttled")
        return None


def fingerprint(key: str) -> str:
    """Tells keys apart in what is shown, without showing them; empty for no key."""
    return hashlib.sha256(key.encode()).hexdigest()[:12] if key else ""


def respond(request: web.Request, answer: Answer) -> web.Response:
    body, headers = answer.body, {"Content-Type": answer.content_type}
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        body = igzip.compress(body, 1)
        headers |= _GZIP
    return web.Response(status=answer.status, body=body, headers=headers)


async def _cut_off(request: web.Request, answer: Answer, after: float) -> web.StreamResponse:
    """Sends the share `after` of the body, which promised to be whole, and closes."""
    whole = respond(request, answer)
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    transport = request.transport
    if after and isinstance(whole.body, bytes):
        response.content_length = len(whole.body)
        await response.prepare(request)
        await response.write(whole.body[: int(len(whole.body) * after)])
    if transport is not None:
        if after:
            transport.close()  # after what was written
        else:
            transport.abort()
    return response
