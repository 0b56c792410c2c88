"""What the tests of db/ do over and over: load a run, claim a chunk, say what was found, let time pass."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import select, update

from db import claims, doorbells, duplicates, gone, intake, presence, runs
from db import prompts as prompt_changes
from db.claimed import ClaimedImage
from db.claims import Claim, Next
from db.intake import NewRow
from db.models import Chunk, Image, Prompt, Run
from db.outcomes import ImageDone, ImageFailed, Outcome
from db.presence import Process
from db.runs import RetryFilter
from db.session import Sessions, read, reading, write
from db.slices import SLICE_ROWS, Place, in_slices
from db.times import now
from db.values import FoundInstance, Frozen, PromptResult, Source
from db.views.results import ExportedImage

FROZEN = Frozen("tiny", 0.5, 0.5, 0.3, "library", "exif")
SOURCE = Source("/data/faces.csv", "path", ("path",), "/data", False, False)
EVERYTHING = RetryFilter()
REJECTED = NewRow("", rejected=("bad_path", "the cell is empty"))
BOX, NO_BOX = (10.0, 20.5, 30.0, 40.0, True), (10.0, 20.5, 30.0, 40.0, False)  # each a `db.values.GivenBox`


def rows(*paths: str) -> list[NewRow]:
    return [NewRow(path) for path in paths]


def numbered(count: int) -> list[NewRow]:
    return rows(*(f"{number:06}.jpg" for number in range(1, count + 1)))


def create(sessions: Sessions, name: str = "faces", prompts: Sequence[str] = ("person",), chunk_size: int = 4) -> int:
    return write(sessions, intake.create_run, name, SOURCE, FROZEN, prompts, chunk_size)


def add(sessions: Sessions, run_id: int, new: Sequence[NewRow], *, read: int = 0, matching: bool = False) -> int:
    """Read these rows from the source, slice by slice, after `read` others; return how many are new."""
    step = SLICE_ROWS
    return sum(
        write(sessions, intake.add_rows, run_id, read + first, new[first : first + step], matching=matching)
        for first in range(0, len(new), step)
    )


def finish(sessions: Sessions, run_id: int) -> int:
    """The end of a load: the duplicate pass, then active; return how many duplicates there were."""
    with reading(sessions) as session:
        repeated = list(duplicates.repeated_rows(session, run_id))
    step = SLICE_ROWS
    for first in range(0, len(repeated), step):
        write(sessions, duplicates.mark_duplicates, run_id, repeated[first : first + step])
    write(sessions, intake.finish_load, run_id, "sha256")
    return len(repeated)


def load(
    sessions: Sessions,
    new: Sequence[NewRow],
    name: str = "faces",
    prompts: Sequence[str] = ("person",),
    chunk_size: int = 4,
) -> int:
    """A whole run, ready to be claimed."""
    run_id = create(sessions, name, prompts, chunk_size)
    write(sessions, intake.begin_reading, run_id, 1, 1, ["path"])
    add(sessions, run_id, new)
    finish(sessions, run_id)
    return run_id


def read_again(sessions: Sessions, run_id: int, new: Sequence[NewRow], *, ended: bool = True) -> None:
    """The source was edited and is read from its start, to its end or not."""
    write(sessions, intake.begin_matching, run_id, len(new), len(new), ["path"])
    add(sessions, run_id, new, matching=True)
    if ended:
        drop_gone(sessions, run_id)
        finish(sessions, run_id)


def drop_gone(sessions: Sessions, run_id: int) -> int:
    """What a load does when it has read the source to its end; how many images it cancelled."""
    return in_slices(sessions, gone.drop_gone_slice, run_id)


def worker(sessions: Sessions, pid: int = 1) -> int:
    return write(sessions, presence.register, f"cpu{pid}@here", Process("here", "boot", pid, 7))


def claim(sessions: Sessions, run_id: int, chunk_id: int | None = None, worker_id: int = 1) -> Claim:
    """Ring and claim the chunk, or the run's next one."""
    claimed = try_claim(sessions, run_id, chunk_id, worker_id)
    assert claimed is not None, "nothing could be claimed"
    return claimed


def try_claim(sessions: Sessions, run_id: int, chunk_id: int | None = None, worker_id: int = 1) -> Claim | None:
    if chunk_id is None:
        rung = write(sessions, doorbells.ring_pending, run_id, 1)
        if not rung:
            return None
        chunk_id = rung[0].chunk_id
    else:
        write(sessions, doorbells.ring_pending, run_id, 1000)
    return write(sessions, claims.claim, run_id, chunk_id, worker_id)


def done(image: ClaimedImage, *scores: float) -> ImageDone:
    """Every prompt of the image found instances with these scores."""
    found = tuple(FoundInstance(score, (1.0, 2.0, 3.0, 4.0), 4, b"12") for score in scores)
    return ImageDone(image.id, 640, 480, tuple(PromptResult(id, 0.9, False, found) for id in image.prompt_ids))


def failed(image: ClaimedImage, error_class: str = "truncated") -> ImageFailed:
    return ImageFailed(image.id, error_class, f"{image.path}: cannot be read")


def commit(sessions: Sessions, held: Claim, outcomes: Iterable[Outcome]) -> bool:
    """Whether the chunk is done now."""
    return write(sessions, claims.commit, held, list(outcomes)) is Next.NOTHING


def commit_all(sessions: Sessions, held: Claim, *scores: float) -> bool:
    """End the chunk: every image of it has instances with these scores."""
    return commit(sessions, held, [done(image, *scores) for image in held.images])


def work_off(sessions: Sessions, run_id: int, *scores: float) -> None:
    """Claim and end every chunk that is due."""
    while (held := try_claim(sessions, run_id)) is not None:
        commit_all(sessions, held, *scores)


def finished(sessions: Sessions) -> int:
    """A finished run: two images found, two empty, one failed, in chunks of four and one."""
    run_id = load(sessions, numbered(5))
    held = claim(sessions, run_id)
    one, two, three, four = held.images
    commit(sessions, held, [done(one, 0.9, 0.8), done(two, 0.9), done(three), done(four, 0.4)])
    held = claim(sessions, run_id)
    commit(sessions, held, [failed(image) for image in held.images])
    return run_id


def scores(image: ExportedImage) -> list[float]:
    return [instance.score for result in image.results for instance in result.instances]


def run(sessions: Sessions, run_id: int) -> Run:
    with reading(sessions) as session:
        return session.execute(select(Run).where(Run.id == run_id)).scalar_one()


def chunk(sessions: Sessions, chunk_id: int) -> Chunk:
    with reading(sessions) as session:
        return session.execute(select(Chunk).where(Chunk.id == chunk_id)).scalar_one()


def chunks(sessions: Sessions, run_id: int) -> list[Chunk]:
    """The run's chunks in the order of their numbers."""
    with reading(sessions) as session:
        return list(session.execute(select(Chunk).where(Chunk.run_id == run_id).order_by(Chunk.number)).scalars())


def images(sessions: Sessions, run_id: int) -> list[Image]:
    """The run's images in the order of their rows."""
    with reading(sessions) as session:
        return list(session.execute(select(Image).where(Image.run_id == run_id).order_by(Image.row)).scalars())


def prompts(sessions: Sessions, run_id: int) -> dict[int, str]:
    """The texts of the run's prompts, by id."""
    with reading(sessions) as session:
        rows = session.execute(select(Prompt.id, Prompt.text).where(Prompt.run_id == run_id))
        return {row.id: row.text for row in rows}


def states(sessions: Sessions, run_id: int) -> list[str]:
    return [image.state for image in images(sessions, run_id)]


def change_chunk(sessions: Sessions, chunk_id: int, **values: Any) -> None:
    """What no function of db/ does; tests let time pass with it."""
    with sessions.begin() as session:
        session.execute(update(Chunk).where(Chunk.id == chunk_id).values(**values))


def lease_runs_out(sessions: Sessions, held: Claim) -> None:
    change_chunk(sessions, held.chunk_id, lease_until=now() - 1.0)


def rest_is_over(sessions: Sessions, chunk_id: int) -> None:
    change_chunk(sessions, chunk_id, not_before=now() - 1.0)


def rests_for(sessions: Sessions, chunk_id: int) -> float:
    """Seconds, rounded, until the chunk may be rung again; 0 if it may be at once."""
    with reading(sessions) as session:
        left = session.execute(select(Chunk.not_before - now()).where(Chunk.id == chunk_id)).scalar_one()
    return 0.0 if left is None else float(round(left))


def take_back(sessions: Sessions, held: Claim, *, crashed: bool = True) -> bool:
    """What the reconciler does when the lease is over."""
    lease_runs_out(sessions, held)
    [found] = [one for one in running(sessions) if one.chunk_id == held.chunk_id]
    return write(sessions, claims.take_back, found, crashed=crashed)


def cancel(sessions: Sessions, run_id: int) -> int:
    """The whole of it; how many images that were."""
    write(sessions, runs.cancel_run, run_id)
    return in_slices(sessions, runs.cancel_slice, run_id)


def begin_cancel(sessions: Sessions, run_id: int, chunks: int = 0) -> None:
    """A cancel that dies after so many chunks of the run, which is loaded."""
    write(sessions, runs.cancel_run, run_id)
    for number in range(chunks):
        write(sessions, runs.cancel_slice, run_id, Place(number), 1)


def delete(sessions: Sessions, run_id: int) -> int:
    write(sessions, runs.begin_delete, run_id)
    return in_slices(sessions, runs.delete_slice, run_id)


def begin_delete(sessions: Sessions, run_id: int, chunks: int = 0) -> None:
    """A delete that dies after so many chunks of the run."""
    write(sessions, runs.begin_delete, run_id)
    for number in range(chunks):
        write(sessions, runs.delete_slice, run_id, Place(number), 1)


def retry(sessions: Sessions, run_id: int, which: RetryFilter = EVERYTHING) -> int:
    """Of a run that is active or done."""
    return in_slices(sessions, partial(runs.retry_slice, which=which), run_id)


def change_prompts(sessions: Sessions, run_id: int, *, add: Sequence[str] = (), drop: Sequence[str] = ()) -> int:
    """The whole of it; how many images lacked a result."""
    write(sessions, prompt_changes.change_prompts, run_id, add, drop)
    return settle_prompts(sessions, run_id)


def settle_prompts(sessions: Sessions, run_id: int) -> int:
    settling = read(sessions, prompt_changes.begin_settling, run_id)
    return in_slices(sessions, partial(prompt_changes.settle_slice, settling=settling), run_id) if settling else 0


def running(sessions: Sessions) -> list[claims.RunningChunk]:
    with reading(sessions) as session:
        return claims.running_chunks(session)
