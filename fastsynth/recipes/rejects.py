"""What the gate refused: a line for every drawing, with the reasons, and its picture if wanted.

    rejected/rejected.jsonl            one line per refused drawing: id, attempt, reason, reasons, what was measured
    rejected/<id>-<attempt>.png        the image, rejected/<id>-<attempt>_mask.png its mask, unless switched off
    shards/2-of-4.rejected.jsonl       the lines of one part of a job array, until the store is merged

Pictures come first, then the line: what a kill leaves behind is removed by whoever opens the folder next.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.manifest import (
    ID,
    MOST_ATTEMPTS,
    REJECTED,
    SHARDS,
    Shard,
    append_line,
    dump_line,
    parse_json,
    part_of,
    raw_lines,
)
from fastsynth.files import atomic_write
from fastsynth.images import encode_png
from fastsynth.quality.gate import Verdict

LOG = "rejected.jsonl"
PICTURE = re.compile(r"\d{6,}-\d+(_mask)?\.png")
ENTRY_KEYS = ("id", "category", "defect", "renderer", "seed", "source_image", "mask_source")
Key = tuple[int, int]
"""Id and attempt of a drawing."""


class Rejects:
    """The refusals of a store, or of one shard of it. Whoever holds the lock may open it.

    Opening repairs what a kill left behind, and takes over the refusals of shards when the whole store is opened.
    refused: the drawings that were refused; for a shard those of all shards.
    """

    def __init__(self, store_folder: Path, *, keep_pictures: bool, shard: Shard | None = None) -> None:
        self.folder, self.keep_pictures = store_folder / REJECTED, keep_pictures
        self.log = self.folder / LOG if shard is None else store_folder / SHARDS / f"{shard.name}.{LOG}"
        self.refused: set[Key] = set()
        pictures = self._repair_log()
        if shard is None:
            pictures |= self._take_over()
            for file in self.folder.glob("*.png"):
                if PICTURE.fullmatch(file.name) and f"{REJECTED}/{file.name}" not in pictures:
                    file.unlink()
        else:
            others = (log for log in all_logs(store_folder) if log != self.log)
            self.refused |= {_key(line) for log in others for _, line in _lines(log)}

    def add(
        self, entry: Mapping[str, Any], verdict: Verdict, *, attempt: int, image: np.ndarray, foreground: np.ndarray
    ) -> None:
        """Pictures first, then the line; what is there already is left alone.

        entry: has the keys `ENTRY_KEYS`; its notes, if there are any, tell the part of a hybrid.
        """
        key = int(entry["id"]), attempt
        if key in self.refused:
            return
        line = {name: entry[name] for name in ENTRY_KEYS} | {
            "attempt": attempt,
            "reason": verdict.reasons[0],
            "reasons": list(verdict.reasons),
            "gate": verdict.measures,
        }
        if (part := part_of(entry)) is not None:
            line["notes"] = {"part": part}
        if self.keep_pictures:
            name = f"{entry['id']}-{attempt}"
            line |= {"image": f"{REJECTED}/{name}.png", "mask": f"{REJECTED}/{name}_mask.png"}
            atomic_write(self.folder / f"{name}.png", encode_png(image))
            atomic_write(self.folder / f"{name}_mask.png", encode_png(foreground.astype(np.uint8) * 255))
        self._append(dump_line(line))
        self.refused.add(key)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The log, line by line."""
        return (line for _, line in _lines(self.log))

    def seal(self) -> None:
        """Sort by id and attempt: the same refusals now make the same bytes, however they came in."""
        if self.log.is_file():
            raws = [raw for raw, _ in _lines(self.log)]
            raws.sort(key=lambda raw: _key(parse_json(raw)))
            atomic_write(self.log, b"".join(raws))

    def _repair_log(self) -> set[str]:
        """Drop a cut-off last line and lines whose pictures are missing; returns the pictures of the others."""
        kept, pictures = [], set()
        for raw, line in _lines(self.log):
            files = _pictures(line)
            if _key(line) not in self.refused and self._exist(files):
                kept.append(raw)
                pictures |= files
                self.refused.add(_key(line))
        if self.log.is_file() and sum(map(len, kept)) < self.log.stat().st_size:
            atomic_write(self.log, b"".join(kept))
        return pictures

    def _take_over(self) -> set[str]:
        """Append what shards refused; returns the pictures. A refusal by the rules that shards ask is final."""
        kept, pictures = [], set()
        for log in shard_logs(self.folder.parent):
            for raw, line in _lines(log):
                files = _pictures(line)
                if _key(line) not in self.refused and self._exist(files):
                    kept.append(raw)
                    pictures |= files
                    self.refused.add(_key(line))
        if kept:
            self._append(b"".join(kept))
        return pictures

    def _append(self, raw: bytes) -> None:
        self.log.parent.mkdir(exist_ok=True)
        append_line(self.log, raw)

    def _exist(self, files: set[str]) -> bool:
        return all((self.folder.parent / file).is_file() for file in files)


def shard_logs(store_folder: Path) -> list[Path]:
    """The logs of the shards, by name."""
    return sorted((store_folder / SHARDS).glob(f"*.{LOG}"))


def all_logs(store_folder: Path) -> list[Path]:
    """The store's own log and those of its shards."""
    return [store_folder / REJECTED / LOG, *shard_logs(store_folder)]


def refused_attempts(store_folder: Path) -> dict[int, set[int]]:
    """id → attempts that were refused, by the store's own log and those of its shards."""
    found: dict[int, set[int]] = {}
    for log in all_logs(store_folder):
        for _, line in _lines(log):
            number, attempt = _key(line)
            found.setdefault(number, set()).add(attempt)
    return found


def _lines(log: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Raw and parsed lines; a cut-off last one is left out. Raises ValueError for a line that is not the gate's."""
    if not log.is_file():
        return
    for number, raw in enumerate(raw_lines(log), start=1):
        if not raw.endswith(b"\n"):
            return
        try:
            line = parse_json(raw)
            sound = isinstance(line, dict) and _is_sound(line)
        except ValueError:
            sound = False
        if not sound:
            raise ValueError(f"{log}:{number}: not a line of the gate; delete that line")
        yield raw, line


def _is_sound(line: Mapping[str, Any]) -> bool:
    """Whether what is asked of a line is there, and its pictures are those of its drawing."""
    number, attempt = line.get("id"), line.get("attempt")
    return (
        (type(number), type(attempt), type(line.get("reason"))) == (str, int, str)
        and ID.fullmatch(str(number)) is not None
        and 0 <= int(str(attempt)) <= MOST_ATTEMPTS
        and line.get("image", f"{REJECTED}/{number}-{attempt}.png") == f"{REJECTED}/{number}-{attempt}.png"
        and line.get("mask", f"{REJECTED}/{number}-{attempt}_mask.png") == f"{REJECTED}/{number}-{attempt}_mask.png"
    )


def _pictures(line: Mapping[str, Any]) -> set[str]:
    return {line[name] for name in ("image", "mask") if name in line}


def _key(line: Mapping[str, Any]) -> Key:
    return int(line["id"]), int(line["attempt"])
