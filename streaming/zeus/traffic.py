"""Which address may send the next request, and what an answer changes about that.

Everything that zeus decides is decided here: budgets, turns, pauses, keys. It knows neither sockets
nor the clock; `gate.py` waits for it, `proxy.py` sends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from raidhub_dagster.bungie.codes import CodeClass, Scope
from raidhub_dagster.bungie.protocol import Answer
from streaming.zeus.bucket import Bucket
from streaming.zeus.keys import Keys
from streaming.zeus.ladder import Backoff, Ladder


class Host(StrEnum):
    """The two hosts of the API; the value is the metric label `endpoint_type`."""

    STATS = "stats"
    WWW = "www"


@dataclass(frozen=True)
class Limit:
    """Of one source address at one host; a rate of 0 is no limit."""

    rate: float
    burst: float


@dataclass(frozen=True)
class Sent:
    """What an answer answers."""

    host: Host
    address: int
    key: int
    at: float


class What(StrEnum):
    """What happened; the value is the log's action."""

    ADDRESS_PAUSED = "zeus_address_paused"
    MOST_PAUSED = "zeus_most_addresses_paused"  # throttled: we ask too much
    MOST_BLOCKED = "zeus_most_addresses_blocked"  # by pages of the edge: it does not want us
    BACKED_OFF = "zeus_backed_off"
    KEY_PAUSED = "zeus_key_paused"
    KEY_REFUSED = "zeus_key_quarantined"
    KEY_BACK = "zeus_key_healthy"


@dataclass(frozen=True)
class News:
    """Something a person should read. `number` is that of the address or key."""

    what: What
    number: int = 0
    seconds: float = 0.0
    label: str = ""  # of a closed set of names, see Answer.label
    host: Host | None = None  # None: both
    left: int = 0  # healthy keys, or addresses that are not paused


class _Lane:
    """One address at one host."""

    __slots__ = ("bucket", "ladder")

    def __init__(self, ladder: Ladder, bucket: Bucket) -> None:
        self.ladder = ladder
        self.bucket = bucket

    def take(self, now: float, share: float) -> bool:
        if now < self.ladder.paused_until:
            return False
        self._slow_down(now, share)
        return self.bucket.take(now)

    def ready_at(self, now: float, share: float) -> float:
        self._slow_down(now, share)
        return max(self.bucket.ready_at(now), self.ladder.paused_until)

    def inflow(self, now: float, when: float, share: float) -> float:
        self._slow_down(now, share)
        return self.bucket.inflow(now, when) if when > self.ladder.paused_until else 0.0

    def stop(self, now: float, share: float, until: float = 0.0) -> None:
        """Nothing until the pauses are over, the address's own and that of the host (`until`)."""
        until = max(until, self.ladder.paused_until)
        if until > now:
            self.bucket.empty(until)
        self._slow_down(now, share)  # now: what comes after the pause comes at that rate

    def _slow_down(self, now: float, share: float) -> None:
        """`share` is the host's. Each of the two says half of what is configured: not a quarter."""
        self.bucket.slow_to(min(share, self.ladder.share(now)), now)


class Traffic:
    """`addresses` many source addresses, the limits of each host, and our keys."""

    def __init__(
        self, addresses: int, limits: dict[Host, Limit], keys: Keys, *, now: float
    ) -> None:
        self.keys = keys
        self._ladders = [Ladder() for _ in range(addresses)]
        self._backoffs = {host: Backoff() for host in Host}
        self._lanes: dict[Host, Sequence[_Lane]] = {
            host: [
                _Lane(ladder, Bucket(limits[host].rate, limits[host].burst, now))
                for ladder in self._ladders
            ]
            for host in Host
        }
        self._next = dict.fromkeys(Host, 0)
        self._told: set[What] = set()  # why most addresses pause, since all were well

    # --- what may be sent -----------------------------------------------------------------------

    def take(self, host: Host, now: float) -> int | None:
        """Spends a token of the next address that has one and is not paused; its number."""
        backoff = self._backoffs[host]
        if now < backoff.paused_until or now < self.keys.usable_at(now):
            return None
        share = backoff.share(now)
        lanes, first = self._lanes[host], self._next[host]
        for step in range(len(lanes)):
            number = (first + step) % len(lanes)
            if lanes[number].take(now, share):
                self._next[host] = (number + 1) % len(lanes)
                return number
        return None

    def ready_at(self, host: Host, now: float) -> float:
        """When `take` will give something; infinity while only an answer can change that."""
        backoff = self._backoffs[host]
        share = backoff.share(now)
        first = min(lane.ready_at(now, share) for lane in self._lanes[host])
        return max(first, backoff.paused_until, self.keys.usable_at(now))

    def supply(self, host: Host, now: float, when: float) -> float:
        """How many requests can leave from `now` to `when`."""
        backoff = self._backoffs[host]
        if when <= max(backoff.paused_until, self.keys.usable_at(now)):
            return 0.0
        share = backoff.share(now)
        return sum(lane.inflow(now, when, share) for lane in self._lanes[host])

    def is_silent(self, address: int, now: float) -> bool:
        """True while nothing leaves from the address, by its own pause or by everybody's."""
        return self._ladders[address].is_paused(now) or all(
            backoff.is_paused(now) for backoff in self._backoffs.values()
        )

    def pauses(self, now: float) -> dict[int, float]:
        """Number of each paused address -> seconds left."""
        return {i: ladder.paused_until - now for i, ladder in enumerate(self._ladders)
                if ladder.is_paused(now)}  # fmt: skip

    def back_off_s(self, host: Host, now: float) -> float:
        """Seconds until the host may be asked again; 0 when it may."""
        return max(self._backoffs[host].paused_until - now, 0.0)

    # --- what an answer means -------------------------------------------------------------------

    def succeeded(self, sent: Sent) -> list[News]:
        """An answer nobody had to look into, or one with any code that says no more."""
        if not self.keys.accepted(sent.key, sent.at):
            return []
        return [News(What.KEY_BACK, sent.key, left=self.keys.healthy)]

    def answered(self, sent: Sent, answer: Answer, now: float) -> list[News]:
        """Steps down, pauses or quarantines as the answer demands."""
        match answer.code_class:
            case CodeClass.KEY_PROBLEM:
                return self._key_refused(sent, answer, now)
            case CodeClass.THROTTLE if answer.scope is Scope.KEY:
                return self._key_throttled(sent, answer, now)
            case CodeClass.THROTTLE if answer.scope is Scope.ADDRESS:
                self.unanswered(sent)  # it says nothing about the key
                return self._address_throttled(sent, answer, now)
            case CodeClass.THROTTLE:
                self.unanswered(sent)
                # The game servers are behind both hosts; a 503 page is its own host's only: www
                # switched off for hours must not stop the reports.
                hosts = [sent.host] if answer.code is None else list(Host)
                return self._back_off(hosts, sent, answer, now)
        if answer.code is not None or 200 <= answer.http_status < 300:
            return self.succeeded(sent)
        self.unanswered(sent)  # a page of the edge: nobody has looked at the key
        return []

    def unanswered(self, sent: Sent) -> None:
        """No answer, or none that says anything."""
        self.keys.undecided(sent.key)

    def _key_refused(self, sent: Sent, answer: Answer, now: float) -> list[News]:
        if not self.keys.refused(sent.key, answer.code, now):
            return []
        left = self.keys.healthy
        return [News(What.KEY_REFUSED, sent.key, label=answer.label, left=left)]

    def _key_throttled(self, sent: Sent, answer: Answer, now: float) -> list[News]:
        was_paused = self.keys.pause_s(sent.key, now) > 0
        if self.keys.throttled(sent.key, answer.code, answer.pause_s, sent.at, now):
            left = self.keys.healthy
            return [News(What.KEY_REFUSED, sent.key, label=answer.label, left=left)]
        seconds = self.keys.pause_s(sent.key, now)
        if was_paused or not seconds:
            return []
        return [News(What.KEY_PAUSED, sent.key, seconds, answer.label)]

    def _address_throttled(self, sent: Sent, answer: Answer, now: float) -> list[News]:
        if self._told and all(each.share(now) == 1 for each in self._ladders):
            self._told.clear()  # all had come back
        ladder = self._ladders[sent.address]
        is_new = ladder.pause(now, answer.pause_s, sent.at)
        for host in Host:
            share = self._backoffs[host].share(now)
            self._lanes[host][sent.address].stop(now, share)
        if not is_new:
            return []
        paused = sum(each.is_paused(now) for each in self._ladders)
        left = len(self._ladders) - paused
        seconds = float(answer.pause_s)
        news = [
            News(What.ADDRESS_PAUSED, sent.address, seconds, answer.label, sent.host, left=left)
        ]
        if paused * 2 > len(self._ladders):
            is_page = answer.code is None and answer.http_status != HTTPStatus.TOO_MANY_REQUESTS
            what = What.MOST_BLOCKED if is_page else What.MOST_PAUSED
            if what not in self._told:
                self._told.add(what)
                news.append(News(what, paused, label=answer.label, left=left))
            for host in Host:
                self._backoffs[host].back_off(now, sent.at)
                self._stop(host, now)
        return news

    def _back_off(
        self, hosts: Sequence[Host], sent: Sent, answer: Answer, now: float
    ) -> list[News]:
        seconds = 0.0
        for host in hosts:
            seconds = max(self._backoffs[host].back_off(now, sent.at, answer.pause_s), seconds)
            self._stop(host, now)
        if not seconds:
            return []
        only = hosts[0] if len(hosts) == 1 else None
        return [News(What.BACKED_OFF, seconds=seconds, label=answer.label, host=only)]

    def _stop(self, host: Host, now: float) -> None:
        backoff = self._backoffs[host]
        for lane in self._lanes[host]:
            lane.stop(now, backoff.share(now), backoff.paused_until)
