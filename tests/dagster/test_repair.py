"""What repairs share. Each repair has tests of its own."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import ALONE_TAG, RepairConfig, Report, repair_job, tell
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import BusyError, alone


@dg.op(description="Counts what it would do.")
def count_something(
    context: dg.OpExecutionContext, config: RepairConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.alone("count_something"):
        tell(
            context,
            Report(
                "Counted",
                {"rows": 3, "share": 0.5},
                {"Rows | all": [{"id": 1, "why": "a|b"}], "Left": []},
                is_preview=config.dry_run,
            ),
        )


JOB = repair_job(count_something)


def test_a_repair_previews_unless_told_otherwise(store: PostgresResource) -> None:
    """A click on Launch with nothing typed must be harmless, and must say so."""
    done = JOB.execute_in_process(resources={"postgres": store})
    (event,) = done.get_step_success_events()
    outputs = [e for e in done.all_events if e.event_type_value == "STEP_OUTPUT"]
    report = outputs[0].step_output_data.metadata["report"].value
    assert event.step_key == "count_something"
    assert report == (
        "### Counted (preview: nothing was changed)\n\n"
        "- rows: **3**\n- share: **0.5**\n\n"
        "#### Rows | all\n\n| id | why |\n|---|---|\n| 1 | a\\|b |\n\n"
        "#### Left\n\nnone\n"
    )
    assert outputs[0].step_output_data.metadata["rows"].value == 3


def test_a_second_run_is_refused_while_the_first_one_works(
    store: PostgresResource, postgres: dict[str, Any], settings_for: Callable[..., Settings]
) -> None:
    """Two repairs of the same rows would disturb each other; the second must not retry."""
    with (
        alone(settings_for(postgres), "pytest", "count_something"),
        pytest.raises(dg.Failure, match="count_something runs already") as caught,
    ):
        JOB.execute_in_process(resources={"postgres": store})
    assert not caught.value.allow_retries
    assert JOB.execute_in_process(resources={"postgres": store}).success


def test_a_lock_of_work_ends_with_its_holder(
    postgres: dict[str, Any], settings_for: Callable[..., Settings]
) -> None:
    """A killed run must not leave its repair locked for ever."""
    settings = settings_for(postgres)
    with pytest.raises(RuntimeError), alone(settings, "pytest", "work"):
        raise RuntimeError
    with (
        alone(settings, "pytest", "work"),
        pytest.raises(BusyError, match="work runs already"),
        alone(settings, "pytest", "work"),
    ):
        pass


def test_the_queue_lets_a_repair_run_once_at_a_time() -> None:
    assert JOB.tags[ALONE_TAG] == "count_something"
