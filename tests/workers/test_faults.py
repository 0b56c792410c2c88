"""Which faults are a chunk's own, and which are around it."""

import errno

from sqlalchemy.exc import IntegrityError, OperationalError

from workers.faults import is_infrastructure


def test_what_the_database_refuses_is_no_fault_of_the_surroundings() -> None:
    refused = IntegrityError("insert", {}, Exception("NOT NULL constraint failed"))
    assert not is_infrastructure(refused)
    assert is_infrastructure(OperationalError("insert", {}, Exception("server closed the connection")))
    assert is_infrastructure(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_infrastructure(RuntimeError("CUDA out of memory"))
