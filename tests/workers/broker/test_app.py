"""Every delivery setting as the live application has it, each with what goes wrong without it."""

from typing import Any

import pytest
from celery import Celery

from workers.broker.app import create_app
from workers.settings import Settings


@pytest.fixture(scope="module")
def app() -> Celery:
    return create_app(Settings(broker_url="redis://localhost:6379/0", visibility_seconds=86400, node="gpu0"))


def transport(app: Celery) -> dict[str, Any]:
    """The options that reach the broker's connection."""
    with app.connection_for_read() as connection:
        return dict(connection.transport_options or {})


def test_a_long_chunk_is_not_delivered_again_while_it_runs(app: Celery) -> None:
    assert transport(app)["visibility_timeout"] == 86400


def test_a_publish_to_a_dead_peer_does_not_hang_for_ever(app: Celery) -> None:
    options = transport(app)
    assert options["socket_timeout"] == 15
    assert options["socket_connect_timeout"] == 5
    assert options["socket_keepalive"] is True
    assert options["health_check_interval"] == 25
    policy = app.conf.task_publish_retry_policy
    assert policy["max_retries"] == 3
    assert sum(min(0.2 + 0.5 * number, policy["interval_max"]) for number in range(3)) < 10


def test_a_worker_that_is_started_before_its_broker_waits_for_it(app: Celery) -> None:
    assert app.conf.broker_connection_retry_on_startup is True


def test_a_broker_that_is_away_for_long_is_not_given_up(app: Celery) -> None:
    assert app.conf.broker_connection_max_retries is None


def test_a_full_or_read_only_broker_does_not_end_the_worker(app: Celery) -> None:
    assert app.conf.broker_channel_error_retry is True


def test_a_chunk_in_hand_stays_visible_to_the_search_for_lost_doorbells(app: Celery) -> None:
    assert app.conf.task_acks_late is True


def test_a_chunk_that_kills_its_process_does_not_loop_for_ever(app: Celery) -> None:
    assert app.conf.task_reject_on_worker_lost is False
    assert app.conf.task_retry_on_worker_lost is False


def test_a_node_does_not_sit_on_chunks_that_others_could_do(app: Celery) -> None:
    assert app.conf.worker_prefetch_multiplier == 1


def test_a_node_does_not_fetch_one_more_after_a_reconnect(app: Celery) -> None:
    assert app.conf.worker_disable_prefetch is True


def test_a_lost_connection_does_not_throw_away_minutes_of_gpu_time(app: Celery) -> None:
    assert app.conf.worker_cancel_long_running_tasks_on_connection_loss is False


def test_no_result_backend_grows_beside_the_database(app: Celery) -> None:
    assert app.conf.task_ignore_result is True
    assert app.conf.result_backend is None
    assert type(app.backend).__name__ == "DisabledBackend"


def test_whoever_writes_to_the_broker_cannot_run_code_by_pickle(app: Celery) -> None:
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert app.conf.event_serializer == "json"
    assert app.conf.result_accept_content in (None, ["json"])


def test_a_node_hears_its_signals_and_remote_control_while_it_works(app: Celery) -> None:
    assert app.conf.worker_pool == "prefork"


def test_a_gpu_is_used_by_one_process(app: Celery) -> None:
    assert app.conf.worker_concurrency == 1


def test_cuda_is_never_used_in_a_forked_process(app: Celery) -> None:
    assert app.conf.worker_pool_start_method == "spawn"


def test_a_child_that_imports_slowly_is_not_killed_and_started_for_ever(app: Celery) -> None:
    assert app.conf.worker_proc_alive_timeout == 600


def test_no_time_limit_kills_a_chunk_that_still_makes_progress(app: Celery) -> None:
    assert app.conf.task_time_limit is None
    assert app.conf.task_soft_time_limit is None


def test_a_child_keeps_its_loaded_model_from_chunk_to_chunk(app: Celery) -> None:
    assert app.conf.worker_max_tasks_per_child is None
    assert app.conf.worker_max_memory_per_child is None


def test_flower_is_not_left_blank(app: Celery) -> None:
    assert app.conf.worker_send_task_events is True
    assert app.conf.task_send_sent_event is True
    assert app.conf.task_track_started is True


def test_messages_go_to_a_queue_of_our_own(app: Celery) -> None:
    assert app.conf.task_default_queue == "sam3"


def test_a_line_in_the_log_names_its_node(app: Celery) -> None:
    assert "gpu0" in app.conf.worker_log_format
    assert "gpu0" in app.conf.worker_task_log_format


def test_creating_an_app_changes_nobody_elses_current_app(app: Celery) -> None:
    from celery import current_app

    assert current_app.main != "sam3"
    assert app.main == "sam3"


def test_the_database_url_is_nowhere_in_the_configuration_that_remote_control_shows() -> None:
    settings = Settings(database_url="postgresql://sam3:canary@db/sam3", broker_url="redis://:secret-canary@b/0")
    shown = create_app(settings).conf.humanize(with_defaults=True)
    assert "canary" not in shown
