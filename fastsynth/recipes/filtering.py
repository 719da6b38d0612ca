"""The quality gate at work: what it refuses, drawing refused ids again, and judging a store that is there already.

    rejected/rejected.jsonl            one line per refused drawing: id, attempt, reason, reasons, what was measured
    rejected/<id>-<attempt>.png        the image, rejected/<id>-<attempt>_mask.png its mask, unless switched off

Drawing `attempt` of an id depends on the run's seed, the id and the attempt alone. An id is settled by its first
drawing that passes; so the order of the work, interruptions and restarts change no byte.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fastsynth.data.store import IDENTITY, MANIFEST, Store, append_line
from fastsynth.errors import CheckFailedError
from fastsynth.files import atomic_write, read_json, sha256_json, write_json
from fastsynth.images import encode_png, read_image, read_mask
from fastsynth.layouts.exemplar import Exemplar
from fastsynth.quality.gate import FINGERPRINT, Case, Duplicates, Gate, Verdict
from fastsynth.quality.gate_config import GateConfig
from fastsynth.run import Run
from fastsynth.types import Sample

Draw = Callable[[Sequence[int], int], list[Sample]]
"""(ids, attempt) → one sample per id. The bytes may depend on which ids are drawn together, and on nothing else."""
REJECTED = "rejected"
LOG = "rejected.jsonl"
PICTURE = re.compile(r"\d{6,}-\d+(_mask)?\.png")
ENTRY_KEYS = ("id", "category", "defect", "renderer", "seed", "source_image", "mask_source")


class Rejects:
    """`rejected/` of a store. Whoever holds the store's lock may open it; opening repairs what a kill left behind."""

    def __init__(self, store_folder: Path, *, keep_pictures: bool) -> None:
        self.folder, self.keep_pictures = store_folder / REJECTED, keep_pictures
        self.refused: set[tuple[int, int]] = set()
        self._repair()

    def add(
        self, entry: Mapping[str, Any], verdict: Verdict, *, attempt: int, image: np.ndarray, foreground: np.ndarray
    ) -> None:
        """Pictures first, then the line; what is there already is left alone. entry: has the keys `ENTRY_KEYS`."""
        key = int(entry["id"]), attempt
        if key in self.refused:
            return
        line = {name: entry[name] for name in ENTRY_KEYS} | {
            "attempt": attempt,
            "reason": verdict.reasons[0],
            "reasons": list(verdict.reasons),
            "gate": verdict.measures,
        }
        if self.keep_pictures:
            name = f"{entry['id']}-{attempt}"
            line |= {"image": f"{REJECTED}/{name}.png", "mask": f"{REJECTED}/{name}_mask.png"}
            atomic_write(self.folder / f"{name}.png", encode_png(image))
            atomic_write(self.folder / f"{name}_mask.png", encode_png(foreground.astype(np.uint8) * 255))
        self.folder.mkdir(exist_ok=True)
        text = json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False)
        append_line(self.folder / LOG, (text + "\n").encode())
        self.refused.add(key)

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / LOG
        return [json.loads(raw) for raw in path.read_bytes().splitlines()] if path.is_file() else []

    def seal(self) -> None:
        """Sort by id and attempt: the same refusals now make the same bytes, however they came in."""
        path = self.folder / LOG
        if path.is_file():
            raws = path.read_bytes().splitlines(keepends=True)
            raws.sort(key=lambda raw: _key(json.loads(raw)))
            atomic_write(path, b"".join(raws))

    def _repair(self) -> None:
        """Drop a cut-off last line, lines whose pictures are missing, and pictures without a line."""
        path = self.folder / LOG
        raws = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        kept, pictures = [], set()
        for number, raw in enumerate(raws, start=1):
            if not raw.endswith(b"\n"):
                continue
            try:
                line = json.loads(raw)
                key, files = _key(line), {line[name] for name in ("image", "mask") if name in line}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: not a line of the gate; delete that line") from error
            if key not in self.refused and all((self.folder.parent / file).is_file() for file in files):
                kept.append(raw)
                pictures |= files
                self.refused.add(key)
        if len(kept) < len(raws):
            atomic_write(path, b"".join(kept))
        for file in self.folder.glob("*.png"):
            if PICTURE.fullmatch(file.name) and f"{REJECTED}/{file.name}" not in pictures:
                file.unlink()


def gate_sha256(settings: GateConfig) -> str:
    """Hash of all settings that can change which samples are kept or what is written about the others."""
    return sha256_json(settings.model_dump(mode="json", exclude={"enabled"}))


def open_gate(run: Run) -> Gate:
    """The gate of the configuration, with the run's training defects; every file has passed the leak guard."""
    records = run.training_defects()
    real = [Exemplar(*run.read(record), record.category, record.defect or "", record.mask or "") for record in records]
    return Gate(real, rules=run.config.generate.gate.rules())


class Filling:
    """Settles the ids of a store, unit by unit; what the gate refuses is drawn again.

    source_sha256: path → hash of the backgrounds. gate: None keeps everything, then there is one attempt.
    attempts: drawings of one id before it is given up. made: how many samples were drawn and judged.
    """

    def __init__(
        self,
        store: Store,
        *,
        source_sha256: Mapping[str, str],
        gate: Gate | None,
        attempts: int,
        keep_rejected: bool,
    ) -> None:
        self.store, self.source_sha256, self.gate = store, source_sha256, gate
        self.attempts = attempts if gate is not None else 1
        self.rejects = Rejects(store.folder, keep_pictures=keep_rejected) if gate is not None else None
        self.stored: dict[int, int] = dict.fromkeys(store.done(), 0)
        self.duplicates: Duplicates | None = None
        if gate is not None:
            self.stored, self.duplicates = _stored(store)
        self.made = 0

    def missing(self, units: Sequence[Sequence[int]], *, count: int) -> list[Sequence[int]]:
        """The units of which an id below `count` is not settled."""
        return [unit for unit in units if any(number < count and not self.settled(number) for number in unit)]

    def settled(self, sample_id: int) -> bool:
        """Stored, or given up; with a line for every drawing before."""
        return not self._open_attempts(sample_id) and (sample_id in self.stored or self.rejects is not None)

    def settle(self, unit: Sequence[int], draw: Draw, *, count: int) -> None:
        """Draw and judge the unit's ids below `count` in ascending order, each until one drawing passes.

        unit: ids that are always drawn together at first. A drawing after a refusal is a unit of its own, so that
        one refused sample does not cost all of them.
        """
        first: list[Sample] = []
        for place, sample_id in enumerate(unit):
            if sample_id >= count or self.settled(sample_id):
                continue
            for attempt in self._open_attempts(sample_id):
                if attempt == 0:
                    first = first or draw(unit, 0)
                    sample = first[place]
                else:
                    (sample,) = draw([sample_id], attempt)
                self.made += 1
                if self._judged(sample_id, attempt, sample):
                    break

    def finish(self, *, count: int) -> None:
        """Seal the store. Warns when ids were given up; raises CheckFailedError when that leaves the store empty."""
        self.store.seal()
        if self.rejects is not None:
            self.rejects.seal()
            _tell_given_up(self.store, self.rejects, count=count)

    def _open_attempts(self, sample_id: int) -> list[int]:
        """Drawings that were neither stored nor refused, up to the one that is stored."""
        refused = self.rejects.refused if self.rejects is not None else set()
        end = self.stored.get(sample_id, self.attempts)
        return [attempt for attempt in range(end) if (sample_id, attempt) not in refused]

    def _judged(self, sample_id: int, attempt: int, sample: Sample) -> bool:
        """Store or refuse the sample; whether it passed."""
        measures = None
        if self.gate is not None and self.rejects is not None and self.duplicates is not None:
            foreground = sample.mask > 0
            verdict = self.gate.judge(_case(sample), sample_id=sample_id, stored=self.duplicates)
            if verdict.reasons:
                entry = _entry(sample_id, sample)
                self.rejects.add(entry, verdict, attempt=attempt, image=sample.image, foreground=foreground)
                return False
            measures = verdict.measures
        if sample_id not in self.stored:
            self._keep(sample_id, attempt, sample, measures)
        return True

    def _keep(self, sample_id: int, attempt: int, sample: Sample, measures: Mapping[str, Any] | None) -> None:
        self.store.write(
            sample_id,
            sample,
            category=sample.layout.category,
            source_sha256=self.source_sha256[sample.layout.source],
            extra={"attempt": attempt},
            gate=measures,
        )
        self.stored[sample_id] = attempt
        if self.duplicates is not None and measures is not None:
            self.duplicates.add(sample_id, int(str(measures[FINGERPRINT]), 16))


def filter_store(run: Run, *, dry_run: bool) -> dict[str, Any]:
    """Judge the stored samples from their files and move the refused ones to `rejected/`; `generate` draws them again.

    Returns {samples, kept, reasons: {reason: count}}. dry_run: only says what would be refused.
    Raises FileNotFoundError without a store, ValueError when it is in use.
    """
    folder, settings = run.store_folder, run.config.generate.gate
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder / MANIFEST}: no such file; generate some samples first")
    identity = read_json(folder / IDENTITY)
    with Store.open(folder, identity=identity) as store:
        judged = _judge_lines(run, sorted(store.lines(), key=lambda line: int(line["id"])), open_gate(run))
        refused = [(line, verdict) for line, verdict in judged if verdict.reasons]
        if not dry_run:
            _move_out(store, refused, keep_pictures=settings.keep_rejected)
            kept = [
                {**line, "checks": {**line["checks"], "gate": verdict.measures}}
                for line, verdict in judged
                if not verdict.reasons
            ]
            _rewrite(store, kept)
            write_json(folder / IDENTITY, {**identity, "gate_sha256": gate_sha256(settings)})
    reasons = Counter(verdict.reasons[0] for _, verdict in refused)
    return {"samples": len(judged), "kept": len(judged) - len(refused), "reasons": dict(reasons.most_common())}


def _judge_lines(run: Run, lines: Sequence[dict[str, Any]], gate: Gate) -> list[tuple[dict[str, Any], Verdict]]:
    by_id = {int(line["id"]): line for line in lines}
    stored = Duplicates(lambda sample_id: _pictures(run.store_folder, by_id[sample_id]))
    judged = []
    for line in tqdm(lines, desc="filter", disable=not lines):
        source = run.path(line["source_image"])
        run.guard.check([source])
        image, foreground = _pictures(run.store_folder, line)
        case = Case(read_image(source), image, foreground, line["category"], line["defect"], line["renderer"])
        verdict = gate.judge(case, sample_id=int(line["id"]), stored=stored)
        if not verdict.reasons:
            stored.add(int(line["id"]), int(str(verdict.measures[FINGERPRINT]), 16))
        judged.append((line, verdict))
    return judged


def _move_out(store: Store, refused: Sequence[tuple[dict[str, Any], Verdict]], *, keep_pictures: bool) -> None:
    rejects = Rejects(store.folder, keep_pictures=keep_pictures)
    for line, verdict in refused:
        image, foreground = _pictures(store.folder, line)
        rejects.add(line, verdict, attempt=line.get("attempt", 0), image=image, foreground=foreground)
    rejects.seal()


def _rewrite(store: Store, lines: Sequence[dict[str, Any]]) -> None:
    """First the manifest, then the files: a kill between the two leaves files without a line, which opening removes."""
    texts = [json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for line in lines]
    kept = {int(line["id"]) for line in lines}
    old = [line for line in store.lines() if int(line["id"]) not in kept]
    atomic_write(store.folder / MANIFEST, "".join(texts).encode())
    for line in old:
        for key in ("image", "mask", "classes"):
            if key in line:
                (store.folder / line[key]).unlink()


def _tell_given_up(store: Store, rejects: Rejects, *, count: int) -> None:
    lost = [sample_id for sample_id in range(count) if sample_id not in store.done()]
    if not lost:
        return
    reasons = Counter(line["reason"] for line in rejects.lines())
    first = "; ".join(f"{reason} {number}" for reason, number in reasons.most_common(3))
    text = f"{store.folder}: the gate refused every drawing of {len(lost)} of {count} samples ({first})"
    if len(lost) == count:
        raise CheckFailedError(f"{text}; look at {rejects.folder} and train longer or loosen generate.gate")
    warnings.warn(f"{text}; {rejects.folder} shows them", stacklevel=3)


def _stored(store: Store) -> tuple[dict[int, int], Duplicates]:
    """id → attempt of the stored samples, and their fingerprints."""
    lines = {int(line["id"]): line for line in store.lines()}

    def read(sample_id: int) -> tuple[np.ndarray, np.ndarray]:
        line = lines.get(sample_id) or next(one for one in store.lines() if int(one["id"]) == sample_id)
        return _pictures(store.folder, line)

    duplicates = Duplicates(read)
    for sample_id, line in lines.items():
        duplicates.add(sample_id, int(line["checks"]["gate"][FINGERPRINT], 16))
    return {sample_id: line.get("attempt", 0) for sample_id, line in lines.items()}, duplicates


def _case(sample: Sample) -> Case:
    layout = sample.layout
    return Case(layout.background, sample.image, sample.mask > 0, layout.category, layout.defect, sample.renderer)


def _entry(sample_id: int, sample: Sample) -> dict[str, Any]:
    """What a manifest line would say, as far as `ENTRY_KEYS` go."""
    return {
        "id": f"{sample_id:06d}",
        "category": sample.layout.category,
        "defect": sample.layout.defect,
        "renderer": sample.renderer,
        "seed": sample.seed,
        "source_image": sample.layout.source,
        "mask_source": sample.layout.instances[0].shape_source,
    }


def _pictures(folder: Path, line: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return read_image(folder / line["image"]), read_mask(folder / line["mask"])


def _key(line: Mapping[str, Any]) -> tuple[int, int]:
    return int(line["id"]), int(line["attempt"])
