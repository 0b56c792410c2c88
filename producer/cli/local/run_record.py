"""Records the run of a sam3-run, and writes run.yaml with its settings. Starts no node."""

from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from db.prompt_rows import run_prompts
from db.runs import RetryFilter
from db.session import Sessions, read, write
from db.steering import resume, steer
from producer.cli.flags.everything_flags import flags_of_run
from producer.cli.flags.options import steered
from producer.cli.flags.prompt_flags import tell_change, tell_cost
from producer.cli.flags.redo import take_up
from producer.cli.found import Found, view_of
from producer.cli.recording import record_rows
from producer.cli.run_folder import is_run_folder, read_run_file, write_run_file
from producer.results.files.targets import Targets
from producer.runs.operate import retry
from producer.runs.request import RunRequest
from producer.slugs import prompt_slugs
from producer.sources import place
from producer.sources.source import RowSource
from workers.cli.base import counted, say
from workers.cli.config_file import FIRST_SOURCE, SLUGS
from workers.settings import Settings

SLUGS_AT_MOST = 1000  # in run.yaml, since rows may have any number of prompts
KEPT_FLAGS = (  # flags that run.yaml repeats as they were given
    "image_column",
    "prompt_column",
    "box_column",
    "encoding",
    "delimiter",
    "follow_symlinks",
    "chunk_size",
    "limit",
    "sample",
    "no_check",
    "gpus",
    "num_gpus",
    "select",
)


def record_run(
    sessions: Sessions, source: RowSource, request: RunRequest, settings: Settings, output: Path, flags: dict[str, Any]
) -> Found:
    """Record the source's new rows in the folder's database, and write the settings to run.yaml."""
    announce = partial(tell_cost, settings.database_url, request, flags["gpu_hour_price"])
    recorded = record_rows(sessions, source, replace(request, announce=announce))
    tell_change(recorded, request)
    request = replace(request, prompts=read(sessions, run_prompts, recorded.run_id))
    if recorded.corrected:
        say(recorded.corrected)
    found = Found(sessions, recorded.run_id, request.name, settings, output)
    if changes := steered(flags):
        write(sessions, partial(steer, **changes), recorded.run_id)
    if (why := write(sessions, resume, recorded.run_id)) is not None:
        say(f"run {request.name} was paused {why}; it goes on")
    if flags["retry_failed"]:
        say(f"{counted(retry(sessions, recorded.run_id, RetryFilter()), 'image')} to try again")
    take_up(sessions, recorded.run_id, flags)
    if recorded.gone_rows:
        gone = f"{counted(recorded.gone_rows, 'row')} no longer in {place.name(source.place)}"
        say(f"{gone}: kept in the database, left out of the results")
    kept = {key: value for key, value in effective(found, source, request, flags).items() if value is not None}
    write_run_file(Targets(output, force=flags["force"]), output, kept)
    return found


def effective(found: Found, source: RowSource, request: RunRequest, flags: dict[str, Any]) -> dict[str, Any]:
    """The content of run.yaml: the run's source, and every setting with the value that is used."""
    assert found.folder is not None
    output, settings = found.folder, found.settings
    names = [one.name for one in view_of(found).classes.values()]
    return {
        "source": source.place,
        "output": str(output.absolute()),
        "run": request.name,
        FIRST_SOURCE: read_run_file(output).moved_to(source.place) if is_run_folder(output) else None,
        **flags_of_run(request.frozen, request.prompts),
        **asdict(request.frozen),
        "classes": str(flags["classes"].absolute()) if flags["classes"] else None,
        **{key: flags[key] for key in KEPT_FLAGS},
        "seed": flags["seed"] if flags["sample"] else None,
        "also": list(flags["also"]) or None,
        "stop_after": list(flags["stop_after"]) or None,
        "image_root": source.root if source.confined else None,
        "image_hosts": settings.image_hosts,
        "batch_size": settings.batch_size,
        "dtype": settings.dtype,
        "compile": settings.compile,
        "grace": settings.grace,
        # Not written if it is inside the output folder, so that the user can move that folder.
        "state_dir": str(settings.state_dir) if flags["state_dir"] else None,
        SLUGS: dict(islice(prompt_slugs(names).items(), SLUGS_AT_MOST)),
    }
