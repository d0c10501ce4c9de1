"""Is it as new as its freshness policy says? Dagster shows the policy, alerts on it are not free.

A check that fails is told to Discord by failed_checks_sensor.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from assets import analytics, crawl, leaderboards, manifest


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


def _with_policy(assets: Iterable[object]) -> Iterable[tuple[dg.AssetKey, timedelta]]:
    for asset in assets:
        specs = list(asset.specs) if isinstance(asset, dg.AssetsDefinition) else [asset]
        for spec in specs:
            if isinstance(spec, dg.AssetSpec) and isinstance(
                spec.freshness_policy, TimeWindowFreshnessPolicy
            ):
                yield spec.key, spec.freshness_policy.fail_window.to_timedelta()


FRESHNESS_CHECKS = [
    fresh(key, window)
    for module in (crawl, analytics, leaderboards, manifest)
    for key, window in _with_policy(vars(module).values())
]
