"""From a model id to a folder on this machine: bundled, local, or downloaded once; loads nothing into memory."""

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
# The Hub's repository also holds the weights in other formats, which we never open.
NEEDED_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt")
_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")


def model_folder(model: str) -> Path:
    """The folder with the model's files, downloading them if they are not here yet.

    `model` is "tiny" (bundled), a folder, or a Hub id such as facebook/sam3. Raises `UsageError` for a folder that
    is not there and `Unreachable` when the Hub refuses or cannot be reached, each saying what to do.
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
    """Have these models here before anything is claimed. Raises as `model_folder` does, and where torch is missing."""
    if settings.segmenter is not None:
        return  # a stand-in has no weights
    if importlib.util.find_spec("torch") is None:
        raise UsageError(NO_WORKER_EXTRA)
    for model in models:
        model_folder(model)


def looks_of(model: str) -> object:
    """Something that changes when somebody mends the model's folder; None: it is none, or cannot be read."""
    folder = CHECKPOINT if model == TINY else Path(model).expanduser()
    try:
        files = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    except OSError:
        return None
    return sorted((name, found.st_size, found.st_mtime_ns) for name, found in files)


def absolute_model(model: str) -> str:
    """The model as other processes, with other working folders, must be told it."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if model != TINY and folder.is_dir() else model


def revision_of(folder: Path) -> str | None:
    """The commit of a folder in the Hub's cache; None for any other folder."""
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
        with FileLock(lock):  # one download a machine, however many nodes start at once
            return Path(snapshot_download(model, allow_patterns=list(NEEDED_FILES)))
    except errors.GatedRepoError:
        raise Unreachable(
            f"no access to {model}: accept the licence at https://huggingface.co/{model}, run hf auth login, {local}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise Unreachable(
            f"no model {model} on the Hub, or not for you: check the name, run hf auth login, {local}"
        ) from None
    except Exception as error:  # what its HTTP library raises is no business of ours
        reason = str(error).strip() or type(error).__name__
        if isinstance(error, errors.LocalEntryNotFoundError):
            reason = "the Hub cannot be reached"
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise Unreachable(
            f"cannot download {model}: {reason.splitlines()[0]}{offline}; check the network, {local}"
        ) from None
