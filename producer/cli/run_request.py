"""Opens the input and makes the `RunRequest` that the flags of sam3-enqueue and sam3-run ask for. Records nothing."""

from functools import partial
from pathlib import Path
from typing import Any

from db.classes import Wording, classes_of_text
from db.values import Frozen
from producer.cli.flags.options import frozen_settings, read_chunk_size, read_prompts
from producer.runs.prompts import PromptChange
from producer.runs.request import RunRequest
from producer.sources.check_files import check_files
from producer.sources.kinds import open_source
from producer.sources.source import ReadOptions, RowSource
from workers.cli.base import say
from workers.errors import UsageError
from workers.fleet.weights import parts
from workers.settings import Settings


def open_input(given: str, prompts: tuple[str, ...], flags: dict[str, Any]) -> RowSource:
    """Open the input as the flags say. Raises `UsageError` if its first rows show that it is unusable."""
    source = open_source(
        given,
        ReadOptions(
            encoding=flags["encoding"],
            delimiter=flags["delimiter"],
            needs_prompt=not (prompts or flags["add_prompt"] or flags["drop_prompt"]),
            image_column=flags["image_column"],
            prompt_column=flags["prompt_column"],
            box_column=flags["box_column"],
            root=flags["image_root"],
            base=flags.get("base"),
            copy_of=flags.get("copy_of"),
            follow_symlinks=flags["follow_symlinks"],
            exclude=flags.get("output"),
        ),
    )
    if source.told:
        say(f"reading {flags.get('copy_of') or given} {source.told}")
    return source


def run_request(
    name: str, prompts: tuple[str, ...], source: RowSource, settings: Settings, flags: dict[str, Any]
) -> RunRequest:
    """Make the request for the run `name` of this source. Raises `UsageError` for an invalid value of a flag."""
    if flags["sample"] and flags["limit"]:
        raise UsageError("--sample and --limit: give one of them, as the first rows are no sample")
    looks = not (flags["no_check"] or source.files_seen)
    frozen, change = frozen_settings(settings, flags), prompt_change(flags)
    _require_listed((*prompts, *change.add), frozen, flags["classes"])
    if source.columns.boxes is not None:
        _require_boxes(frozen)
    return RunRequest(
        name=name,
        prompts=prompts,
        frozen=frozen,
        chunk_size=read_chunk_size(flags["chunk_size"]),
        limit=flags["limit"],
        sample=flags["sample"],
        seed=flags["seed"],
        moved_from=flags["moved_from"],
        check=partial(check_files, source, say=say) if looks else None,
        change=change,
        place=flags.get("kept_at"),
    )


def _require_boxes(frozen: Frozen) -> None:
    """Raise `UsageError` if a run with these settings can have no boxes. Whether a single checkpoint takes any, its
    workers say."""
    if frozen.tile is not None:
        raise UsageError("--box-column and --tile: boxes belong to whole images; give one of them")
    if len(parts(frozen.model)) > 1:
        raise UsageError(f"--box-column: {frozen.model} takes no boxes; a SAM3 does, such as --model facebook/sam3")


def prompt_change(flags: dict[str, Any]) -> PromptChange:
    """The values of --add-prompt and --drop-prompt. Raises `UsageError`."""
    add = read_prompts(flags["add_prompt"], "--add-prompt")
    drop = read_prompts(flags["drop_prompt"], "--drop-prompt")
    if both := [prompt for prompt in add if prompt in drop]:
        raise UsageError(f"--add-prompt '{both[0]}' and --drop-prompt '{both[0]}': give one of them")
    return PromptChange(add, drop)


def _require_listed(prompts: tuple[str, ...], frozen: Frozen, file: Path | None) -> None:
    """Raise `UsageError` if a prompt has a class that the file of --classes does not list."""
    listed = {one.name for one in classes_of_text(frozen.classes)}
    for prompt in map(Wording.read, prompts) if listed else ():
        if prompt.class_name not in listed:
            raise UsageError(
                f"--prompt '{prompt}': {file} has no category {prompt.class_name}; "
                f"name one of them: '{prompt.text}={min(listed)}'"
            )
