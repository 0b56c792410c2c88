"""The Celery application and its delivery policy; knows no tasks, no SQL and no model.

The broker only carries doorbells: losing or repeating one must be harmless, and SQL decides what is done.
"""

from typing import Any

from celery import Celery

from workers.broker import transport
from workers.contract import queue_name
from workers.settings import Settings, sentinel_master

transport.register()


def create_app(settings: Settings) -> Celery:
    """The one configuration that producers, nodes and Flower share. Nothing is connected yet."""
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
            # Leases bring work back within a minute; a broker that does it too only causes repeated messages.
            "visibility_timeout": settings.visibility_seconds,
            # What nodes have taken, apart for each database: others on the same broker are none of our business.
            "unacked_key": f"{queue}-unacked",
            "unacked_index_key": f"{queue}-unacked-index",
            "unacked_mutex_key": f"{queue}-unacked-mutex",
            "socket_timeout": 15,  # a dead peer must be noticed: by default a publish hangs for ever
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # the default gives up after 100
        "broker_channel_error_retry": True,  # a full or read-only Redis is waited for instead of ending the node
        "task_publish_retry_policy": {"max_retries": 3, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 2},
    }


def _delivery(settings: Settings) -> dict[str, Any]:
    return {
        "task_default_queue": queue_name(settings.identity),
        "task_acks_late": True,  # the message stays visible to the doorbell scan until the chunk ends
        "task_reject_on_worker_lost": False,  # a chunk that kills its process would loop for ever:
        "task_retry_on_worker_lost": False,  # crashes are counted in one place, in SQL
        "worker_prefetch_multiplier": 1,  # one chunk at a time ...
        "worker_disable_prefetch": True,  # ... also after a reconnect, which would fetch one more to sit on
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # fences make a repeated delivery harmless
        "task_ignore_result": True,  # results are in SQL
        "accept_content": ["json"],  # never pickle: whoever writes to the broker could run code
        "task_serializer": "json",
        "event_serializer": "json",
    }


def _pool() -> dict[str, Any]:
    return {
        "worker_pool": "prefork",  # solo loses its task on shutdown and is deaf while it works
        "worker_concurrency": 1,  # one GPU, one process, one model
        "worker_pool_start_method": "spawn",  # CUDA cannot be used in a forked process
        "worker_lost_wait": 1,  # nothing that a dead child said late is needed: the default idles the GPU for 10 s
        "worker_proc_alive_timeout": 600,  # a restarted child may be slow to import; the default kills it after 4 s
    }


def _events(settings: Settings) -> dict[str, Any]:
    return {
        "worker_send_task_events": True,  # what Flower shows
        "task_send_sent_event": True,
        "task_track_started": True,
        "worker_log_format": f"%(asctime)s {settings.node} %(message)s",
        "worker_task_log_format": f"%(asctime)s {settings.node} %(message)s",
        "worker_redirect_stdouts": False,
    }
