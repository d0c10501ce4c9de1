"""The pace of the crawl: the window it looks at, the laws, and what a silence does to it."""

import pytest

from raidhub_dagster.bungie.protocol import ResultKind
from streaming.atlas.scaling import Bounds, Mode, Scaling, Step, law
from streaming.atlas.window import LAG_S, Sight, Window

BOUNDS = Bounds(5, 250)
OK, NOT_FOUND = ResultKind.NON_RAID, ResultKind.NOT_FOUND


def sight(share: float, lag_s: float = 15.0, per_s: float = 40.0) -> Sight:
    asked = 10_000
    missing = round(asked * share)
    return Sight(
        asked=asked,
        not_found=missing,
        not_found_share=share,
        error_share=0.0,
        lag_s=lag_s,
        resolved=round(per_s * 240),
        resolved_per_s=per_s,
        is_silent=False,
    )


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(
    ("share", "workers", "becomes"),
    [
        (0.10, 100, 68),  # -32 %
        (0.20, 100, 35),  # -65 %, the largest step
        (0.50, 100, 35),
        (0.002, 100, 111),  # +11 %
        (0.025, 100, 100),  # the predecessor computed NaN
    ],
)
def test_fine_tunes_towards_two_and_a_half_percent(
    share: float, workers: int, becomes: int
) -> None:
    step = law(sight(share), workers, BOUNDS)
    assert (step.mode, step.workers) == (Mode.FINE_TUNE, becomes)


@pytest.mark.parametrize(
    ("share", "lag_s", "workers", "becomes"),
    [
        (0.0, 120, 25, Step(Mode.CATCH_UP, 50, 10_000)),
        (0.0, 5, 25, Step(Mode.CATCH_UP, 25, 10_000)),  # a report is never younger than 20 s
        (0.3, 600, 25, Step(Mode.CATCH_UP, 170, 10_000)),  # 404s do not matter so far behind
        (0.0, 86_400, 250, Step(Mode.CATCH_UP, 250, round((250 * 86_380) ** 0.824))),
    ],
)
def test_catches_up_the_faster_the_more_it_is_behind(
    share: float, lag_s: float, workers: int, becomes: Step
) -> None:
    assert law(sight(share, lag_s), workers, BOUNDS) == becomes


def test_probes_where_most_ids_are_not_there() -> None:
    assert law(sight(0.51, 5000), 200, BOUNDS) == Step(Mode.PROBE, 25, 2500)


@pytest.mark.parametrize(
    ("share", "per_s", "block"), [(0.03, 40.0, 12_000), (0.08, 40.0, 4000), (0.03, 0.0, 600 * 99)]
)
def test_blocks_follow_the_rate(share: float, per_s: float, block: int) -> None:
    """A block that takes an hour is an hour's work to repeat after a death."""
    workers = 100 if per_s else 102
    assert law(sight(share, per_s=per_s), workers, BOUNDS).block == pytest.approx(block, rel=0.03)


@pytest.mark.parametrize(("share", "lag_s", "becomes"), [(0.2, 15, 8), (0.0, 3600, 10)])
def test_stays_within_the_bounds(share: float, lag_s: float, becomes: int) -> None:
    assert law(sight(share, lag_s), 9, Bounds(8, 10)).workers == becomes


def test_a_silence_changes_the_pace_for_its_own_time_only() -> None:
    """The pace before it was right; 404s of a head that gives nothing say nothing about it."""
    scaling = Scaling(60, BOUNDS)
    scaling.evaluate(sight(0.20), is_silent=True)  # the window still holds what came before
    assert scaling.workers == 60
    scaling.evaluate(sight(0.9), is_silent=True)
    assert (scaling.mode, scaling.workers) == (Mode.PROBE, 25)
    scaling.evaluate(sight(0.99), is_silent=True)
    scaling.resolved()
    assert scaling.workers == 60
    scaling.resolved()
    scaling.evaluate(sight(0.10), is_silent=False)
    assert scaling.workers == 41


def test_an_outage_says_nothing_about_the_pace() -> None:
    """No 404 and no lag would read as far behind: all workers at an API that just came back."""
    scaling = Scaling(25, BOUNDS)
    nothing = Window(Clock()).look()
    scaling.evaluate(nothing, is_silent=False)
    assert scaling.workers == 25


def test_the_window_counts_shares_rate_and_the_20th_percentile() -> None:
    clock = Clock()
    window = Window(clock)
    for lag_s in range(100):
        window.add(OK, float(lag_s))
    for kind in (NOT_FOUND, ResultKind.EXTERNAL_ERROR, ResultKind.RATE_LIMITED):
        for _ in range(20):
            window.add(kind, None)
    clock.time = 30
    seen = window.look()
    assert (seen.asked, seen.not_found, seen.resolved) == (160, 20, 100)
    assert seen.not_found_share == pytest.approx(20 / 160)
    assert seen.error_share == pytest.approx(40 / 160)
    assert seen.lag_s == 20
    assert seen.resolved_per_s == pytest.approx(100 / 60)  # over a minute at least
    assert not seen.is_silent


def test_the_window_forgets_after_four_minutes() -> None:
    clock = Clock()
    window = Window(clock)
    window.add(NOT_FOUND, None)
    for _ in range(16):
        clock.time += 15
        seen = window.look()
        window.add(OK, 10.0)
    assert seen.not_found == 1
    clock.time += 15
    seen = window.look()
    assert (seen.not_found, seen.lag_s) == (0, 10)
    window.add(OK, 10.0)
    clock.time += 1000  # a look that comes late still sees what came before it
    assert window.look().resolved == 1


def test_a_window_without_a_report_assumes_to_be_behind() -> None:
    window = Window(Clock())
    window.add(NOT_FOUND, None)
    window.add(ResultKind.SYSTEM_DISABLED, None)
    seen = window.look()
    assert (seen.asked, seen.lag_s, seen.is_silent) == (1, LAG_S, True)
