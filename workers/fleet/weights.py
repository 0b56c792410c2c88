"""Finds the folder of a model on this machine, or downloads it once. Loads nothing into memory."""

import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from workers.errors import Unreachable, UsageError
from workers.settings import Settings
from workers.tiny.files import CHECKPOINT

TINY = "tiny"
NO_WORKER_EXTRA = "running a model needs: pip install 'sam3-queue[worker]'"
# The files that we download. The Hub's repository also has the weights in other formats, which we never open.
NEEDED_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt")
_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")


def model_folder(model: str) -> Path:
    """The folder with the model's files, downloading them if they are not here yet.

    `model` is "tiny" (bundled), a folder, or a Hub id such as facebook/sam3. Raises `UsageError` for a folder that does
    not exist, and `Unreachable` if the Hub refuses or cannot be reached; both say what to do.
    """
    if model == TINY:
        return CHECKPOINT
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return folder.absolute()
    if not _HUB_ID.match(model):
        raise UsageError(f"model {model}: no such folder, nor a name like facebook/sam3; try --model tiny")
    return _from_hub(model)


def check_models(models: Iterable[str], settings: Settings) -> None:
    """Download these models if needed. Raises as `model_folder` does, and `UsageError` if torch is not installed."""
    if settings.segmenter is not None:
        return  # a stand-in has no weights
    if importlib.util.find_spec("torch") is None:
        raise UsageError(NO_WORKER_EXTRA)
    for model in models:
        model_folder(model)


def folder_state(model: str) -> object:
    """A value that changes when files in the model's folder change; None if there is no folder that can be read."""
    folder = CHECKPOINT if model == TINY else Path(model).expanduser()
    try:
        files = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    except OSError:
        return None
    return sorted((name, found.st_size, found.st_mtime_ns) for name, found in files)


def absolute_model(model: str) -> str:
    """The model with an absolute path if it is a folder, for processes with other working folders."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if model != TINY and folder.is_dir() else model


def revision_of(folder: Path) -> str | None:
    """The commit that a folder in the Hub's cache holds; None for any other folder.

    Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
    """
    return folder.name if folder.parent.name == "snapshots" else None


def _from_hub(model: str) -> Path:
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ImportError:
        raise UsageError(NO_WORKER_EXTRA) from None
    lock = Path(constants.HF_HUB_CACHE) / ".locks" / f"sam3-queue--{model.replace('/', '--')}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    local = f"or use a copy on disk: --model DIR ({TINY} is bundled)"
    try:
        with FileLock(lock):  # if several nodes start at once, one of them downloads
            return Path(snapshot_download(model, allow_patterns=list(NEEDED_FILES)))
    except errors.GatedRepoError:
        raise Unreachable(
            f"no access to {model}: accept the licence at https://huggingface.co/{model}, run hf auth login, {local}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise Unreachable(
            f"no model {model} on the Hub, or not for you: check the name, run hf auth login, {local}"
        ) from None
    except Exception as error:  # errors of the Hub's HTTP library, whichever that is
        reason = str(error).strip() or type(error).__name__
        if isinstance(error, errors.LocalEntryNotFoundError):
            reason = "the Hub cannot be reached"
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise Unreachable(
            f"cannot download {model}: {reason.splitlines()[0]}{offline}; check the network, {local}"
        ) from None
