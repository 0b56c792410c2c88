"""`sam3-status` as it is typed: all runs or one, now or when it is over, and with which exit code."""

import re
import threading
import time

import pytest

from producer.cli.status import main as status
from producer.results.status import Standing
from producer.runs.operate import cancel
from tests.db import scenario
from tests.db.scenario import REJECTED, claim, commit, done, failed, load, numbered
from tests.producer.cli.conftest import Shell

KEYS = ["schema", "run", "state", "images", "chunks", "instances", "images_per_second", "eta_seconds"]


def with_one_failure(shell: Shell, name: str = "faces") -> int:
    """A run of ten images that is done; one of them failed."""
    run_id = load(shell.sessions, numbered(10), name=name, chunk_size=10)
    held = claim(shell.sessions, run_id)
    commit(shell.sessions, held, [failed(held.images[0]), *(done(image, 0.9) for image in held.images[1:])])
    return run_id


def test_an_empty_database_says_how_to_begin(shell: Shell) -> None:
    assert shell(status).err == "no runs yet; begin with sam3-enqueue --csv FILE --prompt TEXT\n"
    assert shell(status, "--json").json == {"schema": 1, "runs": []}


def test_without_a_run_all_are_shown_one_a_line(shell: Shell) -> None:
    with_one_failure(shell)
    load(shell.sessions, numbered(4), name="birds")

    first, second = shell(status).out.splitlines()

    assert re.fullmatch(r"done +faces: 10/10 images \(100 %\), [\d.]+ images/s, failed 1", first)
    assert second == "active     birds: 0/4 images (0 %), no worker is running: start sam3-worker"
    runs = shell(status, "--json").json["runs"]
    assert [(run["run"], run["state"]) for run in runs] == [("faces", "done"), ("birds", "active")]


def test_the_json_of_one_run_begins_as_promised(shell: Shell) -> None:
    with_one_failure(shell)

    facts = shell(status, "faces", "--json", code=1).json

    assert list(facts)[:10] == [*KEYS, "errors", "workers"]
    assert facts["errors"] == [{"error_class": "truncated", "count": 1, "example": "000001.jpg"}]


def test_an_unfinished_run_is_no_failure_even_with_failed_images(shell: Shell) -> None:
    run_id = load(shell.sessions, numbered(8))
    held = claim(shell.sessions, run_id)
    commit(shell.sessions, held, [failed(image) for image in held.images])

    told = shell(status, "faces", code=0)

    assert "4 failed" in told.out
    assert not told.err


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ((), 1),
        (("--max-failures", "1"), 0),
        (("--max-failures", "0"), 1),
        (("--max-failures", "10%"), 0),
        (("--max-failures", "9.9%"), 1),
        (("--exit-zero",), 0),
    ],
)
def test_how_many_failures_are_put_up_with_decides_only_the_code(
    shell: Shell, given: tuple[str, ...], code: int
) -> None:
    with_one_failure(shell)

    told = shell(status, "faces", *given, code=code)

    assert "10 total, 9 segmented, 1 failed" in told.out
    assert told.err == "Next: sam3-retry faces\n"


@pytest.mark.parametrize("given", ["many", "1e3", "-1", "%", "²"])
def test_max_failures_is_a_number_or_a_percentage(shell: Shell, given: str) -> None:
    error = shell(status, "faces", f"--max-failures={given}", code=2).error

    assert f"'{given}' is neither a number nor a percentage" in error


def test_a_rejected_row_counts_as_a_failure_that_no_retry_mends(shell: Shell) -> None:
    run_id = load(shell.sessions, [*numbered(2), REJECTED])
    scenario.work_off(shell.sessions, run_id, 0.9)

    told = shell(status, "faces", code=1)

    assert told.err == "Next: sam3-export faces --format csv -o faces-results.csv\n"


def test_an_unknown_run_ends_with_4_and_names_those_there_are(shell: Shell) -> None:
    assert shell(status, "nope", code=4).error == ("sam3: error: no run called nope; the database has no runs yet")
    for name in ("faces", "birds"):
        load(shell.sessions, numbered(1), name=name)
    (shell.home / "photos").mkdir()
    assert shell(status, "photos", "--json", code=4).error == (
        "sam3: error: no run called photos; there are: faces, birds; the folder photos holds no run.yaml"
    )


@pytest.mark.parametrize("flag", ["--wait", "--watch"])
def test_it_can_wait_until_the_run_is_over(shell: Shell, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.cli.standing.WATCH_SECONDS", 0.05)
    run_id = load(shell.sessions, numbered(8))

    def work() -> None:
        time.sleep(0.3)
        scenario.work_off(shell.sessions, run_id, 0.9)

    worker = threading.Thread(target=work)
    worker.start()
    told = shell(status, "faces", flag)
    worker.join()

    assert "(done)" in told.out
    watched = ["faces: 0/8 images (0 %), no worker is running: start sam3-worker"] if flag == "--watch" else []
    assert told.err.splitlines() == [*watched, "Next: sam3-export faces --format csv -o faces-results.csv"]


def test_images_that_were_cancelled_are_no_success(shell: Shell) -> None:
    run_id = load(shell.sessions, numbered(8))
    scenario.commit_all(shell.sessions, claim(shell.sessions, run_id), 0.9)
    cancel(shell.sessions, run_id)

    assert shell(status, "faces", "--wait", code=1).err == "Next: sam3-retry faces\n"
    shell(status, "faces", "--max-failures", "4", code=0)
    shell(status, "--wait", code=1)


@pytest.mark.parametrize("flag", ["--wait", "--watch"])
def test_without_a_run_it_waits_for_all_of_them_and_ends_as_the_worst(
    shell: Shell, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.cli.standing.WATCH_SECONDS", 0.05)
    with_one_failure(shell)
    ids = [load(shell.sessions, numbered(4), name=name) for name in ("birds", "cars")]
    looked = threading.Event()
    real = Standing.over.fget  # type: ignore[attr-defined]

    def over(standing: Standing) -> bool:
        looked.set()  # from now on it knows of runs that are not over
        return bool(real(standing))

    monkeypatch.setattr(Standing, "over", property(over))

    def work() -> None:
        assert looked.wait(60)
        for run_id in ids:
            scenario.work_off(shell.sessions, run_id, 0.9)

    worker = threading.Thread(target=work)
    worker.start()
    told = shell(status, flag, code=1)
    worker.join()

    assert [line.split()[:2] for line in told.out.splitlines()] == [
        *(["done", "faces:"], ["done", "birds:"], ["done", "cars:"])
    ]
    if flag == "--watch":
        assert told.err.splitlines() == [
            f"{name}: 0/4 images (0 %), no worker is running: start sam3-worker" for name in ("birds", "cars")
        ]
    assert shell(status, flag, "--max-failures", "1").out == told.out
    assert shell(status).out == told.out


def test_waiting_for_no_run_at_all_says_so_at_once(shell: Shell) -> None:
    assert shell(status, "--wait").err == "no runs yet; begin with sam3-enqueue --csv FILE --prompt TEXT\n"


def test_waiting_with_json_prints_nothing_but_the_json(shell: Shell) -> None:
    with_one_failure(shell)

    told = shell(status, "faces", "--watch", "--json", code=1)

    assert told.json["state"] == "done"
    assert not told.err


@pytest.mark.parametrize(
    ("url", "code", "fault"),
    [
        ("nonsense", 2, "SAM3_DATABASE_URL is not a database URL"),
        ("mysql://user:secret@host/db", 2, "SAM3_DATABASE_URL names mysql; only sqlite and postgresql are supported"),
        (
            "postgresql://user:secret@localhost:1/db",
            3,
            "cannot use the database postgresql://user:***@localhost:1/db",
        ),
        ("sqlite:////proc/nowhere/sam3.db", 3, "cannot use the database /proc/nowhere/sam3.db: there is no such file"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_a_password(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, url: str, code: int, fault: str
) -> None:
    monkeypatch.setenv("SAM3_DATABASE_URL", url)

    error = shell(status, code=code).error

    assert fault in error
    assert "secret" not in error


@pytest.mark.parametrize(
    ("error_class", "hint"),
    [
        ("crashed", "sam3-retry faces"),
        ("truncated", "sam3-retry faces"),
        ("not_an_image", "sam3-export faces --format csv -o faces-results.csv"),
        ("too_large", "sam3-export faces --format csv -o faces-results.csv"),
    ],
)
def test_a_retry_is_advised_only_where_it_may_help(shell: Shell, error_class: str, hint: str) -> None:
    run_id = load(shell.sessions, numbered(1))
    held = claim(shell.sessions, run_id)
    commit(shell.sessions, held, [failed(held.images[0], error_class)])

    assert shell(status, "faces", code=1).err == f"Next: {hint}\n"
