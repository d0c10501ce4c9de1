"""What must hold of learned scores: the model can be opened, and the queue only advises."""

import dagster as dg

from assets.cheat_learning import MODEL_KEY, QUEUE_KEY
from raidhub_dagster.cheat_learning.artifact import check_newest
from raidhub_dagster.cheat_learning.review import check_advice
from raidhub_dagster.checks.claims import claim, judged
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource


@dg.asset_check(
    asset=MODEL_KEY,
    name="cheat_model_is_usable",
    description="The newest model's file is here as training wrote it, and was made for the "
    "features of this release. Without a model there is nothing to open.",
)
def cheat_model_is_usable(postgres: PostgresResource) -> dg.AssetCheckResult:
    folder = postgres.open_settings().cheat_model_folder
    with dagster_failures(), postgres.connection() as connection:
        return judged(check_newest(connection, folder))


CHEAT_LEARNING_CHECKS = [
    cheat_model_is_usable,
    claim(
        QUEUE_KEY,
        "only_advises",
        "No level, flag or blacklist comes from a learned score: only rules and people decide.",
        lambda connection, _since: check_advice(connection),
        blocking=False,
    ),
]
