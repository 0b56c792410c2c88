"""Two hosts in network namespaces of their own, joined by a wire that can be cut or made slow and lossy.

The wire is a thread that carries IP packets between two TUN devices: what `tc netem` and a firewall's DROP do, on
kernels without them too. Needs root; knows nothing of what is sent.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_NAME_ITSELF = 'hostname "$0" && exec "$@"'
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Host:
    """A machine, as far as names and the network go; it shares files, processes and clock with this one."""

    name: str
    address: str
    namespace: str

    @property
    def within(self) -> tuple[str, ...]:
        """What stands before a command to run it there."""
        ip = shutil.which("ip") or "ip"
        return (ip, "netns", "exec", self.namespace, "unshare", "--uts", "/bin/sh", "-c", _NAME_ITSELF, self.name)


class Wire:
    """Carries packets until `close`. Faults hold for those sent from then on, in both directions."""

    def __init__(self, one: int, other: int, seed: int = 1) -> None:
        self._across = {one: other, other: one}  # device -> where its packets go
        self._dice = random.Random(seed)
        self._cut: frozenset[int] = frozenset()
        self._delay, self._jitter, self._loss = 0.0, 0.0, 0.0
        self._open = True
        self.dropped = 0
        self._thread = threading.Thread(target=self._carry, name="wire", daemon=True)
        self._thread.start()

    def cut(self, *ports: int) -> None:
        """Drop every packet from or to one of these TCP ports, without a word to either side; none: all is well."""
        self._cut = frozenset(ports)

    def spoil(self, delay: float, jitter: float, loss: float) -> None:
        """Deliver each packet `delay` seconds late, give or take `jitter`, and lose a part, `loss`, of them."""
        self._delay, self._jitter, self._loss = delay, jitter, loss

    def close(self) -> None:
        self._open = False
        self._thread.join()
        for device in self._across:
            os.close(device)

    def _carry(self) -> None:
        under_way: list[tuple[float, int, int, bytes]] = []
        for number in itertools.count():
            if not self._open:
                return
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            for device in select.select(list(self._across), [], [], min(wait, 0.1))[0]:
                packet = os.read(device, 1 << 16)
                if self._loses(packet):
                    self.dropped += 1
                    continue
                due = time.monotonic() + max(0.0, self._dice.uniform(-1, 1) * self._jitter + self._delay)
                heapq.heappush(under_way, (due, number, self._across[device], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(under_way)
                os.write(device, packet)

    def _loses(self, packet: bytes) -> bool:
        ports = struct.unpack_from("!HH", packet, 4 * (packet[0] & 0x0F)) if packet[0] >> 4 == 4 else ()
        return bool(self._cut.intersection(ports)) or self._dice.random() < self._loss


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host, Wire]]:
    """Hosts that see each other over the wire and nothing else. Raises `OSError` where this machine does not allow it.

    The second one is where servers are to run; it reaches itself even while the wire is cut.
    """
    prefix = f"sam3-{os.getpid()}-{next(_numbers)}"
    hosts = [Host(name, f"10.77.0.{number}", f"{prefix}-{name}") for number, name in ((1, "far"), (2, "near"))]
    made, devices = [], []
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
            made.append(host)
            devices.append(_tun(host.namespace))
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "wire")
            _ip("-n", host.namespace, "link", "set", "wire", "up")
        wire = Wire(*devices)
        try:
            yield hosts[0], hosts[1], wire
        finally:
            wire.close()
    finally:
        for host in made:
            _ip("netns", "del", host.namespace)


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise OSError(f"ip {' '.join(arguments)}: {error.stderr.strip()}") from None


def _tun(namespace: str) -> int:
    """A new TUN device called wire in the namespace. Only the thread that makes it ever enters the namespace."""
    made: list[int | OSError] = []

    def make() -> None:
        try:
            with open(f"/run/netns/{namespace}") as entrance:
                if ctypes.CDLL(None, use_errno=True).setns(entrance.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"wire", _IFF_TUN | _IFF_NO_PI))
            except OSError:
                os.close(device)
                raise
            made.append(device)
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
