"""From a model's name to its folder. The Hub itself is played: its answers are what cannot be had here."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from workers.errors import Unreachable, UsageError
from workers.fleet.weights import (
    absolute_model,
    check_models,
    folder_state,
    model_folders,
    reachable_folders,
    revision_of,
)
from workers.settings import Settings
from workers.tiny.files import CHECKPOINT

Answer = Callable[[Exception], list[dict[str, object]]]


@pytest.fixture
def hub_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Let every download fail with an error; return the calls."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))  # where the lock of a download lies

    def fail(error: Exception) -> list[dict[str, object]]:
        calls: list[dict[str, object]] = []

        def snapshot_download(repo_id: str, **options: object) -> str:
            calls.append({"repo_id": repo_id} | options)
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return fail


def http_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} Client Error.\n\nCannot access it.", response=response)


class Timeout(Exception):
    """As the Hub's HTTP library raises it: of no class that the Hub's own errors share."""


def refused(model: str) -> str:
    with pytest.raises(Unreachable) as error:
        model_folders(model)
    said = str(error.value)
    assert "\n" not in said
    assert said.endswith("or use a copy on disk: --model DIR (tiny is bundled)")
    return said


def test_tiny_is_bundled() -> None:
    assert model_folders("tiny") == (CHECKPOINT,)


def test_a_folder_is_used_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_folders("weights") == (tmp_path / "weights",)
    assert absolute_model("weights") == str(tmp_path / "weights")
    assert absolute_model("facebook/sam3") == "facebook/sam3"
    assert absolute_model("tiny") == "tiny"


@pytest.mark.parametrize("model", ["no-such-folder", "/no/such/folder", "a/b/c", "", "../weights"])
def test_what_is_neither_a_folder_nor_a_name_on_the_hub_is_one_line(tmp_path: Path, model: str) -> None:
    with pytest.raises(UsageError, match="no such folder, nor a name like facebook/sam3") as error:
        model_folders(model)
    assert "\n" not in str(error.value)


def test_a_model_behind_a_licence_says_how_to_accept_it(tmp_path: Path, hub_answers: Answer) -> None:
    hub_answers(http_error(errors.GatedRepoError, 403))
    said = refused("facebook/sam3")
    assert "accept the licence at https://huggingface.co/facebook/sam3" in said
    assert "hf auth login" in said


def test_a_model_that_the_hub_does_not_know_says_to_check_its_name(tmp_path: Path, hub_answers: Answer) -> None:
    hub_answers(http_error(errors.RepositoryNotFoundError, 404))
    assert "no model facebook/sam33 on the Hub" in refused("facebook/sam33")


@pytest.mark.parametrize("offline", ["", "1"])
def test_without_a_network_and_without_a_copy_it_says_that_the_hub_is_away(
    tmp_path: Path, hub_answers: Answer, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    hub_answers(errors.LocalEntryNotFoundError("a long story\nabout caches"))
    said = refused("facebook/sam3")
    assert "the Hub cannot be reached" in said
    assert ("HF_HUB_OFFLINE is set" in said) == bool(offline)


@pytest.mark.parametrize(
    "error",
    [
        http_error(errors.HfHubHTTPError, 503),
        Timeout("timed out"),
        Timeout(),
        OSError(28, "No space left on device"),
        errors.HFValidationError("Repo id must use alphanumeric chars"),
    ],
)
def test_a_download_that_fails_in_any_other_way_is_one_line_too(
    tmp_path: Path, hub_answers: Answer, error: Exception
) -> None:
    hub_answers(error)
    assert refused("facebook/sam3").startswith("cannot download facebook/sam3: ")


def test_only_files_that_are_read_are_downloaded_and_pickles_never(tmp_path: Path, hub_answers: Answer) -> None:
    calls = hub_answers(OSError("stop"))
    refused("facebook/sam3")
    [call] = calls
    assert call["repo_id"] == "facebook/sam3"
    patterns = call["allow_patterns"]
    assert isinstance(patterns, list)
    assert "*.safetensors" in patterns
    assert not any(pattern.endswith((".pt", ".bin", "*")) for pattern in patterns)


def test_a_worker_checks_the_models_of_its_runs_before_it_claims_anything(tmp_path: Path, hub_answers: Answer) -> None:
    hub_answers(http_error(errors.GatedRepoError, 403))
    with pytest.raises(Unreachable):
        check_models(["tiny", "facebook/sam3"], Settings(state_dir=tmp_path))
    check_models(["facebook/sam3"], Settings(state_dir=tmp_path, segmenter="tests.fakes:FakeSegmenter"))


def test_the_revision_of_a_downloaded_model_is_its_commit(tmp_path: Path) -> None:
    assert revision_of(tmp_path / "models--facebook--sam3" / "snapshots" / "abc123") == "abc123"
    assert revision_of(tmp_path / "weights") is None


def test_a_pair_is_two_checkpoints_each_a_folder_or_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("boxes", "masks", "own+name"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_folders("boxes+masks") == (tmp_path / "boxes", tmp_path / "masks")
    assert absolute_model("boxes+facebook/sam2") == f"{tmp_path}/boxes+facebook/sam2"
    assert model_folders("own+name") == (tmp_path / "own+name",)
    assert absolute_model("own+name") == f"{tmp_path}/own+name"
    with pytest.raises(UsageError, match="model nowhere: no such folder"):
        model_folders("boxes+nowhere")


def test_the_alias_of_the_open_model_is_recorded_as_what_it_stands_for() -> None:
    assert absolute_model("grounding-dino-sam2") == "IDEA-Research/grounding-dino-tiny+facebook/sam2.1-hiera-small"


def test_both_checkpoints_of_a_pair_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path / name))
    found = model_folders("grounding-dino-sam2")
    assert found == (tmp_path / "IDEA-Research/grounding-dino-tiny", tmp_path / "facebook/sam2.1-hiera-small")


def test_a_refused_licence_names_a_model_without_one(tmp_path: Path, hub_answers: Answer) -> None:
    hub_answers(http_error(errors.GatedRepoError, 403))
    assert "or take one that is open to all, --model grounding-dino-sam2, or" in refused("facebook/sam3")


def test_the_revision_of_a_pair_is_both_commits(tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    assert revision_of(snapshots / "abc", snapshots / "def") == "abc+def"
    assert revision_of(snapshots / "abc", tmp_path / "weights") == "abc+local"
    assert revision_of(tmp_path / "boxes", tmp_path / "masks") is None


def test_the_state_of_a_pair_changes_with_files_in_either_folder(tmp_path: Path) -> None:
    for name in ("boxes", "masks"):
        (tmp_path / name).mkdir()
    pair = f"{tmp_path}/boxes+{tmp_path}/masks"
    states = [folder_state(pair)]
    for name in ("boxes", "masks"):
        (tmp_path / name / "config.json").write_text("{}")
        states.append(folder_state(pair))
    assert states[0] != states[1] != states[2]
    assert folder_state(f"{tmp_path}/boxes+facebook/sam2") is None


def test_a_revision_is_pinned_for_each_checkpoint_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked: list[tuple[str, object]] = []

    def snapshot_download(name: str, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model_folders("a/boxes@0123abc+b/masks")
    assert asked == [("a/boxes", "0123abc"), ("b/masks", None)]
    assert absolute_model("a/boxes@0123abc+b/masks") == "a/boxes@0123abc+b/masks"


def test_a_revision_that_the_hub_does_not_have_is_one_line(tmp_path: Path, hub_answers: Answer) -> None:
    hub_answers(http_error(errors.RevisionNotFoundError, 404))
    assert "model facebook/sam3 has no revision 0123abc on the Hub" in refused("facebook/sam3@0123abc")


def play_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusal: Exception | None, here: bool = False) -> None:
    """The Hub refuses what is asked for, or gives it; `here`: it was downloaded before."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    absent = errors.LocalEntryNotFoundError("a long story\nabout caches")

    def snapshot_download(name: str, local_files_only: bool = False, dry_run: bool = False, **_: object) -> object:
        if here:
            return str(tmp_path / name)
        if local_files_only:
            raise absent
        if refusal is None:
            assert dry_run, "nothing is to be downloaded"
            return []
        # Only of some errors the library says in a dry run what they are.
        if dry_run and not isinstance(refusal, errors.GatedRepoError | errors.RevisionNotFoundError):
            raise errors.DryRunError("Dry run cannot be performed") from refusal
        raise absent if isinstance(refusal, Timeout) else refusal

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


@pytest.mark.parametrize(
    "refusal",
    [
        http_error(errors.GatedRepoError, 403),
        http_error(errors.RepositoryNotFoundError, 404),
        http_error(errors.RevisionNotFoundError, 404),
        Timeout("no network"),
    ],
)
def test_what_would_be_refused_is_told_in_the_same_words_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    play_hub(monkeypatch, tmp_path, refusal)
    with pytest.raises(Unreachable) as told:
        reachable_folders("facebook/sam3")
    assert not (tmp_path / "hub").exists()
    assert str(told.value) == refused("facebook/sam3")


def test_a_model_that_is_here_has_a_folder_and_one_that_would_be_downloaded_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_hub(monkeypatch, tmp_path, None)
    assert reachable_folders("tiny") == (CHECKPOINT,)
    assert reachable_folders("tiny+facebook/sam2") is None
    with pytest.raises(UsageError, match="model nowhere: no such folder"):
        reachable_folders("nowhere")
    play_hub(monkeypatch, tmp_path, None, here=True)
    assert reachable_folders("facebook/sam3") == (tmp_path / "facebook/sam3",)
