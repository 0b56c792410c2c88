"""Names of hosts: this machine's own, and those of web servers that images may come from. Asks no server."""

import ipaddress
import re
from dataclasses import dataclass

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # names of this machine that no other one reaches it by
_HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*(:\d{1,5})?")
# Addresses of IPv6 that stand for one of IPv4, which a translator on the way would connect to.
_TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Allowed:
    """Which hosts may be asked, and which networks they may be in although these are private."""

    hosts: tuple[str, ...] = ()  # host, host:port or *.domain
    networks: tuple[Network, ...] = ()

    def has(self, host: str, port: int) -> bool:
        """Whether a setting names this host; a name without a port means 443."""
        for one in self.hosts:
            name, _, wanted = one.partition(":")
            if port == int(wanted or 443) and (host.endswith(name[1:]) if name.startswith("*.") else host == name):
                return True
        return False

    def takes(self, address: Address) -> bool:
        """Whether an address is public, or in a network that a setting names."""
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if mapped is not None:
            return self.takes(mapped)
        if any(address in network for network in self.networks if network.version == address.version):
            return True
        translated = any(address in network for network in _TRANSLATED if network.version == address.version)
        return address.is_global and not address.is_multicast and not translated


def read_hosts(text: str) -> tuple[str, ...]:
    """The hosts of a setting, separated by commas. Raises `ValueError`."""
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no host; write images.example.com, *.example.org or host:8443")
    return hosts


def read_networks(text: str) -> tuple[Network, ...]:
    """The networks of a setting, separated by commas. Raises `ValueError`."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
