"""How torch is told to allocate a GPU's memory, by a variable that it reads when it is imported. Imports no torch."""

import os

# torch's names for it; the last two are older.
NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def growing() -> dict[str, str]:
    """The variable by which memory grows in place. That leaves no gaps, in which a batch of another size does not fit.

    Nothing if the user has said how to allocate, or under WSL, whose drivers may refuse such memory although there is
    room.
    """
    if os.environ.keys() & set(NAMES) or _is_wsl():
        return {}
    return {NAMES[0]: "expandable_segments:True"}


def _is_wsl() -> bool:
    return "microsoft" in os.uname().release.lower()
