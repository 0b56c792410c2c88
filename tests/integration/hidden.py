"""Another user of this machine, from whom /proc hides the processes of all others (`hidepid=2`). Needs root."""

import os
import subprocess

import pytest

UID = 65534
# It may read and write every file, as the tests' folders are private; but it may neither see nor signal our processes.
RIGHTS = "+dac_override,+dac_read_search"
# A mount of its own: to mount the machine's /proc with other options would change it for everybody.
BECOME = f"""mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid={UID} --regid={UID} --clear-groups \
--inh-caps={RIGHTS} --ambient-caps={RIGHTS} "$0" "$@" """


def another_user() -> tuple[str, ...]:
    """What stands before a command to run it as that user. Skips the test where this machine does not allow it."""
    within = ("unshare", "--mount", "/bin/sh", "-c", BECOME)
    look = ("/bin/sh", "-c", f"test $(id -u) = {UID} && test ! -e /proc/{os.getpid()}")
    try:
        subprocess.run([*within, *look], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if "SAM3_REQUIRE_NETNS" in os.environ:
            raise
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        pytest.skip(f"no other user with a /proc of its own here ({said}): that needs root, unshare and setpriv")
    return within
