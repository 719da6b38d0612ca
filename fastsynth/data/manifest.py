"""`manifest.jsonl` of a store, and the manifests of shards beside it while a job array fills the store.

    manifest.jsonl                 one JSON object per sample, written after the sample's files
    shards/2-of-4.jsonl            the same, written by one part of a job array, until the store is merged
    shards/2-of-4.rejected.jsonl   what the gate refused there

Readers see one manifest: the lines of all of them, every id once.
"""

import errno
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

MANIFEST = "manifest.jsonl"
SHARDS = "shards"
SHARD_FILE = re.compile(r"\d+-of-\d+\.jsonl")
Line = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of the work, counted from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(f"shard {self.index}/{self.count}: wanted 1/{self.count} to {self.count}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "2/4". Raises ValueError for anything else."""
        if not re.fullmatch(r"\d{1,6}/\d{1,6}", text):
            raise ValueError(f"shard {text!r}: wanted number/count, e.g. 2/4")
        index, count = text.split("/")
        return cls(int(index), int(count))

    @property
    def name(self) -> str:
        return f"{self.index}-of-{self.count}"

    def owns(self, number: int) -> bool:
        """Whether the unit of work `number` (0, 1, 2, …) is this shard's; units take turns."""
        return number % self.count == self.index - 1


def append_line(path: Path, line: bytes) -> None:
    """Append whole lines and fsync. Raises OSError when the disk is full; then the file is as before."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if os.write(handle, line) < len(line):
            os.ftruncate(handle, size)
            raise OSError(errno.ENOSPC, "disk full; free some space and run the same command again", str(path))
        os.fsync(handle)
    finally:
        os.close(handle)


def dump_line(line: Line) -> bytes:
    return (json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_line(raw: bytes) -> Line | None:
    """The line, or None if it is cut off or damaged."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "id" in line else None


def shard_files(folder: Path) -> list[Path]:
    """The manifests of the shards of the store in `folder`, by name."""
    return sorted(path for path in (folder / SHARDS).glob("*.jsonl") if SHARD_FILE.fullmatch(path.name))


def manifest_files(folder: Path) -> list[Path]:
    """All manifests of the store in `folder`. Raises FileNotFoundError when there is none."""
    main = folder / MANIFEST
    found = [main] if main.is_file() else []
    found += shard_files(folder)
    if not found:
        raise FileNotFoundError(f"{main}: no such file; {folder} holds no samples yet, generate some first")
    return found


def numbered_lines(files: list[Path]) -> Iterator[tuple[str, Line | None]]:
    """`file:number` and content of every line; None for a damaged one. Of several files an id counts once.

    The last line of a shard may be half-written: its writer is at work or was killed. It does not count.
    """
    seen: set[str] = set()
    for path in files:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = parse_line(raw)
                if len(files) > 1 and line is not None:
                    if line["id"] in seen:
                        continue
                    seen.add(line["id"])
                if raw.endswith(b"\n") or path.name == MANIFEST:
                    yield f"{path.name}:{number}", line


def read_lines(folder: Path, files: list[Path]) -> Iterator[Line]:
    """The content of `numbered_lines`. Raises ValueError for a line that is not JSON."""
    for where, line in numbered_lines(files):
        if line is None:
            raise ValueError(f"{folder / where}: not a manifest line; run the command that writes it again")
        yield line


def read_manifest(folder: Path) -> Iterator[Line]:
    """The manifest lines of the store in `folder`, one at a time. Takes no lock: for those who only read.

    Raises FileNotFoundError when there is no manifest, ValueError for a line that is not JSON.
    """
    yield from read_lines(folder, manifest_files(folder))
