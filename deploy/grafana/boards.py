"""The six dashboards, written once: `python deploy/grafana/boards.py` renders boards/*.json.

A panel is a line here, so that all boards share units, colours, sizes and the choice of the data
source. Grafana reads the JSON only; a test compares it with this file.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent / "boards"
_SOURCE = {"type": "prometheus", "uid": "$datasource"}
_COLOURS = ("green", "orange", "red")
_STAT_HEIGHT, _HEIGHT = 4, 8
# What the numbers in the label `status` mean, docs/domain/pgcr.md.
_RESULTS = {
    "1": "raid",
    "2": "no raid",
    "3": "not found",
    "4": "maintenance",
    "5": "withheld",
    "6": "malformed",
    "9": "error",
    "10": "throttled",
}


@dataclass(frozen=True)
class Panel:
    """One panel; `queries` maps a legend to its PromQL.

    `limits` are the values from which it turns orange and red; with `falls`, below which.
    """

    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    limits: tuple[float, float] | None = None
    falls: bool = False
    stacked: bool = False
    names: dict[str, str] = field(default_factory=dict)  # legend -> what is shown instead
    decimals: int | None = None

    @property
    def height(self) -> int:
        return _STAT_HEIGHT if self.kind == "stat" else _HEIGHT

    def render(self, number: int, x: int, y: int) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "min": 0,
            "color": {"mode": "palette-classic"},
        }
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        if self.limits is not None:
            colours = _COLOURS[::-1] if self.falls else _COLOURS
            # The first step has no value: everything below the second.
            steps = [None, *self.limits]
            defaults["thresholds"] = {
                "mode": "absolute",
                "steps": [{"color": c, "value": v} for c, v in zip(colours, steps, strict=True)],
            }
        if self.kind == "stat":
            defaults["color"] = {"mode": "thresholds"}
            defaults.setdefault(
                "thresholds", {"mode": "absolute", "steps": [{"color": "blue", "value": None}]}
            )
        else:
            defaults["custom"] = {
                "lineWidth": 1,
                "fillOpacity": 30 if self.stacked else 5,
                "showPoints": "never",
                "stacking": {"mode": "normal" if self.stacked else "none"},
                "thresholdsStyle": {"mode": "line" if self.limits else "off"},
            }
        overrides = [
            {
                "matcher": {"id": "byName", "options": legend},
                "properties": [{"id": "displayName", "value": shown}],
            }
            for legend, shown in self.names.items()
        ]
        if self.kind == "stat":
            options: dict[str, Any] = {
                "colorMode": "value",
                "graphMode": "area",
                "reduceOptions": {"calcs": ["lastNotNull"]},
            }
        else:
            options = {
                "legend": {"displayMode": "list", "placement": "bottom"},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": _SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": overrides},
            "options": options,
            "targets": [
                {"refId": chr(ord("A") + place), "expr": expr, "legendFormat": legend}
                for place, (legend, expr) in enumerate(self.queries.items())
            ],
        }


@dataclass(frozen=True)
class Board:
    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    queue_variable: bool = False

    def render(self) -> str:
        x = y = row_height = 0
        rendered = []
        for number, panel in enumerate(self.panels, start=1):
            if x + panel.width > 24 or (x and panel.height != row_height):
                x, y = 0, y + row_height
            row_height = panel.height
            rendered.append(panel.render(number, x, y))
            x += panel.width
        variables: list[dict[str, Any]] = [
            {
                "name": "datasource",
                "label": "Data source",
                "type": "datasource",
                "query": "prometheus",
            }
        ]
        if self.queue_variable:
            variables.append(
                {
                    "name": "queue",
                    "label": "Queue",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": "label_values(queue_depth, queue_name)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                }
            )
        board = {
            "uid": f"raidhub-{self.uid}",
            "title": f"RaidHub / {self.title}",
            "description": self.description,
            "tags": ["raidhub"],
            "schemaVersion": 39,
            "editable": False,
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "graphTooltip": 1,
            "links": [
                {"title": "RaidHub", "type": "dashboards", "tags": ["raidhub"], "keepTime": True}
            ],
            "templating": {"list": variables},
            "panels": rendered,
        }
        return json.dumps(board, indent=1, ensure_ascii=False) + "\n"


def _quantiles(metric: str, by: str = "", match: str = "") -> dict[str, str]:
    """Median and two high quantiles of a histogram, by one more label when it is given."""
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    rate = f"sum by ({labels}) (rate({metric}_bucket{match}[$__rate_interval]))"
    return {f"p{q}{legend}": f"histogram_quantile(0.{q}, {rate})" for q in ("50", "95", "99")}


def _rate(metric: str, by: str, match: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{match}[$__rate_interval]))"


_STATUS = "pgcr_crawl_summary_status"
_QUEUE = '{queue_name=~"$queue"}'
_CHEAT = '{queue_name="instance_cheat_check"}'

ATLAS = Board(
    "atlas",
    "Atlas",
    "The crawl: how far behind the game it is, what the API answers, what is left to recover.",
    (
        Panel(
            "Lag P20",
            "Four of five reports of the last 4 minutes were older than this when fetched. The crawl catches up above 10 minutes.",
            {"lag": "max(atlas_lag_p20_seconds)"},
            "s",
            "stat",
            4,
            (120, 600),
        ),
        Panel(
            "Head", "Highest id seen published.", {"head": "max(atlas_head_id)"}, "none", "stat", 5
        ),
        Panel(
            "Ids a minute",
            "Fetches that resolved an id: raids and others.",
            {"ids": f'60 * sum(rate({_STATUS}{{status=~"1|2"}}[$__rate_interval]))'},
            "short",
            "stat",
            4,
            decimals=0,
        ),
        Panel(
            "Raids a minute",
            "Raids fetched and published.",
            {"raids": f'60 * sum(rate({_STATUS}{{status="1"}}[$__rate_interval]))'},
            "short",
            "stat",
            4,
            decimals=1,
        ),
        Panel(
            "Not found",
            "Share of 404 among first tries. 1 to 6 % is riding just behind the head; the aim is 2.5 %.",
            {
                "share": f'sum(rate({_STATUS}{{status="3",attempts="1"}}[5m])) / sum(rate({_STATUS}{{attempts="1"}}[5m]))'
            },
            "percentunit",
            "stat",
            4,
            (0.06, 0.5),
        ),
        Panel(
            "Open gaps",
            "Ids jumped over that nobody swept yet.",
            {"ids": "max(gap_open_ids)"},
            "short",
            "stat",
            3,
            (1, 20_000),
        ),
        Panel(
            "Lag",
            "Age of reports when fetched, first tries; the status page shows the median over 2 minutes. Maintenance reads as 0.",
            {
                **_quantiles("pgcr_crawl_summary_lag_seconds"),
                "P20 by atlas": "max(atlas_lag_p20_seconds)",
            },
            "s",
            width=12,
        ),
        Panel(
            "Answers by result",
            "Fetches a second by what came.",
            {"{{status}}": _rate(_STATUS, "status")},
            "reqps",
            width=12,
            stacked=True,
            names=_RESULTS,
        ),
        Panel(
            "Workers",
            "Fetches that may run at a time, all replicas.",
            {"workers": "sum(atlas_active_workers)", "{{instance}}": "atlas_active_workers"},
            "short",
        ),
        Panel(
            "Regime",
            "1 for the law that sets the number of workers now.",
            {"{{mode}}": "max by (mode) (atlas_mode)"},
            "short",
            stacked=True,
        ),
        Panel(
            "Head moves",
            "Ids a second by which the head advances: publication comes in bursts.",
            {"ids": "deriv(max(atlas_head_id)[10m:1m])"},
            "short",
        ),
        Panel(
            "Shares",
            "404 and failures among first tries. Above 50 % not found the crawl only probes.",
            {
                "not found": f'sum(rate({_STATUS}{{status="3",attempts="1"}}[$__rate_interval])) / sum(rate({_STATUS}{{attempts="1"}}[$__rate_interval]))',
                "failed": f'sum(rate({_STATUS}{{status=~"6|7|8|9|10",attempts="1"}}[$__rate_interval])) / sum(rate({_STATUS}{{attempts="1"}}[$__rate_interval]))',
            },
            "percentunit",
            limits=(0.06, 0.5),
        ),
        Panel(
            "Tries",
            "Fetches a second by the number of the try; negative ones are of missed ids.",
            {"{{attempts}}": _rate(_STATUS, "attempts")},
            "reqps",
            stacked=True,
        ),
        Panel(
            "Request time",
            "Milliseconds of a request, answer included.",
            _quantiles("get_pgcr_req"),
            "ms",
        ),
        Panel(
            "Answers by ErrorStatus",
            "Requests a second that were no success, by Bungie's own word.",
            {"{{status}}": _rate("get_pgcr_req_count", "status", '{status!="Success"}')},
            "reqps",
            width=12,
            stacked=True,
        ),
        Panel(
            "Missed ids",
            "Unresolved ids by state. Waiting and malformed ones are fetched again; unknown ones wait for a definition.",
            {
                "{{state}}": 'max by (state) (missed_pgcr_rows{state=~"waiting|malformed|blocked|unknown_hash"})'
            },
            "short",
            width=12,
        ),
        Panel(
            "Lag of the first generation",
            "The same lag under its older name, for those who still compare with it.",
            {
                "p50": "histogram_quantile(0.50, sum by (le) (rate(pgcr_crawl_summary_lag_bucket[$__rate_interval])))"
            },
            "s",
            width=12,
        ),
        Panel(
            "Fetches by the older name",
            "The counter that the status page reads.",
            {"{{status}}": _rate("pgcr_crawl_summary_status_count", "status")},
            "reqps",
            width=12,
            stacked=True,
            names=_RESULTS,
        ),
    ),
)

ZEUS = Board(
    "zeus",
    "Zeus",
    "The proxy: what leaves for Bungie, how long callers wait, which addresses and keys are refused.",
    (
        Panel(
            "Requests",
            "Requests a second, all hosts.",
            {"requests": "sum(rate(zeus_requests_total[$__rate_interval]))"},
            "reqps",
            "stat",
            6,
            decimals=1,
        ),
        Panel(
            "Failures",
            "Share of answers with status 5xx.",
            {
                "share": '(sum(rate(zeus_requests_total{status=~"5.."}[5m])) or vector(0)) / sum(rate(zeus_requests_total[5m]))'
            },
            "percentunit",
            "stat",
            6,
            (0.01, 0.1),
        ),
        Panel(
            "Addresses paused",
            "Source addresses that send nothing now.",
            {"paused": "sum(zeus_address_paused)"},
            "short",
            "stat",
            6,
            (1, 8),
        ),
        Panel(
            "Keys quarantined",
            "Keys that Bungie refuses.",
            {"keys": "sum(zeus_key_quarantined)"},
            "short",
            "stat",
            6,
            (1, 2),
        ),
        Panel(
            "Requests by host",
            "stats carries the reports, www everything else. One address may send 40 and 12 a second.",
            {"{{endpoint_type}}": _rate("zeus_requests_total", "endpoint_type")},
            "reqps",
            width=12,
            stacked=True,
        ),
        Panel(
            "Answers by status",
            "404 is usual at the head of the crawl; 429 and 503 are Bungie's throttle, 502 and 504 are our own word for an upstream that failed.",
            {"{{endpoint_type}} {{status}}": _rate("zeus_requests_total", "endpoint_type, status")},
            "reqps",
            width=12,
            stacked=True,
        ),
        Panel(
            "Time upstream, stats",
            "Milliseconds of a request to the stats host.",
            _quantiles("zeus_request_duration_ms", match='{endpoint_type="stats"}'),
            "ms",
        ),
        Panel(
            "Time upstream, www",
            "Milliseconds of a request to the www host.",
            _quantiles("zeus_request_duration_ms", match='{endpoint_type="www"}'),
            "ms",
        ),
        Panel(
            "Wait for a token",
            "Milliseconds until an address may send. Seconds mean that the budget is used up: usual only while catching up.",
            _quantiles("zeus_rate_limiter_wait_ms", by="endpoint_type"),
            "ms",
            limits=(1000, 2500),
        ),
        Panel(
            "Addresses",
            "1 while an address pauses after a refusal, by its number.",
            {"{{address}}": "max by (address) (zeus_address_paused)"},
            "short",
            width=12,
            stacked=True,
        ),
        Panel(
            "Keys",
            "1 while a key is refused, by its number.",
            {"{{key_index}}": "max by (key_index) (zeus_key_quarantined)"},
            "short",
            width=12,
            stacked=True,
        ),
    ),
)

QUEUES = Board(
    "queues",
    "Queues",
    "Every topic of hermes: what waits, who works, what failed.",
    (
        Panel(
            "Waiting",
            "Messages in all queues chosen.",
            {"messages": f"sum(max by (queue_name) (queue_depth{_QUEUE}))"},
            "short",
            "stat",
            6,
            (1000, 50_000),
        ),
        Panel(
            "Handled",
            "Messages a second.",
            {"messages": f"sum(rate(queue_messages_processed_total{_QUEUE}[$__rate_interval]))"},
            "cps",
            "stat",
            6,
            decimals=1,
        ),
        Panel(
            "Parked",
            "Messages that failed for good and wait for a person.",
            {"messages": f"sum(max by (queue_name) (queue_parked_messages{_QUEUE}))"},
            "short",
            "stat",
            6,
            (1, 100),
        ),
        Panel(
            "Workers",
            "Messages handled at a time, all replicas.",
            {"workers": f"sum(queue_worker_count{_QUEUE})"},
            "short",
            "stat",
            6,
        ),
        Panel(
            "Depth",
            "Messages that wait, by queue. More than 50 000 in instance_store slow the crawl down.",
            {"{{queue_name}}": f"max by (queue_name) (queue_depth{_QUEUE})"},
            "short",
            width=12,
        ),
        Panel(
            "Handled by queue",
            "Messages a second.",
            {"{{queue_name}}": _rate("queue_messages_processed_total", "queue_name", _QUEUE)},
            "cps",
            width=12,
            stacked=True,
        ),
        Panel(
            "Workers by queue",
            "Slots of each topic: they follow the depth, and a contest raises them.",
            {"{{queue_name}}": f"sum by (queue_name) (queue_worker_count{_QUEUE})"},
            "short",
        ),
        Panel(
            "Scaling",
            "Steps in 15 minutes by direction. Up and down in turns means that the thresholds are too close.",
            {
                "{{queue_name}} {{direction}}": f"sum by (queue_name, direction) (increase(queue_scaling_decisions_total{_QUEUE}[15m]))"
            },
            "short",
        ),
        Panel(
            "Failures",
            "Share of messages whose handling ended in an error, retries included.",
            {
                "{{queue_name}}": f'sum by (queue_name) (rate(queue_messages_processed_total{{queue_name=~"$queue",status="error"}}[$__rate_interval])) / sum by (queue_name) (rate(queue_messages_processed_total{_QUEUE}[$__rate_interval]))'
            },
            "percentunit",
            limits=(0.05, 0.5),
        ),
        Panel(
            "Retries",
            "Messages a second sent to a retry queue.",
            {"{{queue_name}}": _rate("queue_retries_total", "queue_name", _QUEUE)},
            "cps",
        ),
        Panel(
            "Parked by queue",
            "Each carries its error in a header: raidhub queues shows them.",
            {"{{queue_name}}": f"max by (queue_name) (queue_parked_messages{_QUEUE})"},
            "short",
            limits=(1, 100),
        ),
        Panel(
            "Publishes",
            "Messages published a second by outcome.",
            {
                "{{queue_name}} {{status}}": _rate(
                    "publishing_operations_total", "queue_name, status", _QUEUE
                )
            },
            "cps",
            stacked=True,
        ),
        Panel(
            "Handling time, median",
            "Seconds from start to end of a message's handling.",
            {
                "{{queue_name}}": f"histogram_quantile(0.5, sum by (le, queue_name) (rate(queue_message_processing_duration_seconds_bucket{_QUEUE}[$__rate_interval])))"
            },
            "s",
            width=12,
        ),
        Panel(
            "Handling time, p95",
            "The slow ones: waits for the API, or locks.",
            {
                "{{queue_name}}": f"histogram_quantile(0.95, sum by (le, queue_name) (rate(queue_message_processing_duration_seconds_bucket{_QUEUE}[$__rate_interval])))"
            },
            "s",
            width=12,
        ),
        Panel(
            "Floodgates",
            "Newest raid that was withheld and is published now; when it moves, withheld raids come free.",
            {"id": "max(floodgates_recent_pgcr)"},
            "none",
            width=12,
        ),
        Panel(
            "Ready at the broker",
            "As RabbitMQ tells it, where its own metrics are scraped.",
            {
                "ready": "sum(rabbitmq_queue_messages_ready)",
                "unacknowledged": "sum(rabbitmq_queue_messages_unacked)",
            },
            "short",
            width=12,
        ),
    ),
    queue_variable=True,
)

STORAGE = Board(
    "storage",
    "Storage",
    "From a fetched report to PostgreSQL, the outbox and ClickHouse.",
    (
        Panel(
            "Fetch to commit, p95",
            "Seconds from the fetch of a raid to its commit; below 5 is the aim.",
            {
                "p95": "histogram_quantile(0.95, sum by (le) (rate(instance_fetch_to_commit_seconds_bucket[5m])))"
            },
            "s",
            "stat",
            6,
            (5, 60),
        ),
        Panel(
            "Outbox",
            "Effects that must still leave.",
            {"rows": "max(outbox_unsent)"},
            "short",
            "stat",
            6,
            (5000, 100_000),
        ),
        Panel(
            "ClickHouse behind",
            "Age of the oldest row it lacks.",
            {"age": "max(clickhouse_oldest_seconds)"},
            "s",
            "stat",
            6,
            (60, 900),
        ),
        Panel(
            "Dirty days",
            "Days whose aggregates are rebuilt at night.",
            {"days": "max(clickhouse_dirty_days)"},
            "short",
            "stat",
            6,
            (1, 10),
        ),
        Panel(
            "Fetch to commit",
            "Seconds from the fetch of a raid to the commit that stores it.",
            _quantiles("instance_fetch_to_commit_seconds"),
            "s",
            width=12,
            limits=(5, 60),
        ),
        Panel(
            "Raids stored",
            "Raids a minute that ended within the last 5 hours, by activity.",
            {
                "{{activity_name}}": "60 * sum by (activity_name) (rate(pgcr_instance_type[$__rate_interval]))"
            },
            "short",
            width=12,
            stacked=True,
        ),
        Panel(
            "Operations",
            "Operations of the store a second, by outcome.",
            {
                "{{operation}} {{status}}": _rate(
                    "instance_storage_operations_total", "operation, status"
                )
            },
            "ops",
        ),
        Panel(
            "Operation time",
            "Seconds of an operation that went well.",
            _quantiles(
                "instance_storage_operation_duration_seconds",
                by="operation",
                match='{status="success"}',
            ),
            "s",
        ),
        Panel(
            "Completed",
            "Share of the raids stored that were completed.",
            {
                "share": 'sum(rate(pgcr_instance_type{completed="true"}[15m])) / sum(rate(pgcr_instance_type[15m]))'
            },
            "percentunit",
        ),
        Panel(
            "Raids by version",
            "Raids a minute by version.",
            {
                "{{version_name}}": "60 * sum by (version_name) (rate(pgcr_instance_type[$__rate_interval]))"
            },
            "short",
            stacked=True,
        ),
        Panel(
            "Outbox unsent",
            "Messages and ClickHouse rows that wait. It breathes with each batch; a slope is a relay that is behind.",
            {"rows": "max(outbox_unsent)"},
            "short",
        ),
        Panel(
            "Age of the oldest",
            "Of anything in the outbox, and of what ClickHouse lacks.",
            {
                "outbox": "max(outbox_oldest_seconds)",
                "ClickHouse": "max(clickhouse_oldest_seconds)",
            },
            "s",
            limits=(60, 600),
        ),
        Panel(
            "instance_store",
            "Raids that wait for the store.",
            {"messages": 'max(queue_depth{queue_name="instance_store"})'},
            "short",
            width=12,
        ),
        Panel(
            "Days to rebuild",
            "Days of ClickHouse whose aggregates a correction touched.",
            {"days": "max(clickhouse_dirty_days)"},
            "short",
            width=12,
        ),
    ),
)

CHEAT_DETECTION = Board(
    "cheat-detection",
    "Cheat detection",
    "The checks of stored raids as a topic: how many wait, how long one takes, what fails.",
    (
        Panel(
            "Raids to check",
            "Messages in instance_cheat_check.",
            {"messages": f"max(queue_depth{_CHEAT})"},
            "short",
            "stat",
            6,
            (1000, 50_000),
        ),
        Panel(
            "Checked a minute",
            "Raids whose check ended well.",
            {
                "raids": '60 * sum(rate(queue_messages_processed_total{queue_name="instance_cheat_check",status="success"}[$__rate_interval]))'
            },
            "short",
            "stat",
            6,
            decimals=1,
        ),
        Panel(
            "Unchecked for good",
            "Parked messages: raids without a verdict until somebody replays them.",
            {"messages": f"max(queue_parked_messages{_CHEAT})"},
            "short",
            "stat",
            6,
            (1, 100),
        ),
        Panel(
            "Workers",
            "Checks that run at a time.",
            {"workers": f"sum(queue_worker_count{_CHEAT})"},
            "short",
            "stat",
            6,
        ),
        Panel(
            "Stored and checked",
            "Raids a minute. The lines lie together while the checks keep up.",
            {
                "stored": "60 * sum(rate(instance_fetch_to_commit_seconds_count[$__rate_interval]))",
                "checked": f"60 * sum(rate(queue_messages_processed_total{_CHEAT}[$__rate_interval]))",
            },
            "short",
            width=12,
        ),
        Panel(
            "Depth",
            "Raids that wait for their check.",
            {"messages": f"max(queue_depth{_CHEAT})"},
            "short",
            width=12,
        ),
        Panel(
            "Check time",
            "Seconds of one check.",
            _quantiles("queue_message_processing_duration_seconds", match=_CHEAT),
            "s",
        ),
        Panel(
            "Outcomes",
            "Messages a second by outcome.",
            {"{{status}}": _rate("queue_messages_processed_total", "status", _CHEAT)},
            "cps",
            stacked=True,
        ),
        Panel(
            "Retries",
            "Checks a second that are tried again.",
            {"retries": f"sum(rate(queue_retries_total{_CHEAT}[$__rate_interval]))"},
            "cps",
        ),
    ),
)

SYSTEM = Board(
    "system",
    "System",
    "Processes and Bungie's systems: what is up, what is off, what alarms.",
    (
        Panel(
            "Processes up",
            "Targets of ours that answer.",
            {"up": 'sum(up{job=~"atlas|hermes|zeus|relay"})'},
            "short",
            "stat",
            6,
            (1, 4),
            falls=True,
        ),
        Panel(
            "Alerts",
            "Firing now, but for those that only inform.",
            {"alerts": 'count(ALERTS{alertstate="firing",severity!="info"}) or vector(0)'},
            "short",
            "stat",
            6,
            (1, 3),
        ),
        Panel(
            "Bungie's systems off",
            "Of those that anything of ours needs.",
            {"off": "count(min by (system) (api_system_enabled) == 0) or vector(0)"},
            "short",
            "stat",
            6,
            (1, 2),
        ),
        Panel(
            "Memory",
            "Resident memory of all our processes.",
            {"bytes": 'sum(process_resident_memory_bytes{job=~"atlas|hermes|zeus|relay"})'},
            "bytes",
            "stat",
            6,
        ),
        Panel(
            "Up",
            "1 while a target answers.",
            {"{{job}} {{instance}}": 'up{job!="prometheus"}'},
            "short",
            width=12,
        ),
        Panel(
            "Systems of the API",
            "1 while Bungie has the system on; needed by reports: Destiny2 and Activities.",
            {"{{system}}": "min by (system) (api_system_enabled)"},
            "short",
            width=12,
        ),
        Panel(
            "CPU",
            "Cores in use by process.",
            {
                "{{job}} {{instance}}": 'rate(process_cpu_seconds_total{job=~"atlas|hermes|zeus|relay|simulator"}[$__rate_interval])'
            },
            "short",
            stacked=True,
        ),
        Panel(
            "Resident memory",
            "By process; a slope over hours is a leak.",
            {
                "{{job}} {{instance}}": 'process_resident_memory_bytes{job=~"atlas|hermes|zeus|relay|simulator"}'
            },
            "bytes",
        ),
        Panel(
            "Open files",
            "Sockets included.",
            {"{{job}} {{instance}}": 'process_open_fds{job=~"atlas|hermes|zeus|relay"}'},
            "short",
        ),
        Panel(
            "Starts",
            "Starts within an hour: what falls again and again.",
            {
                "{{job}} {{instance}}": 'changes(process_start_time_seconds{job=~"atlas|hermes|zeus|relay"}[1h])'
            },
            "short",
            limits=(1, 3),
        ),
        Panel(
            "Garbage collections",
            "A second, by process.",
            {
                "{{job}} {{instance}}": 'sum by (job, instance) (rate(python_gc_collections_total{job=~"atlas|hermes|zeus|relay"}[$__rate_interval]))'
            },
            "ops",
        ),
        Panel(
            "Firing alerts",
            "Which, and since when.",
            {"{{alertname}}": 'max by (alertname) (ALERTS{alertstate="firing"})'},
            "short",
            stacked=True,
        ),
        Panel(
            "Broker",
            "Memory and free disk of RabbitMQ, where its own metrics are scraped. Below 500 MB of disk it takes no message.",
            {
                "memory": "sum(rabbitmq_process_resident_memory_bytes)",
                "free disk": "min(rabbitmq_disk_space_available_bytes)",
            },
            "bytes",
            width=12,
        ),
        Panel(
            "Simulator",
            "Requests a second by outcome, where the simulator plays Bungie.",
            {"{{outcome}}": _rate("simulator_requests_total", "outcome")},
            "reqps",
            width=12,
            stacked=True,
        ),
    ),
)

BOARDS = (ATLAS, ZEUS, QUEUES, STORAGE, CHEAT_DETECTION, SYSTEM)


def render() -> dict[str, str]:
    """File name without its ending -> JSON of the board."""
    return {board.uid: board.render() for board in BOARDS}


if __name__ == "__main__":
    for name, text in render().items():
        (_FOLDER / f"{name}.json").write_text(text, "utf-8")
