"""One report over the wire: the request, its limits, and the classified answer.

Also the API's list of systems that are on, which comes from the other host.
"""

import logging
from collections.abc import Callable, Container
from datetime import datetime

import aiohttp
from isal import isal_zlib

from raidhub_dagster.bungie.protocol import (
    MAX_BODY_BYTES,
    TIMEOUT_S,
    Endpoints,
    PgcrResult,
    classify_pgcr,
    headers,
    read_answer,
    transport_failure,
)
from raidhub_dagster.bungie.systems import read_systems
from raidhub_dagster.errors import TransientError
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings

log = logging.getLogger(__name__)

# Bodies come gzipped; isal opens them in half the time of zlib.
aiohttp.set_zlib_backend(isal_zlib)


def open_session(connections: int) -> aiohttp.ClientSession:
    """A session without the key: each request brings it to the configured host itself."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class Fetcher:
    """Fetches reports; `tracked_hashes` may be replaced while it works."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        settings: Settings,
        *,
        tracked_hashes: Container[int],
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self.tracked_hashes = tracked_hashes
        self._session = session
        self._endpoints = Endpoints(settings.www_base, settings.pgcr_base)
        self._headers = headers(settings.api_key, settings.bungie_user_agent)
        self._clock = clock
        self._now = now

    async def fetch(self, instance_id: int, malformed_retry: int | None) -> PgcrResult:
        """Never raises but for cancellation."""
        url = self._endpoints.pgcr_url(instance_id, malformed_retry=malformed_retry)
        started = self._clock()
        try:
            # Redirects would carry the key to another host.
            async with self._session.get(
                url, headers=self._headers, allow_redirects=False
            ) as response:
                body = await _read(response)
                result = classify_pgcr(
                    response.status,
                    response.headers.get("Content-Type", ""),
                    body,
                    instance_id=instance_id,
                    tracked_hashes=self.tracked_hashes,
                    now=self._now(),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            result = transport_failure(error, is_unreachable=True)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            result = transport_failure(error)
        metrics.GET_PGCR_REQ.labels(result.status).observe((self._clock() - started) * 1000)
        return result

    async def systems(self) -> dict[str, bool] | None:
        """The API's systems and whether they are on; None when it does not tell."""
        try:
            async with self._session.get(
                self._endpoints.settings_url(), headers=self._headers, allow_redirects=False
            ) as response:
                answer = read_answer(
                    response.status,
                    response.headers.get("Content-Type", ""),
                    await _read(response),
                )
            return read_systems(answer.response or b"")
        except (aiohttp.ClientError, TimeoutError, OSError, TransientError) as error:
            log.info(
                "The API does not tell which systems are on: %r",
                error,
                extra={"action": "systems_unknown"},
            )
            return None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, cut off one byte behind the limit: no answer may fill the memory."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            response.close()
            break
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)[: MAX_BODY_BYTES + 1]
