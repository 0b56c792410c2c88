"""When an image was not answered for: is its server the reason, or the image itself?"""

from collections.abc import Callable
from pathlib import Path

import pytest

from db import claims
from db.claims import Claim
from db.intake import NewRow
from db.outcomes import ImageFailed, Outcome
from db.session import Sessions, write
from tests import buckets as door
from tests.buckets import Bucket
from tests.db import scenario
from tests.workers import runs
from workers.node.faults import Infrastructure
from workers.node.servers import check_servers
from workers.places import buckets

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Check = Callable[..., None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SILENT_SECONDS": 0.5, "RETRY_SECONDS": 0.5, "RETRIES": 1}.items():
        monkeypatch.setattr(buckets, name, value)


@pytest.fixture
def claim(sessions: Sessions, bucket: Bucket, tmp_path: Path) -> Claim:
    """A chunk in hand with two objects, a.jpg and b.jpg."""
    for key in ("a.jpg", "b.jpg"):
        bucket.put(key, b"any")
    rows = [NewRow(f"{bucket.url}/{key}") for key in ("a.jpg", "b.jpg")]
    return scenario.claim(sessions, runs.load(sessions, tmp_path, rows))


@pytest.fixture
def check(sessions: Sessions, claim: Claim) -> Check:
    """Judge a batch with one outcome for each of the two images: `silent`, `done` or `missing`."""

    def check(*became: str) -> None:
        batch: list[Outcome] = []
        for image, how in zip(claim.images, became, strict=True):
            failed = {"silent": "no_answer"}.get(how, how)
            batch.append(scenario.done(image, 0.9) if how == "done" else ImageFailed(image.id, failed, "no answer"))
        check_servers(sessions, runs.view(sessions, claim.run_id), claim.images, batch, seconds=30)

    return check


@pytest.mark.parametrize("fault", [door.BROKEN, door.SILENT])
def test_a_server_that_answers_for_nothing_is_a_fault_of_the_surroundings(
    check: Check, bucket: Bucket, fault: str
) -> None:
    bucket.faults[""] = fault
    for outcomes in (("silent", "silent"), ("done", "silent"), ("silent", "missing")):
        with pytest.raises(Infrastructure, match=bucket.url):
            check(*outcomes)


@pytest.mark.parametrize("fault", [door.BROKEN, door.SILENT, door.CUT])
def test_an_object_that_its_server_never_gives_fails_alone_if_the_server_gives_others(
    check: Check, bucket: Bucket, fault: str
) -> None:
    bucket.faults["a.jpg"] = fault
    check("silent", "done")
    check("silent", "missing")


def test_a_server_that_answers_again_had_failed(check: Check) -> None:
    with pytest.raises(Infrastructure, match=r"a\.jpg was not to be had and is now: did s3://.* fail for a while\?"):
        check("silent", "done")


def test_an_object_is_not_the_reason_if_no_other_one_was_ever_read(check: Check, bucket: Bucket) -> None:
    bucket.faults["a.jpg"] = bucket.faults["b.jpg"] = door.BROKEN
    with pytest.raises(
        Infrastructure, match=r"^s3://[\w-]+: the server says 500 Internal Server Error \(InternalError\)$"
    ):
        check("silent", "silent")


def test_images_that_were_done_before_show_that_the_server_answers(
    sessions: Sessions, claim: Claim, check: Check, bucket: Bucket
) -> None:
    first, second = claim.images
    write(sessions, claims.commit, claim, [scenario.done(first, 0.9)], 60)
    bucket.faults["b.jpg"] = door.BROKEN
    check("done", "silent")
    view = runs.view(sessions, claim.run_id)
    check_servers(sessions, view, claim.images, [ImageFailed(second.id, "no_answer", "no answer")], seconds=30)


def test_a_batch_with_an_answer_for_each_image_costs_no_request(check: Check, bucket: Bucket) -> None:
    """One that takes too long to decode fails alone, although its server gives it each time."""
    check("done", "missing")
    check("done", "timeout")
    check("timeout", "timeout")
    assert not bucket.asked
