"""`sam3-db upgrade` as it is typed, on both databases."""

import pytest

from db.migrate import newest_revision
from db.session import shown
from producer.cli.database import main as database
from producer.cli.status import main as status
from tests.producer.cli.conftest import Shell


def test_an_empty_database_gets_its_tables_and_a_second_time_changes_nothing(
    database_url: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM3_DATABASE_URL", database_url)
    if database_url.startswith("postgresql"):
        assert shell(status, code=2).error == "sam3: error: the database has no tables: run sam3-db upgrade"

    for _ in range(2):
        assert (
            shell(database, "upgrade").err == f"the database {shown(database_url)} has revision {newest_revision()}\n"
        )
    assert shell(status, "--json").json["runs"] == []


def test_a_database_out_of_reach_is_named_without_its_password(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_DATABASE_URL", "postgresql://user:secret@localhost:1/sam3")
    monkeypatch.setattr("db.patience.RETRY_SECONDS", 0.5)

    error = shell(database, "upgrade", code=3).error

    assert error.startswith("sam3: error: cannot use the database postgresql://user:***@localhost:1/sam3: ")


def test_another_action_is_refused(shell: Shell) -> None:
    assert "'downgrade' is not 'upgrade'" in shell(database, "downgrade", code=2).error
