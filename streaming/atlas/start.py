"""Where a crawl begins: the ledger, else a person, else the stored raids, else the simulator."""

import ipaddress
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import aiohttp

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.messaging.connection import delays

log = logging.getLogger(__name__)

_NO_START = (
    "the database holds no raid to start from: name the first id with --target"
    " (for example 16900000000)"
)


def first_id(*, target: int | None, newest: int | None, buffer: int) -> int | None:
    """The id to begin at when there is no ledger yet; None when nothing tells.

    `target` is what the person named, `newest` the highest id stored; both less `buffer`.
    """
    if target is None:
        if newest is None:
            return None
        target = newest + 1
    return max(target - buffer, 1)


def is_simulated(base_url: str) -> bool:
    """True for an address of this machine, or a name of its own network, such as compose.yaml's.

    Bungie lives at neither.
    """
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "" and "." not in host


async def ask_simulator(
    session: aiohttp.ClientSession, base_url: str, sleep: Callable[[float], Awaitable[None]]
) -> int:
    """The simulator's first id; waits until it is up.

    Raises ConfigurationError that names --target when `base_url` is no simulator.
    """
    if not is_simulated(base_url):
        raise ConfigurationError(_NO_START)
    for delay_s in delays(0.5, 10.0):
        try:
            async with session.get(f"{base_url}/sim") as response:
                answer = await response.json() if response.status == 200 else None
        except (aiohttp.ContentTypeError, ValueError):
            answer = None
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning(
                "The API at %s does not answer: %r; next try in %.1f s",
                base_url,
                error,
                delay_s,
                extra={"action": "api_unreachable", "retry_s": delay_s},
            )
            await sleep(delay_s)
            continue
        start = answer.get("first_id") if isinstance(answer, dict) else None
        if type(start) is int and start > 0:
            return start
        raise ConfigurationError(_NO_START)
    raise AssertionError("unreachable")
