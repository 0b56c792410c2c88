"""Only doorbells and remote commands of the known form are let in, and of those only what counts."""

import base64
import json
import logging
from typing import Any

import pytest
import redis

from tests.workers.garbage import DOORBELL, GARBAGE, message
from workers.broker.admission import Dropped, checked_other, rewritten_command, rewritten_doorbell
from workers.broker.app import create_app
from workers.broker.contract import TASK, BadMessage
from workers.settings import Settings


def content(raw: bytes) -> Any:
    return json.loads(base64.b64decode(json.loads(raw)["body"]))


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_doorbell_is_not_let_in_and_not_shown(raw: bytes) -> None:
    with pytest.raises(BadMessage) as refused:
        rewritten_doorbell("sam3-d", raw)
    assert len(str(refused.value)) < 100


def test_a_doorbell_keeps_what_it_says_and_its_name_in_flower_and_nothing_else() -> None:
    headers = {"task": TASK, "id": "faces-00001.1", "argsrepr": "run=faces", "timelimit": [1, 1], "eta": "2999-01-01"}
    embedded = {"callbacks": [{"task": "canary"}]}
    given = message([[DOORBELL | {"extra": "canary"}], {"keyword": "canary"}, embedded], headers=headers, canary=1)
    let_in = rewritten_doorbell("sam3-d", given)
    assert b"canary" not in let_in + base64.b64decode(json.loads(let_in)["body"])
    assert content(let_in)[0] == [DOORBELL]
    made = json.loads(let_in)
    assert (made["headers"]["id"], made["headers"]["argsrepr"]) == ("faces-00001.1", "run=faces")
    assert (made["headers"]["timelimit"], made["headers"]["eta"]) == ([None, None], None)
    assert made["properties"]["delivery_info"] == {"exchange": "", "routing_key": "sam3-d"}
    assert made["properties"]["delivery_tag"] != "t"


def test_a_remote_command_keeps_what_it_asks_and_nothing_else() -> None:
    asked = {"method": "conf", "arguments": {"with_defaults": True}, "destination": ["cpu0@here"], "ticket": "7"}
    order = asked | {"reply_to": {"exchange": "reply", "routing_key": "me", "canary": 1}, "canary": 1}
    let_in = rewritten_command("celery.pidbox", message(order, headers={"clock": int("9" * 4000), "expires": 1}))
    assert content(let_in) == asked | {"reply_to": {"exchange": "reply", "routing_key": "me"}}
    assert json.loads(let_in)["headers"] == {}


NO_COMMANDS = {
    "a number": message(7),
    "a list": message([{"method": "ping"}]),
    "no method": message({"arguments": {}}),
    "a regular expression": message({"method": "ping", "pattern": "(.*)*x", "matcher": "pcre"}),
    "other types": message({"method": ["ping"], "arguments": 7, "destination": 7, "reply_to": "me"}),
    "nobody to answer to": message({"method": "ping", "reply_to": {"exchange": ""}}),
}


@pytest.mark.parametrize("raw", [*NO_COMMANDS.values(), *GARBAGE.values()], ids=[*NO_COMMANDS, *GARBAGE])
def test_what_is_no_remote_command_is_not_let_in(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        rewritten_command("celery.pidbox", raw)


@pytest.mark.parametrize("name", [name for name in GARBAGE if b"content-type" not in GARBAGE[name]])
def test_what_is_no_message_is_let_in_nowhere(name: str) -> None:
    with pytest.raises(BadMessage):
        checked_other(GARBAGE[name])


def test_an_event_is_let_in_as_it_is() -> None:
    raw = message([{"type": "task-sent"}], headers={"hostname": "here"})
    assert checked_other(raw) == raw


def test_many_dropped_messages_are_told_once_a_minute_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    dropped = Dropped()
    for _ in range(100):
        dropped.add("sam3-d", BadMessage("no JSON"))
    assert len(caplog.records) == 1
    dropped._next = 0.0  # a minute later
    dropped.add("sam3-d", BadMessage("no JSON"))
    assert "dropped 100 messages from the broker, the last from sam3-d: no JSON" in caplog.records[1].message


def test_garbage_among_what_others_had_taken_is_thrown_away(broker_url: str) -> None:
    """A node looks for what is to be restored every hundred seconds only, so we do in its place."""
    app = create_app(Settings(broker_url=broker_url, identity="d", visibility_seconds=1))
    with redis.Redis.from_url(broker_url) as client, app.connection_for_read() as connection:
        for number, raw in enumerate(GARBAGE.values()):
            client.hset("sam3-d-unacked", str(number), raw)
            client.zadd("sam3-d-unacked-index", {str(number): 1})
        channel: Any = connection.default_channel
        channel.qos.restore_visible(num=100, interval=1)
        assert not client.exists("sam3-d-unacked", "sam3-d-unacked-index")
