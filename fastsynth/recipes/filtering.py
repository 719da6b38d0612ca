"""The quality gate at work: what it refuses, drawing refused ids again, and judging a store that is there already.

Drawing `attempt` of an id depends on the run's seed, the id and the attempt alone. An id is settled by its first
drawing that passes; so the order of the work, interruptions and restarts change no byte. Shards of a job array settle
their ids without the rule on duplicates, which looks at the samples of the others; the process that takes their
samples over asks it, in the order of the ids, and draws again what it refuses: what one process would have done.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fastsynth.config import dotted
from fastsynth.data.export.folder import inside
from fastsynth.data.identity import IDENTITY, read_identity
from fastsynth.data.manifest import MANIFEST, dump_line, parse_line, read_manifest, shard_files
from fastsynth.data.store import Store, remove_files
from fastsynth.errors import CheckFailedError
from fastsynth.files import atomic_write, write_json
from fastsynth.images import read_image, read_mask
from fastsynth.quality.gate import FINGERPRINT, Case, Duplicates, Gate, Verdict, fingerprint
from fastsynth.quality.gate_config import GateConfig
from fastsynth.quality.gate_measures import BITS
from fastsynth.quality.truthfulness import truth
from fastsynth.recipes.rejects import Rejects, refused_attempts
from fastsynth.run import Run
from fastsynth.types import Sample

Draw = Callable[[Sequence[int], int], list[Sample]]
"""(ids, attempt) → one sample per id. The bytes may depend on which ids are drawn together, and on nothing else."""


def gate_settings(settings: GateConfig) -> dict[str, Any]:
    """Dotted key → value of all settings that can change which samples are kept or what is written about the others."""
    return dotted(settings.model_dump(mode="json", exclude={"enabled"}), "generate.gate")


def open_gate(run: Run) -> Gate:
    """The gate of the configuration, with the run's training defects."""
    return Gate(run.exemplars("train"), rules=run.config.generate.gate.rules())


class Filling:
    """Settles the ids of a store or of one shard, unit by unit; what the gate refuses is drawn again.

    source_sha256: path → hash of the backgrounds. gate: None keeps everything, then there is one attempt.
    attempts: drawings of one id before it is given up. halo: of the masks, goes into the manifest. with_truth: write
    what `quality.truthfulness` measures into it, too. made: how many samples were drawn and judged.
    """

    def __init__(
        self,
        store: Store,
        *,
        source_sha256: Mapping[str, str],
        gate: Gate | None,
        attempts: int,
        keep_rejected: bool,
        halo: int,
        with_truth: bool,
    ) -> None:
        self.store, self.source_sha256, self.gate, self.halo = store, source_sha256, gate, halo
        self.attempts, self.with_truth = attempts if gate is not None else 1, with_truth
        self.stored: dict[int, int] = {}
        self.rejects: Rejects | None = None
        self.duplicates: Duplicates | None = None
        self.made = 0
        self._files: dict[int, tuple[str, str]] = {}
        self._adopted: dict[int, bytes] = {}
        if gate is None and store.pending:
            store.adopt(dict(store.pending))
        if gate is not None:
            self.rejects = Rejects(store.folder, keep_pictures=keep_rejected, shard=store.shard)
            self.duplicates = gate.duplicates(self._pictures) if store.shard is None else None
        for line in store.lines():
            self._remember(line)

    @property
    def untouched(self) -> bool:
        """Whether nothing was ever drawn for this store: no sample, and no refusal."""
        refused = self.rejects is not None and self.rejects.refused
        return not (self.stored or self.store.pending or refused)

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
                passed = self._taken_over(sample_id, attempt)
                if passed is None:
                    if attempt == 0:
                        first = first or draw(unit, 0)
                        sample = first[place]
                    else:
                        (sample,) = draw([sample_id], attempt)
                    self.made += 1
                    passed = self._judged(sample_id, attempt, sample)
                if passed:
                    break
        if self._adopted:
            self.store.adopt(self._adopted)  # once for the unit: every call waits for the disk
            self._adopted = {}

    def finish(self, *, count: int) -> None:
        """Seal the store. Warns when ids were given up; raises CheckFailedError when that leaves the store empty."""
        if self.store.shard is not None:
            return
        for sample_id in [number for number in self.store.pending if number < count]:
            self.store.disown(sample_id)  # refused just before a kill
        if not self.store.pending:
            self.store.drop_shards()
        self.store.seal()
        if self.rejects is not None:
            self.rejects.seal()
            _tell_given_up(self.store, self.rejects, count=count)

    def _open_attempts(self, sample_id: int) -> list[int]:
        """Drawings that were neither stored nor refused, up to the one that is stored."""
        refused = self.rejects.refused if self.rejects is not None else set()
        end = min(self.stored.get(sample_id, self.attempts), self.attempts)
        return [attempt for attempt in range(end) if (sample_id, attempt) not in refused]

    def _taken_over(self, sample_id: int, attempt: int) -> bool | None:
        """Whether this drawing of a shard is no duplicate, then it is kept; None when no shard made it."""
        raw = self.store.pending.get(sample_id)
        line = None if raw is None else parse_line(raw)
        if line is None or line.get("attempt", 0) != attempt or not _has_measures(line):
            return None
        assert self.gate is not None
        assert self.rejects is not None
        assert self.duplicates is not None
        self._files[sample_id] = (line["image"], line["mask"])
        verdict = self.gate.judge_duplicate(
            line["checks"]["gate"], lambda: self._pictures(sample_id), sample_id=sample_id, stored=self.duplicates
        )
        if verdict.reasons:
            image, foreground = self._pictures(sample_id)
            self.rejects.add(line, verdict, attempt=attempt, image=image, foreground=foreground)
            self.store.disown(sample_id)
            return False
        line["checks"]["gate"] = verdict.measures
        self._adopted[sample_id] = dump_line(line)
        self._remember(line)
        return True

    def _judged(self, sample_id: int, attempt: int, sample: Sample) -> bool:
        """Store or refuse the sample; whether it passed."""
        measures, case = None, _case(sample)
        if self.gate is not None and self.rejects is not None:
            verdict = self.gate.judge(case, sample_id=sample_id, stored=self.duplicates)
            if verdict.reasons:
                entry = _entry(sample_id, sample)
                self.rejects.add(entry, verdict, attempt=attempt, image=sample.image, foreground=sample.mask > 0)
                return False
            measures = verdict.measures
        if sample_id not in self.stored:
            extra: dict[str, Any] = {"attempt": attempt, "halo": self.halo}
            if self.with_truth:
                extra["truth"] = truth(case.change, case.source, case.image, sample.layout.instance_map())
            line = self.store.write(
                sample_id,
                sample,
                category=sample.layout.category,
                source_sha256=self.source_sha256[sample.layout.source],
                extra=extra,
                gate=measures,
            )
            self._remember(line)
        return True

    def _remember(self, line: Mapping[str, Any]) -> None:
        """A stored sample, by its manifest line."""
        sample_id = int(line["id"])
        self.stored[sample_id] = line.get("attempt", 0)
        if self.duplicates is not None:
            self._files[sample_id] = (line["image"], line["mask"])
            known = _has_measures(line)  # version 0.1.0 had a shorter fingerprint
            mark = line["checks"]["gate"][FINGERPRINT] if known else fingerprint(*self._pictures(sample_id))
            self.duplicates.add(sample_id, int(mark, 16))

    def _pictures(self, sample_id: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self._files[sample_id]
        return read_image(inside(self.store.folder, image)), read_mask(inside(self.store.folder, mask))


def all_drawn(store_folder: Path, *, count: int, attempts: int) -> bool:
    """Whether every id below `count` is stored or given up, by whichever shard: then the store can be merged."""
    left = set(range(count))
    if (store_folder / MANIFEST).is_file() or shard_files(store_folder):
        left.difference_update(int(line["id"]) for line in read_manifest(store_folder))
    refused = refused_attempts(store_folder)
    return all(len(refused.get(number, ())) >= attempts for number in left)


def filter_store(run: Run, *, dry_run: bool) -> dict[str, Any]:
    """Judge the stored samples from their files and move the refused ones to `rejected/`; `generate` draws them again.

    Returns {samples, kept, reasons: {reason: count}}. dry_run: only says what would be refused.
    Raises FileNotFoundError without a store, ValueError when it is in use.
    """
    folder, settings = run.store_folder, run.config.generate.gate
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder / MANIFEST}: no such file; generate some samples first")
    identity = read_identity(folder)
    with Store.open(folder, identity=identity) as store:
        if shard_files(folder):
            raise ValueError(f"{folder} is being filled by shards; run `fastsynth generate` to its end first")
        judged = _judge_lines(run, sorted(store.lines(), key=lambda line: int(line["id"])), open_gate(run))
        refused = [(line, verdict) for line, verdict in judged if verdict.reasons]
        if not dry_run:
            run.record("filter")
            _move_out(store, refused, keep_pictures=settings.keep_rejected)
            kept = [
                {**line, "checks": {**line["checks"], "gate": verdict.measures}}
                for line, verdict in judged
                if not verdict.reasons
            ]
            _rewrite(store, kept)
            write_json(folder / IDENTITY, {**identity, "gate": gate_settings(settings)})
    reasons = Counter(verdict.reasons[0] for _, verdict in refused)
    return {"samples": len(judged), "kept": len(judged) - len(refused), "reasons": dict(reasons.most_common())}


def _judge_lines(run: Run, lines: Sequence[dict[str, Any]], gate: Gate) -> list[tuple[dict[str, Any], Verdict]]:
    by_id = {int(line["id"]): line for line in lines}
    run.check_stored(lines)
    stored = gate.duplicates(lambda sample_id: _pictures(run.store_folder, by_id[sample_id]))
    judged = []
    for line in tqdm(lines, desc="filter", disable=not lines):
        source = run.path(line["source_image"])
        run.guard.check_unchanged(
            run.config.data.root,
            {line["source_image"]: line["source_sha256"]},
            advice=f"sample {line['id']} was made from another picture; restore it, or generate into another folder",
        )
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
    kept = {int(line["id"]) for line in lines}
    old = [line for line in store.lines() if int(line["id"]) not in kept]
    atomic_write(store.folder / MANIFEST, b"".join(map(dump_line, lines)))
    for line in old:
        remove_files(store.folder, line)


def _tell_given_up(store: Store, rejects: Rejects, *, count: int) -> None:
    lost = sorted(set(range(count)) - store.done())
    if not lost:
        return
    reasons = Counter(line["reason"] for line in rejects.lines())
    first = "; ".join(f"{reason} {number}" for reason, number in reasons.most_common(3))
    text = f"{store.folder}: the gate refused every drawing of {len(lost)} of {count} samples ({first})"
    if len(lost) == count:
        raise CheckFailedError(f"{text}; look at {rejects.folder} and train longer or loosen generate.gate")
    warnings.warn(f"{text}; {rejects.folder} shows them", stacklevel=3)


def _case(sample: Sample) -> Case:
    layout = sample.layout
    return Case(layout.background, sample.image, sample.mask > 0, layout.category, layout.defect, sample.renderer)


def _entry(sample_id: int, sample: Sample) -> dict[str, Any]:
    """What a manifest line would say, as far as the gate's log repeats it."""
    return {
        "id": f"{sample_id:06d}",
        "category": sample.layout.category,
        "defect": sample.layout.defect,
        "renderer": sample.renderer,
        "seed": sample.seed,
        "source_image": sample.layout.source,
        "mask_source": sample.layout.instances[0].shape_source,
        "notes": sample.notes,
    }


def _pictures(folder: Path, line: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return read_image(inside(folder, line["image"])), read_mask(inside(folder, line["mask"]))


def _has_measures(line: Mapping[str, Any]) -> bool:
    """Whether the line holds what the rule on duplicates asks for, as this version measures it."""
    gate = line["checks"]["gate"] or {}
    return "area" in gate and len(gate.get(FINGERPRINT, "")) == BITS // 4
