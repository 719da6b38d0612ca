"""Writing so that nothing half-written is ever visible, and hashes of what was written. No torch."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 500_000_000
"""Larger files are refused before they are read."""


def atomic_write(path: Path, data: bytes) -> None:
    """Write to a temporary name in the same folder, fsync, rename. Parent folders are made.

    A failure (full disk, kill) leaves the old file, if any, untouched and no partial one under `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the system names the temporary file, or none
        raise


def write_json(path: Path, value: Any) -> None:
    """`value` as readable JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    atomic_write(path, (text + "\n").encode())


def read_at_most(path: Path, limit: int, *, kind: str) -> bytes:
    """The bytes of a file. Raises FileNotFoundError, or ValueError when it is a folder or has more than `limit`."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; wanted a {kind} file")
    if (size := path.stat().st_size) > limit:
        raise ValueError(f"{path} has {size:,} bytes; of {kind} at most {limit:,} are read")
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """Raises FileNotFoundError, or ValueError that names the file when it is a folder, too large or not JSON."""
    data = read_at_most(path, MAX_JSON_BYTES, kind="JSON")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not readable JSON ({reason}); correct it, or restore it from a backup") from error


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of the value, not of its formatting."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def sha256_folder(folder: Path, pattern: str = "*") -> str:
    """Hash over the names and contents of all files below `folder` whose name fits `pattern`."""
    lines = [
        f"{path.relative_to(folder).as_posix()} {sha256_file(path)}"
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    ]
    return sha256_bytes("\n".join(lines).encode())
