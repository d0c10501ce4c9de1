"""What the crawl tells people: metrics, log lines and alerts. Nothing here decides anything.

Titles and colours: docs/alerts.md. Names of metrics: docs/metrics.md.
"""

import logging
from collections import Counter
from collections.abc import Mapping

from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind
from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.storage.ledger import Block
from streaming.atlas.plan import Plan, Unresolved
from streaming.atlas.scaling import Mode
from streaming.atlas.search import Search
from streaming.atlas.visit import Visit
from streaming.atlas.window import LAG_S, Sight

log = logging.getLogger(__name__)

_REGIME_EVERY_S = 300.0
_STATUS_EVERY_S = 1800.0
# Every silence of the head looks like a hole for a while: a line about it each time is enough.
_GAP_EVERY_S = 1800.0
_SILENT_EVERY_S = 3600.0
_UNRESOLVED_EVERY_S = 60.0
# One unresolved id is told a minute, warnings and last ones together.
_UNRESOLVED = "unresolved_instance"
_RESOLVED = (ResultKind.SUCCESS, ResultKind.NON_RAID)


class Monitor:
    """Follows one plan."""

    def __init__(self, plan: Plan, alerts: Alerts) -> None:
        self._plan = plan
        self._alerts = alerts
        self._mode: Mode | None = None
        self._answered: Counter[str] = Counter()
        self._show_pace()

    def answered(self, visit: Visit, result: PgcrResult, lag_s: float | None) -> None:
        """Counts an answer. `lag_s` of reports that tell when their activity ended."""
        kind = result.kind
        self._answered[kind.name] += 1
        status, attempt = str(int(kind)), str(visit.attempt)
        metrics.PGCR_CRAWL_SUMMARY_STATUS.inc(status, attempt)
        if kind is ResultKind.SYSTEM_DISABLED:
            lag_s = 0.0  # readers of the lag tell maintenance by it
        elif kind not in _RESOLVED:
            return
        if lag_s is not None and lag_s >= 0:
            metrics.PGCR_CRAWL_SUMMARY_LAG.labels(status, attempt).observe(lag_s)
            metrics.PGCR_CRAWL_SUMMARY_LAG_SECONDS.labels(status, attempt).observe(lag_s)

    def looked(self, sight: Sight, seconds: float) -> None:
        """Tells the pace; `seconds` since the last look."""
        scaling, head_id = self._plan.scaling, self._plan.head.resolved
        self._show_pace()
        metrics.ATLAS_HEAD_ID.set(head_id)
        if sight.resolved:
            metrics.ATLAS_LAG_P20_SECONDS.set(sight.lag_s)
        if scaling.mode is not self._mode:
            self._mode = scaling.mode
            self._alerts.send(
                Alert(
                    "workers_starting",
                    "Workers Starting",
                    Colour.GREY,
                    {
                        "Count": scaling.workers,
                        "Period": scaling.block,
                        "Current Instance Id": str(head_id),
                        "Regime": scaling.mode,
                    },
                    every_s=_REGIME_EVERY_S,
                )
            )
        self._alerts.send(
            Alert(
                "status_update",
                "Status Update",
                Colour.GREY,
                {
                    "Lag Behind Head": _seconds(sight),
                    "404 Percentage": _percent(sight.not_found_share),
                    "Error Percentage": _percent(sight.error_share),
                    "Workers Used": scaling.workers,
                },
                every_s=_STATUS_EVERY_S,
            )
        )
        counts, self._answered = self._answered, Counter()
        per_s = counts.total() / seconds
        log.info(
            "Head %d, %.1f answers/s, %d workers",
            head_id,
            per_s,
            scaling.workers,
            extra={
                "action": "crawl_progress",
                "head_id": head_id,
                "answers_per_s": round(per_s, 1),
                "workers": scaling.workers,
                "mode": scaling.mode,
                "not_found_share": round(sight.not_found_share, 4),
                "lag_p20_s": sight.lag_s if sight.resolved else None,
                "open_blocks": len(self._plan.held),
                **{kind.lower(): n for kind, n in counts.items()},
            },
        )

    def _show_pace(self) -> None:
        metrics.ATLAS_ACTIVE_WORKERS.set(self._plan.workers)
        for mode in Mode:
            metrics.ATLAS_MODE.labels(mode).set(mode is self._plan.scaling.mode)

    def gate_moved(self) -> None:
        gate = self._plan.gate
        if gate.is_open:
            log.info("The API answers again", extra={"action": "gate_opened"})
        else:
            log.warning(
                "Paused: %s", gate.reason, extra={"action": "gate_closed", "reason": gate.reason}
            )

    def systems(self, state: Mapping[str, bool]) -> None:
        for system, is_on in state.items():
            metrics.API_SYSTEM_ENABLED.labels(system).set(is_on)

    def unresolved(self, found: list[Unresolved]) -> None:
        for instance_id, elapsed_s, is_final in found:
            self._alerts.send(
                Alert(
                    _UNRESOLVED,
                    "Unresolved Instance" if is_final else "Unresolved Instance (Warning)",
                    Colour.RED if is_final else Colour.ORANGE,
                    {"Instance Id": str(instance_id), "Time Elapsed": f"{elapsed_s:.0f} s"},
                    every_s=_UNRESOLVED_EVERY_S,
                )
            )

    # Gaps and silence.

    def search_begun(self, sight: Sight) -> None:
        self._alerts.send(
            Alert(
                "high_404_rate",
                "High 404 Rate Detected",
                Colour.DARK_ORANGE,
                {"Rate": _percent(sight.not_found_share), "Count": sight.not_found},
                every_s=_GAP_EVERY_S,
            )
        )

    def search_ended(self, search: Search, sight: Sight) -> None:
        """It found no block to jump to."""
        self._alerts.send(
            Alert(
                "gap_search_ended",
                "Gap Supercharge Exiting",
                Colour.GREY,
                {
                    "404 Rate": _percent(sight.not_found_share),
                    "Lag": _seconds(sight),
                    "Ids Probed": search.asked,
                },
                every_s=_GAP_EVERY_S,
            )
        )

    def jumped(self, gap: Block, smallest: int) -> None:
        self._alerts.send(
            Alert(
                "gap_jumped",
                "Gap Mode Block Skip",
                Colour.BLUE,
                {
                    "Previous Id": str(gap.first_id),
                    "New Starting Id": str(gap.last_id + 1),
                    "Minimum Block Size": smallest,
                },
                every_s=0,
                mentions=True,
            )
        )

    def silent(self, seconds: float) -> None:
        self._alerts.send(
            Alert(
                "silent_head",
                "Silent head",
                Colour.ORANGE,
                {
                    "Newest Id": str(self._plan.head.resolved),
                    "Silent For": f"{seconds / 60:.0f} min",
                },
                every_s=_SILENT_EVERY_S,
            )
        )

    def restarted(self, sight: Sight, begun_at: int, newest: int, back: int) -> None:
        self._alerts.send(
            Alert(
                "runaway_reset",
                "Runaway Error + Resetting",
                Colour.RED,
                {
                    "404 Rate": _percent(sight.not_found_share),
                    "Instance Id": str(begun_at),
                    "Latest Completion": str(newest),
                    "Backtrack": back,
                },
                every_s=0,
                mentions=True,
            )
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _seconds(sight: Sight) -> str:
    return f"{sight.lag_s:.0f} s" if sight.lag_s != LAG_S or sight.resolved else "unknown"
