"""The source addresses: counted, checked, and missed in one line that helps."""

import socket
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from raidhub_dagster.errors import ConfigurationError
from streaming.zeus.addresses import (
    IpAddress,
    MissingAddressesError,
    NoInterfaceError,
    check,
    commands,
    family,
    interfaces,
    sequence,
)

_NO_SOURCES = [
    *("fe80::1%eth0", "fe80::1", "169.254.1.1", "ff02::1", "224.0.0.1"),
    *("::", "0.0.0.0"),  # noqa: S104  refused
]


def test_addresses_are_counted_up_from_the_first() -> None:
    assert sequence("2001:db8::fffe", 3) == ["2001:db8::fffe", "2001:db8::ffff", "2001:db8::1:0"]
    assert sequence("127.0.1.254", 3) == ["127.0.1.254", "127.0.1.255", "127.0.2.0"]
    assert [family(a) for a in ("::1", "127.0.0.1")] == [socket.AF_INET6, socket.AF_INET]


@pytest.mark.parametrize(
    "first", ["2001:db8::/64", "here", "300.1.1.1", "255.255.255.250", *_NO_SOURCES]
)
def test_what_is_no_address_is_told_by_the_variables_name(first: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^IPV6: "):
        sequence(first, 16)


def on(*first: str, count: int = 1) -> set[IpAddress]:
    return {ip_address(address) for one in first for address in sequence(one, count)}


def test_each_missing_address_has_its_command() -> None:
    """Started without them, every request would fail, one by one, with a riddle."""
    wanted = sequence("2001:db8:ffff::1", 4)
    with pytest.raises(MissingAddressesError) as told:
        check(["127.0.1.1", *wanted], "eth7", {"eth7": on("2001:db8:ffff::3"), "lo": set()})
    assert "3 of 5 source addresses are not on eth7" in str(told.value)
    assert "(2001:db8:ffff::1, 2001:db8:ffff::2, 2001:db8:ffff::4)" in str(told.value)
    assert told.value.commands == tuple(
        f"ip -6 addr add 2001:db8:ffff::{n}/128 dev eth7" for n in (1, 2, 4)
    )
    with pytest.raises(MissingAddressesError, match=r"16 of 16 .*::1, .*::4 \.\.\.\)") as told:
        check(sequence("2001:db8:ffff::1", 16), "eth7", {"eth7": set()})
    assert len(told.value.commands) == 16
    with pytest.raises(MissingAddressesError) as told:
        check(["198.51.100.7"], "eth7", {"eth7": set()})
    assert told.value.commands == ("ip addr add 198.51.100.7/32 dev eth7",)


@pytest.mark.parametrize(
    ("first", "count"),
    [("2001:db8::fff0", 40), ("2001:db8::1000", 1024), ("198.51.100.250", 20)],
)
def test_more_than_sixteen_are_loops_that_a_shell_takes(first: str, count: int) -> None:
    """What is there already is left out: `ip addr add` of it would be an error."""
    wanted = [ip_address(address) for address in sequence(first, count)]
    del wanted[3]
    lines = commands(wanted, "eth7")
    assert len(lines) <= 3
    shell = "ip() { echo $*; }\n" + "\n".join(lines)
    said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    added = [line.split() for line in said.splitlines()]
    assert [ip_address(words[-3].partition("/")[0]) for words in added] == wanted
    assert {tuple(words[-2:]) for words in added} == {("dev", "eth7")}


def test_an_address_of_another_interface_is_missing_on_this_one() -> None:
    """What leaves there may have another way to the world, or none."""
    carried = {"eth7": set[IpAddress](), "eth8": on("2001:db8::1", "198.51.100.7")}
    for address in ("2001:db8::1", "198.51.100.7"):
        with pytest.raises(MissingAddressesError, match=r"not on eth7 \(.*\), but on eth8;"):
            check([address], "eth7", carried)


def test_an_interface_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(NoInterfaceError, match=r"no interface eth7; it has eth0, lo$"):
        check(["127.0.0.1", "2001:db8::1"], "eth7", {"lo": set(), "eth0": set()})


def test_an_address_that_nothing_can_be_sent_from_yet_is_told_apart() -> None:
    """For a second after `ip addr add` the kernel asks the link whether somebody else has it."""
    with pytest.raises(ConfigurationError, match=r"1 of 1 .* cannot be sent from .*tentative"):
        check(["2001:db8::1"], "eth7", {"eth7": on("2001:db8::1")})


def test_loopback_needs_no_interface() -> None:
    """The simulator's stack sends from 127.0.1.1 and on, whatever the interface is called."""
    check(sequence("127.0.1.1", 16), "eth7", {})


def test_this_machines_interfaces_are_found_with_both_kinds_of_addresses() -> None:
    found = interfaces()
    assert found.keys() == {name for _, name in socket.if_nameindex()}
    assert ip_address("127.0.0.1") in found["lo"]
    if Path("/proc/net/if_inet6").read_text("ascii"):
        assert 6 in {address.version for addresses in found.values() for address in addresses}
