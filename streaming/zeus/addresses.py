"""The source addresses: counted up from the first, and checked before anything is sent."""

import errno
import ipaddress
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence, Set

import psutil

from raidhub_dagster.errors import ConfigurationError

_NAMED = 4  # addresses in an error of one line
_SINGLY = 16  # commands, a line each; more of them become loops

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class NoInterfaceError(ConfigurationError):
    """No network interface of this machine has that name."""


class MissingAddressesError(ConfigurationError):
    """The interface lacks addresses; `commands` of a shell, a line each, put them there."""

    def __init__(self, message: str, commands: Sequence[str]) -> None:
        super().__init__(message)
        self.commands = tuple(commands)


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
    if base.is_link_local:
        raise ConfigurationError(f"IPV6: nothing can be sent beyond the link from {first}")
    try:
        return [str(base + number) for number in range(count)]
    except ipaddress.AddressValueError:
        raise ConfigurationError(f"IPV6: there are no {count} addresses from {first} on") from None


def interfaces() -> dict[str, set[IpAddress]]:
    """Name of each network interface of this machine -> its addresses."""
    found: dict[str, set[IpAddress]] = {name: set() for _, name in socket.if_nameindex()}
    for name, addresses in psutil.net_if_addrs().items():
        found.setdefault(name.partition(":")[0], set()).update(  # eth0:1 is a label on eth0
            ipaddress.ip_address(each.address.partition("%")[0])
            for each in addresses
            if each.family in (socket.AF_INET, socket.AF_INET6)
        )
    return found


def check(addresses: Sequence[str], interface: str, carried: Mapping[str, Set[IpAddress]]) -> None:
    """Returns when requests can leave from each of `addresses`, which `interface` carries.

    `carried` is what `interfaces` found. Loopback addresses need no interface: Linux takes all of
    127.0.0.0/8, and nothing leaves from them. Raises NoInterfaceError, MissingAddressesError, and
    ConfigurationError for an address that the interface has and nothing can be sent from.
    """
    wanted = [a for text in addresses if not (a := ipaddress.ip_address(text)).is_loopback]
    if wanted and interface not in carried:
        raise NoInterfaceError(
            f"this machine has no interface {interface}; it has {', '.join(sorted(carried))}"
        )
    missing = [address for address in wanted if address not in carried[interface]]
    if missing:
        others = sorted(name for name, has in carried.items() if not has.isdisjoint(missing))
        raise MissingAddressesError(
            f"{len(missing)} of {len(addresses)} source addresses are not on {interface}"
            f" ({_named(missing)})"
            + (f", but on {', '.join(others)}" if others else "")
            + "; root adds them with the commands on standard output",
            commands(missing, interface),
        )
    unusable = [address for address in addresses if not _can_bind(address)]
    if unusable:
        raise ConfigurationError(
            f"{len(unusable)} of {len(addresses)} source addresses cannot be sent from"
            f" ({_named(unusable)}): `ip addr` must show them as neither tentative nor dadfailed"
        )


def commands(missing: Sequence[IpAddress], interface: str) -> list[str]:
    """What puts `missing` (ascending) on the interface: each its line, or a loop for each run."""
    device = shlex.quote(interface)
    runs = [[a] for a in missing] if len(missing) <= _SINGLY else list(_runs(missing))
    return [_command(run, device) for run in runs]


def family(address: str) -> socket.AddressFamily:
    """A source address reaches addresses of its own kind only."""
    version = ipaddress.ip_address(address).version
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _runs(addresses: Sequence[IpAddress]) -> Iterator[list[IpAddress]]:
    """Neighbours that differ in their last group alone."""
    run: list[IpAddress] = []
    for address in addresses:
        if run and (int(address) != int(run[-1]) + 1 or _split(address)[0] != _split(run[0])[0]):
            yield run
            run = []
        run.append(address)
    if run:
        yield run


def _split(address: IpAddress) -> tuple[str, int]:
    """What comes before the last group, separator included, and that group."""
    separator, base = (":", 16) if address.version == 6 else (".", 10)
    head, _, last = address.exploded.rpartition(separator)
    return head + separator, int(last, base)


def _command(run: Sequence[IpAddress], device: str) -> str:
    ip, bits = ("ip -6", 128) if run[0].version == 6 else ("ip", 32)
    if len(run) == 1:
        return f"{ip} addr add {run[0]}/{bits} dev {device}"
    (head, first), (_, last) = _split(run[0]), _split(run[-1])
    group = "$(printf %x $n)" if run[0].version == 6 else "$n"
    return (
        f"for n in $(seq {first} {last}); do {ip} addr add {head}{group}/{bits} dev {device}; done"
    )


def _named(addresses: Sequence[object]) -> str:
    return ", ".join(map(str, addresses[:_NAMED])) + (" ..." if len(addresses) > _NAMED else "")


def _can_bind(address: str) -> bool:
    try:
        with socket.socket(family(address), socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return False
    return True
