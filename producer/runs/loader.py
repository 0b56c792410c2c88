"""The right of one process to change the rows and settings of a run. Knows no input, and judges no settings."""

from collections.abc import Callable
from contextlib import suppress
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db import named_leases
from db.intake import LoadTaken
from db.session import Sessions, write, write_once
from workers.fleet.processes import take_lease, this_process

LOAD_LEASE_SECONDS = 60.0

Value = TypeVar("Value")
Args = ParamSpec("Args")


class Loader:
    """The right to load a run alone: a named lease, which each slice renews in the transaction that adds its rows.

    The lease of a loader that died on this machine is taken over at once. Raises `LoadTaken` if a living process or
    another machine has it.
    """

    def __init__(self, sessions: Sessions, run_id: int) -> None:
        self.sessions, self.run_id = sessions, run_id
        self._name, self._me = named_leases.load_lease(run_id), this_process()

    def __enter__(self) -> Self:
        if not take_lease(self.sessions, self._name, self._me, LOAD_LEASE_SECONDS):
            raise LoadTaken
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(SQLAlchemyError):  # the lease then ends by itself
            write(self.sessions, named_leases.release_lease, self._name, self._me)

    def write(
        self, work: Callable[Concatenate[Session, int, Args], Value], *args: Args.args, **kwargs: Args.kwargs
    ) -> Value:
        """Return `work(session, run_id, ...)`, run in one transaction. Raises `LoadTaken` if the lease is lost."""
        return write_once(self.sessions, self.renewing(work), self.run_id, *args, **kwargs)

    def renewing(
        self, work: Callable[Concatenate[Session, int, Args], Value]
    ) -> Callable[Concatenate[Session, int, Args], Value]:
        """Return `work` made to renew the lease in its transaction. It raises `LoadTaken` if the lease is lost."""

        def renewed(session: Session, run_id: int, /, *args: Args.args, **kwargs: Args.kwargs) -> Value:
            if not named_leases.renew_lease(session, self._name, self._me, LOAD_LEASE_SECONDS):
                raise LoadTaken
            return work(session, run_id, *args, **kwargs)

        return renewed
