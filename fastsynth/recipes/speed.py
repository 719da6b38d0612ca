"""What generating costs, over all sittings and shards: generation.jsonl, summed up in generation.json. No torch.

Every line of generation.jsonl holds what was spent since the one before, so that a kill loses a second and shards may
write side by side: {seconds, made, peak_memory_mb}. generation.json has their sums, the highest peak, and

    seconds_per_image = Σ seconds / kept

seconds: by the clock, drawing, judging and writing, without loading the renderer. made: drawings, refused ones too.
kept: samples in the store. peak_memory_mb: of one process, 10⁶ bytes, loading included.
"""

import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastsynth.data.manifest import append_line, dump_line, parse_json, raw_lines
from fastsynth.environment import stage_peak_mb
from fastsynth.files import atomic_write, write_json

GENERATION = "generation.json"
LOG = "generation.jsonl"
EVERY = 1.0
"""Seconds between two lines: each waits for the disk."""


class SpeedLog:
    """Notes what a sitting spends; made by `SpeedLog.open`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._since = time.monotonic()
        self._made = self._noted = 0

    @classmethod
    @contextmanager
    def open(cls, folder: Path, stored: Callable[[], Sized], *, anew: bool) -> Iterator["SpeedLog"]:
        """stored: asked at the end for what the store holds. anew: nothing yet; what an earlier one cost is forgotten.

        However the block ends, generation.json is written.
        """
        log = cls(folder)
        if anew:
            log._path.unlink(missing_ok=True)
        elif log._path.is_file():
            _drop_cut_off(log._path)
        try:
            yield log
        finally:
            log._write()
            if log._path.is_file():
                write_json(folder / GENERATION, summed(log._path, kept=len(stored())))

    def note(self, made: int) -> None:
        """How far this sitting is: drawings since its beginning."""
        self._made = made
        if time.monotonic() - self._since >= EVERY:
            self._write()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the block does not count."""
        started = time.monotonic()
        yield
        self._since += time.monotonic() - started

    def _write(self) -> None:
        if self._made == self._noted:
            return
        now = time.monotonic()
        spent = {"seconds": round(now - self._since, 4), "peak_memory_mb": round(stage_peak_mb(), 1)}
        append_line(self._path, dump_line({**spent, "made": self._made - self._noted}))
        self._since, self._noted = now, self._made


def _drop_cut_off(path: Path) -> None:
    """A power cut leaves half a line, which the next one must not follow."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        atomic_write(path, data[: data.rfind(b"\n") + 1])


def summed(path: Path, *, kept: int) -> dict[str, Any]:
    """The content of generation.json; seconds_per_image is None where nothing is kept."""
    lines = [parse_json(raw) for raw in raw_lines(path)]
    seconds = sum(line["seconds"] for line in lines)
    return {
        "seconds": round(seconds, 4),
        "made": sum(line["made"] for line in lines),
        "kept": kept,
        "seconds_per_image": round(seconds / kept, 4) if kept else None,
        "peak_memory_mb": max((line["peak_memory_mb"] for line in lines), default=None),
    }
