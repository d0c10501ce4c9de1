"""Turns failures of the domain into failures that Dagster does not repeat in vain.

Only the translation is here: which error is permanent is decided where it is raised.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import psycopg2

from raidhub_dagster.bungie.client import BungieError
from raidhub_dagster.errors import MaintenanceError, PermanentError
from raidhub_dagster.storage.postgres import is_connection_lost, is_retried

# The run-retry daemon reads this tag of a run before it launches another one.
RETRY_RUN_TAG = "dagster/retry_on_asset_or_op_failure"


@contextmanager
def dagster_failures() -> Iterator[None]:
    """Inside, an error that the same input raises again becomes a failure without retries.

    Those are PermanentError and PostgreSQL's errors that neither a conflict nor a lost connection
    explains (a missing table, a broken statement). Maintenance lasts for hours, so two tries in two
    minutes are in vain as well. Where Bungie asked for a pause, the step is repeated after it.
    Everything else passes: the step's retry policy is for lost processes and locks.
    """
    try:
        yield
    except PermanentError as error:
        raise dg.Failure(str(error), metadata=error.facts, allow_retries=False) from error
    except MaintenanceError as error:
        reason = f"Bungie's maintenance, run this again after it: {error}"
        raise dg.Failure(reason, metadata=error.facts, allow_retries=False) from error
    except BungieError as error:
        if error.pause_s <= 0:
            raise
        raise dg.RetryRequested(max_retries=2, seconds_to_wait=error.pause_s) from error
    except psycopg2.Error as error:
        if is_retried(error) or is_connection_lost(error):
            raise
        facts = {"sqlstate": error.pgcode or "none"}
        raise dg.Failure(str(error).strip(), metadata=facts, allow_retries=False) from error


@dg.failure_hook
def stop_run_retries(context: dg.HookContext) -> None:
    """The run-retry daemon reads tags and never sees the exception, so a tag tells it."""
    cause = context.op_exception
    if isinstance(cause, dg.Failure) and not cause.allow_retries:
        context.instance.add_run_tags(context.run_id, {RETRY_RUN_TAG: "false"})
