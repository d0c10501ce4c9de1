"""Waiting for a token: in order, no longer than it helps, and without blocking those behind."""

import asyncio
import time

import pytest

from raidhub_dagster.bungie.protocol import read_answer
from simulator import answers
from streaming.zeus.gate import Gate, TooBusyError
from streaming.zeus.keys import Keys
from streaming.zeus.traffic import Host, Limit, Sent, Traffic


class Clock:
    """The real one, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def gate(rate: float, burst: float = 1.0, addresses: int = 1) -> tuple[Gate, Traffic, Clock]:
    clock = Clock()
    limit = Limit(rate, burst)
    traffic = Traffic(addresses, dict.fromkeys(Host, limit), Keys(("k",)), now=clock())
    return Gate(Host.STATS, traffic, clock), traffic, clock


def refusal(code: int, address: int, clock: Clock) -> tuple[Sent, object, float]:
    sent = answers.error(code)
    answer = read_answer(sent.status, sent.content_type, sent.body)
    return Sent(Host.STATS, address, 0, clock()), answer, clock()


async def spend(subject: Gate) -> None:
    while subject.try_pass() is not None:
        pass


@pytest.mark.asyncio
async def test_who_comes_first_is_served_first() -> None:
    """An id that waited must not be overtaken until its caller has given up."""
    subject, _, _ = gate(rate=400.0)
    await spend(subject)
    order: list[int] = []

    async def caller(number: int) -> None:
        await subject.wait()
        order.append(number)

    async with asyncio.timeout(10):
        await asyncio.gather(*(caller(n) for n in range(40)))
    assert order == list(range(40))
    assert subject.waiting == 0


@pytest.mark.asyncio
async def test_nobody_passes_those_who_wait() -> None:
    subject, _, clock = gate(rate=50.0)
    await spend(subject)
    waiting = asyncio.create_task(subject.wait())
    await asyncio.sleep(0)
    clock.ahead += 0.02  # a token is there, and it is the other's
    assert subject.try_pass() is None
    assert await waiting == 0


@pytest.mark.asyncio
async def test_the_rate_is_used_up_while_somebody_waits() -> None:
    """The timers of the loop are whole milliseconds: what they round off must not be lost."""
    subject, _, _ = gate(rate=250.0, burst=90.0, addresses=4)
    await spend(subject)
    started = time.monotonic()
    async with asyncio.timeout(20):
        await asyncio.gather(*(subject.wait() for _ in range(1000)))
    assert 0.99 <= time.monotonic() - started < 2


@pytest.mark.asyncio
async def test_who_would_wait_too_long_is_told_at_once() -> None:
    """A caller that gives up after 15 s would have waited for nothing, and so would its id."""
    subject, _, clock = gate(rate=2.0)
    await spend(subject)
    waiting = [asyncio.create_task(subject.wait()) for _ in range(20)]
    await asyncio.sleep(0)
    before = clock()
    with pytest.raises(TooBusyError) as told:
        await subject.wait()
    assert clock() - before < 1
    assert told.value.retry_s == 11
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert subject.waiting == 0


@pytest.mark.asyncio
async def test_who_left_takes_no_token() -> None:
    subject, _, _ = gate(rate=20.0)
    await spend(subject)
    leaving = [asyncio.create_task(subject.wait()) for _ in range(19)]
    staying = asyncio.create_task(subject.wait())
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    started = time.monotonic()
    async with asyncio.timeout(10):
        await staying
    assert time.monotonic() - started < 0.5  # of the second that 20 tokens take


@pytest.mark.asyncio
async def test_a_pause_sends_those_away_whom_it_makes_too_late() -> None:
    subject, traffic, clock = gate(rate=2.0)
    await spend(subject)
    waiting = [asyncio.create_task(subject.wait()) for _ in range(5)]
    await asyncio.sleep(0)
    traffic.answered(*refusal(35, 0, clock))  # type: ignore[arg-type]  # the tuple is exact
    subject.recheck()
    async with asyncio.timeout(5):
        told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in told] == [TooBusyError] * 5
    with pytest.raises(TooBusyError) as late:
        await subject.wait()
    assert 60 <= late.value.retry_s <= 63


@pytest.mark.asyncio
async def test_a_pause_of_one_address_leaves_the_turn_to_the_others() -> None:
    subject, traffic, clock = gate(rate=100.0, addresses=3)
    await spend(subject)
    traffic.answered(*refusal(51, 1, clock))  # type: ignore[arg-type]  # the tuple is exact
    async with asyncio.timeout(10):
        served = await asyncio.gather(*(subject.wait() for _ in range(40)))
    assert set(served) == {0, 2}
