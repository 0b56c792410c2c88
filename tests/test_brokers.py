"""The server that the tests of a process share is as new for each of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.brokers import ReusedBroker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ReusedBroker]:
    broker = ReusedBroker(tmp_path)
    broker.take()
    yield broker
    broker.close()


def process(broker: ReusedBroker) -> int:
    with redis.Redis.from_url(broker.url) as client:
        return int(client.info()["process_id"])


def test_the_next_test_finds_nothing_of_an_earlier_one_which_does_not_get_in_again(broker: ReusedBroker) -> None:
    before, server = broker.url, process(broker)
    with redis.Redis.from_url(before, single_connection_client=True) as early, early.pubsub() as listening:
        early.set("left", "here")
        listening.subscribe("news")
        broker.give_back()
        broker.take()
        assert process(broker) == server
        with redis.Redis.from_url(broker.url) as later:
            assert later.keys("*") == []
            assert [one["id"] for one in later.client_list()] == [str(later.client_id())]
        with pytest.raises(redis.RedisError):
            early.set("left", "again")
    with redis.Redis.from_url(before) as early, pytest.raises(redis.AuthenticationError):
        early.ping()


@pytest.mark.parametrize(
    "change",
    [
        ("CONFIG", "SET", "maxmemory", "1"),
        ("ACL", "SETUSER", "web", "on", ">canary", "+@all"),
        ("ACL", "SETUSER", "default", "-@scripting"),
        ("SHUTDOWN", "NOSAVE"),
    ],
    ids=" ".join,
)
def test_a_server_that_a_test_changed_or_ended_is_replaced(broker: ReusedBroker, change: tuple[str, ...]) -> None:
    server = process(broker)
    with redis.Redis.from_url(broker.url, retry=None) as client:
        try:
            client.execute_command(*change)
        except redis.ConnectionError:
            assert change[0] == "SHUTDOWN"
    broker.give_back()
    broker.take()
    assert process(broker) != server
    with redis.Redis.from_url(broker.url) as client:
        assert client.acl_users() == ["default"]
        assert client.set("new", "here")
