"""Every metric of the platform's own processes, defined once.

Names, labels and buckets are frozen: docs/metrics.md lists each with the reader that depends on
it, and a test compares the two. Labels come from closed sets; an id, a name or an address is never
a label. The simulator has metrics of its own: it imports nothing of ours.
"""

from collections import defaultdict
from collections.abc import Iterable
from threading import Lock

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# A `_created` series beside every other one doubles what Prometheus has to store; nobody reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it bare


class PlainCounter(Collector):
    """A counter exported under exactly the given names, each with the same values.

    The client library appends `_total` to counters, which would hide these from the dashboards
    and the status page that read the plain names. Exposed as "untyped": the exposition of type
    "counter" would rename the header line.
    """

    def __init__(self, names: tuple[str, ...], documentation: str, labels: tuple[str, ...]) -> None:
        self._names = names
        self._documentation = documentation
        self._labels = labels
        self._values: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._lock = Lock()
        REGISTRY.register(self)

    def inc(self, *values: str, by: float = 1) -> None:
        """Counts `by` more under the label values, given in the order of the labels."""
        with self._lock:
            self._values[values] += by

    def value(self, *values: str) -> float:
        with self._lock:
            return self._values.get(values, 0.0)

    def describe(self) -> Iterable[Metric]:
        return [Metric(name, self._documentation, "unknown") for name in self._names]

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            values = list(self._values.items())
        for metric in self.describe():
            for labels, value in values:
                metric.add_sample(metric.name, dict(zip(self._labels, labels, strict=True)), value)
            yield metric


class MeasuredGauge(Gauge):
    """A gauge without labels that is exported once it was set.

    Every process defines all metrics, and the 0 of one that does not measure would read as a fact.
    """

    _is_set = False

    def set(self, value: float) -> None:
        self._is_set = True
        super().set(value)

    def collect(self) -> Iterable[Metric]:
        return super().collect() if self._is_set else ()


# The crawl. `status` is the number of the result kind, `attempts` the number of the try.

ATLAS_ACTIVE_WORKERS = MeasuredGauge(
    "atlas_active_workers", "Fetches that may run at the same time."
)
ATLAS_MODE = Gauge(
    "atlas_mode", "1 for the regime of the crawl that holds now, 0 for the others.", ("mode",)
)
ATLAS_HEAD_ID = MeasuredGauge("atlas_head_id", "Highest id this process saw published.")
ATLAS_LAG_P20_SECONDS = MeasuredGauge(
    "atlas_lag_p20_seconds", "20th percentile of the lag of the last reports fetched."
)
PGCR_CRAWL_SUMMARY_STATUS = PlainCounter(
    ("pgcr_crawl_summary_status", "pgcr_crawl_summary_status_count"),
    "Fetches of reports by result kind and number of the try.",
    ("status", "attempts"),
)
_LAG = "Age of a report (now - end of the activity) when it was fetched, in seconds."
PGCR_CRAWL_SUMMARY_LAG = Histogram(
    "pgcr_crawl_summary_lag",
    _LAG,
    ("status", "attempts"),
    buckets=(5, 15, 25, 30, 35, 40, 45, 60, 90, 300, 1800, 14400, 86400),
)
PGCR_CRAWL_SUMMARY_LAG_SECONDS = Histogram(
    "pgcr_crawl_summary_lag_seconds",
    _LAG,
    ("status", "attempts"),
    buckets=(
        *(5, 10, 15, 20, 25, 30, 35, 40, 45, 60, 90, 300, 1800, 7200, 14400, 21600, 28800),
        *(36000, 43200, 57600, 72000, 86400, 172800, 259200),
    ),
)
GET_PGCR_REQ = Histogram(
    "get_pgcr_req",
    "Duration of a report's request in milliseconds, by ErrorStatus or Success.",
    ("status",),
    buckets=(10, 20, 50, 100, 150, 200, 250, 300, 500, 750, 1000, 1500, 2000, 5000),
)
MISSED_PGCR_ROWS = Gauge("missed_pgcr_rows", "Unresolved ids in the ledger, by state.", ("state",))
GAP_OPEN_IDS = MeasuredGauge("gap_open_ids", "Ids jumped over and not swept yet.")
API_SYSTEM_ENABLED = Gauge(
    "api_system_enabled", "1 while Bungie has the system switched on, else 0.", ("system",)
)

# Zeus. `address` is the number of a source address, `key_index` that of a key: 0 is the first.

ZEUS_REQUESTS = Counter(
    "zeus_requests_total",
    "Requests answered, by host and HTTP status.",
    ("endpoint_type", "status"),
)
ZEUS_REQUEST_DURATION_MS = Histogram(
    "zeus_request_duration_ms",
    "From sending a request upstream to the end of its answer, in milliseconds.",
    ("endpoint_type",),
    buckets=(1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000),
)
ZEUS_RATE_LIMITER_WAIT_MS = Histogram(
    "zeus_rate_limiter_wait_ms",
    "Wait of a request for an address with a token, in milliseconds.",
    ("endpoint_type",),
    buckets=(1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000),
)
ZEUS_ADDRESS_PAUSED = Gauge(
    "zeus_address_paused", "1 while a source address sends nothing, else 0.", ("address",)
)
ZEUS_KEY_QUARANTINED = Gauge(
    "zeus_key_quarantined", "1 while Bungie refuses a key of ours, else 0.", ("key_index",)
)

# Queues.

QUEUE_WORKER_COUNT = Gauge("queue_worker_count", "Workers of a topic.", ("queue_name",))
QUEUE_DEPTH = Gauge("queue_depth", "Messages ready, or held and not yet handled.", ("queue_name",))
QUEUE_PARKED_MESSAGES = Gauge(
    "queue_parked_messages", "Messages in the parking queue of a topic.", ("queue_name",)
)
QUEUE_MESSAGES_PROCESSED = Counter(
    "queue_messages_processed_total", "Messages handled, by outcome.", ("queue_name", "status")
)
QUEUE_MESSAGE_PROCESSING_DURATION_SECONDS = Histogram(
    "queue_message_processing_duration_seconds",
    "From the start of a message's handling to its end.",
    ("queue_name",),
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
QUEUE_RETRIES = Counter("queue_retries_total", "Messages sent to a retry queue.", ("queue_name",))
QUEUE_SCALING_DECISIONS = Counter(
    "queue_scaling_decisions_total",
    "Steps of a topic's number of workers: up or down.",
    ("queue_name", "direction"),
)
FLOODGATES_RECENT_PGCR = MeasuredGauge(
    "floodgates_recent_pgcr", "Newest raid that was withheld and is published now."
)
PUBLISHING_OPERATIONS = Counter(
    "publishing_operations_total",
    "Publishes by outcome: success once confirmed, else error.",
    ("queue_name", "status"),
)

# The store and what leaves it.

PGCR_INSTANCE_TYPE = PlainCounter(
    ("pgcr_instance_type",),
    "Raids stored that were completed within the last 5 hours.",
    ("activity_name", "version_name", "completed"),
)
INSTANCE_STORAGE_OPERATIONS = Counter(
    "instance_storage_operations_total", "Operations of the store.", ("operation", "status")
)
INSTANCE_STORAGE_OPERATION_DURATION_SECONDS = Histogram(
    "instance_storage_operation_duration_seconds",
    "Duration of an operation of the store.",
    ("operation", "status"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
INSTANCE_FETCH_TO_COMMIT_SECONDS = Histogram(
    "instance_fetch_to_commit_seconds",
    "From the fetch of a report to the commit that stores it.",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800),
)
OUTBOX_UNSENT = MeasuredGauge("outbox_unsent", "Effects that must still leave the outbox.")
OUTBOX_OLDEST_SECONDS = MeasuredGauge("outbox_oldest_seconds", "Age of the oldest unsent effect.")
CLICKHOUSE_OLDEST_SECONDS = MeasuredGauge(
    "clickhouse_oldest_seconds", "Age of the oldest row or correction that ClickHouse lacks."
)
CLICKHOUSE_DIRTY_DAYS = MeasuredGauge(
    "clickhouse_dirty_days", "Days whose aggregates must be rebuilt."
)
