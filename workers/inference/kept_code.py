"""Keeps what numba has compiled in files, since compiling takes a second or more in each process. Knows no loops.

numba's own cache raises if a file in it is damaged or the disk is full. This one never raises: then numba compiles as
if there was no file. A file holds machine code, so it is used only if no other user can have written it, and if its
checksum is right. Its name says for which source, versions, types and processor it was compiled.
"""

import hashlib
import os
import pickle
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
import platformdirs
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

_CHECKSUM_BYTES = 32
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def keep(function: Any, source: Path) -> None:
    """Keep the compiled code of `function`, made by `numba.njit`, in the user's cache folder.

    `source` is the file that holds this function and all that it calls.
    """
    with suppress(OSError):  # without the source nothing could tell code of another version
        function._cache = _KeptCode(source.read_bytes())  # where `njit(cache=True)` puts numba's own cache


def folder() -> Path:
    """Where the files lie, such as ~/.cache/sam3-queue/compiled on Linux."""
    return platformdirs.user_cache_path("sam3-queue") / "compiled"


class _KeptCode(NullCache):
    """What a compiled function of numba asks before it compiles, and tells afterwards."""

    def __init__(self, source: bytes) -> None:
        self._made_from = (hashlib.sha256(source).hexdigest(), sys.version, numba.__version__, llvmlite.__version__)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for these types, or None if it must be compiled."""
        target_context.refresh()  # numba's own cache does so, too: what the code calls is registered then
        with suppress(Exception):
            payload = _read(self._path(sig, target_context.codegen()))
            rebuild: Any = CompileResult._rebuild  # numba is untyped
            return rebuild(target_context, *pickle.loads(payload))
        return None

    def save_overload(self, sig: Any, cres: Any) -> None:
        """Write a file with the code that was compiled for these types."""
        with suppress(Exception):
            dump: Any = dumps
            _write(self._path(sig, cres.codegen), dump(cres._reduce()))

    def _path(self, sig: Any, codegen: Any) -> Path:
        if not (kept := folder()).is_absolute():
            raise ValueError("this user has no home")
        key = repr((self._made_from, str(sig), codegen.magic_tuple()))
        return kept / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.code"


def _read(path: Path) -> bytes:
    """What `_write` wrote. Raises `OSError` or `ValueError` if there is no such file that can be trusted."""
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        if about.st_uid != os.geteuid() or about.st_mode & _OTHERS_MAY_WRITE:
            raise ValueError("another user may have written it")
        checksum, payload = file.read(_CHECKSUM_BYTES), file.read()
    if hashlib.sha256(payload).digest() != checksum:
        raise ValueError("damaged")
    return payload


def _write(path: Path, payload: bytes) -> None:
    """Write a file that only its user may read, at once as a whole, as several processes may do so."""
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
