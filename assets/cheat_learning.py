"""Learned scores: what they read, what they learned, and whom people should look at.

They advise and nothing else. Without the extra `ml` training and scoring fail at once and say how
to install it; with too little to learn from nothing is written. docs/domain/cheat-learning.md.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from assets.analytics import clickhouse_instance
from assets.charts import Bar, bar_chart
from assets.core import INSTANCE, PLAYER
from assets.tables import OWNERS, RETRY, Checked, shown
from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.cheat_learning.artifact import load_model, newest
from raidhub_dagster.cheat_learning.labels import window_of
from raidhub_dagster.cheat_learning.models import require_installed
from raidhub_dagster.cheat_learning.review import Reviewed, review
from raidhub_dagster.cheat_learning.training import (
    TooLittle,
    Trained,
    look_at_features,
    train_model,
)
from raidhub_dagster.execution import TRAINING_STEP
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import ClickHouseResource, PostgresResource

TIMEOUT_S = 1800
GROUP = "cheats"
FEATURES_KEY = dg.AssetKey(["clickhouse", "cheat_features"])
MODEL_KEY = dg.AssetKey(["postgres", "cheat_model"])
QUEUE_KEY = dg.AssetKey(["postgres", "review_queue"])

FEATURES_CHECK = dg.AssetCheckSpec(
    "cheat_features_are_complete",
    asset=FEATURES_KEY,
    description="A reading has a row for every player of every run that counts; else a join lost "
    "some, silently.",
)


class FeaturesConfig(dg.Config):
    days: int = Field(default=7, ge=1, le=60, description="How many days back to look.")


@dg.asset(
    key=FEATURES_KEY,
    group_name=GROUP,
    kinds={"clickhouse"},
    owners=OWNERS,
    description="What players did in runs of the last days, beside runs of the same kind. Figures "
    "only: the features are read anew by whoever needs them, and kept nowhere.",
    deps=[clickhouse_instance],
    check_specs=[FEATURES_CHECK],
    retry_policy=RETRY,
)
def cheat_features(
    config: FeaturesConfig, postgres: PostgresResource, clickhouse: ClickHouseResource
) -> Checked:  # type: ignore[type-arg]
    until = datetime.now(UTC)
    with (
        dagster_failures(),
        postgres.connection() as connection,
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        seen = look_at_features(
            connection,
            client,
            current_parameters(postgres.open_settings()),
            since=until - timedelta(days=config.days),
            until=until,
        )
    return Checked(
        metadata={
            "dagster/row_count": seen.rows,
            "seconds": round(seen.seconds, 3),
            "rows_per_s": round(seen.rows / max(seen.seconds, 1e-3)),
            "features": shown(seen.features),
            "compared_with": shown(
                [{"runs_of": kind, "share": round(share, 4)} for kind, share in seen.kinds.items()]
            ),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=FEATURES_CHECK.name,
                asset_key=FEATURES_KEY,
                passed=seen.rows == seen.expected_rows,
                metadata={"rows": seen.rows, "expected_rows": seen.expected_rows},
            )
        ],
    )


class ModelConfig(dg.Config):
    days: int = Field(default=180, ge=1, description="How many days back to learn from.")
    most_rows: int = Field(
        default=200_000,
        ge=1000,
        le=2_000_000,
        description="So many player-instances are drawn, by runs; besides, all confirmed ones.",
    )
    precision: float = Field(
        default=0.98, gt=0, le=1, description="Recall is told where precision is at least this."
    )


@dg.asset(
    key=MODEL_KEY,
    group_name=GROUP,
    kinds={"postgres", "scikitlearn"},
    owners=OWNERS,
    description="What was learned from verdicts of which rules or people are sure. The file lies "
    "in CHEAT_MODEL_DIR, its digest here. Too little to learn from: nothing is written, and an "
    "observation says so.",
    deps=[cheat_features, INSTANCE, PLAYER],
    metadata={"dagster/table_name": "streaming.cheat_model"},
    output_required=False,
    op_tags=TRAINING_STEP,
    retry_policy=RETRY,
)
def cheat_model(
    context: dg.AssetExecutionContext,
    config: ModelConfig,
    postgres: PostgresResource,
    clickhouse: ClickHouseResource,
) -> Iterator[dg.MaterializeResult[None]]:
    until = datetime.now(UTC)
    with (
        dagster_failures(),
        postgres.work("cheat_model") as connection,
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        done = train_model(
            connection,
            client,
            current_parameters(postgres.open_settings()),
            postgres.open_settings().cheat_model_folder,
            since=until - timedelta(days=config.days),
            until=until,
            most_rows=config.most_rows,
            precision=config.precision,
            now=until,
        )
    if isinstance(done, TooLittle):
        _tell_nothing(context, MODEL_KEY, done.reason)
    else:
        yield _trained(done, config.precision)


def _trained(done: Trained, precision: float) -> dg.MaterializeResult[None]:
    entry = done.entry
    return dg.MaterializeResult(
        metadata={
            "version": entry.version,
            "digest": entry.digest,
            "learned_from": entry.rows,
            "confirmed": entry.positives,
            "clean": entry.negatives,
            "seconds_reading": round(done.read_s, 3),
            "seconds_training": round(done.train_s, 3),
            "seconds_evaluating": round(done.evaluate_s, 3),
            "precision_asked": precision,
            "evaluation": shown(
                [
                    {k: round(v, 4) if isinstance(v, float) else v for k, v in f._asdict().items()}
                    for f in done.figures
                ]
            ),
            "recall_by_what_was_held_out": bar_chart(
                f"Recall at precision {precision}, of what was held out",
                [
                    Bar(f"{f.split} {f.held_out}", f.recall, f"{100 * f.recall:.1f} %")
                    for f in done.figures
                ],
            ),
            "calibration": bar_chart(
                "Confirmed among rows of a score, in weeks not seen",
                [
                    Bar(f"from {b.at_least:.1f}", b.share, f"{100 * b.share:.1f} %")
                    for b in done.calibration
                ],
            ),
        }
    )


class ReviewConfig(dg.Config):
    days: int = Field(default=2, ge=1, le=60, description="Runs completed in so many days.")
    at_least: float = Field(
        default=0.5, ge=0, le=1, description="Scores below are not worth a look."
    )
    most: int = Field(
        default=100, ge=1, le=1000, description="So many rows at most, of the highest value."
    )


@dg.asset(
    key=QUEUE_KEY,
    group_name=GROUP,
    kinds={"postgres", "scikitlearn"},
    owners=OWNERS,
    description="Players in runs that somebody should look at, ranked by what a look is worth; "
    "decided by the job decide_review. Advice only: no level, flag or blacklist comes from here. "
    "Without a model nothing is written, and an observation says so.",
    deps=[cheat_model, clickhouse_instance],
    metadata={"dagster/table_name": "flagging.review_queue"},
    output_required=False,
    retry_policy=RETRY,
)
def review_queue(
    context: dg.AssetExecutionContext,
    config: ReviewConfig,
    postgres: PostgresResource,
    clickhouse: ClickHouseResource,
) -> Iterator[dg.MaterializeResult[None]]:
    until = datetime.now(UTC)
    done: Reviewed | None = None
    with (
        dagster_failures(),
        postgres.work("review_queue") as connection,
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        require_installed()
        entry = newest(connection)
        if entry is not None:
            parameters = current_parameters(postgres.open_settings())
            done = review(
                connection,
                client,
                load_model(postgres.open_settings().cheat_model_folder, entry),
                entry.version,
                window_of(connection, parameters, until - timedelta(days=config.days), until),
                parameters,
                at_least=config.at_least,
                most=config.most,
            )
    if entry is None or done is None:
        _tell_nothing(context, QUEUE_KEY, "no model was trained yet: materialize cheat_model")
    else:
        yield _reviewed(done, entry.version)


def _reviewed(done: Reviewed, version: str) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(done.states.values()),
            "model": version,
            "scored": done.scored,
            "high_scores": done.found,
            "added": done.added,
            "renewed": done.renewed,
            "moot": done.moot,
            "seconds": round(done.seconds, 3),
            "rows_per_s": round(done.scored / max(done.seconds, 1e-3)),
            **done.states,
            "look_at_first": shown(
                [
                    {
                        "id": row["id"],
                        "player": row["bungie_name"] or str(row["membership_id"]),
                        "instance": str(row["instance_id"]),
                        "score": round(row["score"], 3),
                        "expected_value": round(row["expected_value"], 2),
                        "reasons": "; ".join(reason["text"] for reason in row["reasons"]),
                    }
                    for row in done.first
                ]
            ),
        }
    )


def _tell_nothing(context: dg.AssetExecutionContext, key: dg.AssetKey, reason: str) -> None:
    """An outcome that is neither a success nor an error: the asset stays as it was."""
    context.log.warning("%s", reason, extra={"action": "cheat_learning_skipped"})
    context.log_event(dg.AssetObservation(key, metadata={"outcome": reason}))
