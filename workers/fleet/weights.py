"""Finds the folder of a model on this machine, or downloads it once. Loads nothing into memory.

A model is one checkpoint, or a pair of them with + between: one finds boxes, the other makes masks of them.
"""

import os
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from workers.errors import Unreachable, UsageError
from workers.settings import Settings
from workers.tiny.files import CHECKPOINT

TINY = "tiny"
PAIRED = "+"  # between the two checkpoints of a pair
OPEN = "grounding-dino-sam2"  # a model whose weights nobody has to ask for
ALIASES = {OPEN: "IDEA-Research/grounding-dino-tiny+facebook/sam2.1-hiera-small"}
NO_WORKER_EXTRA = "running a model needs: pip install 'sam3-queue[worker]'"
# The files that we download. The Hub's repository also has the weights in other formats, which we never open.
NEEDED_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt")
Found = TypeVar("Found", Path, Path | None)
_HUB_ID = re.compile(r"^(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w.-]*))?$")  # a name, and its commit, tag or branch


def parts(model: str) -> tuple[str, ...]:
    """The checkpoints that a model's name stands for: itself, or the two of a pair such as A+B. An alias is resolved.

    A folder whose own name has a + in it is one checkpoint.
    """
    model = ALIASES.get(model, model)
    if PAIRED not in model or Path(model).expanduser().is_dir():
        return (model,)
    return tuple(model.split(PAIRED))


def model_folders(model: str) -> tuple[Path, ...]:
    """The folder of each of the model's checkpoints, downloading them if they are not here yet.

    A checkpoint is "tiny" (bundled), a folder, or a Hub id such as facebook/sam3, which may end with @ and a commit.
    Raises `UsageError` for a folder that does not exist, and `Unreachable` if the Hub refuses or cannot be reached;
    both say what to do.
    """
    return tuple(_folder(part, _download) for part in parts(model))


def reachable_folders(model: str) -> tuple[Path, ...] | None:
    """The same folders without a download; None if one of them is not here yet and would be downloaded.

    Raises as `model_folders` would, except for what only a download shows, such as a full disk.
    """
    folders = [_folder(part, _promised) for part in parts(model)]
    return None if None in folders else tuple(filter(None, folders))


def _folder(checkpoint: str, from_hub: Callable[..., Found]) -> Path | Found:
    """The folder of a checkpoint; of one on the Hub what `from_hub` gives for its name and commit."""
    if checkpoint == TINY:
        return CHECKPOINT
    folder = Path(checkpoint).expanduser()
    if checkpoint and folder.is_dir():
        return folder.absolute()
    if (on_the_hub := _HUB_ID.match(checkpoint)) is None:
        raise UsageError(f"model {checkpoint}: no such folder, nor a name like facebook/sam3; try --model tiny")
    try:
        return from_hub(on_the_hub[1], revision=on_the_hub[2], allow_patterns=list(NEEDED_FILES))
    except ImportError:
        raise UsageError(NO_WORKER_EXTRA) from None
    except Exception as error:  # also errors of the Hub's HTTP library, whichever that is
        raise _refused(error, on_the_hub[1], on_the_hub[2]) from None


def check_models(models: Iterable[str], settings: Settings) -> None:
    """Download these models if needed. Raises as `model_folders` does, and `UsageError` if torch is not installed."""
    if settings.segmenter is not None:
        return  # a stand-in has no weights
    require_torch()
    for model in models:
        model_folders(model)


def require_torch() -> None:
    """Raise `UsageError` if torch is not installed."""
    if find_spec("torch") is None:
        raise UsageError(NO_WORKER_EXTRA)


def folder_state(model: str) -> object:
    """A value that changes when files in the model's folders change; None if there is no folder that can be read."""
    folders = [CHECKPOINT if part == TINY else Path(part).expanduser() for part in parts(model)]
    try:
        files = [(str(folder), entry.name, entry.stat()) for folder in folders for entry in os.scandir(folder)]
    except OSError:
        return None
    return sorted((folder, name, found.st_size, found.st_mtime_ns) for folder, name, found in files)


def absolute_model(model: str) -> str:
    """The model with absolute paths of its folders, for processes with other working folders. Names of the Hub stay,
    and an alias becomes what it stands for, so that a run keeps its model if the alias ever stands for another one."""
    return PAIRED.join(
        str(Path(part).expanduser().absolute()) if part != TINY and Path(part).expanduser().is_dir() else part
        for part in parts(model)
    )


def revision_of(*folders: Path) -> str | None:
    """The commit that a folder in the Hub's cache holds, or those of several with + between; None for other folders.

    Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
    """
    commits = [folder.name if folder.parent.name == "snapshots" else None for folder in folders]
    return PAIRED.join(commit or "local" for commit in commits) if any(commits) else None


def _download(name: str, **wanted: Any) -> Path:
    """The folder of a snapshot of the Hub, after a download if it is not here yet."""
    from huggingface_hub import constants, snapshot_download

    lock = Path(constants.HF_HUB_CACHE) / ".locks" / f"sam3-queue--{name.replace('/', '--')}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # if several nodes start at once, one of them downloads
        return Path(snapshot_download(name, **wanted))


def _promised(name: str, **wanted: Any) -> Path | None:
    """The folder of a snapshot that is here; None if the Hub would give it. Raises what the download would raise."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True, **wanted))
    except errors.LocalEntryNotFoundError as absent:
        try:
            snapshot_download(name, dry_run=True, **wanted)
        except errors.DryRunError as error:
            said = error.__cause__
            raise (said if isinstance(said, errors.RepositoryNotFoundError) else absent) from None
    return None


def _refused(error: Exception, model: str, revision: str | None) -> Unreachable:
    """The error for a model that cannot be downloaded, with what to do."""
    from huggingface_hub import errors

    local = f"or use a copy on disk: --model DIR ({TINY} is bundled)"
    if isinstance(error, errors.GatedRepoError):
        return Unreachable(
            f"no access to {model}: accept the licence at https://huggingface.co/{model}, run hf auth login, "
            f"or take one that is open to all, --model {OPEN}, {local}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return Unreachable(f"no model {model} on the Hub, or not for you: check the name, run hf auth login, {local}")
    if isinstance(error, errors.RevisionNotFoundError):
        return Unreachable(f"model {model} has no revision {revision} on the Hub: check it, {local}")
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, errors.LocalEntryNotFoundError):
        reason = "the Hub cannot be reached"
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return Unreachable(f"cannot download {model}: {reason.splitlines()[0]}{offline}; check the network, {local}")
