"""The synthetic training set on disk: an image tree, and one line of `manifest.jsonl` per sample.

    store.json                                  what the store was made from (its identity)
    manifest.jsonl                              one JSON object per sample, written after the sample's files
    <category>/train/<defect>/<id>.png          the image
    <category>/ground_truth/<defect>/<id>_mask.png   0 outside, 255 inside
    <category>/classes/<defect>/<id>.png        class indices, only when a sample holds several classes

A sample exists once its manifest line does. Whatever a kill leaves behind, opening the store again repairs, so
the sealed store depends on the samples alone: not on order, interruptions, clocks or machines.
"""

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

import numpy as np

from fastsynth.files import atomic_write, read_json, sha256_bytes, write_json
from fastsynth.images import encode_png
from fastsynth.types import Sample

MANIFEST = "manifest.jsonl"
IDENTITY = "store.json"
LOCK = ".lock"
TEMPORARY = ".tmp-"
FILE_KEYS = ("image", "mask", "classes")
"""Keys of a manifest line that name a file of the store; `classes` only where there are several."""
SAMPLE_FILE = re.compile(r"\d{6,}(_mask)?\.png")


class Identity(TypedDict):
    """What a store was made from. Two runs may write into one store only when all of it is equal.

    model_sha256: None for renderers without a model.
    defects: class names in the order of their indices; a class-index PNG holds 1 for the first.
    gate_sha256: hash of the gate's settings; absent when every sample was kept.
    """

    config_sha256: str
    model_sha256: str | None
    data_sha256: str
    run_seed: int
    version: str
    defects: list[str]
    gate_sha256: NotRequired[str]


class Store:
    """The one writer of a store folder; made by `Store.open`, closed by `with`."""

    def __init__(self, folder: Path, *, identity: Identity, lock: int) -> None:
        self.folder = folder
        self.identity = identity
        self._lock = lock
        self._done = _repair(folder)

    @classmethod
    def open(cls, folder: Path, *, identity: Identity) -> Self:
        """Create the store, or reopen and repair it: a cut-off last line, temporary files, files without a line.

        Raises:
            ValueError: made from something else, not a store, in use by another process, or damaged.
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder)
        lock = _lock(folder)
        try:
            _settle_identity(folder, identity)
            return cls(folder, identity=identity, lock=lock)
        except BaseException:
            os.close(lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        os.close(self._lock)

    def done(self) -> set[int]:
        """Ids of the samples that are complete."""
        return set(self._done)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The manifest, line by line."""
        return read_manifest(self.folder) if self._done else iter(())

    def write(
        self,
        sample_id: int,
        sample: Sample,
        *,
        category: str,
        source_sha256: str,
        extra: Mapping[str, Any],
        gate: Mapping[str, Any] | None = None,
    ) -> None:
        """Store one sample: its files, then its manifest line.

        source_sha256: of the file `sample.layout.source`, the background.
        extra: further keys of the line (JSON values).
        gate: what the gate measured (JSON values), None when it was off.

        Raises:
            ValueError: the id is taken, or the sample breaks the contract (then nothing is written).
            OSError: disk full or not writable; nothing half-written is visible.
        """
        if sample_id in self._done:
            raise ValueError(f"{self.folder}: sample {sample_id:06d} is already stored; skip the ids in done()")
        checks = {**_check(sample), "gate": None if gate is None else dict(gate)}
        files = self._encode(f"{sample_id:06d}", sample, category)
        line = {
            "id": f"{sample_id:06d}",
            "category": category,
            "defect": sample.layout.defect,
            "renderer": sample.renderer,
            "source_image": sample.layout.source,
            "source_sha256": source_sha256,
            "mask_source": sample.layout.instances[0].shape_source,
            "seed": sample.seed,
            "num_inference_steps": sample.num_inference_steps,
            "instances": _instances(sample),
            "checks": checks,
            "notes": sample.notes,
            "config_sha256": self.identity["config_sha256"],
            "model_sha256": self.identity["model_sha256"],
            "version": self.identity["version"],
        }
        for key, (path, data) in files.items():
            line |= {key: path, f"{key}_sha256": sha256_bytes(data)}
        if taken := sorted(extra.keys() & line.keys()):
            raise ValueError(f"extra keys {taken} belong to the manifest; rename them")
        text = json.dumps({**extra, **line}, sort_keys=True, ensure_ascii=False, allow_nan=False)

        for path, data in files.values():
            atomic_write(self.folder / path, data)
        append_line(self.folder / MANIFEST, (text + "\n").encode())
        self._done.add(sample_id)

    def seal(self) -> None:
        """Sort the manifest by id: the same samples now make the same bytes, however they came in."""
        if self._done:
            lines = (self.folder / MANIFEST).read_bytes().splitlines(keepends=True)
            lines.sort(key=lambda line: int(json.loads(line)["id"]))
            atomic_write(self.folder / MANIFEST, b"".join(lines))

    def _encode(self, name: str, sample: Sample, category: str) -> dict[str, tuple[str, bytes]]:
        """Relative path and PNG bytes of each file of the sample."""
        defect = sample.layout.defect
        for part in (category, defect):
            if part in ("", ".", "..") or "/" in part or "\\" in part:
                raise ValueError(f"{part!r} cannot be a folder name; rename the category or defect")
        files = {
            "image": (f"{category}/train/{defect}/{name}.png", encode_png(sample.image)),
            "mask": (f"{category}/ground_truth/{defect}/{name}_mask.png", encode_png(sample.mask)),
        }
        if len({instance.defect for instance in sample.layout.instances}) > 1:
            classes = class_map(sample, defects=self.identity["defects"])
            files["classes"] = (f"{category}/classes/{defect}/{name}.png", encode_png(classes))
        return files


def append_line(path: Path, line: bytes) -> None:
    """Append a line and fsync. Raises OSError when the disk is full; then the file is as before."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if os.write(handle, line) < len(line):
            os.ftruncate(handle, size)
            raise OSError(errno.ENOSPC, "disk full; free some space and run the same command again", str(path))
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> Iterator[dict[str, Any]]:
    """The manifest lines of the store in `folder`, one at a time. Takes no lock: for those who only read.

    Raises FileNotFoundError when there is no manifest, ValueError for a line that is not JSON.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {folder} holds no samples yet, generate some first")
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = _parse(raw)
            if line is None:
                raise ValueError(f"{path}:{number}: not a manifest line; run the command that writes it again")
            yield line


def class_map(sample: Sample, *, defects: list[str]) -> np.ndarray:
    """(H, W) uint8: 0 outside, else 1 + the position of the pixel's class in `defects`."""
    unknown = sorted({instance.defect for instance in sample.layout.instances} - set(defects))
    if unknown:
        raise ValueError(f"defects {unknown} are not among the store's {defects}; open it with all of them")
    ids = sample.layout.instance_map()
    classes = np.zeros(ids.shape, np.uint8)
    for instance in sample.layout.instances:
        classes[ids == instance.id] = 1 + defects.index(instance.defect)
    return classes


def _check(sample: Sample) -> dict[str, Any]:
    """The contract, from the arrays: returns `outside_unchanged` and `changed_share` or raises ValueError."""
    background = sample.layout.background
    where = f"{sample.renderer} on {sample.layout.source}"
    if sample.image.shape != background.shape or sample.image.dtype != background.dtype:
        raise ValueError(
            f"{where}: image is {sample.image.dtype} {sample.image.shape}, its background "
            f"{background.dtype} {background.shape}; render at native size and depth"
        )
    inside = sample.mask == 255
    if not inside.any() or not np.array_equal(sample.mask > 0, inside):
        raise ValueError(f"{where}: mask is empty or holds values other than 0 and 255; write the layout's mask")
    if not np.array_equal(inside, sample.layout.foreground):
        raise ValueError(f"{where}: mask differs from the layout's foreground; renderers must keep the mask")
    changed = (sample.image != background).any(axis=2)
    outside = int((changed & ~inside).sum())
    if outside:
        raise ValueError(f"{where}: {outside} pixels changed outside the mask; paste inside the mask only")
    return {"outside_unchanged": True, "changed_share": round(float(changed[inside].mean()), 6)}


def _instances(sample: Sample) -> list[dict[str, Any]]:
    return [
        {
            "id": instance.id,
            "defect": instance.defect,
            "bbox": list(instance.bbox),
            "area": instance.area,
            "mask_source": instance.shape_source,
        }
        for instance in sample.layout.instances
    ]


def _refuse_foreign(folder: Path) -> None:
    """A folder of somebody else's files must not become a store: repairing deletes."""
    if (folder / IDENTITY).is_file():
        return
    others = sorted(p.name for p in folder.iterdir() if p.name != LOCK and not p.name.startswith(TEMPORARY))
    if others:
        raise ValueError(f"{folder} is not a store (it holds {others[0]} but no {IDENTITY}); choose another folder")


def _lock(folder: Path) -> int:
    """An open handle that keeps other writers out until it is closed or the process ends."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"{folder} is being written by another process; wait for it or stop it") from None
    return handle


def _settle_identity(folder: Path, identity: Identity) -> None:
    path = folder / IDENTITY
    if not path.is_file():
        write_json(path, identity)
        return
    stored = read_json(path)
    for key in sorted(identity.keys() | stored.keys()):
        if stored.get(key) != identity.get(key):
            raise ValueError(
                f"{folder} was made with {key} {stored.get(key)!r}, this run has {identity.get(key)!r}; "
                "write to another folder, or delete this one to start over"
            )


def _repair(folder: Path) -> set[int]:
    """Make files and manifest agree; returns the ids of the complete samples."""
    for stray in folder.rglob(f"{TEMPORARY}*"):
        stray.unlink()
    path = folder / MANIFEST
    raws = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    kept, listed, done = [], set(), set()
    for number, raw in enumerate(raws, start=1):
        line = _parse(raw)
        if line is None and number < len(raws):
            raise ValueError(f"{path}:{number}: not a manifest line; restore it, or delete {folder} to start over")
        files = {line[key] for key in FILE_KEYS if key in line} if line else set()
        # a line may outlive its files when the power fails: make that sample again
        if line and all((folder / file).is_file() for file in files):
            kept.append(raw)
            listed |= files
            done.add(int(line["id"]))
    if len(kept) < len(raws):
        atomic_write(path, b"".join(kept))
    for file in sample_files(folder):
        if SAMPLE_FILE.fullmatch(file.name) and file.relative_to(folder).as_posix() not in listed:
            file.unlink()
    return done


def sample_files(folder: Path) -> Iterator[Path]:
    """Every file where only files of samples belong."""
    for part in ("train", "ground_truth", "classes"):
        yield from (path for path in folder.glob(f"*/{part}/*/*") if path.is_file())


def _parse(raw: bytes) -> dict[str, Any] | None:
    """The line, or None if it is cut off or damaged."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "id" in line else None
