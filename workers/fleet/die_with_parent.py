"""`python -m workers.fleet.die_with_parent PID COMMAND ...` becomes COMMAND, which is killed when its parent PID ends.

Standard library only, since each node and broker starts through it. Knows no nodes.
Source: https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call above
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
