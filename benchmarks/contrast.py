"""How dark defects are, real and drawn: python benchmarks/contrast.py CONFIG…

CONFIG: of finished runs on the same data, such as <output>/<row>/config.yaml of a table. Per defect type the median,
over pictures, of what the darkest tenth inside the mask has of the mean brightness around it (a ring, 2 to 7 px away):
of training and test defects, and of every run's samples. A scratch or a pit is told by its dark core, which a mean over
the mask hides. Recorded in benchmarks/results/contrast.json.
"""

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from record import record

from fastsynth.config import load_config
from fastsynth.data.manifest import read_manifest
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.crop import ring
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def darkest_tenth(image: np.ndarray, foreground: np.ndarray) -> float | None:
    """Of the mean around; None where nothing is around. image: (H, W, C). foreground: (H, W) bool."""
    grey, around = image.mean(axis=2), ring(foreground, width=6)
    if not around.any() or grey[around].mean() == 0:
        return None
    return float(np.quantile(grey[foreground], 0.1) / grey[around].mean())


def medians(pictures: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """By type. pictures: type, image, foreground."""
    found: dict[str, list[float]] = {}
    for defect, image, foreground in pictures:
        if (value := darkest_tenth(image, foreground)) is not None:
            found.setdefault(defect, []).append(value)
    return {defect: round(statistics.median(values), 3) for defect, values in sorted(found.items())}


def main(configs: list[Path]) -> None:
    runs = {path.parent.name: Run(load_config(RunConfig, path)) for path in configs}
    first = next(iter(runs.values()))
    rows = {
        "real, training": medians((str(r.defect), *first.read(r)) for r in first.training_defects()),
        "real, test": medians((str(r.defect), *first.read(r)) for r in first.records("test", normal=False)),
    }
    for name, run in runs.items():
        folder = run.store_folder
        lines = read_manifest(folder)
        rows[name] = medians(
            (str(line["defect"]), read_image(folder / line["image"]), read_mask(folder / line["mask"]))
            for line in lines
        )
    for name, values in rows.items():
        print(f"{name:16}", values)
    print(record("contrast", {"rows": rows}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", metavar="CONFIG", type=Path, nargs="+")
    main(parser.parse_args().configs)
