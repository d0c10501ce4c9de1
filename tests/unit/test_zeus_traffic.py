"""What zeus decides: whose turn it is, and what an answer changes about that."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raidhub_dagster.bungie.protocol import Answer, Problem, read_answer
from simulator import answers
from streaming.zeus.bucket import JITTER_S
from streaming.zeus.keys import Keys
from streaming.zeus.traffic import Host, Limit, News, Sent, Traffic, What

LIMITS = {Host.STATS: Limit(40.0, 90.0), Host.WWW: Limit(12.0, 25.0)}
UNLIMITED = {Host.STATS: Limit(0.0, 1.0), Host.WWW: Limit(0.0, 1.0)}
NOW = 1000.0


def traffic(addresses: int = 4, keys: int = 2, limits: dict[Host, Limit] | None = None) -> Traffic:
    names = tuple("abcdefgh"[:keys])
    return Traffic(addresses, limits or LIMITS, Keys(names), now=0.0)


def refusal(code: int, throttle_seconds: int = 0, status: int | None = None) -> Answer:
    """As the simulator words it; any code, with any status."""
    if code in answers.CODES:
        sent = answers.error(code, throttle_seconds=throttle_seconds)
        return read_answer(status or sent.status, sent.content_type, sent.body)
    return Answer(status or 500, code, "", "", throttle_seconds, None, Problem.NONE)


def page(status: int, title: str | None = None) -> Answer:
    sent = answers.page(status, title)
    return read_answer(sent.status, sent.content_type, sent.body)


def sent(address: int = 0, key: int = 0, host: Host = Host.STATS, at: float = NOW) -> Sent:
    return Sent(host, address, key, at)


def drain(subject: Traffic, host: Host, now: float) -> list[int]:
    """Everything that can leave at `now`, as numbers of addresses."""
    taken: list[int] = []
    while (address := subject.take(host, now)) is not None and len(taken) < 10_000:
        taken.append(address)
    return taken


def kinds(news: list[News]) -> list[What]:
    return [each.what for each in news]


def test_addresses_take_turns() -> None:
    subject = traffic()
    assert [subject.take(Host.STATS, NOW) for _ in range(6)] == [0, 1, 2, 3, 0, 1]
    assert subject.take(Host.WWW, NOW) == 0  # a turn of its own


def test_an_address_without_a_token_is_skipped() -> None:
    subject = traffic(addresses=2)
    assert sorted(drain(subject, Host.STATS, NOW)) == [0] * 80 + [1] * 80
    first = 1 / LIMITS[Host.STATS].rate
    assert subject.ready_at(Host.STATS, NOW) == pytest.approx(NOW + first)
    assert drain(subject, Host.WWW, NOW)  # a budget of its own


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (refusal(31), 10),
        (refusal(36), 10),
        (refusal(37, 25), 25),
        (refusal(51, 3), 10),
        (refusal(35, 10), 60),
        (page(403), 10),
        (page(429), 10),
        (page(200, answers.CHALLENGE), 10),
    ],
)
def test_a_throttle_of_an_address_pauses_it_at_both_hosts(answer: Answer, seconds: int) -> None:
    """The limit is one of the source address, whichever host says so."""
    subject = traffic()
    (news,) = subject.answered(sent(address=2), answer, NOW)
    assert (news.what, news.number, news.seconds) == (What.ADDRESS_PAUSED, 2, seconds)
    for host in Host:
        assert set(drain(subject, host, NOW + seconds - 0.01)) == {0, 1, 3}
    assert subject.pauses(NOW) == {2: seconds}
    assert subject.pauses(NOW + seconds) == {}
    assert 2 in drain(subject, Host.STATS, NOW + seconds + 1)


def test_a_throttled_address_returns_at_half_its_rate_and_recovers() -> None:
    subject = traffic(addresses=2)
    subject.answered(sent(address=0), refusal(51), NOW)

    def rate(at: float) -> float:
        """Of address 0 over 2 s, when everything is taken as it comes."""
        drain(subject, Host.STATS, at)
        steps = [drain(subject, Host.STATS, at + n * 0.1).count(0) for n in range(1, 21)]
        return sum(steps) / 2

    assert rate(NOW + 11) == pytest.approx(20, abs=1)
    assert rate(NOW + 45) == pytest.approx(24, abs=1)
    assert rate(NOW + 200) == pytest.approx(40, abs=1)


@pytest.mark.parametrize("status", [200, 503])
def test_the_game_servers_throttle_stops_both_hosts(status: int) -> None:
    subject = traffic()
    (news,) = subject.answered(sent(), refusal(1672, status=status), NOW)
    assert (news.what, news.seconds, news.host) == (What.BACKED_OFF, 10, None)
    for host in Host:
        assert subject.take(host, NOW + 9.9) is None
        assert subject.ready_at(host, NOW) > NOW + 10
        assert subject.back_off_s(host, NOW) == 10
    assert all(subject.is_silent(n, NOW + 9.9) for n in range(4))
    assert not any(subject.is_silent(n, NOW + 10) for n in range(4))
    later = drain(subject, Host.STATS, NOW + 12)
    assert len(later) == 4 * 20 * 2  # half of 40/s, for 2 s, and no burst


def test_a_503_page_stops_the_host_it_came_from() -> None:
    """Forums and groups can be off for hours; reports go on."""
    subject = traffic()
    (news,) = subject.answered(sent(host=Host.WWW), page(503), NOW)
    assert (news.what, news.host) == (What.BACKED_OFF, Host.WWW)
    assert subject.take(Host.WWW, NOW + 9.9) is None
    assert subject.take(Host.STATS, NOW + 0.1) is not None
    assert not subject.is_silent(0, NOW + 1)


def test_maintenance_is_no_throttle() -> None:
    subject = traffic()
    assert subject.answered(sent(), refusal(5), NOW) == []
    assert subject.take(Host.STATS, NOW) is not None


@pytest.mark.parametrize("code", [1653, 12, 1618, 1665, 7, 217, 52, 53, 99_999])
def test_other_answers_change_nothing(code: int) -> None:
    subject = traffic()
    assert subject.answered(sent(), refusal(code), NOW) == []
    assert set(drain(subject, Host.STATS, NOW)) == {0, 1, 2, 3}


@pytest.mark.parametrize("code", [*range(2100, 2109), 10, 99])
def test_a_key_problem_puts_the_key_aside(code: int) -> None:
    subject = traffic()
    (news,) = subject.answered(sent(key=1), refusal(code), NOW)
    assert (news.what, news.number, news.left) == (What.KEY_REFUSED, 1, 1)
    assert {subject.keys.pick(NOW) for _ in range(4)} == {0}
    assert subject.answered(sent(key=1), refusal(code), NOW + 1) == []  # once


def test_a_bare_401_is_one_too() -> None:
    assert kinds(traffic().answered(sent(), page(401), NOW)) == [What.KEY_REFUSED]


def test_without_any_key_nothing_leaves_and_an_hour_later_one_does() -> None:
    subject = traffic(keys=1)
    subject.answered(sent(), refusal(2101), NOW)
    assert subject.take(Host.STATS, NOW + 1) is None
    assert subject.supply(Host.STATS, NOW, NOW + 10) == 0
    assert subject.ready_at(Host.STATS, NOW) == NOW + 3600
    assert subject.take(Host.STATS, NOW + 3600) is not None
    assert subject.keys.pick(NOW + 3600) == 0
    assert subject.take(Host.STATS, NOW + 3600) is None  # the probe is under way
    assert subject.ready_at(Host.STATS, NOW + 3600) == math.inf
    assert kinds(subject.succeeded(sent(at=NOW + 3600))) == [What.KEY_BACK]
    assert subject.take(Host.STATS, NOW + 3600) is not None


@pytest.mark.parametrize("says", [refusal(51), refusal(1672), page(502), page(503)])
def test_a_probe_that_says_nothing_about_the_key_is_repeated(says: Answer) -> None:
    """With one key, a probe that met a throttle would have been the last request for ever."""
    subject = traffic(keys=1)
    subject.answered(sent(), refusal(2101), NOW)
    later = NOW + 3600
    for _ in range(3):
        assert subject.take(Host.STATS, later) is not None
        assert subject.keys.pick(later) == 0
        subject.answered(sent(at=later), says, later)
        later += 200
    assert subject.take(Host.STATS, later) is not None


@pytest.mark.parametrize("code", [54, 55, 56, 57])
def test_a_throttle_of_a_key_pauses_the_key_alone(code: int) -> None:
    subject = traffic()
    news = subject.answered(sent(key=0), refusal(code, 15), NOW)
    assert [(n.what, n.number, n.seconds) for n in news] == [(What.KEY_PAUSED, 0, 15)]
    assert subject.answered(sent(key=0), refusal(code, 15), NOW + 0.1) == []  # told once
    assert {subject.keys.pick(NOW + 14) for _ in range(4)} == {1}
    assert subject.pauses(NOW) == {}


def test_more_than_half_of_the_addresses_paused_is_a_back_off_told_once() -> None:
    subject = traffic(addresses=4)
    told = []
    for address in range(4):
        told += kinds(subject.answered(sent(address=address), refusal(51), NOW + address / 10))
    assert told.count(What.MOST_PAUSED) == 1
    assert told.index(What.MOST_PAUSED) == 3  # with the third address
    assert subject.back_off_s(Host.STATS, NOW + 1) > 0
    again = NOW + 20  # the same trouble goes on
    for address in range(4):
        told += kinds(subject.answered(sent(address=address, at=again), refusal(51), again))
    assert told.count(What.MOST_PAUSED) == 1
    blocked = NOW + 40  # and now the edge has had enough: that asks for something else
    for address in range(4):
        told += kinds(subject.answered(sent(address=address, at=blocked), page(403), blocked))
    assert (told.count(What.MOST_PAUSED), told.count(What.MOST_BLOCKED)) == (1, 1)
    another = NOW + 1000  # long after all had recovered
    for address in range(4):
        told += kinds(subject.answered(sent(address=address, at=another), refusal(51), another))
    assert told.count(What.MOST_PAUSED) == 2


def test_a_refusal_that_comes_late_takes_no_tokens() -> None:
    """Bungie may answer after 14 s: the pause it tells of is long over."""
    subject = traffic(addresses=4)
    subject.answered(sent(), refusal(51), NOW)
    before = subject.supply(Host.STATS, NOW + 500, NOW + 501)
    assert subject.answered(sent(at=NOW - 1), refusal(51), NOW + 500) == []
    assert subject.supply(Host.STATS, NOW + 500, NOW + 501) == before
    assert subject.pauses(NOW + 500) == {}


def test_a_lone_address_is_not_slowed_down_twice() -> None:
    subject = traffic(addresses=1)
    subject.answered(sent(), refusal(51), NOW)
    until = max(NOW + 10, NOW + subject.back_off_s(Host.STATS, NOW))
    assert len(drain(subject, Host.STATS, until + 2)) == 40


def test_supply_counts_what_can_leave_in_time() -> None:
    subject = traffic(addresses=2)
    drain(subject, Host.STATS, NOW)
    assert subject.supply(Host.STATS, NOW, NOW + 10) == pytest.approx(800)
    subject.answered(sent(address=0), refusal(51), NOW)
    assert subject.supply(Host.STATS, NOW, NOW + 10) == pytest.approx(400)
    assert traffic(limits=UNLIMITED).supply(Host.STATS, NOW, NOW + 1) == math.inf


class Crowd(RuleBasedStateMachine):
    """Everything that can happen, in any order, against the plainest bookkeeping."""

    ADDRESSES = 3

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.subject = Traffic(self.ADDRESSES, LIMITS, Keys(("a", "b")), now=self.now)
        self.taken: dict[tuple[Host, int], list[float]] = {}
        self.paused: dict[int, float] = {}
        self.stopped: dict[Host, float] = {}
        self.open: list[Sent] = []

    @rule(seconds=st.floats(0, 2) | st.sampled_from([10.0, 31.0, 3600.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(host=st.sampled_from(Host), most=st.integers(1, 120))
    def send(self, host: Host, most: int) -> None:
        for _ in range(most):
            address = self.subject.take(host, self.now)
            if address is None:
                return
            assert self.now >= self.paused.get(address, 0)
            assert self.now >= self.stopped.get(host, 0)
            key = self.subject.keys.pick(self.now)
            assert key is not None
            self.taken.setdefault((host, address), []).append(self.now)
            self.open.append(Sent(host, address, key, self.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), code=st.sampled_from([1, 1653, 51, 31, 35, 54, 1672, 2101]))
    def answer(self, data: Any, code: int) -> None:
        index = data.draw(st.integers(0, len(self.open) - 1))
        request = self.open.pop(index)
        self.subject.answered(request, refusal(code), self.now)
        if code in (51, 31, 35) and request.at >= self.now - 1:
            seconds = 60 if code == 35 else 10
            began = self.paused.get(request.address, 0)
            if self.now >= began:
                self.paused[request.address] = self.now + seconds
        if code == 1672 and request.at >= self.now - 1:
            for host in Host:
                if self.now >= self.stopped.get(host, 0):
                    self.stopped[host] = self.now + 10

    @precondition(lambda self: self.open)
    @rule()
    def lose(self) -> None:
        self.subject.unanswered(self.open.pop())

    @invariant()
    def no_window_is_over_budget(self) -> None:
        for (host, _), times in self.taken.items():
            limit = LIMITS[host]
            allowed = limit.burst - limit.rate * JITTER_S
            for back in (1, 2, 5, 20, 100, len(times)):
                recent = times[-back:]
                assert len(recent) <= allowed + limit.rate * (recent[-1] - recent[0]) + 1e-6

    def teardown(self) -> None:
        """Whatever happened: without new trouble everything is back within some minutes."""
        self.now += 3600 + 200
        for request in self.open:
            self.subject.unanswered(request)
        for _ in range(2):
            key = self.subject.keys.pick(self.now)
            assert key is not None
            self.subject.succeeded(Sent(Host.WWW, 0, key, self.now))
        seconds = 10.0
        drain(self.subject, Host.STATS, self.now)
        count = sum(
            len(drain(self.subject, Host.STATS, self.now + step / 10))
            for step in range(1, int(seconds * 10) + 1)
        )
        assert count == pytest.approx(self.ADDRESSES * 40 * seconds, abs=self.ADDRESSES)


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=40, stateful_step_count=40)


@given(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=60))
def test_a_paused_address_is_never_chosen(paused: list[int]) -> None:
    subject = traffic(limits=UNLIMITED)
    now = NOW
    for address in paused:
        now += 0.5
        others = len(subject.pauses(now).keys() | {address})
        if others * 2 > 4:
            break  # then nobody sends at all
        subject.answered(sent(address=address, at=now), refusal(51), now)
        chosen = {subject.take(Host.STATS, now) for _ in range(8)}
        assert chosen == {0, 1, 2, 3} - subject.pauses(now).keys()
