"""Topic instance_cheat_check: has one stored instance checked and the outcome recorded.

What a check finds is the checker's business (`raidhub_dagster.cheat_detection`); without one this
topic does not exist and its messages wait.
"""

import logging
from collections.abc import Sequence

from raidhub_dagster.cheat_detection.checker import Checker
from raidhub_dagster.cheat_detection.ledger import Outcome, check_once
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import read_id
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import Pool
from streaming.hermes.topic import Delivery, Limits, Topic
from streaming.hermes.topics.shared import LEASES

log = logging.getLogger(__name__)


class InstanceCheatCheck:
    """The handler of one slot; connections come from the pool of the process."""

    def __init__(self, settings: Settings, checker: Checker) -> None:
        self._settings = settings
        self._checker = checker
        self._pool: Pool = LEASES.take(settings).pool

    def handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        return [self._outcome(delivery) for delivery in deliveries]

    def give_up(self, delivery: Delivery, error: Exception) -> None:
        """Leaves nothing elsewhere: a check can be asked for again at any time."""

    def close(self) -> None:
        LEASES.give_back(self._settings)

    def _outcome(self, delivery: Delivery) -> Exception | None:
        try:
            instance_id = read_id(delivery.body, "instanceId")
            outcome = self._pool.run(
                lambda connection: check_once(connection, self._checker, instance_id)
            )
        except Exception as error:  # noqa: BLE001  the slot decides by what it is
            return error
        if outcome is Outcome.NOT_STORED:
            log.warning(
                "A check was asked for an instance that is not stored",
                extra={"action": "cheat_check_skipped", "instance_id": instance_id},
            )
        return None


def topic(checker: Checker) -> Topic:
    return Topic(
        topology.INSTANCE_CHEAT_CHECK,
        lambda settings: InstanceCheatCheck(settings, checker),
        Limits(minimum=5, maximum=100, desired=25, contest=75),
        retries=5,
        base_delay_s=1,
    )
