"""Is a contest on? The definitions tell, or an operator by IS_CONTEST_WEEKEND."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.definitions import load_activities
from raidhub_dagster.storage.postgres import connected
from streaming.hermes.loop import Loop, Step
from streaming.hermes.threads import Threads

# A window entered at the last minute must show within the 10 s that workers have to follow it; the
# table has about twenty rows.
_READ_EVERY_S = 5.0


class Contest:
    """The contest windows of all activities; `loop` keeps them current."""

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._now = now
        self._windows: list[tuple[datetime, datetime]] = []

    def is_on(self) -> bool:
        """True from the release of an activity to the end of its contest."""
        now = self._now()
        windows = self._windows
        return self._settings.is_contest_weekend or any(
            release <= now < end for release, end in windows
        )

    def loop(self, threads: Threads) -> Loop:
        """Reads the definitions again and again; what was read last holds while it cannot."""

        @contextmanager
        def open_step() -> Iterator[Step]:
            with connected(self._settings, "hermes-contest") as connection:

                def read() -> bool:
                    with connection:
                        activities = load_activities(connection)
                    self._windows = [
                        (a.release_date, a.contest_end) for a in activities if a.contest_end
                    ]
                    return False

                yield read

        return Loop("contest", open_step, threads, idle_s=_READ_EVERY_S)
