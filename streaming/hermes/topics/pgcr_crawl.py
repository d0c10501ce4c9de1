"""Topic pgcr_crawl: fetches one report that somebody found missing, or that may have grown."""

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie import systems
from raidhub_dagster.bungie.protocol import ResultKind
from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import id_message, read_report
from raidhub_dagster.storage.missed import Missed, State, record
from raidhub_dagster.storage.reports import is_stored
from streaming.hermes.topic import Delivery, Limits, Topic
from streaming.hermes.topics.reports import ReportHandler

_FETCH_AGAIN_S = 3600.0  # by the crawl, what waits for a retry of up to half an hour


class PgcrCrawl(ReportHandler):
    source = topology.PGCR_CRAWL

    def work(self, delivery: Delivery) -> None:
        instance_id, refetch = read_report(delivery.body)
        if not refetch and self._is_stored(instance_id):
            return
        fetched = self.fetch(instance_id, past_caches=refetch)
        match fetched.kind:
            case ResultKind.SUCCESS:
                self.publish_raid(instance_id, fetched)
            case ResultKind.INSUFFICIENT_PRIVILEGES:
                self.shared.publisher.publish(
                    [id_message(topology.PGCR_BLOCKED_RETRY, instance_id)]
                )
            case ResultKind.NON_RAID:
                self.shared.pool.run(lambda connection: self.close_missed(connection, instance_id))
            case ResultKind.NOT_FOUND:
                pass  # whoever published the id was wrong about it
            case ResultKind.BAD_FORMAT:
                # An id that is stored is missed by nobody: then this leaves no row.
                self.shared.pool.run(
                    lambda connection: self.record_malformed(
                        connection, instance_id, fetched.result
                    )
                )
            case _:
                said = f"{fetched.result.status} {fetched.result.detail}".strip()
                raise TransientError(f"report {instance_id}: {said}")

    def put_off(self, delivery: Delivery, error: Exception) -> None:
        """A lost message would leave an id that somebody missed; one that is stored gets no row."""
        instance_id, _refetch = read_report(delivery.body)
        row = Missed(
            instance_id,
            State.WAITING,
            "fetch_failed",
            error=repr(error),
            retry_in_s=_FETCH_AGAIN_S,
        )

        def record_row(connection: Connection) -> None:
            with connection.cursor() as cursor:
                record(cursor, [row], source=self.source)

        self.shared.pool.run(record_row)

    def _is_stored(self, instance_id: int) -> bool:
        with self.shared.pool.connection() as connection, connection:
            return is_stored(connection, instance_id)


TOPIC = Topic(
    topology.PGCR_CRAWL,
    PgcrCrawl,
    Limits(minimum=1, maximum=20, desired=2, contest=5),
    retries=20,
    base_delay_s=1,
    systems=systems.REPORTS,
)
