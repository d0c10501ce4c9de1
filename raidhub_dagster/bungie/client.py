"""The blocking client for everything but the crawl: one request at a time, retried politely.

The only place of this package that does I/O. Rules: docs/domain/bungie-api.md.
"""

import logging
import random
import time
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from typing import BinaryIO, Self

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from urllib3.exceptions import NewConnectionError

from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.bungie.protocol import (
    MAX_BODY_BYTES,
    TIMEOUT_S,
    Answer,
    Endpoints,
    PgcrResult,
    classify_pgcr,
    headers,
    read_answer,
    transport_failure,
)
from raidhub_dagster.errors import MaintenanceError, PermanentError, TransientError
from raidhub_dagster.settings import Settings

log = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
# A file as a whole; the manifest's 100 MB come in this at 170 kB/s.
DOWNLOAD_S = 600.0
_CHUNK_BYTES = 64 * 1024


def doubling_s(attempt: int) -> float:
    """The wait after attempt number `attempt` (1 is the first) that suits most requests."""
    return min(FIRST_WAIT_S * 2.0 ** (attempt - 1), LONGEST_WAIT_S)


class BungieError(TransientError):
    """An answer worth another try; `pause_s` is what Bungie asks for before it."""

    def __init__(self, message: str, *, pause_s: float = 0, facts: dict[str, str | int]) -> None:
        super().__init__(message, facts)
        self.pause_s = pause_s


class RefusedError(PermanentError):
    """An answer that the same request brings again: not found, private, a bad request, a bad key.

    `code` is None when none came; `data` has the texts of MessageData.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | None,
        code_class: CodeClass,
        data: Mapping[str, str],
        facts: dict[str, str | int],
    ) -> None:
        super().__init__(message, facts | {"class": code_class.value})
        self.code = code
        self.code_class = code_class
        self.data = dict(data)


class BungieClient:
    """Sends requests through one `requests` session, so it belongs to one thread.

    The key is a header of the session and stands in no error, log line or address.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        api_key: str,
        user_agent: str,
        *,
        attempts: int = ATTEMPTS,
        pause_s: Callable[[int], float] = doubling_s,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.endpoints = endpoints
        self.is_reachable = True  # False while the last request found nobody who listens
        self._pause_s = pause_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._now = now
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._session = requests.Session()
        self._session.trust_env = False  # a .netrc or proxy of the machine must not see the key
        self._session.headers.update(headers(api_key, user_agent))
        self._retrying = Retrying(
            stop=stop_after_attempt(attempts),
            wait=self._wait_s,
            retry=retry_if_exception_type(TransientError),
            sleep=sleep,
            reraise=True,
        )

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        attempts: int = ATTEMPTS,
        pause_s: Callable[[int], float] = doubling_s,
    ) -> Self:
        """A client of the API that `settings` name: zeus, or Bungie itself without it.

        Raises ConfigurationError without a key.
        """
        endpoints = Endpoints(settings.www_base, settings.pgcr_base)
        return cls(
            endpoints,
            settings.api_key,
            settings.bungie_user_agent,
            attempts=attempts,
            pause_s=pause_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._session.close()

    def get(self, url: str) -> bytes:
        """The JSON of Response, an object or a list, from one of `self.endpoints`.

        Raises RefusedError (not found, private, bad request, key refused), MaintenanceError, or
        TransientError when every attempt failed.
        """
        return self._retrying(self._get_once, url)

    def download(
        self, path: str, target: BinaryIO, *, most_bytes: int, past_cache: bool = False
    ) -> int:
        """Fills `target` with the file that the manifest names by `path`; returns its bytes.

        The edge remembers a 404, so every try after the first asks by a new address; with
        `past_cache` the first one does too. Raises PermanentError for more than `most_bytes`, else
        what `get` raises: a page or an envelope in place of the file is a TransientError.
        """
        for attempt in self._retrying:
            with attempt:
                is_new = past_cache or attempt.retry_state.attempt_number > 1
                retry = self._rng.randrange(1, 2**31) if is_new else None
                return self._download_once(
                    self.endpoints.content_url(path, retry=retry), target, most_bytes
                )
        raise AssertionError("unreachable")

    def fetch_pgcr(
        self,
        instance_id: int,
        tracked_hashes: Container[int],
        *,
        malformed_retry: int | None = None,
        settled: bool = False,
    ) -> PgcrResult:
        """One attempt at a report, judged; never raises for what the network or Bungie does."""
        url = self.endpoints.pgcr_url(instance_id, malformed_retry=malformed_retry)
        try:
            http_status, content_type, body = self._request(url)
        except requests.RequestException as error:
            return transport_failure(error)
        return classify_pgcr(
            http_status,
            content_type,
            body,
            instance_id=instance_id,
            tracked_hashes=tracked_hashes,
            now=self._now(),
            settled=settled,
        )

    def _get_once(self, url: str) -> bytes:
        try:
            answer = read_answer(*self._request(url))
        except requests.RequestException as error:
            raise _no_answer(error, url) from None
        return _response_of(answer, url)

    def _request(self, url: str) -> tuple[int, str, bytes]:
        """Status, content type and at most one byte more than MAX_BODY_BYTES.

        The time limit is for the whole: `requests` by itself allows it anew for each chunk.
        """
        body, deadline = bytearray(), self._clock() + self._timeout_s
        with self._send(url) as reply:
            for chunk in reply.iter_content(_CHUNK_BYTES):
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    break
                if self._clock() > deadline:
                    raise requests.Timeout
            return (
                reply.status_code,
                reply.headers.get("Content-Type", ""),
                bytes(body[: MAX_BODY_BYTES + 1]),
            )

    def _download_once(self, url: str, target: BinaryIO, most_bytes: int) -> int:
        target.seek(0)
        target.truncate()
        size, deadline = 0, self._clock() + DOWNLOAD_S
        try:
            with self._send(url) as reply:
                content_type = reply.headers.get("Content-Type", "")
                if reply.status_code == 404:
                    raise BungieError("the file is not there (yet)", facts={"url": url})
                if reply.status_code != 200 or content_type.startswith(
                    ("text/", "application/json")
                ):
                    body = next(reply.iter_content(_CHUNK_BYTES), b"")
                    _response_of(read_answer(reply.status_code, content_type, body), url)
                    raise BungieError("an answer instead of a file", facts={"url": url})
                for chunk in reply.iter_content(_CHUNK_BYTES):
                    size += target.write(chunk)
                    if size > most_bytes:
                        raise PermanentError(f"{url} has more than {most_bytes} bytes")
                    if self._clock() > deadline:
                        raise requests.Timeout
        except requests.RequestException as error:
            raise _no_answer(error, url) from None
        return size

    def _send(self, url: str) -> requests.Response:
        """The head of the answer; its body is still to be read. The caller closes it."""
        try:
            reply = self._session.get(
                url, timeout=self._timeout_s, allow_redirects=False, stream=True
            )
        except requests.RequestException as error:
            self.is_reachable = not _is_unconnected(error)
            raise
        self.is_reachable = True
        return reply

    def _wait_s(self, state: RetryCallState) -> float:
        """What Bungie asks for, at least the client's own pause with jitter."""
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.pause_s if isinstance(error, BungieError) else 0.0
        wait_s = max(asked_s, self._pause_s(state.attempt_number))
        wait_s += self._rng.uniform(0, FIRST_WAIT_S)
        log.info(
            "Bungie's API failed, trying again",
            extra={"action": "bungie_request_retried", "error": str(error), "wait_s": wait_s},
        )
        return wait_s


def _is_unconnected(error: requests.RequestException) -> bool:
    """True when no connection came about, so that it had nothing to do with the request."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", None), NewConnectionError)


def _no_answer(error: requests.RequestException, url: str) -> BungieError:
    # Its text holds the address and sometimes more; the type says enough.
    name = type(error).__name__
    return BungieError(f"no answer: {name}", facts={"url": url, "error": name})


def _response_of(answer: Answer, url: str) -> bytes:
    """The response of a success; any other answer as the error that its class asks for."""
    code_class = answer.code_class
    facts: dict[str, str | int] = {"url": url, "http_status": answer.http_status}
    if answer.code is not None:
        facts["code"] = answer.code
    said = f"{answer.label} {answer.message or answer.problem}".strip()
    if code_class is CodeClass.SUCCESS:
        if answer.response is None:
            raise BungieError("success without a response", facts=facts)
        return answer.response
    if code_class is CodeClass.MAINTENANCE:
        raise MaintenanceError(said, facts)
    if code_class in {CodeClass.RETRY, CodeClass.THROTTLE}:
        raise BungieError(said, pause_s=answer.pause_s, facts=facts)
    raise RefusedError(
        said, code=answer.code, code_class=code_class, data=answer.message_data, facts=facts
    )
