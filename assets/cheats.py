"""From flags to cheat levels, from levels to the blacklist, and what all of it amounts to.

Four times a day, each step by what the one before left in the database; rules:
docs/domain/cheat-levels.md. Levels only rise here, the blacklist only grows.
"""

import time
from contextlib import ExitStack
from datetime import timedelta

import dagster as dg
from pydantic import Field

from assets.charts import Bar, bar_chart
from assets.core import INSTANCE, INSTANCE_PLAYER, PLAYER
from assets.tables import OWNERS, RETRY, Checked, shown
from raidhub_dagster.cheat_detection import cheat_report as reporting
from raidhub_dagster.cheat_detection.blacklist import blacklist, count_blacklist
from raidhub_dagster.cheat_detection.flag_stats import count_flags, heaviest
from raidhub_dagster.cheat_detection.levels import raise_levels, tell_run
from raidhub_dagster.cheat_detection.notices import LEVEL_NAMES
from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.cheat_detection.profiles import ATTEMPTS, WORKERS, pause_s
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import BungieResource, PostgresResource
from raidhub_dagster.storage.webhooks import addresses

FLAG_STATS_KEY = dg.AssetKey(["postgres", "player_flag_stats"])
LEVELS_KEY = dg.AssetKey(["postgres", "player_cheat_levels"])
BLACKLIST_KEY = dg.AssetKey(["postgres", "blacklisted_instances"])
REPORT_KEY = dg.AssetKey(["postgres", "cheat_report"])
REPORT_CHECK = dg.AssetCheckSpec(
    "cheat_report_names_every_reason",
    asset=REPORT_KEY,
    description="No flag has a bit that this release cannot name: another release's reasons would "
    "be missing from the report.",
)
# The longest way between two of the four runs a day is 8 h.
_FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=10))
_SHOWN = 20
_MOST_CONNECTIONS = 4  # the threads mostly wait for the API
_ALONE = "cheat_levels"  # two runs at once would judge by half-written counts


class StatementConfig(dg.Config):
    timeout_s: int = Field(default=900, description="Statement limit, 0 for none.")


class LevelsConfig(dg.Config):
    workers: int = Field(
        default=WORKERS, description="Requests for profiles at once, each with a thread."
    )


class ReportConfig(dg.Config):
    days: int = Field(default=60, description="How far back raids, reasons and the trend go.")


@dg.asset(
    key=FLAG_STATS_KEY,
    group_name="cheats",
    kinds={"postgres"},
    owners=OWNERS,
    description="Every player's flags of the last 60 days counted by class, with the heaviest of "
    "them: what a level follows from. Only players who may get one by the rules.",
    deps=[PLAYER, INSTANCE, INSTANCE_PLAYER],
    metadata={"dagster/table_name": "streaming.player_flag_stats"},
    pool="postgres_refresh",
    retry_policy=RETRY,
)
def player_flag_stats(
    config: StatementConfig, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    with dagster_failures(), postgres.work(_ALONE) as connection:
        done = count_flags(
            connection, current_parameters(postgres.open_settings()), timeout_s=config.timeout_s
        )
        most = heaviest(connection, limit=_SHOWN)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": done.players,
            "class_a": done.class_a,
            "class_b": done.class_b,
            "class_c": done.class_c,
            "class_d": done.class_d,
            "by_generic_rules": done.generic,
            "seconds": round(time.monotonic() - started, 3),
            "heaviest": shown(most),
        }
    )


@dg.asset(
    key=LEVELS_KEY,
    group_name="cheats",
    kinds={"postgres"},
    owners=OWNERS,
    description="Cheat levels 0 to 4 of players: the column cheat_level of core.player. Raised by "
    "counted flags and the account behind them, never lowered; each change with its evidence is in "
    "streaming.cheat_level_change. Rows are the players with a level.",
    deps=[player_flag_stats, PLAYER],
    metadata={"dagster/table_name": "core.player"},
    pool="bungie",
    retry_policy=RETRY,
    freshness_policy=_FRESH,
)
def player_cheat_levels(
    context: dg.AssetExecutionContext,
    config: LevelsConfig,
    postgres: PostgresResource,
    bungie: BungieResource,
) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    with (
        dagster_failures(),
        postgres.alone(_ALONE),
        postgres.pool(_MOST_CONNECTIONS) as pool,
        ExitStack() as closing,
    ):
        clients = [
            closing.enter_context(bungie.client(attempts=ATTEMPTS, pause_s=pause_s))
            for _ in range(max(config.workers, 1))
        ]
        done = raise_levels(
            pool,
            clients,
            current_parameters(postgres.open_settings()),
            run=context.run.run_id,
            webhooks=addresses(postgres.open_settings()).keys(),
        )
    for rise in done.rises:
        context.log.info(
            "%d rose from level %d to %d: %s",
            rise.record.membership_id,
            rise.old_level,
            rise.new_level,
            rise.rule,
            extra={"action": "cheat_level_raised", "membership_id": rise.record.membership_id},
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(done.levels.values()),
            "eligible": done.eligible,
            "judged": done.judged,
            "raised": len(done.rises),
            **{f"raised_to_{n}": done.raised_to(n) for n in range(1, len(LEVEL_NAMES))},
            "profiles_cached": done.profiles_cached,
            "profiles_asked": done.profiles_asked,
            "judged_without_profile": done.partial,
            "profiles_missing": shown(
                [{"why": why, "players": n} for why, n in done.profiles_missing.most_common()]
            ),
            "risen": shown(
                [
                    {
                        "player": str(rise.record.membership_id),
                        "name": rise.record.name,
                        "from": rise.old_level,
                        "to": rise.new_level,
                        "rule": rise.rule,
                        "account": round(rise.account.chance, 3),
                        "factors": ", ".join(rise.account.names),
                        "partial": rise.account.is_partial,
                    }
                    for rise in done.rises[:_SHOWN]
                ]
            ),
            "seconds": round(time.monotonic() - started, 3),
        }
    )


@dg.asset(
    key=BLACKLIST_KEY,
    group_name="cheats",
    kinds={"postgres"},
    owners=OWNERS,
    description="Raids that are on no team board: flagged for certain, recent ones of players of "
    "level 4, and what people and other programs excluded. Rules add rows only.",
    deps=[player_cheat_levels, INSTANCE, INSTANCE_PLAYER],
    metadata={"dagster/table_name": "flagging.blacklist_instance"},
    pool="postgres_refresh",
    retry_policy=RETRY,
    freshness_policy=_FRESH,
)
def blacklisted_instances(
    context: dg.AssetExecutionContext, config: StatementConfig, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    parameters = current_parameters(postgres.open_settings())
    with dagster_failures(), postgres.work(_ALONE) as connection:
        done = blacklist(connection, parameters, timeout_s=config.timeout_s)
        sources = count_blacklist(connection)
        tell_run(
            connection,
            parameters,
            done,
            run=context.run.run_id,
            webhooks=addresses(postgres.open_settings()).keys(),
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(sources.values()),
            "flagged": done.flagged,
            "cascaded": done.cascaded,
            "cascading_players": done.players,
            "eligible_for_cascade": done.eligible,
            "names_added": done.named,
            "by_source": shown([{"source": s, "raids": n} for s, n in sources.items()]),
            "seconds": round(time.monotonic() - started, 3),
        }
    )


@dg.asset(
    key=REPORT_KEY,
    group_name="cheats",
    kinds={"postgres"},
    owners=OWNERS,
    description="Players by level, flags by raid and by reason, the blacklist, newest changes of "
    "levels, and the trend of the last 60 days.",
    deps=[player_cheat_levels, blacklisted_instances],
    check_specs=[REPORT_CHECK],
    pool="postgres_refresh",
    retry_policy=RETRY,
)
def cheat_report(config: ReportConfig, postgres: PostgresResource) -> Checked:  # type: ignore[type-arg]
    with dagster_failures(), postgres.connection() as connection:
        report = reporting.read_report(
            connection, current_parameters(postgres.open_settings()), days=config.days
        )
    levels = [
        Bar(f"{level} {LEVEL_NAMES[level]}", players, str(players))
        for level, players in sorted(report.levels.items())
    ]
    days = [
        Bar(str(day.day), day.flagged, f"{day.flagged}, {day.blacklisted} blacklisted")
        for day in report.trend
    ]
    return Checked(
        metadata={
            **{
                f"players_of_level_{level}": report.levels.get(level, 0)
                for level in range(1, len(LEVEL_NAMES))
            },
            "blacklisted": sum(report.blacklisted.values()),
            "flagged": sum(day.flagged for day in report.trend),
            "report": dg.MetadataValue.md(report.markdown()),
            "players_by_level": bar_chart("Players by level", levels),
            "trend": bar_chart(f"Raids flagged a day, the last {report.days} days", days),
            "trend_by_day": shown([day._asdict() for day in report.trend]),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=REPORT_CHECK.name,
                asset_key=REPORT_KEY,
                passed=not report.unnamed,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"unknown bits in flags of {', '.join(map(str, report.unnamed))}"
                if report.unnamed
                else None,
                metadata={"raids": len(report.unnamed), "at_most": 0},
            )
        ],
    )
