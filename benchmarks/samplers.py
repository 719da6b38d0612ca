"""The sampler study: python benchmarks/samplers.py RUN.yaml 200 [key.sub=value …]

Draws the same 200 layouts with the same seeds in every cell of `sampler_cells.CELLS`, with the model that `fastsynth
run` or `fastsynth train RUN.yaml` has left, and measures

    distance of the defects to the real test defects, and their variety, per type and over all of them,
    seconds per image (rendering alone: no reading, no writing), calls of the denoiser as counted.

Every cell is a file in the run's folder, so the same command goes on where it was stopped; the finished ones are
gathered in benchmarks/results/samplers_<data>.json, from which `python benchmarks/samplers_page.py` writes the page.

    --list           print the cells and what they cost, measure nothing
    --only PATTERN   only cells whose name fits, as in a shell: '*_noise_*', 'plms*'
    --miou           also what a segmenter gains from each of them: a store of `generate.count` samples and, for every
                     seed of `compare.seeds`, one segmenter per cell; minutes to hours each, so use it with --only

A cell costs count · (a + b · calls) seconds, a being what an image costs without the denoiser and b what a call costs;
--list adds that up for a model of the default size, with a and b of benchmarks/results/sampling.json.
"""

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, record
from sampler_cells import CELLS, Cell
from tqdm import tqdm

from fastsynth.config import load_config
from fastsynth.diffusion.config import FASTConfig
from fastsynth.diffusion.renderer import FASTRenderer
from fastsynth.environment import environment
from fastsynth.files import read_json, sha256_folder, sha256_json, write_json
from fastsynth.layouts.severity import with_severity
from fastsynth.quality.image_metrics import (
    DIVERSITY_NAME,
    KID_NAME,
    Crops,
    KIDResult,
    defect_crops,
    diversity,
    kid,
    mean_kid,
    perceptual_embedding,
    trunk_features,
)
from fastsynth.recipes import fast
from fastsynth.recipes.judging import look_at_samples, planned_arms, real_segmenter, train_arm
from fastsynth.recipes.layouts import draw_layouts
from fastsynth.recipes.rendering import UNIT, generate
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from fastsynth.types import Layout, Sample, sample_seed
from segment.compare import REAL_AND_SYNTHETIC, results

FEWEST = 4
"""Real test defects of a type below which its distance says nothing."""
Pair = tuple[str, str]
"""Category and defect."""


@dataclass(frozen=True)
class RealDefects:
    """features: (N, D) of the test defects. looks: (M, E) perceptual embedding of the training defects."""

    features: np.ndarray
    looks: np.ndarray


class Study:
    """The cells of one trained run. Raises ValueError when the folder's cells were measured under other conditions."""

    def __init__(self, run: Run, *, count: int) -> None:
        if not isinstance(run.config.renderer, FASTConfig):
            raise ValueError(f"renderer.kind is {run.config.renderer.kind}; only fast has samplers to study")
        self.run, self.count, self.settings = run, count, run.config.renderer
        self.folder = run.folder / "samplers"
        self._claim()
        self.fast = fast.load(run, self.settings)
        self.levels = self.fast.pipeline.scheduler
        self.real = real_defects(run)

    def path(self, cell: Cell, *, miou: bool = False) -> Path:
        return self.folder / f"{cell.name}{'.miou' if miou else ''}.json"

    def renderer(self, cell: Cell) -> FASTRenderer:
        self.fast.pipeline.scheduler = cell.scheduler(self.levels)
        return FASTRenderer(
            self.fast.pipeline,
            self.fast.exemplars,
            context=self.settings.context,
            num_inference_steps=cell.calls,
            guidance_scale=cell.guidance_scale,
            farm=cell.farm,
            start=cell.start,
            strength=cell.strength,
            feather=self.settings.feather,
            background_mode=cell.background,
        )

    def warm_up(self, cell: Cell) -> None:
        """The first batch of a process is slower than all others: draw one that nobody times."""
        self._draw(self.renderer(cell), *next(self._units()))

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Draw all layouts and look at them; written to the cell's file."""
        renderer, seconds, drawn = self.renderer(cell), 0.0, 0
        crops: dict[Pair, list[Crops]] = {}
        calls: list[int] = []
        counter = renderer.pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
        try:
            for layouts, seeds in self._units():
                started = time.perf_counter()
                samples = self._draw(renderer, layouts, seeds)
                seconds += time.perf_counter() - started
                drawn += len(samples)
                for sample in samples:
                    pair = sample.layout.category, sample.layout.defect
                    crops.setdefault(pair, []).append(defect_crops([sample.image], [sample.mask > 0]))
        finally:
            counter.remove()
        types = {
            "/".join(pair): self._judge(real, together(crops[pair]))
            for pair, real in self.real.items()
            if len(crops.get(pair, [])) >= FEWEST
        }
        found = {
            **cell.values(),
            "name": cell.name,
            "nfe": len(calls) / (drawn // UNIT),
            "seconds_per_image": seconds / drawn,
            "kid": mean_kid([KIDResult(**each["kid"]) for each in types.values()])._asdict(),
            "types": types,
        }
        write_json(self.path(cell), found)
        return found

    def segment(self, cell: Cell) -> dict[str, Any]:
        """What the cell's samples give to a segmenter, against the run's own real arm; written beside the cell's file.

        A store below the cells' folder, with the run's split; resumable like the stages it is made of.
        """
        changes = {"output": self.folder / "stores" / cell.name, "renderer": cell.settings(self.settings)}
        run = Run(self.run.config.model_copy(update=changes))
        run.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.run.split_path, run.split_path)
        generate(run, renderer=self.renderer(cell))
        real, *others = planned_arms(self.run)
        seeds = self.run.config.compare.seeds
        arms = [train_arm(self.run, real, seed=seed) for seed in seeds]
        look_at_samples(run, real_segmenter(self.run))
        arms += [train_arm(run, p, seed=seed) for p in others if p.arm == REAL_AND_SYNTHETIC for seed in seeds]
        about = environment()
        judged = results(
            arms,
            command=about["command"],
            commit=about["commit"],
            machine={},
            data={},
            rng=np.random.default_rng(self.run.config.seed),
        )
        scores = [{key: row[key] for key in ("arm", "ratio", "seed", "miou")} for row in judged["rows"]]
        gains = [d for d in judged["differences"] if d["metric"] == "miou" and d["defect"] is None]
        found = {"name": cell.name, "scores": scores, "gains": gains, "verdict": judged["verdict"]}
        write_json(self.path(cell, miou=True), found)
        return found

    def gather(self) -> dict[str, Any]:
        """What is finished, in the order of the list."""
        done = [cell for cell in CELLS if self.path(cell).is_file()]
        cells = []
        for cell in done:
            miou = self.path(cell, miou=True)
            cells.append(read_json(self.path(cell)) | ({"miou": read_json(miou)} if miou.is_file() else {}))
        return {
            "cells": cells,
            "missing": [cell.name for cell in CELLS if cell not in done],
            "names": {"kid": KID_NAME, "diversity": DIVERSITY_NAME},
            "conditions": read_json(self.folder / "conditions.json"),
        }

    def _claim(self) -> None:
        """Every cell of the folder is drawn under the same conditions, or none of them compares."""
        conditions = {
            "count": self.count,
            "model_sha256": sha256_folder(self.run.model_folder, "*.safetensors"),
            "data_sha256": self.run.training_sha256(),
            "layouts_sha256": sha256_json(self.run.config.layouts.model_dump(mode="json")),
            "seed": self.run.config.seed,
            "context": self.settings.context,
            "feather": self.settings.feather,
            "threads": torch.get_num_threads(),
        }
        path = self.folder / "conditions.json"
        if not path.is_file():
            write_json(path, conditions)
        for key, value in read_json(path).items():
            if value != conditions[key]:
                raise ValueError(
                    f"{self.folder} was measured with {key} {value!r}, now it is {conditions[key]!r}; go on as it was, "
                    "or move the folder away to start again"
                )

    def _units(self) -> Iterator[tuple[list[Layout], list[int]]]:
        for start in range(0, self.count, UNIT):
            ids = range(start, start + UNIT)
            yield list(draw_layouts(self.run, ids)), [sample_seed(self.run.config.seed, i) for i in ids]

    def _draw(self, renderer: FASTRenderer, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[Sample]:
        return [with_severity(sample) for sample in renderer.render(layouts, seeds)]

    def _judge(self, real: RealDefects, made: Crops) -> dict[str, Any]:
        # the same halves of the real defects in every cell
        rng = np.random.default_rng(self.run.config.seed)
        looks = perceptual_embedding(made)
        return {
            "samples": len(made.images),
            "kid": kid(real.features, trunk_features(made), rng=rng)._asdict(),
            "diversity": diversity(looks, real.looks) if len(looks) > len(real.looks) else None,
        }


def real_defects(run: Run) -> dict[Pair, RealDefects]:
    """Per (category, defect). Raises ValueError when no type has enough test defects."""
    found = {}
    for pair in run.defect_pairs:
        known, unseen = (
            [run.read_with_halo(r) for r in run.records(part, normal=False) if (r.category, r.defect) == pair]
            for part in ("train", "test")
        )
        if len(unseen) >= FEWEST:
            crops = [defect_crops(*map(list, zip(*of_part, strict=True))) for of_part in (unseen, known)]
            found[pair] = RealDefects(trunk_features(crops[0]), perceptual_embedding(crops[1]))
    if not found:
        raise ValueError(f"no defect type has {FEWEST} test images; the distance to them would say nothing")
    return found


def together(crops: Sequence[Crops]) -> Crops:
    return Crops(torch.cat([each.images for each in crops]), torch.cat([each.masks for each in crops]))


def seconds(cell: Cell) -> float:
    """What an image of the cell costs a model of the default size on the machine of the recorded figure."""
    found = read_json(RESULTS / "sampling.json")
    medians = {name: times["median"] for name, times in found["seconds"].items()}
    call = medians["unet"] + medians["farm"]
    rest = medians["noise"] - found["steps"] * call
    calls = cell.calls if cell.guidance_scale == 1 else 2 * cell.calls
    cost: float = (rest + calls * call) / found["batch"]
    return cost


def fill(study: Study, cells: Sequence[Cell], *, miou: bool) -> None:
    """Measure what is missing."""
    missing = [cell for cell in cells if not study.path(cell).is_file()]
    if missing:
        study.warm_up(missing[0])
    with tqdm(total=sum(cell.calls for cell in missing), desc="samplers", unit="call") as bar:
        for cell in missing:
            bar.set_postfix_str(cell.name)
            study.measure(cell)
            bar.update(cell.calls)
    for cell in cells if miou else []:
        if not study.path(cell, miou=True).is_file():
            study.segment(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description="The sampler study of one trained run.")
    parser.add_argument("config", type=Path)
    parser.add_argument("count", type=int, help=f"images per cell, a multiple of {UNIT}")
    parser.add_argument("changes", nargs="*", metavar="key.sub=value", help="settings in place of the file's")
    parser.add_argument("--only", default="*", metavar="PATTERN")
    parser.add_argument("--list", action="store_true", dest="lists")
    parser.add_argument("--miou", action="store_true")
    arguments = parser.parse_args()
    cells = [cell for cell in CELLS if fnmatch(cell.name, arguments.only)]
    if not cells:
        parser.error(f"no cell fits {arguments.only!r}; --list shows their names")
    if arguments.count < UNIT or arguments.count % UNIT:
        parser.error(f"count is {arguments.count}; use a multiple of {UNIT}, what is drawn together")
    if arguments.lists:
        print(*(cell.name for cell in cells), sep="\n")
        print(
            f"{len(cells)} cells, {sum(seconds(cell) for cell in cells) * arguments.count / 3600:.1f} hours of drawing"
        )
        return
    run = Run(load_config(RunConfig, arguments.config, arguments.changes))
    study = Study(run, count=arguments.count)
    if study.settings.training.farm_share == 0 and any(cell.farm != "off" for cell in cells):
        parser.error(
            "cells with FARM need a model trained for it: append renderer.training.farm_share=0.5, train so, too"
        )
    fill(study, cells, miou=arguments.miou)
    data = run.config.data.root.name
    print(record(f"samplers_{data}", {"data": data, **study.gather()}))


if __name__ == "__main__":
    main()
