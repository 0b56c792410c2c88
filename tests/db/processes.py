"""Several Python processes that do the same thing to one database at the same moment."""

import subprocess
import sys
from pathlib import Path

from tests.terminals import PATIENCE

PROJECT = Path(__file__).parents[2]


def run_together(count: int, program: str, url: str) -> None:
    """Run `program` in `count` processes with `url` as its argument; all must end well.

    Each prints "ready" and waits for a line before it begins, so that slow imports do not spread them out.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, url],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, "\n".join(stderr for _, stderr in ends)
