"""Doorbells that are looked at on a real broker, and brokers that cannot be used."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery

from tests.terminals import PATIENCE
from tests.workers.doorbells import app_on, ring
from workers.broker.connection import Doorbells, check_broker
from workers.errors import Unreachable, UsageError
from workers.settings import masked


@contextmanager
def taken(app: Celery) -> Iterator[Any]:
    """The oldest message, taken by a consumer that has not acknowledged it yet."""
    with app.connection_for_read() as connection, connection.SimpleQueue("sam3") as queue:
        yield queue.get(timeout=PATIENCE)


def test_waiting_and_taken_doorbells_are_seen(broker_url: str) -> None:
    app = app_on(broker_url)
    doorbells = Doorbells(app)
    assert (doorbells.count(), doorbells.chunks()) == (0, set())
    ring(app, 7, 8, 9)
    with taken(app) as message:
        assert (doorbells.count(), doorbells.chunks()) == (3, {7, 8, 9})
        message.ack()
        assert (doorbells.count(), doorbells.chunks()) == (2, {8, 9})


def test_a_doorbell_that_a_killed_node_took_a_minute_ago_does_not_count(broker_url: str) -> None:
    app = app_on(broker_url)
    ring(app, 7)
    with taken(app), redis.Redis.from_url(broker_url) as client:
        for tag in client.zrange("sam3-unacked-index", 0, -1):
            client.zadd("sam3-unacked-index", {tag: time.time() - 61})
        doorbells = Doorbells(app)
        assert (doorbells.count(), doorbells.chunks()) == (0, set())


def test_garbage_among_the_doorbells_is_ignored(broker_url: str) -> None:
    app = app_on(broker_url)
    ring(app, 7)
    garbage = ["", "{", "null", "[]", '"text"', "{}", '{"body": "?", "properties": {}}', '{"body": 7, "properties": 7}']
    with redis.Redis.from_url(broker_url) as client:
        for number, text in enumerate([*garbage, b"\xff"]):
            client.rpush("sam3", text)
            client.hset("sam3-unacked", str(number), text)
            client.zadd("sam3-unacked-index", {str(number): time.time()})
        client.zadd("sam3-unacked-index", {"no such": time.time()})
    assert Doorbells(app).chunks() == {7}


NO_USER = "invalid username-password pair or user is disabled"
UNUSABLE = {
    "down": ("redis://:canary@127.0.0.1:1/0", "Error 111 connecting to 127.0.0.1:1. Connection refused"),
    "wrong password": ("redis://:canary@127.0.0.1:{port}/0", NO_USER),
    "wrong user": ("redis://nobody:canary@127.0.0.1:{port}/0", NO_USER),
    "wrong database": ("redis://:{password}@127.0.0.1:{port}/99", "DB index is out of range"),
}


@pytest.mark.parametrize(("url", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_broker_that_cannot_be_used_is_one_line_that_says_why_and_what_to_do(
    broker_url: str, url: str, reason: str
) -> None:
    parts = urlsplit(broker_url)
    url = url.format(port=parts.port, password=parts.password)
    with pytest.raises(Unreachable) as refused:
        check_broker(app_on(url))
    cure = "start one with sam3-broker, or set SAM3_BROKER_URL" if "refused" in reason else "correct SAM3_BROKER_URL"
    assert str(refused.value) == f"cannot reach the broker {masked(url)}: {reason}; {cure}"
    assert "canary" not in str(refused.value)
    assert str(parts.password) not in str(refused.value)


def test_a_broker_that_asks_for_a_password_is_one_line_that_says_where_it_may_be(broker_url: str) -> None:
    url = f"redis://127.0.0.1:{urlsplit(broker_url).port}/0"
    with pytest.raises(Unreachable) as refused:
        check_broker(app_on(url))
    assert str(refused.value) == (
        f"cannot reach the broker {url}: Authentication required; if a sam3-broker of yours is meant, "
        "unset SAM3_BROKER_URL and use its SAM3_STATE_DIR; else set "
        "SAM3_BROKER_URL=redis://:password@host:6379/0, or start your own with sam3-broker --port 6380"
    )


def test_a_user_with_everything_but_administration_is_enough(broker_url: str) -> None:
    with redis.Redis.from_url(broker_url) as client:
        rights = ["~*", "&*", "+@all", "-@admin", "-@dangerous"]
        client.execute_command("ACL", "SETUSER", "sam3", "on", ">canary", *rights)
    app = app_on(f"redis://sam3:canary@127.0.0.1:{urlsplit(broker_url).port}/0")
    assert check_broker(app) == []
    ring(app, 7)
    assert Doorbells(app).chunks() == {7}


HALF_ADMITTED = {
    "may not write": ["~*", "&*", "+@read", "+@transaction", "+@connection"],
    "may not touch our keys": ["+@all"],
    "no channels": ["~*", "+@all", "-@dangerous"],
    "keys of its own only": ["~app:*", "&*", "+@all", "-@dangerous"],
    "no scripts": ["~*", "&*", "+@all", "-@dangerous", "-@scripting"],
    "no list commands": ["~*", "&*", "+@all", "-@dangerous", "-@list"],
    "no blocking commands": ["~*", "&*", "+@all", "-@dangerous", "-brpop"],
    "no transactions": ["~*", "&*", "+@all", "-@dangerous", "-@transaction"],
    "no hashes": ["~*", "&*", "+@all", "-@dangerous", "-@hash"],
    "no sets": ["~*", "&*", "+@all", "-@dangerous", "-@set"],
    "publishes only": ["~*", "&*", "+@all", "-@dangerous", "-psubscribe"],
    "listens only": ["~*", "&*", "+@all", "-@dangerous", "-publish"],
}


@pytest.mark.parametrize("rights", HALF_ADMITTED.values(), ids=HALF_ADMITTED)
def test_a_user_who_may_do_half_is_refused_with_the_rule_that_gives_the_rest(
    rights: list[str], broker_url: str
) -> None:
    app = app_on(f"redis://web:canary@127.0.0.1:{urlsplit(broker_url).port}/0")
    with redis.Redis.from_url(broker_url) as client:
        client.execute_command("ACL", "SETUSER", "web", "reset", "on", ">canary", *rights)
        with pytest.raises(Unreachable) as refused:
            check_broker(app)
        said = str(refused.value)
        assert "canary" not in said
        assert "\n" not in said
        assert "refuses a node" in said
        client.execute_command(*said[said.index("ACL SETUSER web") :].split())  # as it says
        assert check_broker(app) == []
        # Nothing of the trials is left, but for what ends by itself within a second.
        assert not [key for key in client.keys("*") if b"binding" not in key and client.ttl(key) < 0]
    ring(app, 7)
    assert Doorbells(app).chunks() == {7}


@pytest.mark.parametrize("url", ["redis://:canary@localhost:1/abc", "redis://localhost:1/0?password=canary"])
def test_a_broker_url_that_makes_no_sense_is_one_line(url: str) -> None:
    with pytest.raises(UsageError, match="SAM3_BROKER_URL") as refused:
        check_broker(app_on(url))
    assert "canary" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_broker_that_throws_keys_away_when_full_is_warned_about(broker_url: str) -> None:
    with redis.Redis.from_url(broker_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert check_broker(app_on(broker_url)) == [
        "the broker evicts keys when its memory is full (maxmemory-policy allkeys-lru); set it to noeviction"
    ]


def test_a_broker_that_speaks_no_tls_is_told_as_one(broker_url: str) -> None:
    url = f"rediss://127.0.0.1:{urlsplit(broker_url).port}/0?ssl_cert_reqs=required"
    app = app_on(url)
    app.conf.broker_transport_options |= {"socket_timeout": 0.2, "socket_connect_timeout": 0.2}  # it waits in vain
    with pytest.raises(Unreachable, match=r"if it speaks no TLS, write redis:// for rediss:// in SAM3_BROKER_URL$"):
        check_broker(app)
