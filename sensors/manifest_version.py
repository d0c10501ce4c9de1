"""Asks Bungie which manifest is out, and starts manifest_job while some table lacks it.

A release comes at the reset, 17:00 UTC: from then to 19:55 every tick asks, otherwise one in four
hours. Between askings a version that is known and not loaded is still pursued.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg
import msgspec

from raidhub_dagster.bungie.systems import DESTINY, POLL_S
from raidhub_dagster.errors import MaintenanceError, TransientError
from raidhub_dagster.jobs.manifest import manifest_job
from raidhub_dagster.manifest.index import ask
from raidhub_dagster.manifest.load import late_loads
from raidhub_dagster.resources import TICK_LIMIT_S, BungieResource, PostgresResource
from raidhub_dagster.schedules import request_unless_running
from raidhub_dagster.storage import api_state

VERSION_TAG = "raidhub/manifest"
TICK_S = 300
RELEASE_HOURS = range(17, 20)
QUIET = timedelta(hours=4)
# A load that failed is tried again at every tick for an hour, then each time Bungie is asked.
EAGER_TRIES = 12


class Seen(msgspec.Struct, frozen=True):
    """The cursor: what Bungie said last, and when. A time, because no table grows with it."""

    asked_at: datetime
    version: str


def follow_manifest(
    context: dg.SensorEvaluationContext,
    bungie: BungieResource,
    postgres: PostgresResource,
    now: datetime,
) -> dg.SensorResult:
    """One run of manifest_job when Bungie's version is not loaded and no run is at it.

    Its key is `manifest:<version>` at first. A key works once, and a version may have to be loaded
    again, after a failure or a roll-back: then the key also names the run that came before it.
    An API that does not answer, or is off, is a skip, and the next tick asks again.
    """
    seen = _read_cursor(context.cursor)
    is_due = seen is None or is_asked(now, seen.asked_at)
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        if is_due:
            destiny = api_state.read(connection).get(DESTINY)
            if destiny is not None and not destiny.enabled and destiny.age_s < 2 * POLL_S:
                return _skip(f"{DESTINY} is switched off", context.cursor)
            try:
                with bungie.client(attempts=1) as client:  # a tick has 30 s; the next one is near
                    seen = Seen(now, ask(client).name)
            except (TransientError, MaintenanceError) as error:
                return _skip(f"Bungie's API gives no manifest: {error}", context.cursor)
        assert seen is not None  # noqa: S101  else it was due
        late = late_loads(connection, seen.version)
    cursor = msgspec.json.encode(seen).decode()
    told = f"{seen.version}, asked at {seen.asked_at:%Y-%m-%d %H:%M}"
    if not late:
        return _skip(f"{told}, is loaded", cursor)
    runs = dg.RunsFilter(job_name=manifest_job.name, tags={VERSION_TAG: seen.version})
    before = context.instance.get_runs(runs, limit=1)
    tries = context.instance.get_runs_count(runs)
    if tries >= EAGER_TRIES and not is_due:
        return _skip(f"{told}, was tried {tries} times: {', '.join(late)} later", cursor)
    request = request_unless_running(context, manifest_job.name)
    if isinstance(request, dg.SkipReason):
        return _skip(str(request.skip_message), cursor)
    key = ":".join(["manifest", seen.version, *(f"after:{run.run_id}" for run in before)])
    request = dg.RunRequest(run_key=key, tags={VERSION_TAG: seen.version})
    return dg.SensorResult(run_requests=[request], cursor=cursor)


def is_asked(now: datetime, asked_at: datetime) -> bool:
    """True when a tick at `now` asks Bungie; both aware."""
    return now.astimezone(UTC).hour in RELEASE_HOURS or not now - QUIET < asked_at <= now


def _read_cursor(cursor: str | None) -> Seen | None:
    try:
        seen = msgspec.json.decode(cursor or "", type=Seen)
    except msgspec.DecodeError:
        return None
    return seen if seen.asked_at.tzinfo is not None else None


def _skip(reason: str, cursor: str | None) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor)


@dg.sensor(
    name="manifest_version_sensor",
    job=manifest_job,
    minimum_interval_seconds=TICK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks Bungie for the manifest every 5 minutes from 17:00 to 19:55 UTC, otherwise "
    "every 4 hours; starts manifest_job while a table lacks the version.",
)
def manifest_version_sensor(
    context: dg.SensorEvaluationContext, bungie: BungieResource, postgres: PostgresResource
) -> dg.SensorResult:
    return follow_manifest(context, bungie, postgres, datetime.now(UTC))
