"""An outage is two lines of the log, not a million."""

import logging

import pytest

from streaming.zeus.reach import Reach
from streaming.zeus.traffic import Host


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_outage_is_told_once_a_minute_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    reach = Reach(Host.STATS, clock)
    for _ in range(910):
        reach.failed("ClientConnectorError")
        clock.now += 0.1
    assert reach.problem == "no answer for 91 s: ClientConnectorError"
    reach.answered()
    assert reach.problem is None
    assert [record.__dict__["action"] for record in caplog.records] == [
        "zeus_host_lost",
        "zeus_host_lost",
        "zeus_host_reached",
    ]
    assert caplog.messages[-1] == "The stats host answers again after 91 s"


def test_single_losses_are_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reach = Reach(Host.WWW, Clock())
    for _ in range(50):
        for _ in range(9):
            reach.failed("ServerDisconnectedError")
        reach.answered()
    assert reach.problem is None
    assert not caplog.records
