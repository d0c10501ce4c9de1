"""Topic instance_cheat_check: has stored instances checked, a batch of them in one transaction.

What a check finds and what it leaves is the business of `raidhub_dagster.cheat_detection`.
"""

import logging
from collections.abc import Collection, Sequence

from raidhub_dagster.cheat_detection.checking import BATCH, Outcome, check_batch
from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import read_id
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import Pool
from raidhub_dagster.storage.webhooks import Webhook, addresses
from streaming.hermes.failures import is_infrastructure
from streaming.hermes.topic import Delivery, Limits, Topic
from streaming.hermes.topics.shared import LEASES

log = logging.getLogger(__name__)


class InstanceCheatCheck:
    """The handler of one slot; connections come from the pool of the process.

    Raises ConfigurationError for a CHEAT_VERSION that does not exist.
    """

    def __init__(self, settings: Settings) -> None:
        self._parameters = current_parameters(settings)
        self._notify = Webhook.CHEAT_CHECK in addresses(settings)
        self._settings = settings
        self._pool: Pool = LEASES.take(settings).pool

    def handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        outcomes: list[Exception | None] = [None] * len(deliveries)
        positions: dict[int, list[int]] = {}  # in the batch, by instance
        for position, delivery in enumerate(deliveries):
            try:
                instance_id = read_id(delivery.body, "instanceId")
            except PermanentError as error:
                outcomes[position] = error
            else:
                positions.setdefault(instance_id, []).append(position)
        for instance_id, outcome in self._check(positions).items():
            if isinstance(outcome, Exception):
                for position in positions[instance_id]:
                    outcomes[position] = outcome
            elif outcome is Outcome.NOT_STORED:
                log.warning(
                    "A check was asked for an instance that is not stored",
                    extra={"action": "cheat_check_skipped", "instance_id": instance_id},
                )
        return outcomes

    def put_off(self, delivery: Delivery, error: Exception) -> None:
        """Leaves nothing elsewhere, like `give_up`."""

    def give_up(self, delivery: Delivery, error: Exception) -> None:
        """Leaves nothing elsewhere: a check can be asked for again at any time."""

    def close(self) -> None:
        LEASES.give_back(self._settings)

    def _check(self, ids: Collection[int]) -> dict[int, Outcome | Exception]:
        """What became of each; a batch that PostgreSQL refuses is checked one by one.

        Raises when the database is away or in conflict: that is nobody's fault.
        """
        if not ids:
            return {}
        try:
            return dict(
                self._pool.run(
                    lambda connection: check_batch(
                        connection, self._parameters, ids, notify=self._notify
                    )
                )
            )
        except Exception as error:
            if is_infrastructure(error):
                raise
            if len(ids) == 1:
                return dict.fromkeys(ids, error)
        return {i: outcome for one in ids for i, outcome in self._check([one]).items()}


TOPIC = Topic(
    topology.INSTANCE_CHEAT_CHECK,
    InstanceCheatCheck,
    Limits(minimum=5, maximum=100, desired=25, contest=75),
    retries=5,
    base_delay_s=1,
    # As for the store: one thread waits for PostgreSQL while the other one computes.
    workers_per_slot=10,
    batch=BATCH,
    batch_wait_s=0.1,
)
