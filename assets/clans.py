"""Clans of the best players and who is in them, asked for once a week.

Between the steps, and between a killed run and the next one, the state is in the database
(`streaming.top_player`); what each step does is in docs/domain/clans.md.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from assets.core import PLAYER
from assets.leaderboards import (
    CLAN_MEMBERS_KEY,
    individual_global_leaderboard,
    individual_raid_leaderboard,
)
from assets.tables import OWNERS, RETRY, WEEKLY, shown
from raidhub_dagster.clans.top import (
    ATTEMPTS,
    Failed,
    Progress,
    ask_for_clans,
    choose_top_players,
    crawl_clans,
    pause_s,
)
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import BungieResource, PostgresResource

CLANS_KEY = dg.AssetKey(["postgres", "clans"])
_SHOWN = 20  # failures that the metadata lists; the log has all
_MOST_CONNECTIONS = 8  # the threads mostly wait for the API


class TopPlayersConfig(dg.Config):
    top: int = Field(
        default=1500, description="The last rank, on any board of individuals, that still counts."
    )
    timeout_s: int = Field(default=900, description="Statement limit, 0 for none.")


@dg.asset(
    key=["postgres", "top_players"],
    group_name="clans",
    kinds={"postgres"},
    owners=OWNERS,
    description="Players with a rank of at most `top` on the global board or on one of a raid: "
    "their clans are crawled. Kept in streaming.top_player, with the clans that each was found in.",
    deps=[individual_global_leaderboard, individual_raid_leaderboard, PLAYER],
    metadata={"dagster/table_name": "streaming.top_player"},
    pool="postgres_refresh",
    retry_policy=RETRY,
    freshness_policy=WEEKLY,
)
def top_players(config: TopPlayersConfig, postgres: PostgresResource) -> dg.MaterializeResult[None]:
    with dagster_failures(), postgres.connection() as connection:
        players, by_platform = choose_top_players(
            connection, top=config.top, timeout_s=config.timeout_s
        )
    return dg.MaterializeResult(
        metadata={"dagster/row_count": players, "by_platform": shown(by_platform)}
    )


class ClansConfig(dg.Config):
    reqs: int = Field(default=14, description="Requests to the API at once, each with a thread.")
    fresh_h: float = Field(
        default=12,
        description="Players and clans asked within so many hours are not asked again: a run goes "
        "on where a failed one ended. 0 asks for all.",
    )
    forget_days: int = Field(
        default=90, description="Clans that nobody crawled for so many days are dropped."
    )
    progress_every: int = Field(
        default=100, description="Players or clans after which progress is told."
    )


@dg.multi_asset(
    name="crawl_clans",
    specs=[
        dg.AssetSpec(
            CLANS_KEY,
            group_name="clans",
            kinds={"postgres"},
            owners=OWNERS,
            description="Clans: name, motto, call sign and banner. Those of top players once a "
            "week, others when somebody opens their page.",
            deps=[top_players],
            metadata={"dagster/table_name": "clan.clan"},
            freshness_policy=WEEKLY,
        ),
        dg.AssetSpec(
            CLAN_MEMBERS_KEY,
            group_name="clans",
            kinds={"postgres"},
            owners=OWNERS,
            description="Which player is in which clan. A clan's members are swapped in one short "
            "transaction; who is no known player yet waits in streaming.pending_clan_member.",
            deps=[top_players, CLANS_KEY],
            metadata={"dagster/table_name": "clan.clan_members"},
            freshness_policy=WEEKLY,
        ),
    ],
    pool="bungie",
    retry_policy=RETRY,
)
def crawl_top_clans(
    context: dg.AssetExecutionContext,
    config: ClansConfig,
    postgres: PostgresResource,
    bungie: BungieResource,
) -> Iterator[dg.MaterializeResult[None]]:
    fresh_for = timedelta(hours=config.fresh_h)

    def tell(progress: Progress) -> None:
        stage, done, total, failed = progress
        context.log.info(
            "%s: %d of %d asked, %d failed",
            *progress,
            extra={"action": "clans_progressed", "stage": stage, "done": done, "total": total},
        )
        context.log_event(
            dg.AssetObservation(
                CLAN_MEMBERS_KEY,
                metadata={"stage": stage, "done": done, "total": total, "failed": failed},
            )
        )

    with (
        dagster_failures(),
        postgres.alone("clans"),
        postgres.pool(_MOST_CONNECTIONS) as pool,
        ExitStack() as closing,
    ):
        clients = [
            closing.enter_context(bungie.client(attempts=ATTEMPTS, pause_s=pause_s))
            for _ in range(config.reqs)
        ]
        asked = ask_for_clans(
            pool, clients, fresh_for=fresh_for, tell=tell, every=config.progress_every
        )
        crawled = crawl_clans(
            pool,
            clients,
            fresh_for=fresh_for,
            forget_after=timedelta(days=config.forget_days),
            tell=tell,
            every=config.progress_every,
        )
    failed = [*asked.failed, *crawled.failed]
    for failure in failed:
        context.log.warning(
            "%s %d: %s", *failure, extra={"action": "clans_left_out", "id": failure.id}
        )
    yield dg.MaterializeResult(
        asset_key=CLANS_KEY,
        metadata={
            "dagster/row_count": crawled.clans,
            **{f"clans_{outcome}": number for outcome, number in crawled.outcomes.items()},
            "clans_failed": len(crawled.failed),
            "clans_forgotten": crawled.forgotten,
            "failed": _listed(failed),
        },
    )
    yield dg.MaterializeResult(
        asset_key=CLAN_MEMBERS_KEY,
        metadata={
            "dagster/row_count": crawled.members,
            "members_waiting_to_be_known": crawled.pending,
            "players": asked.players,
            "players_asked": asked.asked,
            "players_failed": len(asked.failed),
            "failed": _listed(failed),
        },
    )


def _listed(failed: list[Failed]) -> dg.TableMetadataValue:
    rows: list[dict[str, Any]] = [f._asdict() | {"id": str(f.id)} for f in failed[:_SHOWN]]
    return shown(rows)
