"""What every repair shares: it previews unless told otherwise, runs alone, and reports in Markdown.

A repair is a job of one op that calls one function of the domain. Example configurations:
docs/repairs/.
"""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.failures import stop_run_retries
from raidhub_dagster.monitoring.markdown import Report as Report

# The queue starts no second run of the same repair; `dagster job execute` has no queue, so the op
# takes PostgresResource.work besides.
ALONE_TAG = "raidhub/alone"


class RepairConfig(dg.Config):
    """Of every repair that changes data."""

    dry_run: bool = Field(
        default=True, description="True: only report what would change. False: change it."
    )


def read_time(field: str, text: str) -> datetime:
    """The time in a field of a configuration, UTC without a zone. Raises PermanentError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise PermanentError(f"{field}: {text!r} is no time like 2026-03-01T17:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def tell(context: dg.OpExecutionContext, report: Report) -> None:
    """Puts the report where it is looked for: the step's output in the UI, and the run's log."""
    text = report.markdown()
    context.add_output_metadata(
        {
            "report": dg.MetadataValue.md(text),
            **{n: v for n, v in report.facts.items() if isinstance(v, bool | int | float | str)},
        }
    )
    context.log.info("%s", text, extra={"action": "repair_reported"})


def repair_job(op: dg.OpDefinition) -> dg.JobDefinition:
    """The job of one op, by its name and with its description."""
    # Dagster wants names of ops and graphs apart, though only when it validates all of them.
    name = f"{op.name}_graph"
    graph = dg.GraphDefinition(name=name, node_defs=[op], description=op.description)
    return graph.to_job(
        name=op.name,
        tags={ALONE_TAG: op.name, "dagster/max_runtime": "7200"},
        hooks={stop_run_retries},
        executor_def=dg.in_process_executor,
    )
