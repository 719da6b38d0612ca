"""One writer at a time: locks that end with the process that holds them, however it ends, and say who that is.

A lock is an advisory `flock` on a small file. The kernel drops it when its process dies, so a lock file that was left
behind blocks nobody; while the lock is held the file names its holder. The file system must support `flock` between
all machines that work in one folder (local disks, NFS 4 and Lustre mounted with `flock` do).
"""

import fcntl
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self

from fastsynth.processes import process_index

LOCK = ".lock"


class InUseError(ValueError):
    """Another living process holds the lock."""


class Lock:
    """A held lock; `release` it, or use it in a `with`.

    folder: what the lock stands for; its file is `folder / name`. shared: together with other shared holders, but
    with no exclusive one. what: words for the message, in place of the folder.

    Raises InUseError when it is held in a way that excludes this one, OSError when the file cannot be written.
    """

    def __init__(self, folder: Path, *, name: str = LOCK, shared: bool = False, what: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            os.close(handle)
            raise InUseError(
                f"{what or folder} is being written by another process{f' ({holder})' if holder else ''}; "
                "wait for it or stop it, then run the same command again"
            ) from None
        except BaseException:
            os.close(handle)
            raise
        self._handle: int | None = handle
        _HELD.add(self)
        self._write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let another process in. The last holder leaves an empty file: equal work leaves equal bytes."""
        if self._handle is None:
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(b"")
        except BlockingIOError:  # others share it
            pass
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # also for workers that have just been forked
            self._forget()

    def _write(self, text: bytes) -> None:
        assert self._handle is not None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text, 0)

    def _forget(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None
        _HELD.discard(self)


def lock_for_all(folder: Path) -> AbstractContextManager[object]:
    """Held by the main process on behalf of all that were launched with it."""
    return Lock(folder) if process_index() == 0 else nullcontext()


_HELD: set[Lock] = set()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock._forget()


# a worker that outlives its killed parent must not go on holding the parent's locks
os.register_at_fork(after_in_child=_forget_all)
