"""The Celery application and its delivery policy; knows no tasks, no SQL and no model.

The broker only carries doorbells: a lost or repeated doorbell must be harmless, since SQL decides what is done. The
settings are documented at https://docs.celeryq.dev/en/stable/userguide/configuration.html.
"""

from typing import Any

from celery import Celery

from workers.broker import transport
from workers.broker.contract import queue_name
from workers.settings import Settings, sentinel_master

transport.register()


def create_app(settings: Settings) -> Celery:
    """Make the Celery application that producers, nodes and Flower share. It does not connect yet."""
    app = Celery("sam3", set_as_current=False)
    app.conf.update(_broker(settings), **_delivery(settings), **_pool(), **_events(settings))
    return app


def _broker(settings: Settings) -> dict[str, Any]:
    queue = queue_name(settings.identity)
    broker_url, master = sentinel_master(settings.broker_url)
    return {
        "broker_url": broker_url,
        "broker_transport_options": {
            **({"master_name": master} if master else {}),
            # Leases bring lost work back within a minute. If the broker does the same, it only repeats messages.
            "visibility_timeout": settings.visibility_seconds,
            # Messages that nodes have taken, in keys of this database only: other databases may use the same broker.
            "unacked_key": f"{queue}-unacked",
            "unacked_index_key": f"{queue}-unacked-index",
            "unacked_mutex_key": f"{queue}-unacked-mutex",
            "socket_timeout": 15,  # notices a dead server; by default a publish would hang for ever
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # the default gives up after 100
        "broker_channel_error_retry": True,  # the node waits for a full or read-only Redis instead of ending
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 2},
    }


def _delivery(settings: Settings) -> dict[str, Any]:
    return {
        "task_default_queue": queue_name(settings.identity),
        "task_acks_late": True,  # the message stays visible to the doorbell scan until the chunk ends
        # If Celery repeated tasks of dead processes, a chunk that kills its process would be tried for ever. SQL counts
        # crashes.
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,  # one chunk at a time ...
        "worker_disable_prefetch": True,  # ... also after a reconnect, when Celery would fetch one more and keep it
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # fences make a repeated delivery harmless
        "task_ignore_result": True,  # results are in SQL
        "accept_content": ["json"],  # never pickle, with which anybody who writes to the broker could run code
        "task_serializer": "json",
        "event_serializer": "json",
    }


def _pool() -> dict[str, Any]:
    return {
        "worker_pool": "prefork",  # the pool "solo" loses its task on shutdown, and hears no command while it works
        "worker_concurrency": 1,  # one GPU, one process, one model
        "worker_pool_start_method": "spawn",  # CUDA cannot be used in a forked process
        "worker_lost_wait": 1,  # s to wait for late messages of a dead child, which we do not need; by default 10
        "worker_proc_alive_timeout": 600,  # s for a new child to import its modules; by default it is killed after 4
    }


def _events(settings: Settings) -> dict[str, Any]:
    return {
        "worker_send_task_events": True,  # Flower shows these events
        "task_send_sent_event": True,
        "task_track_started": True,
        "worker_log_format": f"%(asctime)s {settings.node} %(message)s",
        "worker_task_log_format": f"%(asctime)s {settings.node} %(message)s",
        "worker_redirect_stdouts": False,
    }
