"""A repeated step: its pauses, what it reports, and what a crash does to the process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from raidhub_dagster.errors import TransientError
from streaming.hermes.loop import Loop, Step
from streaming.hermes.threads import Threads


class Paused(Threads):
    """Ends the process after so many pauses, and notes them instead of waiting."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.pauses: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        if len(self.pauses) == self.most:
            self.stopping.set()
        return self.stopping.is_set()


def run(threads: Paused, step: Step, clock: Callable[[], float] = lambda: 0.0) -> Loop:
    @contextmanager
    def open_step() -> Iterator[Step]:
        yield step

    loop = Loop("trial", open_step, threads, idle_s=7.0, longest_s=8.0, clock=clock)
    loop.run()
    return loop


def test_goes_on_at_once_while_there_is_more_and_rests_when_there_is_not() -> None:
    more = [True, True, False, True, False]
    threads = Paused(2)
    loop = run(threads, lambda: more.pop(0))
    assert (more, threads.pauses) == ([], [7.0, 7.0])
    assert loop.problem() is None


@pytest.mark.parametrize("error", [TransientError("away"), ZeroDivisionError("a bug")])
def test_backs_off_while_it_fails_and_says_why(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in one step must not end the process, and an outage must not fill the log."""

    def step() -> bool:
        raise error

    threads = Paused(6)
    loop = run(threads, step)
    assert threads.pauses == [1, 2, 4, 8, 8, 8]
    assert loop.problem() == f"{type(error).__name__}: {error}"
    assert loop.hangs() is None  # or a probe would restart it for another one's outage
    assert ("Traceback" in caplog.text) is isinstance(error, ZeroDivisionError)


def test_starts_with_short_pauses_again_after_a_success() -> None:
    outcomes: list[Exception | None] = [TransientError("1"), TransientError("2"), None]
    outcomes += [TransientError("3")]

    def step() -> bool:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return False

    threads = Paused(4)
    run(threads, step)
    assert threads.pauses == [1, 2, 7, 1]


def test_a_step_that_hangs_is_a_problem() -> None:
    now = [0.0]
    loop = run(Paused(1), lambda: False, clock=lambda: now[0])
    now[0] = 601.0
    assert loop.problem() == loop.hangs() == "no step ended for 601 s"


def test_a_crashed_thread_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise a consumer with a hole in its slots looks alive and works at half speed."""

    def crash() -> None:
        raise ZeroDivisionError("a bug")

    threads = Threads()
    threads.start("fragile", crash).join()
    assert threads.stopping.is_set()
    assert threads.crashed
    assert "Thread fragile crashed" in caplog.text
