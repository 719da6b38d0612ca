"""Image by image, without pooling: python benchmarks/per_image.py CONFIG [key.sub=value …]

CONFIG: of a run whose segmenters are trained. The IoU of a type in metrics.json pools its pixels, so one large false
alarm on one picture outweighs many thin cracks. Here every test image counts the same: mean IoU over a type's images,
mean over seeds, and in how many images an arm is better than the real one; and what share of a type's false pixels lies
on the one image that has most of them, mean over seeds. Writes benchmarks/results/per_image_<config>.json.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from fastsynth.config import load_config
from fastsynth.recipes.items import real_items
from fastsynth.recipes.judging import is_scored, planned_arms, train_arm
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from segment.compare import Arm
from segment.metrics import EDGES


def trained(run: Run) -> dict[str, list[Arm]]:
    """Arm → its segmenters, one for each seed."""
    found = {}
    for plan in planned_arms(run):
        seeds = [seed for seed in run.config.compare.seeds if is_scored(run, plan, seed=seed)]
        found[plan.folder] = [train_arm(run, plan, seed=seed) for seed in seeds]  # reads what is trained
    return found


def ious(arms: list[Arm]) -> np.ndarray:
    """IoU of every test image, defects and normals in the order of `real_items`: (seeds, images)."""
    return np.array([[image["iou"] for image in arm.scores.per_image(arm.threshold)] for arm in arms])


def false_pixels(arms: list[Arm]) -> np.ndarray:
    """Of every test image, in the same order: (seeds, images)."""
    found = []
    for arm in arms:
        called = arm.threshold <= EDGES
        found.append([image.negatives[called].sum() for image in arm.scores.images])
    return np.array(found)


def main(config: Path, changes: list[str]) -> None:
    run = Run(load_config(RunConfig, config, changes))
    defects = np.array([item.defect or "" for item in real_items(run, "test")])
    by_arm = trained(run)
    real = ious(by_arm["real"])
    rows: dict[str, Any] = {}
    for arm, arms in by_arm.items():
        values, false = ious(arms), false_pixels(arms)
        rows[arm] = {}
        for defect in sorted({*defects.tolist()} - {""}):
            of_type = defects == defect
            mean = values[:, of_type].mean(axis=0)
            better = int((mean > real[:, of_type].mean(axis=0)).sum())
            worst = false[:, of_type].max(axis=1) / false[:, of_type].sum(axis=1).clip(min=1)
            rows[arm][defect] = {
                "iou": float(mean.mean()),
                "images": int(of_type.sum()),
                "better_than_real": better,
                "false_pixels_of_worst_image": float(worst.mean()),
            }
        print(arm, rows[arm])
    print(record(f"per_image_{config.stem}", {"seeds": len(real), "arms": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
