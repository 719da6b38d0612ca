"""A run folder as a finished `fastsynth run` leaves it, with made-up numbers, and its report."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fastsynth.files import write_json
from fastsynth.images import encode_png, outline
from fastsynth.noise import fractal_noise
from fastsynth.report.html import write_report

DEFECTS = ("blowhole", "crack", "fray")
ARMS = (
    ("real", None, None, 0.0, None),
    ("real+synthetic", "fast", 1.0, 0.035, 0.21),
    ("real+synthetic", "fast", 2.0, 0.052, 0.21),
    ("real+synthetic", "copy-paste", 1.0, 0.012, 0.02),
    ("synthetic", "fast", 2.0, -0.09, 0.21),
)
VERDICT = (
    "Synthetic data helps: +5.2 mIoU points (95 % interval +2.2 to +8.0; 3 seeds, 60 defect test images) with fast in "
    "10 steps at ratio 1:2, the best of 3 arms; most for crack (+8.3) and blowhole (+6.2); no measurable gain for fray."
)


def make_run(folder: Path) -> Path:
    """Write every file the report reads."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "output: runs/magnetic-tile\nseed: 7\ndata:\n  root: data/magnetic_tile\n"
        "renderer:\n  kind: fast\n  num_inference_steps: 10\ngenerate:\n  count: 400\n"
    )
    write_json(folder / "environment.json", _environment())
    write_json(folder / "split.json", _split())
    write_json(folder / "metrics.json", _metrics(rng))
    _write_lines(folder / "log.jsonl", _log(rng))
    _write_lines(folder / "synthetic" / "manifest.jsonl", _manifest())
    _write_lines(folder / "synthetic" / "rejected" / "rejected.jsonl", _rejected())
    write_json(folder / "model" / "training.json", {"steps": 3000, "minutes": 70.0})
    for arm, renderer, ratio, gain, _ in ARMS[:3]:
        name = arm if renderer is None else f"{arm}-{renderer}-{ratio:g}"
        for seed in range(3):
            write_json(folder / "segment" / name / f"seed-{seed}" / "result.json", _result(rng, gain))
    (folder / "sheet.png").write_bytes(encode_png(_sheet(rng)))
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "magnetic-tile")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report, for tests that only look."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "magnetic-tile")
    write_report(folder)
    return folder


def _environment() -> dict[str, Any]:
    return {
        "created": "2026-05-04T09:30:00+00:00",
        "fastsynth": "0.1.0",
        "python": "3.11.7",
        "platform": "Linux-6.1-x86_64",
        "processor": "Some Processor 9000",
        "cores": 2,
        "memory_gb": 25.3,
        "packages": {"torch": "2.14.1", "diffusers": "0.42.1", "numpy": "2.4.6"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "command": "fastsynth run configs/magnetic_tile.yaml --seed 7",
    }


def _metrics(rng: np.random.Generator) -> dict[str, Any]:
    rows, differences = [], []
    for arm, renderer, ratio, gain, seconds in ARMS:
        for seed in range(3):
            per_defect = {
                defect: _scores(rng, 0.55 + gain + 0.06 * place, "iou") for place, defect in enumerate(DEFECTS)
            }
            rows.append(
                _scores(rng, 0.61 + gain, "miou")
                | {
                    "arm": arm,
                    "renderer": renderer,
                    "ratio": ratio,
                    "num_inference_steps": 10 if renderer == "fast" else 0,
                    "seed": seed,
                    "false_alarm": 0.08 - gain / 2 + rng.uniform(-0.01, 0.01),
                    "per_defect": per_defect,
                    "seconds_per_image": seconds,
                    "train_minutes": 6.4 + rng.uniform(),
                    "peak_memory_mb": 2110.0 + 40 * seed,
                }
            )
        if arm != "real":
            differences += _differences(rows[-1], gain)
    return {
        "command": "fastsynth run configs/magnetic_tile.yaml --seed 7",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "machine": {"processor": "Some Processor 9000", "cores": 2, "memory_gb": 25.3},
        "data": {"sha256": "9f2c41d08be3", "train_images": 64, "val_images": 16, "test_images": 61},
        "rules": {
            "empty_mask": "Pixels are summed over the images of a defect type before dividing.",
            "false_alarm": "A normal image is a false alarm when at least one of its pixels is predicted as defect.",
        },
        "rows": rows,
        "differences": differences,
        "verdict": VERDICT,
    }


def _scores(rng: np.random.Generator, level: float, name: str) -> dict[str, float]:
    offsets = {name: 0.0, "acc": 0.1, "f1": 0.12, "ap": 0.08, "pro": 0.2}
    return {key: float(level + offset + rng.uniform(-0.012, 0.012)) for key, offset in offsets.items()}


def _differences(row: dict[str, Any], gain: float) -> list[dict[str, Any]]:
    arm = {key: row[key] for key in ("arm", "renderer", "ratio", "num_inference_steps")} | {"baseline": "real"}
    kinds = [("miou", None, 1.0), ("acc", None, 0.8), ("ap", None, 0.9), ("false_alarm", None, -0.5)]
    kinds += [("miou", defect, scale) for defect, scale in zip(DEFECTS, (1.2, 1.6, 0.2), strict=True)]
    return [
        arm
        | {"metric": metric, "defect": defect}
        | {"mean": gain * scale, "low": gain * scale - 0.03, "high": gain * scale + 0.028}
        for metric, defect, scale in kinds
    ]


def _log(rng: np.random.Generator) -> list[dict[str, Any]]:
    steps = [
        {"stage": "train fast", "step": step, "loss": float(0.08 + np.exp(-step / 300) + rng.uniform(0, 0.04))}
        for step in range(0, 3000, 50)
    ]
    return [*steps, {"stage": "train fast", "seconds": 4200.0}, {"stage": "generate", "seconds": 130.0}]


def _result(rng: np.random.Generator, gain: float) -> dict[str, Any]:
    history = [
        {
            "iteration": iteration,
            "loss": float(0.15 + 0.8 * np.exp(-iteration / 120) + rng.uniform(0, 0.03)),
            "val_miou": float((0.62 + gain) * (1 - np.exp(-iteration / 150)) + rng.uniform(-0.015, 0.015)),
            "threshold": 0.5,
        }
        for iteration in range(50, 801, 50)
    ]
    return {"history": history, "iterations": 800, "seconds": 384.0, "threshold": 0.5, "val_miou": 0.6}


def _split() -> dict[str, Any]:
    def images(first: int, last: int) -> list[str]:
        return [f"test/{defect}/{number:03d}.png" for defect in DEFECTS for number in range(first, last)]

    normals = [f"train/good/{number:03d}.png" for number in range(50)]
    return {
        "train": [*images(0, 8), *normals[:40]],
        "val": [*images(8, 10), *normals[40:]],
        "test": [*images(10, 30), "test/good/000.png"],
        "seed": 7,
        "sha256": {},
    }


def _manifest() -> list[dict[str, Any]]:
    kinds = [("fast", defect) for defect in DEFECTS for _ in range(100)] + [("copy-paste", "crack")] * 100
    return [
        {
            "id": f"{number:06d}",
            "renderer": renderer,
            "category": "tile",
            "defect": defect,
            "image": f"tile/train/{defect}/{number:06d}.png",
            "mask": f"tile/ground_truth/{defect}/{number:06d}_mask.png",
            "source_image": "train/good/000.png",
            **dict.fromkeys(("source_sha256", "image_sha256", "mask_sha256", "config_sha256"), "x"),
            "model_sha256": None,
            "mask_source": "procedural:crack",
            "seed": number,
            "num_inference_steps": 0,
            "instances": [{"id": 1, "defect": defect, "bbox": [0, 0, 4, 5], "area": 20}],
            "checks": {"outside_unchanged": True, "changed_share": 1.0, "gate": None},
            "version": "0.1.0",
        }
        for number, (renderer, defect) in enumerate(kinds)
    ]


def _rejected() -> list[dict[str, Any]]:
    reasons = ["no visible defect"] * 31 + ["seam at the border"] * 9 + ["off the object"] * 4
    return [
        {"id": f"{number:06d}", "renderer": "fast", "defect": DEFECTS[number % 3], "reason": reason}
        for number, reason in enumerate(reasons)
    ]


def _sheet(rng: np.random.Generator) -> np.ndarray:
    """Two rows of five textures with an outlined blob: (348, 852, 3) uint8."""
    sheet = np.full((348, 852, 3), 255, np.uint8)
    for number in range(10):
        texture = np.clip(120 + 18 * fractal_noise((160, 160), cells=(4, 4), octaves=4, rng=rng), 0, 255)
        tile = np.repeat(texture.astype(np.uint8)[..., None], 3, axis=2)
        foreground = np.zeros((160, 160), np.uint8)
        center = tuple(int(place) for place in rng.integers(50, 110, 2))
        cv2.ellipse(foreground, center, (34, 7), float(rng.uniform(0, 180)), 0, 360, 1, -1)
        tile[foreground > 0] = tile[foreground > 0] // 2
        top, left = 8 + 172 * (number // 5), 8 + 168 * (number % 5)
        sheet[top : top + 160, left : left + 160] = outline(tile, foreground > 0)
    return sheet


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
