"""A run folder and what is read from it: configuration, data set, split, log.

A stage that needs an earlier one finds its files here; nothing is passed between stages in memory only, so every
stage can be run, killed and resumed on its own.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np

from fastsynth.config import dotted, dump_config
from fastsynth.data.datasets import DataSet, Record, open_dataset, require_defects, require_outside
from fastsynth.data.duplicates import Looks
from fastsynth.data.split import LeakGuard, Part, Split, SplitConfig, make_split
from fastsynth.diffusion.pretrained.config import SAMPLING_KEYS
from fastsynth.environment import environment
from fastsynth.files import (
    atomic_write,
    read_json,
    sha256_bytes,
    sha256_file,
    sha256_folder,
    sha256_json,
    write_json,
)
from fastsynth.halo import grow, measure_halo
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.exemplar import Exemplar
from fastsynth.layouts.parts import RealMask
from fastsynth.layouts.placement import object_region
from fastsynth.layouts.poses import Poses
from fastsynth.layouts.sampler import LayoutSampler
from fastsynth.locks import Lock, lock_for_all
from fastsynth.processes import process_index
from fastsynth.run_config import HybridConfig, RunConfig, SingleConfig

FREE_KEYS = {"output", "device", "data", "generate", "segment", "compare"}
"""Sections that are no part of what a sample was made from. Of the data the content is hashed, and the halo is told by
itself; more samples may be added."""
TRAINING_KEYS = {"kind", "base", "network", "training", "crop_size", "context"}
"""Keys of the section `renderer` on which the trained weights depend; the others may change after training."""
PARTS_KEY = "renderer.parts."
TRAINED_FROM = "trained_from.json"
ENVIRONMENT = "environment.json"


class Run:
    """One run folder. Opening it only reads: a stage writes config.yaml and environment.json, first use split.json.

    Raises ValueError or FileNotFoundError for data that cannot be used.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder = config.output
        self.context = config.renderer.context  # of the whole, also as a part sees it
        self._exemplars: WeakValueDictionary[str, Exemplar] = WeakValueDictionary()
        self.dataset: DataSet = open_dataset(
            config.data.root,
            categories=config.data.categories,
            group_regex=config.split.group_regex,
            follow_links=config.data.follow_links,
        )
        require_defects(self.dataset)
        require_outside(self.dataset, self.folder)
        self._refuse_other_model()

    @property
    def split_path(self) -> Path:
        return self.folder / "split.json"

    @property
    def looks_path(self) -> Path:
        return self.folder / "fingerprints.npz"

    @property
    def store_folder(self) -> Path:
        return self.folder / "synthetic"

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    @property
    def training_folder(self) -> Path:
        """Where `checkpoints` lie while the renderer is trained."""
        return self.folder

    @property
    def parts(self) -> "dict[str, PartRun]":
        """The run as each part of its hybrid renderer sees it; empty when it has a single renderer."""
        settings = self.config.renderer
        if not isinstance(settings, HybridConfig):
            return {}
        return {name: PartRun(self, name, part.renderer) for name, part in sorted(settings.parts.items())}

    @cached_property
    def split(self) -> Split:
        """split.json, made at first use and never again; how its test images look is kept beside it."""
        planned = self.planned_split()
        if not self.split_path.is_file():
            planned.write(self.split_path)
            self._keep_looks(planned)
        return planned

    def planned_split(self) -> Split:
        """What split.json holds, or will; writes nothing. Raises ValueError when it was made with other settings."""
        settings = self.config.split.model_dump()
        if not self.split_path.is_file():
            dividing = {key: value for key, value in settings.items() if key != "group_regex"}  # the data set has it
            return replace(make_split(self.dataset, seed=self.config.seed, **dividing), settings=settings)
        split = Split.read(self.split_path)
        made_with = {**SplitConfig().model_dump(), **split.settings} if split.settings else settings
        for key, value in made_with.items():
            if value != settings[key]:
                raise ValueError(
                    f"{self.split_path} is made with split.{key} {value}, this configuration has {settings[key]}; "
                    "the split is made once: choose another output"
                )
        return split

    @cached_property
    def guard(self) -> LeakGuard:
        if not self.looks_path.is_file():
            self._keep_looks(self.split)
        return LeakGuard(self.split, Looks.read(self.looks_path))

    def _keep_looks(self, split: Split) -> None:
        there = {image: self.path(image) for image in split.test if self.path(image).is_file()}
        unchanged = {image for image, path in there.items() if sha256_file(path) == split.sha256[image]}
        looks = Looks.of(self.config.data.root, [r for r in self.dataset.records if r.image in unchanged])
        looks.write(self.looks_path)

    def records(self, part: Part, *, normal: bool) -> list[Record]:
        """Normal or defect images of one part of the split, sorted by path; every file is what it was at the split.

        Raises LeakError when one has become a test image, ValueError when it has changed otherwise.
        """
        known = {*self.split.train, *self.split.val, *self.split.test}
        if new := [record.image for record in self.dataset.records if record.image not in known]:
            raise ValueError(
                f"{new[0]} and {len(new) - 1} more are not in {self.split_path}; "
                "the split is made once: start a new run folder for changed data"
            )
        chosen = set(getattr(self.split, part))
        found = [r for r in self.dataset.records if r.image in chosen and (r.defect is None) == normal]
        self.guard.check_unchanged(
            self.config.data.root,
            {record.image: self.split.sha256[record.image] for record in found},
            advice=f"{self.split_path} knows another picture of that name; restore it, or choose another output",
            are_test=part == "test",
        )
        return found

    def check_stored(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """For samples of the store, by their manifest lines, before anything learns from them.

        Raises LeakError when a picture has become a test image, ValueError when it has changed otherwise.
        """
        self.guard.check_unchanged(
            self.store_folder,
            {line["image"]: line["image_sha256"] for line in lines},
            advice="the store's manifest names another picture; run `fastsynth audit`, restore it or make it again",
        )

    def training_defects(self, part: Literal["train", "val"] = "train") -> list[Record]:
        """Defects the renderer may learn from, or stop by. Raises ValueError when one has no mask."""
        records = self.records(part, normal=False)
        for record in records:
            if record.mask is None:
                raise ValueError(f"{record.image} has no mask; add one or remove the image (fastsynth data check)")
        return records

    @cached_property
    def defect_pairs(self) -> list[tuple[str, str]]:
        """The (category, defect) pairs that can be learnt, sorted."""
        return sorted({(record.category, record.defect or "") for record in self.training_defects()})

    def exemplars(self, part: Literal["train", "val"]) -> list[Exemplar]:
        """The defects of one part, decoded, with the surroundings that the renderer's crops may show.

        Renderer and gate share one copy of every picture. Raises ValueError for a mask that does not fit its image.
        """
        exemplars = []
        for record in self.training_defects(part):
            assert record.defect is not None
            assert record.mask is not None
            exemplar = self._exemplars.get(record.image)
            if exemplar is None:
                image, foreground = self.read_with_halo(record)
                region = None if (found := object_region(image)).all() else found
                whole = Exemplar(image, foreground, record.category, record.defect, record.mask, region=region)
                exemplar = self._exemplars[record.image] = whole.without_the_rest(context=self.context)
            exemplars.append(exemplar)
        return exemplars

    @cached_property
    def training_normals(self) -> list[Record]:
        """Normal images to draw on."""
        return self.records("train", normal=True)

    @cached_property
    def halo(self) -> int:
        """Pixels by which masks of samples are wider than an annotator's."""
        if self.config.data.halo is not None:
            return self.config.data.halo
        return measure_halo((record.defect or "", *self.read(record)) for record in self.training_defects())

    @property
    def poses(self) -> Poses:
        """In which pictures may be shown to a renderer that learns, and drawn by it."""
        return Poses(self.config.layouts.quarter_turns, flip=self.config.layouts.flip)

    def training_sha256(self) -> str:
        """Hash of what the renderer may learn from: the split's images, and the masks of the training defects."""
        present = {record.image for record in self.dataset.records}  # of the chosen categories
        images = {image: sha256 for image, sha256 in self.split.sha256.items() if image in present}
        masks = {record.mask: sha256_file(self.path(record.mask)) for record in self.training_defects() if record.mask}
        return sha256_json([images, masks])

    def path(self, relative: str) -> Path:
        return self.config.data.root / relative

    @cached_property
    def layout_samplers(self) -> dict[str, LayoutSampler]:
        """One sampler per category, from the masks of the training defects."""
        records: dict[str, list[Record]] = {}
        for record in self.training_defects():
            records.setdefault(record.category, []).append(record)
        settings = {**self.config.layouts.model_dump(), "halo": self.halo}
        return {category: LayoutSampler(map(self._real_mask, found), **settings) for category, found in records.items()}

    def _real_mask(self, record: Record) -> RealMask:
        image, foreground = self.read(record)
        group = self.dataset.group_of(record)
        return RealMask.of(image, foreground, source=str(record.mask), defect=str(record.defect), group=group)

    def read(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """Image and foreground of a record; a normal one has an empty foreground."""
        image = read_image(self.path(record.image))
        if record.mask is None:
            return image, np.zeros(image.shape[:2], bool)
        foreground = read_mask(self.path(record.mask))
        if foreground.shape != image.shape[:2]:
            raise ValueError(
                f"{record.mask} is {foreground.shape}, its image is {image.shape[:2]}; "
                "save the mask at the image's size (fastsynth data check)"
            )
        if not foreground.any():
            raise ValueError(
                f"{record.mask}: the mask is empty; mark the defect or remove the pair (fastsynth data check)"
            )
        return image, foreground

    def read_with_halo(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """As `read`; the foreground wider by the halo, as masks of samples are."""
        image, foreground = self.read(record)
        return image, grow(foreground, self.halo)

    def training_settings(self) -> dict[str, Any]:
        """Dotted key → value of all settings that can change the trained weights."""
        poses = {"quarter turns within layouts.rotation_range": list(self.config.layouts.quarter_turns)}
        flip = {"layouts.flip": self.config.layouts.flip}
        common = {"seed": self.config.seed, "data.halo": self.halo}
        return {**common, **_training_settings(self.config.renderer, "renderer"), **poses, **flip}

    def _refuse_other_model(self) -> None:
        """Raises ValueError when the folder's model, finished or not, comes from other settings."""
        parts = self.parts  # each looks at its own; so one may be added
        path = self.model_folder / TRAINED_FROM
        if not path.is_file():
            return
        stored, wanted = read_json(path), self.training_settings()
        for key in sorted(stored.keys() | wanted.keys()):
            if stored.get(key) != wanted.get(key) and not (parts and key.startswith(PARTS_KEY)):
                raise ValueError(
                    f"{self.model_folder} is trained with {key} {stored.get(key)!r}, this configuration has "
                    f"{wanted.get(key)!r}; choose another output, or delete {self.model_folder} and "
                    f"{self.training_folder / 'checkpoints'} to train again"
                )

    def rendering_sha256(self) -> str:
        """Hash of all settings that can change a rendered sample."""
        return sha256_json(self.config.model_dump(mode="json", exclude=FREE_KEYS))

    def model_sha256(self) -> str | None:
        """Hash of the weights alone: a model's other files tell of clocks, paths and versions. None without any."""
        weights = "*.safetensors"
        return sha256_folder(self.model_folder, weights) if any(self.model_folder.rglob(weights)) else None

    def log(self, values: dict[str, Any]) -> None:
        """Append a line to log.jsonl; of several launched processes the main one does."""
        if process_index() > 0:
            return
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, sort_keys=True) + "\n")

    def record(self, stage: str, *, hash_data: bool = True) -> None:
        """Write down what a stage runs with: config.yaml, and environment.json, which keeps those of other stages.

        environment.json: `environment()`, and the hashes as the manifest and store.json have them; the same of every
        stage, as it was the last time, under "stages". hash_data: the data are known to be usable.
        """
        if process_index() > 0:
            return
        config = dump_config(self.config).encode()
        atomic_write(self.folder / "config.yaml", config)
        found = {
            **environment(),
            "config_yaml_sha256": sha256_bytes(config),
            "config_sha256": self.rendering_sha256(),
            "data_sha256": self.training_sha256() if hash_data else None,
            "model_sha256": self.model_sha256(),
        }
        path = self.folder / ENVIRONMENT
        before = read_json(path) if path.is_file() else None
        stages = before.get("stages") if isinstance(before, dict) else None
        write_json(path, {**found, "stage": stage, "stages": {**(stages or {}), stage: found}})

    def _record_model(self, stage: str) -> None:
        """A stage that trains ends with weights that it did not start with."""
        if process_index() > 0:
            return
        path, sha256 = self.folder / ENVIRONMENT, self.model_sha256()
        found = read_json(path)
        if found["model_sha256"] != sha256:
            found["model_sha256"] = found["stages"][stage]["model_sha256"] = sha256
            write_json(path, found)

    @contextmanager
    def stage(
        self, name: str, *, shared: bool = False, hash_data: bool = True, require: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """`record` a stage, and time it; its seconds go to the log when it ends, however it ends.

        Meanwhile no other process may run a stage in this folder, unless both are `shared`. Of several launched
        processes the main one does all that. require: may raise first. Raises InUseError when the folder is taken.
        """
        with Lock(self.folder, shared=True) if shared else lock_for_all(self.folder):
            require()
            self.record(name, hash_data=hash_data)
            started = time.monotonic()
            try:
                yield
                self._record_model(name)
            finally:
                self.log({"stage": name, "seconds": round(time.monotonic() - started, 3)})


class PartRun(Run):
    """A run as one part of its hybrid renderer sees it: with that renderer and a model folder of its own.

    Data, split, store, seeds and log are those of the whole run. Raises ValueError when the part's model comes from
    other settings.
    """

    def __init__(self, whole: Run, name: str, renderer: SingleConfig) -> None:
        vars(self).update(vars(whole))  # what is read once, like the training defects, is read once for all parts
        self.whole, self.name = whole, name
        self.config = whole.config.model_copy(update={"renderer": renderer})
        self._refuse_other_model()

    @property
    def model_folder(self) -> Path:
        return self.whole.model_folder / self.name

    @property
    def training_folder(self) -> Path:
        return self.folder / "parts" / self.name

    def log(self, values: dict[str, Any]) -> None:
        """As the whole run does, with the part's name."""
        self.whole.log({**values, "renderer": self.name})

    def record(self, stage: str, *, hash_data: bool = True) -> None:
        """The configuration and the hashes are those of the whole run."""
        self.whole.record(stage, hash_data=hash_data)

    def _record_model(self, stage: str) -> None:
        self.whole._record_model(stage)


def _training_settings(renderer: SingleConfig | HybridConfig, prefix: str) -> dict[str, Any]:
    """Of a hybrid, what its parts that are trained are trained with."""
    if not isinstance(renderer, HybridConfig):
        return dotted(renderer.model_dump(mode="json", include=TRAINING_KEYS, exclude={"base": SAMPLING_KEYS}), prefix)
    trained = {name: part.renderer for name, part in renderer.parts.items() if hasattr(part.renderer, "training")}
    found: dict[str, Any] = {f"{prefix}.kind": renderer.kind}
    for name, settings in trained.items():
        found |= _training_settings(settings, f"{prefix}.parts.{name}")
    return found
