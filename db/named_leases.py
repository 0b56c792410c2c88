"""Named leases: the right of one process to act alone, such as to reconcile or to load a run.

Cannot see processes: callers say which ones are dead. Functions take the caller's session and never commit.
"""

from dataclasses import asdict

from sqlalchemy import ColumnElement, CursorResult, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db.models import Lease
from db.presence import Process
from db.times import is_over, now


def lease_holder(session: Session, name: str) -> Process | None:
    """The process that took the named lease last, even if the lease is over; None if it was given back."""
    row = session.execute(
        select(Lease.host, Lease.boot, Lease.pid, Lease.started).where(Lease.name == name)
    ).one_or_none()
    return None if row is None else Process(*row)


def live_holder(session: Session, name: str) -> Process | None:
    """The process that has the named lease now; None if it was given back or is over."""
    has = select(Lease.host, Lease.boot, Lease.pid, Lease.started).where(Lease.name == name, ~is_over(Lease.until))
    row = session.execute(has).one_or_none()
    return None if row is None else Process(*row)


def load_lease(run_id: int) -> str:
    """The name of the right to change the rows and settings of a run alone."""
    return f"load {run_id}"


def acquire_lease(session: Session, name: str, me: Process, seconds: float, *, dead: Process | None = None) -> bool:
    """Take or renew the named lease for `seconds`; true if `me` has it now. A holder known to be `dead` loses it."""
    free = is_over(Lease.until) | _holds(me)
    if dead is not None:
        free = free | _holds(dead)
    taken = session.execute(update(Lease).where(Lease.name == name, free).values(until=now() + seconds, **asdict(me)))
    if isinstance(taken, CursorResult) and taken.rowcount:
        return True
    if session.get(Lease, name) is not None:
        return False
    try:
        with session.begin_nested():
            session.execute(insert(Lease).values(name=name, until=now() + seconds, **asdict(me)))
    except IntegrityError:  # another process inserted it at the same moment
        return False
    return True


def renew_lease(session: Session, name: str, me: Process, seconds: float) -> bool:
    """Renew a named lease for `seconds`; false if `me` does not have it any more."""
    renewed = update(Lease).where(Lease.name == name, _holds(me)).values(until=now() + seconds)
    return session.execute(renewed.returning(Lease.name)).first() is not None


def release_lease(session: Session, name: str, me: Process) -> None:
    """Give a named lease back; does nothing if another process has it."""
    session.execute(delete(Lease).where(Lease.name == name, _holds(me)))


def _holds(process: Process) -> ColumnElement[bool]:
    return (
        (Lease.host == process.host)
        & (Lease.boot == process.boot)
        & (Lease.pid == process.pid)
        & (Lease.started == process.started)
    )
