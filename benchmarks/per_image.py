"""Image by image, without pooling: python benchmarks/per_image.py CONFIG [key.sub=value …]

CONFIG: of a run whose segmenters are trained. The IoU of a type in metrics.json pools its pixels, so one large false
alarm on one picture outweighs many thin cracks. Here every test image counts the same: mean IoU over a type's images,
mean over seeds, and in how many images an arm is better than the real one. Writes
benchmarks/results/per_image_<config>.json.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from fastsynth.config import load_config
from fastsynth.recipes.judging import is_scored, planned_arms, real_items, train_arm
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def ious(run: Run) -> dict[str, np.ndarray]:
    """Arm → IoU of every test image, defects and normals in the order of `real_items`: (seeds, images)."""
    found: dict[str, np.ndarray] = {}
    for plan in planned_arms(run):
        seeds = [seed for seed in run.config.compare.seeds if is_scored(run, plan, seed=seed)]
        arms = [train_arm(run, plan, seed=seed) for seed in seeds]  # reads what is trained
        found[plan.folder] = np.array([[i["iou"] for i in arm.scores.per_image(arm.threshold)] for arm in arms])
    return found


def main(config: Path, changes: list[str]) -> None:
    run = Run(load_config(RunConfig, config, changes))
    defects = np.array([item.defect or "" for item in real_items(run, "test")])
    by_arm = ious(run)
    real = by_arm["real"]
    rows: dict[str, Any] = {}
    for arm, values in by_arm.items():
        rows[arm] = {}
        for defect in sorted({*defects.tolist()} - {""}):
            of_type = defects == defect
            mean = values[:, of_type].mean(axis=0)
            better = int((mean > real[:, of_type].mean(axis=0)).sum())
            rows[arm][defect] = {"iou": float(mean.mean()), "images": int(of_type.sum()), "better_than_real": better}
        print(arm, rows[arm])
    print(record(f"per_image_{config.stem}", {"seeds": len(real), "arms": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
