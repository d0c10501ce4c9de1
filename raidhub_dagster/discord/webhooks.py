"""Posts one message to a webhook and says what became of it; never raises for the other side.

Used for messages that may not be lost (`storage/webhooks.py`). What a message says is decided by
whoever puts it into the outbox.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import requests
from pydantic import SecretStr

from raidhub_dagster.discord.messages import retry_after_s

_TIMEOUT_S = 10.0
_LONGEST_PAUSE_S = 900.0
_SUCCESS = frozenset(range(200, 300))


@dataclass(frozen=True)
class Address:
    """Where to post, and what counts as taken. Address and token are secrets: no log has them."""

    url: SecretStr
    authorization: SecretStr | None = None  # the whole value of the header
    accepted: Collection[int] = field(default=_SUCCESS)


class Posted(NamedTuple):
    """`problem` is None when the message was taken; `rest_s` is the pause that was asked for."""

    problem: str | None
    rest_s: float | None = None


class Poster:
    """One session for a thread; a context manager."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False  # a .netrc or proxy of the machine must not see the token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def post(self, address: Address, body: bytes) -> Posted:
        headers = {"Content-Type": "application/json"}
        if address.authorization is not None:
            headers["Authorization"] = address.authorization.get_secret_value()
        try:
            answer = self._session.post(
                address.url.get_secret_value(),
                data=body,
                headers=headers,
                timeout=_TIMEOUT_S,
                allow_redirects=False,
            )
        # A ValueError for an address or a token that is none.
        except (requests.RequestException, ValueError) as error:
            return Posted(type(error).__name__)  # its text holds the address
        if answer.status_code in address.accepted:
            return Posted(None)
        problem = f"HTTP {answer.status_code}"
        return Posted(
            problem,
            retry_after_s(answer, least_s=1.0, most_s=_LONGEST_PAUSE_S)
            if answer.status_code == 429
            else None,
        )
