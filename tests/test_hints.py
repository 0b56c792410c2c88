"""Every command that a command advises is followed to the letter, in the folder where the input lies.

The input's folder holds files of the user's with the very names that we would choose, and none of them may change.
"""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.terminals import Terminal

pytestmark = pytest.mark.long

FAKE = "--prompt person --model any/model --gpus cpu"


def hint(told: "subprocess.CompletedProcess[str]") -> str:
    """The command of the last line."""
    last = told.stderr.splitlines()[-1]
    assert last.startswith("Next: sam3-"), last
    return last.removeprefix("Next: ")


def photographs(folder: Path, *names: str, broken: bool = True) -> Path:
    """White squares, the first of which is broken off if that is wanted."""
    folder.mkdir()
    for name in names:
        Image.new("RGB", (40, 40), "white").save(folder / name)
    first = folder / names[0]
    if broken:
        first.write_bytes(first.read_bytes()[:60])
    return first


def mend(picture: Path) -> None:
    Image.new("RGB", (40, 40), "white").save(picture)


def contents(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_every_hint_about_a_queued_run_works_beside_its_csv(terminal: Terminal, broker_url: str) -> None:
    here = terminal
    here.environment |= {"SAM3_BROKER_URL": broker_url, "SAM3_RECONCILE_SECONDS": "1"}
    broken = photographs(here.home / "photos", "a.png", "b.png")
    (here.home / "images.csv").write_text("path\nphotos/a.png\nphotos/b.png\n")
    (here.home / "images-results.csv").write_text("what I found out myself\n")
    (here.home / "images").mkdir()  # a folder of that name is nothing to us
    before = contents(here.home)

    def work() -> None:
        here.type("sam3-worker --gpus cpu --until-empty")

    command = "sam3-enqueue --csv images.csv --prompt person"
    watch = hint(here.type(command))
    work()
    retry = hint(here.type(watch, code=1))
    before[broken] = ""
    mend(broken)
    watch = hint(here.type(retry))
    work()
    export = hint(here.type(watch))
    assert export == "sam3-export images --format csv -o images-results_2.csv"
    here.type(export)
    assert hint(here.type(command)) == export
    here.type(export)
    assert {path: now for path, now in contents(here.home).items() if path in before} | {broken: ""} == before


def test_both_hints_about_a_cancelled_run_work_for_a_name_like_a_flag(terminal: Terminal, broker_url: str) -> None:
    here = terminal
    here.environment |= {"SAM3_BROKER_URL": broker_url, "SAM3_RECONCILE_SECONDS": "1"}
    photographs(here.home / "photos", "a.png", broken=False)
    (here.home / "images.csv").write_text("path\nphotos/a.png\n")
    here.type("sam3-enqueue --csv images.csv --prompt hat --run -hats")
    cancelled = here.type("sam3-cancel run:-hats")
    retry, delete = re.findall(r"sam3-(?:retry|delete) run:-hats", cancelled.stderr)
    watch = hint(here.type(retry))
    here.type("sam3-worker --gpus cpu --until-empty")
    here.type(hint(here.type(watch)))
    here.type(delete, code=2)
    here.type(f"{delete} --yes")


def test_every_hint_about_a_sam3_run_works_beside_its_pictures(terminal: Terminal) -> None:
    here = terminal
    del here.environment["SAM3_STATE_DIR"]
    here.environment["HOME"] = here.environment["XDG_STATE_HOME"] = str(here.home)
    broken = photographs(here.home / "my photos", "a.png", "b.png")
    (here.home / "my out").mkdir()
    theirs = here.home / "my out" / "coco.json"
    theirs.write_text("{}")

    again = hint(here.type(f"sam3-run 'my photos' {FAKE} -o 'my out'", code=1))
    (here.home / "my out").rename(here.home / "moved")
    retry = hint(here.type("sam3-status moved", code=1))
    go_on = hint(here.type(retry))
    assert go_on == "sam3-run --config moved/run.yaml -o moved"
    here.type(go_on, code=1)
    (here.home / "moved").rename(here.home / "my out")
    mend(broken)
    export = hint(here.type(again))
    assert export == "sam3-export 'my out' --format coco -o 'my out/coco_2.json'"
    here.type(export)
    here.type(hint(here.type("sam3-status 'my out'")))
    assert theirs.read_text() == "{}"


def test_a_second_run_in_an_output_folder_is_refused_with_the_command_that_works(terminal: Terminal) -> None:
    here = terminal
    del here.environment["SAM3_STATE_DIR"]
    photographs(here.home / "photos", "a.png", broken=False)
    photographs(here.home / "others", "a.png", broken=False)
    here.type(f"sam3-run photos {FAKE} -o 'my out'")
    before = contents(here.home / "my out" / "masks")

    refused = here.type(f"sam3-run others {FAKE} -o 'my out'", code=2).stderr
    assert refused.startswith("sam3-run: error: -o my out belongs to run photos of ")
    instead = refused.strip().partition(" Use another: ")[2]
    assert instead == f"sam3-run others {FAKE} -o 'my out_2'"
    here.type(instead)
    refused = here.type(f"sam3-run photos {FAKE} -o 'my out' --threshold 0.7", code=2).stderr
    here.type(re.findall(r"sam3-run photos [^;]*", refused)[0])

    assert contents(here.home / "my out" / "masks") == before
    assert "nothing left to do" in here.type(f"sam3-run photos {FAKE} -o 'my out'").stdout


def test_another_source_in_a_state_folder_of_several_outputs_gets_a_name_of_its_own(terminal: Terminal) -> None:
    here = terminal
    here.environment["SAM3_STATE_DIR"] = "state"
    photographs(here.home / "photos", "a.png", broken=False)
    (here.home / "other").mkdir()
    photographs(here.home / "other" / "photos", "b.png", broken=False)
    here.type(f"sam3-run photos {FAKE} -o one")

    other_folder = here.type(f"sam3-run other/photos {FAKE} -o two", code=2).stderr
    here.type(re.findall(r"sam3-run other/photos [^;]*", other_folder)[0])
    same_folder = here.type(f"sam3-run other/photos {FAKE} -o one", code=2).stderr
    here.type(same_folder.strip().partition(" Use another: ")[2])


def test_other_settings_in_a_state_folder_of_several_outputs_get_a_name_of_their_own(terminal: Terminal) -> None:
    here = terminal
    here.environment["SAM3_STATE_DIR"] = "state"
    photographs(here.home / "photos", "a.png", broken=False)
    here.type(f"sam3-run photos {FAKE} -o one")

    refused = here.type(f"sam3-run photos {FAKE} -o two --threshold 0.7", code=2).stderr
    here.type(re.findall(r"sam3-export photos .*?csv(?=\. )", refused)[0])
    here.type(re.findall(r"sam3-run photos [^;]*", refused)[0])
    here.type(re.findall(r"sam3-delete photos", refused)[0] + " --yes")


def test_no_hint_names_a_run_of_a_database_that_the_next_command_does_not_see(terminal: Terminal) -> None:
    here = terminal
    photographs(here.home / "photos", "a.png", broken=False)
    here.type(f"sam3-run photos {FAKE} -o one --state-dir elsewhere")
    refused = here.type(f"sam3-run photos {FAKE} -o two --state-dir elsewhere --threshold 0.7", code=2).stderr
    assert "sam3-delete" not in refused
    assert "sam3-export" not in refused
    here.type(re.findall(r"sam3-run photos [^;]*", refused)[0])


def test_a_name_that_means_two_runs_is_refused_with_both_spellings(terminal: Terminal, broker_url: str) -> None:
    here = terminal
    here.environment["SAM3_BROKER_URL"] = broker_url
    photographs(here.home / "js_photos", "a.png", broken=False)
    export = hint(here.type(f"sam3-run js_photos {FAKE} -o js --state-dir js_state"))
    (here.home / "js.csv").write_text("path\njs_photos/a.png\n")
    assert export.startswith("sam3-export js ")
    here.type(export)

    assert hint(here.type("sam3-enqueue --csv js.csv --prompt cat")) == "sam3-status run:js --watch"

    for command in ("status", "retry", "cancel", "delete --yes", "export --format csv -o x.csv"):
        refused = here.type(f"sam3-{command} js", code=2).stderr
        assert "write ./js for the folder's, run:js for the database's" in refused
        assert len(refused.splitlines()) == 1
    assert "1 segmented" in here.type("sam3-status ./js").stdout
    assert "1 segmented" in here.type("sam3-status js/").stdout
    assert "1 pending" in here.type("sam3-status run:js").stdout
    assert hint(here.type("sam3-status ./js")).startswith("sam3-export ./js ")
    again = hint(here.type(f"sam3-run js_photos {FAKE} -o js --state-dir js_state"))
    here.type(again)
    assert here.type("sam3-delete ./js --yes").stdout == "run js_photos of the folder js: 1 image deleted\n"
    assert "1 pending" in here.type("sam3-status run:js").stdout
    assert here.type("sam3-delete run:js --yes").stdout == "run js: 1 image deleted\n"
