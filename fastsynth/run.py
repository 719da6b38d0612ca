"""A run folder and what is read from it: configuration, data set, split, log. The files are those of product.md 3.

A stage that needs an earlier one finds its files here; nothing is passed between stages in memory only, so every
stage can be run, killed and resumed on its own.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np

from fastsynth.config import dump_config
from fastsynth.data.datasets import DataSet, Record, open_dataset, require_defects
from fastsynth.data.split import LeakGuard, Part, Split, make_split
from fastsynth.diffusion.pretrained.config import SAMPLING_KEYS
from fastsynth.environment import environment
from fastsynth.files import atomic_write, read_json, sha256_file, sha256_json, write_json
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.exemplar import Exemplar
from fastsynth.layouts.masks import RealMask
from fastsynth.layouts.sampler import LayoutSampler
from fastsynth.locks import Lock, lock_for_all
from fastsynth.processes import process_index
from fastsynth.run_config import RunConfig

FREE_KEYS = {"output", "device", "data", "generate", "segment", "compare"}
"""Sections that cannot change a sample: the data are hashed by content, and more samples may be added."""
TRAINING_KEYS = {"kind", "base", "network", "training", "crop_size", "context"}
"""Keys of the section `renderer` on which the trained weights depend; the others may change after training."""
TRAINED_FROM = "trained_from.json"


class Run:
    """One run folder. Opening it only reads: a stage writes config.yaml and environment.json, first use split.json.

    Raises ValueError or FileNotFoundError for data that cannot be used.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder = config.output
        self._exemplars: WeakValueDictionary[str, Exemplar] = WeakValueDictionary()
        self.dataset: DataSet = open_dataset(
            config.data.root, categories=config.data.categories, follow_links=config.data.follow_links
        )
        require_defects(self.dataset)
        self._refuse_other_model()

    @property
    def split_path(self) -> Path:
        return self.folder / "split.json"

    @property
    def store_folder(self) -> Path:
        return self.folder / "synthetic"

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    @cached_property
    def split(self) -> Split:
        """split.json, made at first use and never again."""
        planned = self.planned_split()
        if not self.split_path.is_file():
            planned.write(self.split_path)
        return planned

    def planned_split(self) -> Split:
        """What split.json holds, or will; writes nothing. Raises ValueError when it was made with other settings."""
        settings = self.config.split.model_dump()
        if not self.split_path.is_file():
            return make_split(self.dataset, seed=self.config.seed, **settings)
        split = Split.read(self.split_path)
        for key, value in split.settings.items():
            if value != settings[key]:
                raise ValueError(
                    f"{self.split_path} is made with split.{key} {value}, this configuration has {settings[key]}; "
                    "the split is made once: choose another output"
                )
        return split

    @cached_property
    def guard(self) -> LeakGuard:
        return LeakGuard(self.split)

    def records(self, part: Part, *, normal: bool) -> list[Record]:
        """Normal or defect images of one part of the split, sorted by path."""
        known = {*self.split.train, *self.split.val, *self.split.test}
        new = [record.image for record in self.dataset.records if record.image not in known]
        if new:
            raise ValueError(
                f"{new[0]} and {len(new) - 1} more are not in {self.split_path}; "
                "the split is made once: start a new run folder for changed data"
            )
        chosen = set(getattr(self.split, part))
        return [r for r in self.dataset.records if r.image in chosen and (r.defect is None) == normal]

    def training_defects(self, part: Literal["train", "val"] = "train") -> list[Record]:
        """Defects the renderer may learn from, or stop by; every file has passed the leak guard."""
        records = self.records(part, normal=False)
        for record in records:
            if record.mask is None:
                raise ValueError(f"{record.image} has no mask; add one or remove the image (fastsynth data check)")
        self.guard.check(self.path(record.image) for record in records)
        return records

    @cached_property
    def defect_pairs(self) -> list[tuple[str, str]]:
        """The (category, defect) pairs that can be learnt, sorted."""
        return sorted({(record.category, record.defect or "") for record in self.training_defects()})

    def exemplars(self, part: Literal["train", "val"]) -> list[Exemplar]:
        """The defects of one part, decoded. Raises ValueError for a mask that does not fit its image.

        What somebody still holds is not read again: the renderer and the gate share one copy of every picture.
        """
        found = []
        for record in self.training_defects(part):
            assert record.defect is not None
            assert record.mask is not None
            exemplar = self._exemplars.get(record.image)
            if exemplar is None:
                exemplar = Exemplar(*self.read(record), record.category, record.defect, record.mask)
                self._exemplars[record.image] = exemplar
            found.append(exemplar)
        return found

    @cached_property
    def training_normals(self) -> list[Record]:
        """Normal images to draw on; every file has passed the leak guard."""
        records = self.records("train", normal=True)
        self.guard.check(self.path(record.image) for record in records)
        return records

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
        masks: dict[str, list[RealMask]] = {}
        for record in self.training_defects():
            assert record.mask is not None
            assert record.defect is not None
            foreground = read_mask(self.path(record.mask))
            masks.setdefault(record.category, []).append(RealMask(record.mask, record.defect, foreground))
        settings = self.config.layouts.model_dump()
        return {category: LayoutSampler(found, **settings) for category, found in masks.items()}

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

    def training_settings(self) -> dict[str, Any]:
        """Dotted key → value of all settings that can change the trained weights."""
        renderer = self.config.renderer.model_dump(mode="json", include=TRAINING_KEYS, exclude={"base": SAMPLING_KEYS})
        return {"seed": self.config.seed, **dotted(renderer, "renderer")}

    def _refuse_other_model(self) -> None:
        """Raises ValueError when the folder's model, finished or not, comes from other settings."""
        path = self.model_folder / TRAINED_FROM
        if not path.is_file():
            return
        stored, wanted = read_json(path), self.training_settings()
        for key in sorted(stored.keys() | wanted.keys()):
            if stored.get(key) != wanted.get(key):
                raise ValueError(
                    f"{self.model_folder} is trained with {key} {stored.get(key)!r}, this configuration has "
                    f"{wanted.get(key)!r}; choose another output, or delete {self.model_folder} and "
                    f"{self.folder / 'checkpoints'} to train again"
                )

    def rendering_sha256(self) -> str:
        """Hash of all settings that can change a rendered sample."""
        return sha256_json(self.config.model_dump(mode="json", exclude=FREE_KEYS))

    def log(self, values: dict[str, Any]) -> None:
        """Append a line to log.jsonl; of several launched processes the main one does."""
        if process_index() > 0:
            return
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, sort_keys=True) + "\n")

    @contextmanager
    def stage(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Write down what a stage runs with, and time it; its seconds go to the log when it ends, however it ends.

        Meanwhile no other process may run a stage in this folder, unless both are `shared`. Of several launched
        processes the main one does all that. Raises InUseError, a ValueError, when the folder is taken.
        """
        with Lock(self.folder, shared=True) if shared else lock_for_all(self.folder):
            if process_index() == 0:
                atomic_write(self.folder / "config.yaml", dump_config(self.config).encode())
                write_json(self.folder / "environment.json", environment())
            started = time.monotonic()
            try:
                yield
            finally:
                self.log({"stage": name, "seconds": round(time.monotonic() - started, 3)})


def dotted(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Nested mappings as one, with keys like `renderer.base.token_width`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        flat |= dotted(value, name) if isinstance(value, dict) else {name: value}
    return flat
