"""PostgreSQL from the event loop: one connection in one thread, calls outlast a lost server."""

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.messaging.connection import delays
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect_checked, is_connection_lost, is_retried

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_CONFLICTS = 4


class Database:
    """`call` runs work in the thread; `problem` says why the server is away, None if it is not."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.problem: str | None = "not connected yet"
        self._settings = settings
        self._name = name
        self._connection: Connection | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="postgres")

    async def call(self, work: Callable[[Connection], Result]) -> Result:
        """Result of `work`, which may run again: after a conflict, or when the server came back.

        A commit whose answer was lost counts as failed, so `work` must be harmless twice. Raises
        ConfigurationError when the schema is older than this code needs, and errors of the
        statements themselves: a conflict that five tries did not survive is one.
        """
        loop = asyncio.get_running_loop()
        conflicts = 0
        for delay_s in delays(0.5, 10.0):
            try:
                result = await loop.run_in_executor(self._executor, self._run, work)
            except psycopg2.Error as error:
                if is_retried(error) and conflicts < _CONFLICTS:
                    conflicts += 1
                    await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311  only jitter
                    continue
                if not is_connection_lost(error):
                    raise
                where = f"{self._settings.postgres_host}:{self._settings.postgres_port}"
                said = " ".join(str(error).split())  # libpq tells each address in a line
                self.problem = f"PostgreSQL at {where} does not answer: {said}"
                log.warning(
                    "%s; next try in %.1f s",
                    self.problem,
                    delay_s,
                    extra={"action": "postgres_unreachable", "retry_s": delay_s},
                )
                await asyncio.sleep(delay_s)
            else:
                self.problem = None
                return result
        raise AssertionError("unreachable")

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        if self._connection is not None:
            self._connection.close()

    def _run(self, work: Callable[[Connection], Result]) -> Result:
        if self._connection is None:
            self._connection = connect_checked(self._settings, self._name)
        try:
            return work(self._connection)
        except psycopg2.Error as error:
            if is_connection_lost(error) or self._connection.closed:
                self._connection.close()
                self._connection = None
            raise
