import dagster as dg
import psycopg2
import psycopg2.errors
import pytest

from raidhub_dagster.bungie.client import BungieError
from raidhub_dagster.errors import (
    ConfigurationError,
    MaintenanceError,
    PermanentError,
    TransientError,
)
from raidhub_dagster.failures import RETRY_RUN_TAG, dagster_failures, stop_run_retries


@pytest.mark.parametrize(
    "error",
    [
        PermanentError("no such report", {"instance_id": 7}),
        ConfigurationError("POSTGRES_PORT: no number"),
        psycopg2.errors.UndefinedTable("no such view"),
    ],
    ids=["permanent", "configuration", "broken statement"],
)
def test_does_not_repeat_what_fails_again(error: Exception) -> None:
    """Otherwise a missing migration costs three waits, then a second run, before anybody looks."""
    with pytest.raises(dg.Failure, match=r".+") as caught, dagster_failures():
        raise error
    assert not caught.value.allow_retries
    assert caught.value.description == str(error)


def test_maintenance_is_not_tried_again_two_minutes_later() -> None:
    """It lasts for hours; what to do about it stands in the failure."""
    wanted = "run this again after it: off"
    with pytest.raises(dg.Failure, match=wanted) as caught, dagster_failures():
        raise MaintenanceError("off")
    assert not caught.value.allow_retries


def test_waits_as_long_as_bungie_asks() -> None:
    """Who asks again before that is throttled for longer, and everybody with him."""
    with pytest.raises(dg.RetryRequested) as caught, dagster_failures():
        raise BungieError("throttled", pause_s=300, facts={})
    assert (caught.value.max_retries, caught.value.seconds_to_wait) == (2, 300)


def test_tells_the_facts_when_an_error_is_permanent() -> None:
    """The reader at night needs the bad id, not the traceback."""
    with pytest.raises(dg.Failure) as caught, dagster_failures():
        raise PermanentError("no such report", {"instance_id": 7})
    assert caught.value.metadata["instance_id"].value == 7


@pytest.mark.parametrize(
    "error",
    [
        TransientError("no answer"),
        BungieError("HTTP 500", facts={}),
        psycopg2.OperationalError("server closed the connection"),
    ],
    ids=["transient", "no pause asked for", "lost connection"],
)
def test_leaves_the_rest_to_the_retry_policy(error: Exception) -> None:
    with pytest.raises(type(error)), dagster_failures():
        raise error


@pytest.mark.parametrize(
    ("error", "tag", "attempts"),
    [(PermanentError("malformed"), "false", 1), (TransientError("throttled"), None, 3)],
    ids=["permanent", "transient"],
)
def test_a_run_is_repeated_only_when_that_may_help(
    instance: dg.DagsterInstance, error: Exception, tag: str | None, attempts: int
) -> None:
    """The run-retry daemon would otherwise launch the same failure again and again."""
    tried = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
    def fails() -> None:
        tried.append(1)
        with dagster_failures():
            raise error

    hooked = fails.with_hooks({stop_run_retries})
    result = dg.materialize([hooked], instance=instance, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (len(tried), run.tags.get(RETRY_RUN_TAG)) == (attempts, tag)
