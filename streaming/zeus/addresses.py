"""The source addresses: counted up from the first, and checked before anything is sent."""

import errno
import ipaddress
import socket
from contextlib import suppress
from pathlib import Path

from raidhub_dagster.errors import ConfigurationError

_NAMED = 4  # missing ones in an error of one line
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")


def sequence(first: str, count: int) -> list[str]:
    """`count` addresses from `first` on, IPv6 or IPv4. Raises ConfigurationError."""
    try:
        base = ipaddress.ip_address(first)
    except ValueError:
        raise ConfigurationError(f"IPV6: {first!r} is no IP address") from None
    if "%" in first:  # counted up, the others would lose it
        raise ConfigurationError(f"IPV6: {first} names a zone; give an address without one")
    if base.is_multicast or base.is_unspecified:
        raise ConfigurationError(f"IPV6: nothing can be sent from {first}")
    try:
        return [str(base + number) for number in range(count)]
    except ipaddress.AddressValueError:
        raise ConfigurationError(f"IPV6: there are no {count} addresses from {first} on") from None


def check(addresses: list[str], interface: str) -> None:
    """Raises ConfigurationError, with the command that helps, when one cannot be sent from."""
    missing = [address for address in addresses if not _can_bind(address)]
    if not missing:
        return
    which = ", ".join(missing[:_NAMED]) + (" ..." if len(missing) > _NAMED else "")
    version = ipaddress.ip_address(missing[0]).version
    command = f"ip -6 addr add {missing[0]}/128" if version == 6 else f"ip addr add {missing[0]}/32"
    raise ConfigurationError(
        f"{len(missing)} of {len(addresses)} source addresses are not on this machine ({which});"
        f" add each of them, such as: {command} dev {interface}"
    )


def elsewhere(addresses: list[str], interface: str) -> list[str]:
    """Those IPv6 addresses that another interface carries; none where the system does not tell."""
    with suppress(OSError):
        carried = {
            str(ipaddress.IPv6Address(int(fields[0], 16))): fields[-1]
            for line in _IPV6_ADDRESSES.read_text("ascii").splitlines()
            if (fields := line.split())
        }
        return [a for a in addresses if carried.get(a, interface) != interface]
    return []


def family(address: str) -> socket.AddressFamily:
    """A source address reaches addresses of its own kind only."""
    version = ipaddress.ip_address(address).version
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _can_bind(address: str) -> bool:
    try:
        with socket.socket(family(address), socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return False
    return True
