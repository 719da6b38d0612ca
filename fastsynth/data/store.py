"""The synthetic training set on disk: an image tree, and one line of `manifest.jsonl` per sample.

    store.json                                  what the store was made from (its identity)
    manifest.jsonl, shards/                     one JSON object per sample, see `data.manifest`
    <category>/train/<defect>/<id>.png          the image
    <category>/ground_truth/<defect>/<id>_mask.png   0 outside, 255 inside
    <category>/classes/<defect>/<id>.png        class indices, only when a sample holds several classes
    <category>/instances/<defect>/<id>.png      instance ids, only when a sample holds several instances

A sample exists once its manifest line does. Whatever a kill leaves behind, opening the store again repairs, so
the sealed store depends on the samples alone: not on order, interruptions, shards, clocks or machines.

One process writes the whole store, or any number of them write one shard each: a shard adds its samples to the tree
and its lines to a manifest of its own, and whoever opens the whole store next takes them over.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from fastsynth.data.export.folder import inside
from fastsynth.data.identity import IDENTITY, Identity, settle_identity
from fastsynth.data.manifest import (
    MANIFEST,
    REJECTED,
    SHARDS,
    Line,
    Shard,
    append_line,
    check_name,
    dump_line,
    entries,
    manifest_files,
    parse_line,
    raw_lines,
    read_lines,
    read_manifest,
    shard_files,
)
from fastsynth.files import atomic_write, sha256_bytes
from fastsynth.images import encode_png
from fastsynth.locks import LOCK, Lock
from fastsynth.types import Sample

__all__ = ["FILE_KEYS", "IDENTITY", "MANIFEST", "Identity", "Store", "append_line", "read_manifest", "sample_files"]

TEMPORARY = ".tmp-"
PARTS = ("train", "ground_truth", "classes", "instances")
"""Folders of a category."""
FILE_KEYS = ("image", "mask", "classes", "instance_map")
"""Keys of a manifest line that name a file of the store; the last two only where there are several."""
SAMPLE_FILE = re.compile(r"\d{6,}(_mask)?\.png")


class Store:
    """The one writer of a store folder, or of one shard of it; made by `Store.open`, closed by `with`.

    pending: id → raw line of a shard, of samples that wait for `adopt`; empty for a shard.
    """

    def __init__(self, folder: Path, *, identity: Identity, shard: Shard | None, locks: list[Lock]) -> None:
        self.folder = folder
        self.identity = identity
        self.shard = shard
        self.manifest = folder / MANIFEST if shard is None else folder / SHARDS / f"{shard.name}.jsonl"
        self.pending: dict[int, bytes] = {}
        self._locks = locks
        if shard is None:
            self._done, self.pending = _repair(folder)
        else:
            self._done = _repair_shard(folder, self.manifest)

    @classmethod
    def open(cls, folder: Path, *, identity: Identity, shard: Shard | None = None) -> Self:
        """Create the store, or reopen and repair it: a cut-off last line, temporary files, files without a line.

        shard: write this part only, beside other shards; whoever repairs the whole store repairs the rest.

        Raises:
            InUseError: another process writes the store, or this shard of it; a ValueError.
            ValueError: made from something else, not a store, or damaged; a file or folder of it is a symbolic link.
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder)
        _refuse_links(folder)
        locks = [Lock(folder, shared=shard is not None)]
        try:
            if shard is not None:
                what = f"shard {shard.index}/{shard.count} of {folder}"
                locks.append(Lock(folder / SHARDS, name=f"{shard.name}.lock", what=what))
            settle_identity(folder, identity)
            return cls(folder, identity=identity, shard=shard, locks=locks)
        except BaseException:
            for lock in reversed(locks):
                lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        for lock in reversed(self._locks):
            lock.release()

    def done(self) -> set[int]:
        """Ids of the samples that are complete; for a shard those of all shards, for the store without the pending."""
        return set(self._done)

    def lines(self) -> Iterator[Line]:
        """The manifest lines of the samples in `done`, one at a time."""
        if not self._done:
            return iter(())
        return read_lines(self.folder, [self.manifest] if self.shard is None else manifest_files(self.folder))

    def adopt(self, lines: Mapping[int, bytes]) -> None:
        """Take over pending samples: id → raw manifest line. Their files are in place."""
        append_line(self.manifest, b"".join(lines.values()))
        for sample_id in lines:
            del self.pending[sample_id]
            self._done.add(sample_id)

    def disown(self, sample_id: int) -> None:
        """Remove a pending sample."""
        line = parse_line(self.pending.pop(sample_id))
        assert line is not None
        remove_files(self.folder, line)

    def drop_shards(self) -> None:
        """Forget the shards' manifests: everything in them is taken over."""
        assert self.shard is None
        assert not self.pending
        shutil.rmtree(self.folder / SHARDS, ignore_errors=True)

    def write(
        self,
        sample_id: int,
        sample: Sample,
        *,
        category: str,
        source_sha256: str,
        extra: Mapping[str, Any],
        gate: Mapping[str, Any] | None = None,
    ) -> Line:
        """Store one sample: its files, then its manifest line, which it returns.

        source_sha256: of the file `sample.layout.source`, the background.
        extra: further keys of the line (JSON values).
        gate: what the gate measured (JSON values), None when it was off.

        Raises:
            ValueError: the id is taken, the sample breaks the contract, or its line could not be read again (then
                nothing is written).
            OSError: disk full or not writable; nothing half-written is visible.
        """
        if sample_id in self._done:
            raise ValueError(f"{self.folder}: sample {sample_id:06d} is already stored; skip the ids in done()")
        checks = {**_check(sample), "gate": None if gate is None else dict(gate)}
        files = self._encode(f"{sample_id:06d}", sample, category)
        line: Line = {
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
        if "notice" in self.identity:
            line["notice"] = self.identity["notice"]
        for key, (path, data) in files.items():
            line |= {key: path, f"{key}_sha256": sha256_bytes(data)}
        if taken := sorted(extra.keys() & line.keys()):
            raise ValueError(f"extra keys {taken} belong to the manifest; rename them")
        line = {**extra, **line}
        raw = dump_line(line)
        parse_line(raw)

        for path, data in files.values():
            atomic_write(self.folder / path, data)
        append_line(self.manifest, raw)
        self._done.add(sample_id)
        self.pending.pop(sample_id, None)
        return line

    def seal(self) -> None:
        """Sort the manifest by id: the same samples now make the same bytes, however they came in."""
        last = -1
        for line in self.lines():
            number = int(line["id"])
            if number < last:
                break
            last = number
        else:
            return  # sorted already, and never held in memory
        lines = list(raw_lines(self.manifest))
        lines.sort(key=lambda raw: int((parse_line(raw) or {})["id"]))
        atomic_write(self.manifest, b"".join(lines))

    def _encode(self, name: str, sample: Sample, category: str) -> dict[str, tuple[str, bytes]]:
        """Relative path and PNG bytes of each file of the sample."""
        defect = sample.layout.defect
        check_name(category, "category")
        check_name(defect, "defect")
        files = {
            "image": (f"{category}/train/{defect}/{name}.png", encode_png(sample.image)),
            "mask": (f"{category}/ground_truth/{defect}/{name}_mask.png", encode_png(sample.mask)),
        }
        if len({instance.defect for instance in sample.layout.instances}) > 1:
            classes = class_map(sample, defects=self.identity["defects"])
            files["classes"] = (f"{category}/classes/{defect}/{name}.png", encode_png(classes))
        if len(sample.layout.instances) > 1:
            ids = sample.layout.instance_map()
            files["instance_map"] = (f"{category}/instances/{defect}/{name}.png", encode_png(ids))
        return files


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
            "severity": instance.severity,
        }
        for instance in sample.layout.instances
    ]


def _refuse_foreign(folder: Path) -> None:
    """A folder of somebody else's files must not become a store: repairing deletes."""
    if (folder / IDENTITY).is_file():
        return
    ours = (LOCK, SHARDS)
    others = sorted(p.name for p in folder.iterdir() if p.name not in ours and not p.name.startswith(TEMPORARY))
    if others:
        raise ValueError(f"{folder} is not a store (it holds {others[0]} but no {IDENTITY}); choose another folder")


def links(folder: Path) -> Iterator[Path]:
    """Symbolic links in the place of a folder of the store, or of a file that is written to."""
    places = ("*", f"{SHARDS}/*", f"{REJECTED}/*.jsonl", *(f"*/{part}" for part in PARTS))
    for place in (*places, *(f"*/{part}/*" for part in PARTS)):
        yield from (path for path in folder.glob(place) if path.is_symlink())


def _refuse_links(folder: Path) -> None:
    """Whoever writes, repairs or filters would change what lies at the other end. The folder itself may be a link."""
    for path in links(folder):
        raise ValueError(f"{path} is a symbolic link; a store holds its files itself, put them there")


def _repair(folder: Path) -> tuple[set[int], dict[int, bytes]]:
    """Make files and manifests agree; returns the ids of the complete samples and the raw lines of the pending ones."""
    path = folder / MANIFEST
    done, listed = _repair_lines(folder, path)
    pending: dict[int, bytes] = {}
    for shard in shard_files(folder):
        for number, raw in enumerate(raw_lines(shard), start=1):
            line = _parsed(raw, shard, number)
            if line and int(line["id"]) not in done and _files_exist(folder, line):
                pending[int(line["id"])] = raw
                listed |= _files(line)
    for stray in folder.rglob(f"{TEMPORARY}*"):
        if not stray.is_dir():
            stray.unlink()
    for file in sample_files(folder):
        if SAMPLE_FILE.fullmatch(file.name) and file.relative_to(folder).as_posix() not in listed:
            file.unlink()
    return done, pending


def _repair_shard(folder: Path, own: Path) -> set[int]:
    """Repair the shard's own manifest; returns the ids of the complete samples of all manifests.

    Other files are left alone: their writers may be at work.
    """
    done, _ = _repair_lines(folder, own)
    others = [path for path in (folder / MANIFEST, *shard_files(folder)) if path.is_file() and path != own]
    found = (line for _, line, _ in entries(others) if line and _files_exist(folder, line))
    return done | {int(line["id"]) for line in found}


def _repair_lines(folder: Path, path: Path) -> tuple[set[int], set[str]]:
    """Drop the lines of a manifest that hold nothing; returns ids and files of the others.

    Raises ValueError for a damaged line in the middle, an unsound one and an id that comes twice: that was no
    interruption.
    """
    if not path.is_file():
        return set(), set()
    done: set[int] = set()
    listed: set[str] = set()
    empty: set[int] = set()
    damaged = 0
    for number, raw in enumerate(raw_lines(path), start=1):
        if damaged:
            raise ValueError(f"{path}:{damaged}: not a manifest line; restore it, or delete {folder} to start over")
        line = _parsed(raw, path, number)
        # a line may outlive its files when the power fails: make that sample again
        if line and _files_exist(folder, line):
            if int(line["id"]) in done:
                raise ValueError(f"{path}:{number}: id {line['id']} comes twice; delete one of its lines")
            listed |= _files(line)
            done.add(int(line["id"]))
        else:
            empty.add(number)
            damaged = 0 if line else number
    if empty:
        raws = enumerate(raw_lines(path), start=1)
        atomic_write(path, b"".join(raw for number, raw in raws if number not in empty))
    return done, listed


def _parsed(raw: bytes, path: Path, number: int) -> Line | None:
    try:
        return parse_line(raw)
    except ValueError as error:
        raise ValueError(
            f"{path}:{number}: {error}; correct that line, or delete it and make its sample again"
        ) from None


def remove_files(folder: Path, line: Line) -> None:
    """Delete the files of a sample, and none that lies elsewhere."""
    for file in _files(line):
        inside(folder, file).unlink(missing_ok=True)


def _files(line: Line) -> set[str]:
    return {line[key] for key in FILE_KEYS if key in line}


def _files_exist(folder: Path, line: Line) -> bool:
    return all((folder / file).is_file() for file in _files(line))


def sample_files(folder: Path) -> Iterator[Path]:
    """Every file where only files of samples belong."""
    for part in PARTS:
        yield from (path for path in folder.glob(f"*/{part}/*/*") if path.is_file())
