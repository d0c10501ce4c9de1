"""Learned scores: a model a week, the review queue every day, and what people decide about it."""

import dagster as dg
from pydantic import Field

from assets.cheat_learning import cheat_features, cheat_model, review_queue
from assets.tables import RETRY
from raidhub_dagster.cheat_learning.review import Decision, decide
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.execution import TRAINING_STEP
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import ALONE_TAG, RepairConfig, Report, repair_job, tell
from raidhub_dagster.resources import PostgresResource

cheats_learning_job = dg.define_asset_job(
    "cheats_learning_job",
    description="Reads the features of the last days, trains a model and evaluates it.",
    selection=dg.AssetSelection.assets(cheat_features, cheat_model),
    tags={ALONE_TAG: "cheats_learning_job", "dagster/max_runtime": "7200", **TRAINING_STEP},
    executor_def=dg.in_process_executor,  # the steps follow each other
)

cheats_review_job = dg.define_asset_job(
    "cheats_review_job",
    description="Scores the runs of the last days and ranks what people should look at.",
    selection=dg.AssetSelection.assets(review_queue),
    tags={ALONE_TAG: "cheats_review_job", "dagster/max_runtime": "7200"},
    executor_def=dg.in_process_executor,
)


class DecideReviewConfig(RepairConfig):
    ids: list[int] = Field(description="Rows of flagging.review_queue, by id.")
    decision: str = Field(description="What they are: confirmed (cheated) or dismissed (clean).")
    actor: str = Field(description="Who looked; kept with the decision.")


@dg.op(
    description="Writes down what somebody found who looked at rows of the review queue. Final, "
    "and only written down: levels, flags and blacklists stay as they are.",
    retry_policy=RETRY,
)
def decide_review(
    context: dg.OpExecutionContext, config: DecideReviewConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("decide_review") as connection:
        done = decide(
            connection,
            config.ids,
            _decision(config.decision),
            actor=config.actor,
            dry_run=config.dry_run,
        )
    tell(
        context,
        Report(
            "Reviews decided",
            {
                "decision": config.decision,
                "decided": len(done.changed),
                "decided_before": len(done.known),
            },
            {
                "Decided": [_line(row) for row in done.changed],
                "Decided before, left as they were": [
                    {**_line(row), "state": row["state"], "decided_by": row["decided_by"]}
                    for row in done.known
                ],
            },
            is_preview=config.dry_run,
        ),
    )


def _decision(text: str) -> Decision:
    try:
        return Decision(text)
    except ValueError:
        known = ", ".join(Decision)
        raise PermanentError(f"decision: {text!r} is none of {known}") from None


def _line(row: dict[str, object]) -> dict[str, object]:
    return {name: row[name] for name in ("id", "membership_id", "instance_id", "score")}


CHEAT_LEARNING_JOBS = [cheats_learning_job, cheats_review_job, repair_job(decide_review)]
