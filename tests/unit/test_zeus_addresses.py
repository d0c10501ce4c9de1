"""The source addresses: counted, checked, and missed in one line that helps."""

import socket

import pytest

from raidhub_dagster.errors import ConfigurationError
from streaming.zeus.addresses import check, elsewhere, family, sequence

_NO_SOURCES = ["fe80::1%eth0", "ff02::1", "224.0.0.1", "::", "0.0.0.0"]  # noqa: S104  refused


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


def test_missing_addresses_are_told_with_the_command_that_adds_them() -> None:
    """Started without them, every request would fail, one by one, with a riddle."""
    found = sequence("2001:db8:ffff::1", 3)
    with pytest.raises(ConfigurationError) as told:
        check(["127.0.1.1", *found], "eth7")
    text = str(told.value)
    assert "3 of 4 source addresses" in text
    assert "(2001:db8:ffff::1, 2001:db8:ffff::2, 2001:db8:ffff::3)" in text
    assert "ip -6 addr add 2001:db8:ffff::1/128 dev eth7" in text
    assert "\n" not in text
    with pytest.raises(ConfigurationError, match=r"16 of 16 .*::1, .*::4 \.\.\.\)"):
        check(sequence("2001:db8:ffff::1", 16), "eth7")
    with pytest.raises(ConfigurationError, match=r"ip addr add 198\.51\.100\.7/32 dev eth7"):
        check(["198.51.100.7"], "eth7")


def test_addresses_of_this_machine_pass() -> None:
    check(sequence("127.0.1.1", 16), "lo")


def test_an_address_of_another_interface_is_told_apart() -> None:
    try:
        check(["::1"], "lo")
    except ConfigurationError:
        pytest.skip("this machine has no IPv6")
    assert elsewhere(["::1", "127.0.0.1"], "eth7") == ["::1"]
    assert elsewhere(["::1", "127.0.0.1"], "lo") == []
