"""What workers and exports read of runs: settings, prompts and lists, on SQLite and on PostgreSQL."""

from db import doorbells
from db.intake import NewRow
from db.session import Sessions, reading, write
from db.views import run_views
from tests.db import scenario
from tests.db.scenario import load, numbered, rows


def test_a_run_view_has_its_settings_and_all_prompts(sessions: Sessions) -> None:
    run_id = load(sessions, [*rows("a"), NewRow("b", prompts=("dog",))], prompts=("person", "car"))

    with reading(sessions) as session:
        view = run_views.run_view(session, run_id)
        assert run_views.run_view(session, run_id + 1) is None

    assert view is not None
    assert (view.name, view.source.columns, view.frozen.threshold, view.images) == ("faces", ("path",), 0.5, 2)
    assert list(view.prompts.values()) == ["person", "car", "dog"]
    assert [view.prompts[id] for id in view.every_image] == ["person", "car"]


def test_runs_models_and_unfinished_runs_are_listed(sessions: Sessions) -> None:
    ended, active = load(sessions, rows("a"), name="one"), load(sessions, numbered(8), name="two")
    scenario.work_off(sessions, ended, 0.9)

    with reading(sessions) as session:
        assert run_views.run_names(session) == ["one", "two"]
        assert run_views.active_runs(session) == [active]
        assert run_views.active_models(session) == [("two", "tiny")]
        assert run_views.unfinished_runs(session) == ["two"]
    write(sessions, doorbells.ring_pending, active, 1)
    scenario.work_off(sessions, active)
    write(sessions, doorbells.unqueue, scenario.chunks(sessions, active)[0].id)
    scenario.work_off(sessions, active)
    with reading(sessions) as session:
        assert not run_views.unfinished_runs(session)
