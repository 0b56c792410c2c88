"""Hands a command over to the forerunner of `tests.quick_start`, and tells how it ended.

As a program it stands in for a command of ours in the shell of a test; so it imports little. Knows no commands.
"""

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence

PACKET_BYTES = 30_000  # an environment may be longer than one packet takes


def hand_over(
    requests: socket.socket, command: Sequence[str], cwd: str, env: Mapping[str, str], descriptors: Sequence[int]
) -> socket.socket:
    """Have a command started with these descriptors as its first ones; return the socket that tells its pid and end."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(requests, [b"start"], [theirs.fileno(), *descriptors])
    told = json.dumps({"command": list(command), "cwd": cwd, "env": dict(env), "umask": _umask()}).encode()
    for first in range(0, len(told), PACKET_BYTES):
        control.send(told[first : first + PACKET_BYTES])
    control.send(b"end")
    return control


def _umask() -> int:
    os.umask(before := os.umask(0o077))
    return before


def main(descriptor: int, command: Sequence[str]) -> None:
    """Be the command, as far as a shell can tell."""
    control = hand_over(socket.socket(fileno=descriptor), command, os.getcwd(), os.environ, (0, 1, 2))
    control.recv(64)  # its pid
    ended = int(control.recv(64))
    if ended < 0:
        os.kill(os.getpid(), -ended)
    sys.exit(ended)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
