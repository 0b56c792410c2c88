"""The wheel alone, in a fresh environment with its base dependencies: what a machine that only enqueues installs."""

import csv
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import db
import producer
import workers

REPOSITORY = Path(__file__).parents[1]
PACKAGES = {"db", "producer", "sam3_queue", "workers"}
OWNERS = "import importlib.metadata as m, json; print(json.dumps(dict(m.packages_distributions())))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, REPOSITORY)
    [built] = folder.glob("sam3_queue-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip("--python", folder / "bin" / "python", "install", "--no-compile", wheel)
    return folder


def pip(*given: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, given)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Producer:
    """Somebody without torch, in a folder of their own whose packages are called like ours."""

    def __init__(self, environment: Path, home: Path, broker_url: str) -> None:
        self.bin, self.home = environment / "bin", home
        for name in PACKAGES:
            (home / name).mkdir(parents=True)
            (home / name / "__init__.py").write_text(f"raise SystemExit('the {name} of the working folder was taken')")
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.variables = inherited | {
            "SAM3_DATABASE_URL": f"sqlite:///{home / 'sam3.db'}",
            "SAM3_STATE_DIR": str(home / "state"),
            "SAM3_BROKER_URL": broker_url,
        }

    def run(self, *command: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [self.bin / command[0], *command[1:]], cwd=self.home, env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done


@pytest.fixture
def somebody(environment: Path, tmp_path: Path, broker_url: str) -> Producer:
    somebody = Producer(environment, tmp_path / "home", broker_url)
    for name in ("a.jpg", "b.jpg"):
        (somebody.home / name).touch()
    (somebody.home / "faces.csv").write_text("path,name\na.jpg,Ada\nb.jpg,Bob\na.jpg,Ada again\n")
    return somebody


def test_the_wheel_holds_our_packages_and_start_with_migrations_and_checkpoint_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        described = archive.read(metadata).decode()

    assert {name.partition("/")[0] for name in names} == {*PACKAGES, "sam3_start.py", metadata.partition("/")[0]}
    assert "db/migrations/versions/0001_the_first_schema.py" in names
    assert any(name.startswith("workers/tiny/checkpoint/") and name.endswith(".safetensors") for name in names)
    assert not [name for name in names if "__pycache__" in name]
    assert "Classifier: Private :: Do Not Upload" in described


def test_the_packages_of_this_checkout_are_those_that_are_tested() -> None:
    assert {Path(str(package.__file__)).parents[1] for package in (db, producer, workers)} == {REPOSITORY}
    owners = importlib.metadata.packages_distributions()
    assert {owner for name in PACKAGES for owner in owners.get(name, [])} <= {"sam3-queue"}


@pytest.mark.long
def test_nobody_else_owns_the_names_of_our_packages(environment: Path) -> None:
    asked = subprocess.run([environment / "bin" / "python", "-c", OWNERS], capture_output=True, text=True, check=True)
    owners = json.loads(asked.stdout)

    assert {name: owners[name] for name in PACKAGES} == {name: ["sam3-queue"] for name in PACKAGES}
    assert not {"torch", "transformers", "numpy", "PIL", "flower", "psycopg"} & owners.keys()


@pytest.mark.long
def test_without_torch_a_run_is_checked_recorded_watched_and_exported(somebody: Producer) -> None:
    given = ("sam3-enqueue", "--csv", "faces.csv", "--prompt", "person")
    assert somebody.run(*given, "--dry-run").stdout.startswith("would record run faces: 3 images in 1 chunk")
    assert somebody.run(*given).stdout == "run faces: 3 images in 1 chunk, 1 queued now, 1 duplicate\n"

    status = json.loads(somebody.run("sam3-status", "faces", "--json").stdout)
    assert (status["images"]["pending"], status["images"]["duplicate"]) == (2, 1)

    somebody.run("sam3-export", "faces", "--format", "csv", "-o", "faces-masks.csv", "--partial")
    with (somebody.home / "faces-masks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["sam3_status"]) for row in rows] == [
        *(("Ada", "pending"), ("Bob", "pending"), ("Ada again", "duplicate"))
    ]
    somebody.run("sam3-export", "faces", "--format", "coco", "-o", "coco.json", "--partial")
    coco = json.loads((somebody.home / "coco.json").read_text())
    assert [category["name"] for category in coco["categories"]] == ["person"]
    somebody.run("sam3-cancel", "faces")
    somebody.run("sam3-retry", "faces")
    somebody.run("sam3-delete", "faces", "--yes")


@pytest.mark.long
def test_what_needs_more_than_the_base_says_what_to_install(somebody: Producer) -> None:
    somebody.run("sam3-enqueue", "--csv", "faces.csv", "--prompt", "person")
    wanted = {
        ("sam3-export", "faces", "--format", "png", "-o", "masks"): "pip install 'sam3-queue[export]'",
        ("sam3-worker",): "pip install 'sam3-queue[worker]'",
        ("sam3-flower",): "pip install 'sam3-queue[monitor]'",
    }

    for command, advice in wanted.items():
        [line] = somebody.run(*command, code=2).stderr.splitlines()
        assert advice in line

    somebody.variables["SAM3_DATABASE_URL"] = "postgresql://somebody@localhost/sam3"
    assert "pip install 'sam3-queue[postgres]'" in somebody.run("sam3-status", code=2).stderr
