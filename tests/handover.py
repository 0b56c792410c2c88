"""Hands a command over to a process that forks for it (`tests.quick_start`, `tests.twins`), and tells how it ended.

As a program it stands in for a command of ours in the shell of a test; so it imports little. Knows no commands.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

PACKET_BYTES = 30_000  # an environment may be longer than one packet takes


def hand_over(requests: socket.socket, asked: Mapping[str, Any], descriptors: Mapping[int, int]) -> socket.socket:
    """Have what is `asked` started with these descriptors under these numbers; return the socket that tells its pid.

    What a new process gets from who starts it is told besides.
    """
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(requests, [b"start"], [theirs.fileno(), *descriptors.values()])
    told = json.dumps({**asked, **_inherited(), "numbers": list(descriptors)}).encode()
    for first in range(0, len(told), PACKET_BYTES):
        control.send(told[first : first + PACKET_BYTES])
    control.send(b"end")
    return control


def command(words: Sequence[str], cwd: str, env: Mapping[str, str]) -> dict[str, Any]:
    return {"command": list(words), "cwd": cwd, "env": dict(env)}


def _inherited() -> dict[str, Any]:
    os.umask(umask := os.umask(0o077))
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    return {"umask": umask, "ignored": ignored, "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, []))}


def main(descriptor: int, words: Sequence[str]) -> None:
    """Be the command, as far as a shell can tell."""
    asked = command(words, os.getcwd(), os.environ)
    control = hand_over(socket.socket(fileno=descriptor), asked, {0: 0, 1: 1, 2: 2})
    control.recv(64)  # its pid
    ended = int(control.recv(64))
    if ended < 0:
        os.kill(os.getpid(), -ended)
    sys.exit(ended)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
