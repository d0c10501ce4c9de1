"""Is it as new as its freshness policy says? Dagster shows the policy, alerts on it are not free.

A check that fails is told to Discord by failed_checks_sensor.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import ModuleType

import dagster as dg
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from assets import (
    analytics,
    cheat_checks,
    cheats,
    clans,
    crawl,
    leaderboards,
    manifest,
    players,
    recovery,
    reports,
)


def fresh(key: dg.AssetKey, window: timedelta) -> dg.AssetChecksDefinition:
    """The check `<table>_is_fresh`: written within `window`. Never written yet fails, too."""

    @dg.asset_check(
        asset=key,
        name=f"{key.path[-1]}_is_fresh",
        description=f"Written within the last {window.total_seconds() / 3600:g} hours.",
    )
    def holds(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        event = context.instance.get_latest_materialization_event(key)
        limit_s = window.total_seconds()
        if event is None:
            return dg.AssetCheckResult(
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description="never written",
                metadata={"at_most_s": limit_s},
            )
        age_s = datetime.now(UTC).timestamp() - event.timestamp
        return dg.AssetCheckResult(
            passed=age_s <= limit_s,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"written {age_s / 3600:.1f} h ago",
            metadata={"age_s": round(age_s, 1), "at_most_s": limit_s},
        )

    return holds


def _with_policy(module: ModuleType) -> Iterable[tuple[dg.AssetKey, timedelta]]:
    for asset in vars(module).values():
        specs = list(asset.specs) if isinstance(asset, dg.AssetsDefinition) else [asset]
        for spec in specs:
            # A module sees the assets of others too, as dependencies.
            if (
                isinstance(spec, dg.AssetSpec)
                and module.__name__ == f"assets.{spec.group_name}"
                and isinstance(spec.freshness_policy, TimeWindowFreshnessPolicy)
            ):
                yield spec.key, spec.freshness_policy.fail_window.to_timedelta()


_MODULES = (
    crawl,
    recovery,
    clans,
    cheats,
    cheat_checks,
    players,
    leaderboards,
    analytics,
    reports,
    manifest,
)
FRESHNESS_CHECKS = [
    fresh(key, window) for module in _MODULES for key, window in _with_policy(module)
]
