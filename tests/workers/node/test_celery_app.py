"""What a node's Celery parent does otherwise than Celery: with a real broker that refuses to listen."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import billiard.util
import celery._state
import celery.worker.state
import pytest
import redis
from billiard.exceptions import WorkerLostError
from celery import Celery

from tests.quick_start import PROJECT
from tests.terminals import PATIENCE, wait_until
from workers.broker.contract import TASK, Doorbell


@pytest.fixture
def app(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A node's own application."""
    monkeypatch.setenv("SAM3_BROKER_URL", broker_url)
    from workers.node import celery_app

    monkeypatch.setattr(celery_app.app.conf, "broker_url", broker_url)
    yield celery_app.app
    celery_app.app.close()
    celery._state._set_current_app(None)  # type: ignore[attr-defined]


def test_a_message_whose_end_the_broker_refuses_to_hear_keeps_no_other_away(app: Celery, broker_url: str) -> None:
    """A node has one place for messages. kombu would keep it taken for ever."""
    messages: list[Any] = []
    app.send_task(TASK, args=[Doorbell("d0", 1, 1, 1).to_message()])
    with app.connection_for_read() as connection, redis.Redis.from_url(broker_url) as server:
        channel: Any = connection.default_channel
        channel.basic_qos(0, 1, False)
        with app.amqp.TaskConsumer(channel, on_message=messages.append):
            connection.drain_events(timeout=PATIENCE)
            assert not channel.qos.can_consume()
            server.replicaof("127.0.0.1", "1")  # of nobody: it refuses every write
            messages[0].ack_log_error(logging.getLogger("quiet"), (redis.RedisError,))
            server.replicaof("NO", "ONE")
            assert channel.qos.can_consume()


def test_the_celery_parent_starts_without_what_only_its_process_that_works_needs() -> None:
    script = "import sys, workers.node.celery_app, workers.node.tasks; print(*sys.modules)"
    environment = os.environ | {"SAM3_DATABASE_URL": "sqlite:////of/another.db"}  # as its launcher gives it
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT, env=environment
    )
    assert {"sqlalchemy", "alembic", "numpy", "PIL", "torch", "workers.inference"} & set(done.stdout.split()) == set()


@pytest.mark.parametrize(("stopping", "lines"), [(None, 1), (0, 0)])
def test_a_process_that_ends_before_its_time_is_no_error_when_the_node_was_asked_to_end(
    stopping: int | None, lines: int, app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(celery.worker.state, "should_stop", stopping)
    logger, of_pool = logging.getLogger("celery.worker"), billiard.util.get_logger()
    for one in (logger, of_pool):
        monkeypatch.setattr(one, "propagate", True)
    try:
        raise WorkerLostError("Could not start worker processes")
    except WorkerLostError as error:
        logger.critical("Unrecoverable error: %r", error, exc_info=True)
    of_pool.error("Process %r pid:%r exited with %r", "SpawnPoolWorker-1", 7, "signal 15 (SIGTERM)")
    assert len(caplog.records) == 2 * lines


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm")
def test_a_node_that_is_killed_with_its_whole_group_leaves_no_semaphore_and_no_folder(tmp_path: Path) -> None:
    script = (
        "import billiard, os, signal\n"
        "from workers.node.__main__ import _make_no_folder, _start_tracker\n"
        "_make_no_folder(); _start_tracker()\n"
        "number = billiard.get_context('spawn').Value('i')\n"
        "print(number.get_lock()._semlock.name, flush=True)\n"
        "os.killpg(0, signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert killed.returncode == -signal.SIGKILL
    semaphore = Path("/dev/shm", f"sem.{killed.stdout.strip().removeprefix('/')}")
    wait_until(lambda: not semaphore.exists(), "the end of its semaphore")
    assert list(tmp_path.iterdir()) == []
