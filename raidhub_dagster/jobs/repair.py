"""What every repair shares: it previews unless told otherwise, runs alone, and reports in Markdown.

A repair is a job of one op that calls one function of the domain. Example configurations:
docs/repairs/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from pydantic import Field

from raidhub_dagster.failures import stop_run_retries

# The queue starts no second run of the same repair; `dagster job execute` has no queue, so the op
# takes PostgresResource.alone besides.
ALONE_TAG = "raidhub/alone"


class RepairConfig(dg.Config):
    """Of every repair that changes data."""

    dry_run: bool = Field(
        default=True, description="True: only report what would change. False: change it."
    )


@dataclass(frozen=True)
class Report:
    """What a repair found and did; `tables` have a caption and rows of equal columns."""

    title: str
    facts: Mapping[str, object]
    tables: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    is_preview: bool = False

    def markdown(self) -> str:
        """A heading, one line a fact, and the tables."""
        lines = [f"### {self.title}{' (preview: nothing was changed)' if self.is_preview else ''}"]
        lines += ["", *(f"- {name}: **{value}**" for name, value in self.facts.items())]
        for caption, rows in self.tables.items():
            lines += ["", f"#### {caption}", ""]
            lines += _table(rows) if rows else ["none"]
        return "\n".join(lines) + "\n"


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    columns = list(rows[0])
    cells = [[str(row[column]).replace("|", "\\|") for column in columns] for row in rows]
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]


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
