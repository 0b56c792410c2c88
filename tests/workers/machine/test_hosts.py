"""Which hosts and which networks may be asked."""

import ipaddress

import pytest

from workers.machine.hosts import Allowed, read_hosts, read_networks

PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_these_addresses_are_private(address: str) -> None:
    assert not Allowed().takes(ipaddress.ip_address(address))
    assert Allowed(networks=read_networks("0.0.0.0/0, ::/0")).takes(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07::1", "::ffff:93.184.215.14"])
def test_these_addresses_are_public(address: str) -> None:
    assert Allowed().takes(ipaddress.ip_address(address))


def test_a_host_is_allowed_by_its_name_and_port() -> None:
    allowed = Allowed(read_hosts("A.example.com, *.example.org,b.example.com:8443"))
    assert allowed.has("a.example.com", 443)
    assert allowed.has("x.y.example.org", 443)
    assert allowed.has("b.example.com", 8443)
    for host, port in (("a.example.com", 80), ("b.example.com", 443), ("example.org", 443), ("badexample.org", 443)):
        assert not allowed.has(host, port)
    for wrong in ("https://a.example.com", "a.example.com/b", "*", "a b", "me@host"):
        with pytest.raises(ValueError, match="is no host"):
            read_hosts(wrong)
