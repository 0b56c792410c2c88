"""Whether a run is computed with compiled kernels: what was asked for, and what pays. Compiles nothing."""

from db.views.run_views import RunView
from workers.settings import Settings

COMPILING_SECONDS = 120.0  # of each worker
GAIN_SECONDS = 0.003  # an image. Both are estimates (docs/decisions.md): nobody has measured them on a GPU yet.
PAYS_FROM = round(COMPILING_SECONDS / GAIN_SECONDS)  # images for each worker


def is_wanted(run: RunView, settings: Settings, workers: int) -> bool:
    """Whether this worker, one of so many, is to compute the run with compiled kernels."""
    if settings.compile != "auto":
        return settings.compile == "on"
    if run.weights_sha256 is not None:  # another worker has decided
        return bool(run.compiled)
    return settings.device == "cuda" and run.images >= PAYS_FROM * max(1, workers)


def disagreement(settings: Settings, mine: bool, runs: bool) -> str | None:
    """Why this worker, whose results are compiled or not as `mine` says, must not serve a run that began as `runs`
    says; None if it may.

    A worker that cannot compile its model may serve a compiled run: results differ as little as those of two kinds of
    GPUs do, and a run that nobody serves would never end.
    """
    if settings.compile == "off" and runs:
        return "it began with compiled kernels, and this worker was started with --compile off; leave that out"
    if settings.compile == "on" and mine and not runs:
        return "it began without compiled kernels, and this worker was started with --compile on; leave that out"
    return None
