"""Helper processes answer, yield to all others, and never outlive whoever started them."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from producer.results.files.helpers import NICENESS, HelperEnded, Helpers
from tests.terminals import wait_until
from workers.places import web


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    helpers = Helpers()
    yield helpers
    helpers.close()


def lives(pid: int) -> bool:
    """Also false for one that is dead but was not waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_value_or_an_error_comes_back_from_another_process(helpers: Helpers) -> None:
    assert helpers.call(math.hypot, 3, 4) == 5
    with pytest.raises(ValueError, match="math domain error"):
        helpers.call(math.sqrt, -1)
    helpers.call(print, "what a library says on its standard output is no answer")
    helper = helpers.call(os.getpid)
    assert helper != os.getpid()
    assert helpers.call(os.getpid) == helper, "one that is idle is used again"


def test_several_threads_have_a_process_each(helpers: Helpers) -> None:
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda number: helpers.call(math.sqrt, number), range(100))) == [
            math.sqrt(number) for number in range(100)
        ]
    assert 1 <= len(helpers.pids) <= 3


def test_helpers_let_others_go_first_and_are_out_of_reach_for_ctrl_c(helpers: Helpers) -> None:
    assert helpers.call(os.nice, 0) == os.nice(0) + NICENESS
    assert helpers.call(os.getpgid, 0) != os.getpgid(0)


def test_closed_they_are_gone(helpers: Helpers) -> None:
    helper = helpers.call(os.getpid)
    helpers.close()
    assert not lives(helper)


def test_one_that_is_killed_is_told_in_one_line(helpers: Helpers) -> None:
    with pytest.raises(HelperEnded, match=r"ended \(-9\) in the middle of its work.*the same command again") as error:
        helpers.call(os.kill, helpers.call(os.getpid), signal.SIGKILL)
    assert "\n" not in str(error.value)
    assert helpers.call(math.sqrt, 4) == 2, "the next one is another process"


STARTS_ONE = """
import os, sys, time
from producer.results.files.helpers import Helpers

helpers = Helpers()
print(helpers.call(os.getpid), flush=True)
if sys.argv[1] == "busy":
    helpers.call(time.sleep, 0.5)
time.sleep(3600)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_helpers_end_with_a_process_that_is_killed(state: str) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS_ONE, state], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        helper = int(parent.stdout.readline())
        assert lives(helper)
        parent.kill()
    wait_until(lambda: not lives(helper), "the end of the helper")


def test_a_helper_may_ask_the_web_servers_that_this_process_may_ask() -> None:
    web.allow("images.example.com", "10.0.0.0/8")
    helpers = Helpers()
    try:
        assert helpers.call(web.given) == ("images.example.com", "10.0.0.0/8")
    finally:
        helpers.close()
        web.allow("", "")
