"""Notes, in a test's database, what commits do at the moment they do it: triggers beside our tables, not our code.

Rows that look right afterwards do not tell who wrote them, and a primary key hides a second result. Knows no pixels.
"""

from sqlalchemy import Boolean, Column, ColumnElement, Integer, MetaData, Table, Text, func, not_, select
from sqlalchemy.orm import Session

from db.session import Sessions
from db.states import ChunkState, ImageState
from db.transitions import Transition

_tables = MetaData()

# A result as it arrives: the fence that it brings, and its image and that image's chunk as they are then.
arrival = Table(
    "audit_arrival",
    _tables,
    Column("run_id", Integer, index=True),
    Column("image_id", Integer),
    Column("prompt_id", Integer),
    Column("image_state", Text),
    Column("fence", Integer),
    Column("chunk_fence", Integer),
    Column("chunk_state", Text),
)

# Each time the state of an image is written, be it with the state that it has already.
step = Table(
    "audit_step",
    _tables,
    Column("run_id", Integer, index=True),
    Column("image_id", Integer),
    Column("before", Text),
    Column("after", Text),
    Column("chunk_before", Integer),
    Column("chunk_after", Integer),
    Column("last_before", Integer),  # of a redo's chunk: the last chunk that the redo takes images from
    Column("adds", Boolean),  # only prompts that were added are to be computed, or none could be
)

# Each time a chunk goes from one state to another.
move = Table(
    "audit_move",
    _tables,
    Column("chunk_id", Integer),
    Column("before", Text),
    Column("after", Text),
)

# Each time a run is paused.
pause = Table("audit_pause", _tables, Column("run_id", Integer, index=True))

# Each time a chunk is claimed though its run is paused.
claimed_in_pause = Table("audit_claimed_in_pause", _tables, Column("run_id", Integer), Column("chunk_id", Integer))

NOTE_ARRIVAL = """INSERT INTO audit_arrival
    SELECT image.run_id, image.id, NEW.prompt_id, image.state, NEW.fence, chunk.fence, chunk.state
    FROM image LEFT JOIN chunk ON chunk.id = image.chunk_id WHERE image.id = NEW.image_id"""
NOTE_STEP = """INSERT INTO audit_step
    VALUES (NEW.run_id, NEW.id, OLD.state, NEW.state, OLD.chunk_id, NEW.chunk_id,
        (SELECT parent_id FROM chunk WHERE chunk.id = NEW.chunk_id), NEW.adds)"""
NOTE_MOVE = "INSERT INTO audit_move SELECT NEW.id, OLD.state, NEW.state WHERE OLD.state <> NEW.state"
NOTE_PAUSE = "INSERT INTO audit_pause VALUES (NEW.id)"
NOTE_CLAIMED_IN_PAUSE = "INSERT INTO audit_claimed_in_pause VALUES (NEW.run_id, NEW.id)"
IS_PAUSED = "SELECT EXISTS (SELECT 1 FROM run WHERE run.id = {run} AND run.paused IS NOT NULL)"
# PostgreSQL's conditions take no query, but a function. As it is STABLE it sees what the claim's own statement sees,
# so not a pause that was committed while the claim was under way.
IS_PAUSED_FUNCTION = f"""CREATE FUNCTION audit_is_paused(bigint) RETURNS boolean LANGUAGE sql STABLE
    AS $$ {IS_PAUSED.format(run="$1")} $$"""
PAUSED = {"postgresql": "audit_is_paused(NEW.run_id)", "sqlite": f"({IS_PAUSED.format(run='NEW.run_id')})"}
CLAIMED = f"OLD.state <> NEW.state AND NEW.state = '{ChunkState.RUNNING}'"
TRIGGERS = {  # name: when, on what condition, and the note
    "audit_arrival": ("INSERT ON result", "", NOTE_ARRIVAL),
    "audit_step": ("UPDATE OF state ON image", "", NOTE_STEP),
    "audit_move": ("UPDATE OF state ON chunk", "", NOTE_MOVE),
    "audit_pause": ("UPDATE OF paused ON run", "OLD.paused IS NULL AND NEW.paused IS NOT NULL", NOTE_PAUSE),
    "audit_claimed_in_pause": ("UPDATE OF state ON chunk", CLAIMED + " AND {is_paused}", NOTE_CLAIMED_IN_PAUSE),
}
TRANSITIONS = {(before, one.after) for one in Transition for before in one.before}

ENDS = (ImageState.DONE, ImageState.FAILED, ImageState.CANCELLED)


def install(sessions: Sessions) -> None:
    """Add the notes and their triggers to a database that has our tables."""
    with sessions.begin() as session:
        connection = session.connection()
        _tables.create_all(connection)
        dialect = connection.dialect.name
        if dialect == "postgresql":
            connection.exec_driver_sql(IS_PAUSED_FUNCTION)
        for name, (when, condition, note) in TRIGGERS.items():
            body = f"BEGIN {note}; END"
            if dialect == "postgresql":
                connection.exec_driver_sql(
                    f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {note}; RETURN NULL; END $$"
                )
                body = f"EXECUTE FUNCTION {name}()"
            only = f"WHEN ({condition.format(is_paused=PAUSED[dialect])})" if condition else ""
            connection.exec_driver_sql(f"CREATE TRIGGER {name} AFTER {when} FOR EACH ROW {only} {body}")


def ended_twice(session: Session, run_id: int | None = None) -> set[int]:
    """Images, of one run or of all, that ended more often than they were taken up by a retry or a redo.

    Only a redo may take up what is done, and only from chunks that were there before it. However often it did, no
    prompt of an image may have brought more results than the image was done. What is not done may be cancelled once
    more, when its row is gone.
    """
    ended = step.c.before.in_(ENDS)
    moved = (step.c.after == ImageState.PENDING) & step.c.chunk_before.is_distinct_from(step.c.chunk_after)
    gone = (step.c.after == ImageState.CANCELLED) & step.c.chunk_after.is_(None)  # see `db.gone`
    redone = func.coalesce(step.c.chunk_before <= step.c.last_before, False)
    again = ended & not_(gone | (moved & ((step.c.before != ImageState.DONE) | redone)))
    found = set(session.execute(select(step.c.image_id).where(again, *_of(step, run_id))).scalars())
    return found | _more_results_than_ends(session, run_id)


def _more_results_than_ends(session: Session, run_id: int | None) -> set[int]:
    ends = (
        select(step.c.image_id, func.count().label("count"))
        .where(step.c.after == ImageState.DONE, *_of(step, run_id))
        .group_by(step.c.image_id)
        .subquery()
    )
    brought = (
        select(arrival.c.image_id, func.count().label("count"))
        .where(*_of(arrival, run_id))
        .group_by(arrival.c.image_id, arrival.c.prompt_id)
        .subquery()
    )
    more = select(brought.c.image_id).outerjoin(ends, ends.c.image_id == brought.c.image_id)
    return set(session.execute(more.where(brought.c.count > func.coalesce(ends.c.count, 0))).scalars())


def unexpected(session: Session, run_id: int | None = None) -> set[int]:
    """Images, of one run or of all, with a result that was not the chunk's owner's, or came before the image's end."""
    expected = (
        (arrival.c.fence == func.coalesce(arrival.c.chunk_fence, -1))
        & (func.coalesce(arrival.c.chunk_state, "") == ChunkState.RUNNING)
        & (arrival.c.image_state == ImageState.DONE)
    )
    return set(session.execute(select(arrival.c.image_id).where(not_(expected), *_of(arrival, run_id))).scalars())


def retried(session: Session, run_id: int) -> int:
    """How often an image of the run was taken up again after its end."""
    again = step.c.before.in_(ENDS) & (step.c.after == ImageState.PENDING)
    return session.execute(select(func.count()).select_from(step).where(again, *_of(step, run_id))).scalar_one()


def pauses(session: Session, run_id: int) -> int:
    """How often the run was paused."""
    return session.execute(select(func.count()).select_from(pause).where(pause.c.run_id == run_id)).scalar_one()


def findings(session: Session) -> list[str]:
    """One readable line for each kind of image, and change of a chunk, that should not exist; empty if all is well."""
    found = {
        "ended more than once": ended_twice(session),
        "have a result that its chunk's owner did not write": unexpected(session),
    }
    lines = [f"images {sorted(images)} {what}" for what, images in found.items() if images]
    if begun := sorted(session.execute(select(claimed_in_pause.c.chunk_id)).scalars()):
        lines.append(f"chunks {begun} were claimed while their run was paused")
    moves = session.execute(select(move.c.before, move.c.after).distinct().order_by(move.c.before, move.c.after))
    unknown = [one for one in moves if tuple(one) not in TRANSITIONS]
    return lines + [f"chunks changed from {before} to {after}, which is no transition" for before, after in unknown]


def _of(table: Table, run_id: int | None) -> tuple[ColumnElement[bool], ...]:
    return () if run_id is None else (table.c.run_id == run_id,)
