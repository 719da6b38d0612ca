"""A folder that appears under its name only when it is complete, and paths that stay inside one."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """An empty temporary sibling of `output`, renamed to it at the end; removed when anything fails.

    What a killed writer left behind is removed by the next one.

    Raises ValueError when `output` exists or another process is writing it, OSError when it cannot be written.
    """
    if output.exists() or output.is_symlink():
        raise ValueError(f"{output} exists already; choose another folder, or delete it")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".tmp-{output.name}"
    temporary.mkdir(exist_ok=True)
    handle = os.open(temporary, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{output} is being written by another process; wait for it or stop it") from None
        try:
            for stray in temporary.iterdir():
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
            yield temporary
            os.sync()  # once for all files: one fsync each would take most of the time
            temporary.rename(output)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def inside(folder: Path, name: str) -> Path:
    """`folder / name`. Raises ValueError when that would leave the folder, also through a symbolic link."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name:
        raise ValueError(f"{name!r} is not a path inside {folder}; wanted a relative one with forward slashes")
    found = folder / path
    if not found.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads out of {folder} through a symbolic link; put the file itself there")
    return found


def write(path: Path, data: bytes) -> None:
    """Plain writing, parents made: the folder around it is what appears at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
