"""One request for many: the memory and the requests on their way."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from streaming.zeus.shared import Flights, Memory, Question, Whole


def answer(body: bytes = b"{}") -> Whole:
    return Whole(200, "OK", CIMultiDict(), body)


def question(name: object) -> Question:
    return (f"/Platform/GroupV2/{name}/", ())


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_success_is_remembered_for_some_seconds() -> None:
    clock = Clock()
    memory = Memory(5.0, clock)
    assert memory.get(question(1)) is None
    memory.put(question(1), answer(b"one"))
    clock.now += 4.9
    found = memory.get(question(1))
    assert found is not None
    assert found[0].body == b"one"
    assert found[1] == pytest.approx(4.9)
    assert memory.get((question(1)[0], (("Accept-Encoding", "gzip"),))) is None
    clock.now += 0.1
    assert memory.get(question(1)) is None
    assert memory.size_bytes == len(memory) == 0


def test_zero_seconds_remember_nothing() -> None:
    memory = Memory(0.0, Clock())
    memory.put(question(1), answer())
    assert memory.get(question(1)) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5_000_000)), max_size=80))
def test_the_memory_has_bounds(puts: list[tuple[int, int]]) -> None:
    """Whoever asks for a million profiles must not fill it."""
    clock = Clock()
    memory, sizes = Memory(5.0, clock), {}
    bodies = bytes(5_000_000)
    for number, size in puts:
        clock.now += 0.1
        memory.put(question(number), answer(memoryview(bodies)[:size].tobytes()))
        sizes[number] = size
        assert memory.size_bytes <= 32 * 1024 * 1024
    kept = {n: f[0].body for n in sizes if (f := memory.get(question(n)))}
    assert memory.size_bytes == sum(map(len, kept.values()))


def test_the_oldest_leave_first() -> None:
    memory = Memory(5.0, Clock())
    for number in range(1200):
        memory.put(question(number), answer())
    assert len(memory) == 1000
    assert memory.get(question(199)) is None
    assert memory.get(question(200)) is not None


class Api:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.cancelled = 0
        self.ready = asyncio.Event()

    async def ask(self) -> Whole | None:
        self.asked += 1
        try:
            await self.ready.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return answer(b"shared")


@pytest.mark.asyncio
async def test_those_who_ask_the_same_share_one_request() -> None:
    api, flights = Api(), Flights()
    callers = [asyncio.create_task(flights.join(question(1), api.ask)) for _ in range(5)]
    other = asyncio.create_task(flights.join(question(2), api.ask))
    await asyncio.sleep(0)
    api.ready.set()
    answers = await asyncio.gather(*callers, other)
    assert {a.body for a in answers if a} == {b"shared"}
    assert api.asked == 2
    assert len(flights) == 0


@pytest.mark.asyncio
async def test_the_first_caller_may_leave() -> None:
    """Otherwise one impatient caller would fail all who asked the same."""
    api, flights = Api(), Flights()
    first, second = (asyncio.create_task(flights.join(question(1), api.ask)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    api.ready.set()
    found = await second
    assert found is not None
    assert (api.asked, api.cancelled) == (1, 0)


@pytest.mark.asyncio
async def test_when_all_have_left_the_request_ends() -> None:
    api, flights = Api(), Flights()
    callers = [asyncio.create_task(flights.join(question(1), api.ask)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert (api.cancelled, len(flights)) == (1, 0)
    api.ready.set()
    assert await flights.join(question(1), api.ask) is not None
    assert api.asked == 2


@pytest.mark.asyncio
async def test_a_failure_reaches_everybody_and_is_not_kept() -> None:
    flights = Flights()

    async def fail() -> Whole | None:
        await asyncio.sleep(0)
        raise ConnectionError("gone")

    callers = [asyncio.create_task(flights.join(question(1), fail)) for _ in range(3)]
    told = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(each) for each in told] == [ConnectionError] * 3
    assert len(flights) == 0
