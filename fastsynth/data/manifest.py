"""`manifest.jsonl` of a store, and the manifests of shards beside it while a job array fills the store.

    manifest.jsonl                 one JSON object per sample, written after the sample's files
    shards/2-of-4.jsonl            the same, written by one part of a job array, until the store is merged
    shards/2-of-4.rejected.jsonl   what the gate refused there

Readers see one manifest: the lines of all of them, every id once. Whoever reads a line gets it from `parse_line`, so
everything the package relies on has been checked: kinds and ranges of values, and that no path leaves its place.
"""

import errno
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

from fastsynth.errors import shown

MANIFEST = "manifest.jsonl"
SHARDS = "shards"
REJECTED = "rejected"
CARD = "README.md"
"""A data-set card: what the hub shows of a store, or of an export."""
SHARD_FILE = re.compile(r"\d+-of-\d+\.jsonl")
Line = dict[str, Any]

LINE_KEYS = frozenset(
    (
        *("id", "image", "mask", "category", "defect", "renderer", "source_image", "source_sha256", "mask_source"),
        *("image_sha256", "mask_sha256", "seed", "num_inference_steps", "model_sha256", "config_sha256"),
        *("instances", "checks", "version"),
    )
)
"""Keys every manifest line has; it may have more."""
TEXT_KEYS = (
    *("renderer", "source_sha256", "mask_source", "image_sha256", "mask_sha256", "config_sha256", "version"),
    *("classes_sha256", "instance_map_sha256", "notice"),
)
INSTANCE_KEYS = frozenset(("id", "defect", "bbox", "area"))
NO_LINE = "not a manifest line; run the command that writes it again"
LONGEST_LINE = 10_000_000
"""Bytes; what is longer is not read into memory as a whole."""
FLAT = 100
"""So many brackets may be nested in whatever way; with more of them the depth is looked at."""
DEEPEST = 20
LARGEST = 2**31 - 1
"""Of coordinates and counts."""
MOST_ATTEMPTS = 1_000_000
ID = re.compile(r"[0-9]{6}|[1-9][0-9]{6,17}")
NAME = re.compile(r"(?!\.\.?\Z)(?![A-Za-z]:)[^/\\\x00-\x1f\x7f]+")
LONGEST_NAME = 255
"""Bytes that file systems allow."""
FINGERPRINT = re.compile(r"[0-9a-f]{1,256}")


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


class Entry(NamedTuple):
    """One line of a manifest. where: file and number, as in `manifest.jsonl:3`. line: None when there is a problem."""

    where: str
    line: Line | None
    problem: str = ""


def maker(line: Mapping[str, Any]) -> str:
    """Who drew the sample, for tables: `fast`; of a part of a hybrid its name and renderer, `pasted (copy_paste)`.

    line: of a manifest, or of the gate's log.
    """
    part = part_of(line)
    return str(line["renderer"]) if part is None else f"{part} ({line['renderer']})"


def part_of(line: Mapping[str, Any]) -> str | None:
    """The part of a hybrid that drew the sample, by the notes of its line."""
    notes = line.get("notes")
    part = notes.get("part") if isinstance(notes, Mapping) else None
    return part if isinstance(part, str) else None


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


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends, one at a time; of one that is too long an unreadable piece."""
    with path.open("rb") as file:
        while raw := file.readline(LONGEST_LINE):
            if len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
                while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                raw = raw[:1000] + b"\n" * bool(rest)
            yield raw


def parse_json(raw: bytes) -> Any:
    """The value of one line.

    Raises json.JSONDecodeError or UnicodeDecodeError when it is no JSON in UTF-8, another ValueError for JSON that
    could not be written again: numbers without end, halves of characters, brackets nested too deeply.
    """
    try:
        value = _DECODER.decode(raw.decode())
        if raw.count(b"[") + raw.count(b"{") > FLAT and _depth(value) > DEEPEST:
            raise RecursionError
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} brackets lie inside one another") from None
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character (a lone surrogate)") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        raise ValueError("a number is not finite or has thousands of digits") from None
    return value


def parse_line(raw: bytes) -> Line | None:
    """The line, or None if it is cut off or no JSON object. Raises ValueError, see `parse_json` and `check_line`."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = parse_json(raw)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(line, dict):
        return None
    check_line(line)
    return line


def check_line(line: Line) -> None:
    """Raises ValueError that names the first key whose value is not what the package writes, and what is wanted.

    Keys beyond `LINE_KEYS` may hold anything, except for those that the package reads.
    """
    if not line.keys() >= LINE_KEYS:
        raise ValueError(f"keys missing: {', '.join(sorted(LINE_KEYS - line.keys()))}")
    name, category, defect = line["id"], line["category"], line["defect"]
    if type(name) is not str or not ID.fullmatch(name):
        _refuse("id", name, "a text of six digits, or of more that do not start with 0")
    for key in ("category", "defect"):
        check_name(line[key], key)
    if category in (SHARDS, REJECTED):
        _refuse("category", category, f"another name: the store has a folder {category} of its own")
    _check_place(line, "image", f"{category}/train/{defect}/{name}.png")
    _check_place(line, "mask", f"{category}/ground_truth/{defect}/{name}_mask.png")
    if "classes" in line:
        _check_place(line, "classes", f"{category}/classes/{defect}/{name}.png")
    if "instance_map" in line:
        _check_place(line, "instance_map", f"{category}/instances/{defect}/{name}.png")
    if type(line["source_image"]) is not str or not is_path(line["source_image"]):
        _refuse("source_image", line["source_image"], "a relative path with forward slashes, without ..")
    if not all([type(line.get(key, "")) is str for key in TEXT_KEYS]):
        key = next(key for key in TEXT_KEYS if type(line.get(key, "")) is not str)
        _refuse(key, line[key], "a text")
    if line["model_sha256"] is not None and type(line["model_sha256"]) is not str:
        _refuse("model_sha256", line["model_sha256"], "a text or null")
    _check_count("seed", line["seed"], 0, 2**63 - 1)
    _check_count("num_inference_steps", line["num_inference_steps"], 0, LARGEST)
    _check_count("attempt", line.get("attempt", 0), 0, MOST_ATTEMPTS)
    _check_count("halo", line.get("halo", 0), 0, LARGEST)
    _check_instances(line["instances"])
    _check_checks(line["checks"])
    if line.get("truth") is not None:
        _check_truth(line["truth"])


def check_name(name: Any, key: str) -> None:
    """Raises ValueError unless it can be the name of one folder, everywhere and no other one."""
    if type(name) is not str or not _is_name(name):
        _refuse(key, name, f"a plain folder name: no slash, backslash, drive, . or .., at most {LONGEST_NAME} bytes")


@lru_cache(maxsize=4096)
def is_path(text: str) -> bool:
    """Whether it is a relative path with forward slashes that stays below where it starts."""
    return all(map(_is_name, text.split("/")))


@lru_cache(maxsize=4096)
def _is_name(text: str) -> bool:
    return bool(NAME.fullmatch(text)) and len(text.encode(errors="replace")) <= LONGEST_NAME


def _check_place(line: Line, key: str, wanted: str) -> None:
    if line[key] != wanted:
        _refuse(key, line[key], wanted)
    if f"{key}_sha256" not in line:
        raise ValueError(f"keys missing: {key}_sha256")


def _check_instances(instances: Any) -> None:
    if type(instances) is not list or not instances:
        _refuse("instances", instances, "a list of at least one")
    for item in instances:
        if type(item) is not dict or not item.keys() >= INSTANCE_KEYS:
            _refuse("instances", item, f"each with the keys {', '.join(sorted(INSTANCE_KEYS))}")
        _check_count("instance id", item["id"], 1, 65535)
        check_name(item["defect"], "instance defect")
        box = item["bbox"]
        if type(box) is not list or len(box) != 4 or not all([type(value) is int for value in box]):
            _refuse("bbox", box, "four whole numbers x0, y0, x1, y1")
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= LARGEST and 0 <= y0 < y1 <= LARGEST):
            _refuse("bbox", box, "x0 < x1 and y0 < y1 inside the picture")
        _check_count("area", item["area"], 1, (x1 - x0) * (y1 - y0))
        if type(item.get("mask_source", "")) is not str:
            _refuse("instance mask_source", item["mask_source"], "a text")
        if type(item.get("severity", 1.0)) not in (int, float):
            _refuse("severity", item["severity"], "a number")


def _check_checks(checks: Any) -> None:
    if type(checks) is not dict or not checks.keys() >= {"outside_unchanged", "changed_share", "gate"}:
        _refuse("checks", checks, "outside_unchanged, changed_share and gate")
    if type(checks["outside_unchanged"]) is not bool:
        _refuse("outside_unchanged", checks["outside_unchanged"], "true or false")
    if not _is_number(checks["changed_share"], 0, 1):
        _refuse("changed_share", checks["changed_share"], "a number of 0 to 1")
    gate = checks["gate"]
    if gate is None:
        return
    if type(gate) is not dict:
        _refuse("gate", gate, "what it measured, or null")
    for key, value in gate.items():
        if key == "fingerprint":
            if type(value) is not str or not FINGERPRINT.fullmatch(value):
                _refuse(key, value, "hexadecimal digits")
        elif type(value) not in (float, int):
            _refuse(key, value, "a number")


def _check_truth(truth: Any) -> None:
    if type(truth) is not dict or not truth.keys() >= {"alignment", "leak", "visible", "invisible"}:
        _refuse("truth", truth, "alignment, leak, visible and invisible")
    for key in ("alignment", "leak"):
        if not _is_number(truth[key], 0, math.inf):
            _refuse(key, truth[key], "a number of at least 0")
    if type(truth["visible"]) is not dict or not truth["visible"]:
        _refuse("visible", truth["visible"], "a share for every instance")
    _check_count("invisible", truth["invisible"], 0, len(truth["visible"]))


def _check_count(key: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        _refuse(key, value, f"a whole number of {low} to {high}")


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (float, int) and low <= value <= high


def _refuse(key: str, value: Any, wanted: str) -> NoReturn:
    raise ValueError(f"{key} is {shown(value)}; wanted {wanted}")


def _depth(value: Any) -> int:
    """How many lists and objects lie inside one another."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _finite(text: str) -> float:
    """JSON knows no infinity, but 1e999 would become one; Python also reads the words NaN and Infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


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


def entries(files: list[Path]) -> Iterator[Entry]:
    """Every line of the files, sound or not. Of several files an id counts once.

    The last line of a shard may be half-written: its writer is at work or was killed. It does not count.
    """
    seen: set[str] = set()
    for path in files:
        for number, raw in enumerate(raw_lines(path), start=1):
            where = f"{path.name}:{number}"
            try:
                line = parse_line(raw)
            except ValueError as error:
                yield Entry(where, None, f"{error}; delete that line and run the command that writes it again")
                continue
            if line is None:
                if raw.endswith(b"\n") or path.name == MANIFEST:
                    yield Entry(where, None, NO_LINE)
                continue
            if len(files) > 1:
                if line["id"] in seen:
                    continue
                seen.add(line["id"])
            yield Entry(where, line)


def read_lines(folder: Path, files: list[Path]) -> Iterator[Line]:
    """The lines of `entries`. Raises ValueError that names file, number and key for one that is not sound."""
    for where, line, problem in entries(files):
        if line is None:
            raise ValueError(f"{folder / where}: {problem}")
        yield line


def read_manifest(folder: Path) -> Iterator[Line]:
    """The manifest lines of the store in `folder`, one at a time. Takes no lock: for those who only read.

    Raises FileNotFoundError when there is no manifest, ValueError for a line that is not sound.
    """
    yield from read_lines(folder, manifest_files(folder))
