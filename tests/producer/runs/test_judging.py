"""A run refuses other settings and another source, with the difference and what to do."""

from dataclasses import replace
from pathlib import Path

import pytest

from db.session import Sessions
from producer.runs.load import record
from producer.runs.request import RunRequest
from producer.sources.source import ReadOptions
from producer.sources.text.csv_source import CsvSource
from tests.db import scenario
from tests.producer.runs.conftest import REQUEST, load, only_sqlite, paths, write_csv
from workers.errors import UsageError

pytestmark = pytest.mark.usefixtures("small_slices")


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (
            replace(REQUEST, prompts=("person", "dog")),
            "prompt person there, person, dog here. To change its prompts: the same command with --add-prompt dog",
        ),
        (
            replace(REQUEST, frozen=replace(scenario.FROZEN, threshold=0.7)),
            "threshold 0.5 there, 0.7 here. No GPU is needed for that: "
            "sam3-export faces --format csv --threshold 0.7 -o faces-0.7.csv",
        ),
        (
            replace(REQUEST, frozen=replace(scenario.FROZEN, threshold=0.2, score_floor=0.2)),
            "threshold 0.5 there, 0.2 here; score-floor 0.3 there, 0.2 here",
        ),
        (replace(REQUEST, frozen=replace(scenario.FROZEN, mask_rule="meta")), "mask-rule library there, meta here"),
        (
            replace(REQUEST, frozen=replace(scenario.FROZEN, model="facebook/sam3", orientation="raw")),
            "model tiny there, facebook/sam3 here; orientation exif there, raw here",
        ),
    ],
)
@only_sqlite
def test_other_settings_under_the_same_name_are_refused_with_the_difference(
    sessions: Sessions, faces: Path, changed: RunRequest, difference: str
) -> None:
    write_csv(faces, paths(3))
    recorded = load(sessions, faces)
    held = scenario.claim(sessions, recorded.run_id)
    scenario.commit(sessions, held, [scenario.done(held.images[0], 0.9)])

    with pytest.raises(UsageError) as refused:
        load(sessions, faces, changed)

    assert str(refused.value) == (
        f"run faces has results with other settings: {difference}. Give this one another name with --run, "
        "or the same settings; or sam3-delete faces first"
    )


@only_sqlite
def test_another_file_or_another_way_to_read_it_is_refused(sessions: Sessions, faces: Path, tmp_path: Path) -> None:
    write_csv(faces, paths(3))
    recorded = load(sessions, faces)
    other = tmp_path / "other.csv"
    write_csv(other, paths(3))

    with pytest.raises(UsageError, match=f"source {faces} there, {other} here"):  # be it without results
        load(sessions, other)
    scenario.work_off(sessions, recorded.run_id, 0.9)
    with pytest.raises(UsageError, match="image-column path there, note here"):
        record(sessions, CsvSource(faces, ReadOptions(image_column="note")), REQUEST, lambda done, total: None)
    with pytest.raises(UsageError, match=f"image-root none there, {tmp_path / 'images'} here"):
        record(sessions, CsvSource(faces, ReadOptions(root=tmp_path / "images")), REQUEST, lambda done, total: None)
    with pytest.raises(UsageError, match=f"image-root none there, {tmp_path} here"):  # the same folder, but confined
        record(sessions, CsvSource(faces, ReadOptions(root=tmp_path)), REQUEST, lambda done, total: None)
    with pytest.raises(UsageError, match="prompt-column none there, note here"):
        record(sessions, CsvSource(faces, ReadOptions(prompt_column="note")), REQUEST, lambda done, total: None)
