"""Large pictures, many defect types: python benchmarks/extremes.py [width] [height] [types] [defects]

30 defects on pictures of 12,000 × 9,000 pixels, a third of them to learn from: copy-paste renders two samples, gate
on, audits and exports them; a FAST is trained for a few steps and draws one, which the gate judges. Peak memory must
stay below 4 GB. Then one FAST is trained for a few steps on a third of 1,000 defects of 40 types and draws two of each.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from record import record
from scale import measured

from fastsynth.config import parse_config
from fastsynth.data.export.formats import export_store
from fastsynth.data.store import read_manifest
from fastsynth.files import atomic_write
from fastsynth.images import encode_png
from fastsynth.recipes.rendering import audit_store, generate, train_renderer
from fastsynth.run import Run
from fastsynth.run_config import RunConfig

LARGE_DEFECTS = 30
FORMATS = ("coco", "coco-polygons", "yolo", "cvat", "imagefolder", "webdataset", "mvtec")


def write_jpeg(path: Path, image: np.ndarray) -> None:
    encoded, data = cv2.imencode(".jpg", image)
    assert encoded
    atomic_write(path, data.tobytes())


def make_large(root: Path, width: int, height: int) -> None:
    """Two normal pictures and `LARGE_DEFECTS` with a dark spot, grainy, as JPEG."""
    rng = np.random.default_rng(0)
    tile = np.clip(rng.normal(128, 12, (512, 512, 3)), 0, 255).astype(np.uint8)
    surface = np.tile(tile, (height // 512 + 1, width // 512 + 1, 1))[:height, :width]
    for number in range(2):
        write_jpeg(root / f"normal/{number}.jpg", np.roll(surface, 97 * number, axis=0))
    for number in range(LARGE_DEFECTS):
        mask = np.zeros((height, width), np.uint8)
        at = (int(rng.integers(200, width - 200)), int(rng.integers(200, height - 200)))
        cv2.ellipse(mask, at, (60, 25 + 2 * number), 30 * number, 0, 360, 255, -1)
        image = np.roll(surface, 31 * number, axis=1)
        image[mask > 0] //= 3
        write_jpeg(root / f"defects/spot/{number}.jpg", image)
        atomic_write(root / f"masks/spot/{number}.png", encode_png(mask[..., None]))


def make_types(root: Path, types: int, defects: int, side: int = 96) -> None:
    """Bars that differ from type to type by length, width and brightness."""
    rng = np.random.default_rng(0)
    for number in range(40):
        image = np.clip(rng.normal(120, 10, (side, side, 3)), 0, 255).astype(np.uint8)
        atomic_write(root / f"normal/{number}.png", encode_png(image))
    for number in range(defects):
        kind = number % types
        image = np.clip(rng.normal(120, 10, (side, side, 3)), 0, 255).astype(np.uint8)
        mask = np.zeros((side, side), np.uint8)
        left, top = (int(value) for value in rng.integers(4, side - 40, 2))
        mask[top : top + 4 + kind % 5 * 3, left : left + 8 + kind // 5 * 3] = 255
        image[mask > 0] = 20 + kind * 5
        name = f"type_{kind:02}/{number:04}.png"
        atomic_write(root / "defects" / name, encode_png(image))
        atomic_write(root / "masks" / name, encode_png(mask[..., None]))


def open_run(folder: Path, data: Path, **values: object) -> Run:
    settings = {"output": folder, "data": {"root": data}, "device": "cpu", **values}
    return Run(parse_config(RunConfig, settings, source="benchmark"))


def render_large(root: Path) -> None:
    run = open_run(root / "run", root / "data", renderer={"kind": "copy_paste"}, generate={"count": 2})
    generate(run)
    report = audit_store(run)
    assert (report.samples, report.problems) == (2, []), report.problems


def export_large(root: Path) -> None:
    for kind in FORMATS:
        assert export_store(root / "run" / "synthetic", root / kind, kind=kind, data_root=root / "data") == 2
        shutil.rmtree(root / kind)


def train_large(root: Path) -> None:
    training = {"max_train_steps": 8, "batch_size": 8, "defect_crops": LARGE_DEFECTS, "normal_crops": 2}
    renderer = {"crop_size": 32, "num_inference_steps": 2, "training": training}
    run = open_run(root / "fast", root / "data", renderer=renderer, generate={"count": 1, "gate": {"attempts": 1}})
    train_renderer(run)
    generate(run)
    refused = (run.store_folder / "rejected.jsonl").is_file()  # eight steps teach little
    assert refused or len(list(read_manifest(run.store_folder))) == 1


def train_types(root: Path, types: int) -> None:
    training = {"max_train_steps": 8, "batch_size": 8, "defect_crops": 2 * types, "normal_crops": types}
    renderer = {"crop_size": 32, "num_inference_steps": 2, "training": training}
    wanted = {"count": 2 * types, "gate": {"enabled": False}}  # eight steps teach nothing that a gate would let pass
    run = open_run(root / "run", root / "data", renderer=renderer, generate=wanted)
    train_renderer(run)
    generate(run)
    assert len({line["defect"] for line in read_manifest(run.store_folder)}) == types


def main(width: int, height: int, types: int, defects: int) -> None:
    cv2.setNumThreads(1)
    root = Path(tempfile.mkdtemp(prefix="fastsynth-extremes-"))
    try:
        make_large(root / "large" / "data", width, height)
        make_types(root / "types" / "data", types, defects)
        rows = {
            f"copy-paste of {LARGE_DEFECTS} defects of {width} × {height}": measured(
                lambda: render_large(root / "large")
            ),
            f"export of 2 samples of {width} × {height}": measured(lambda: export_large(root / "large")),
            f"FAST of {LARGE_DEFECTS} defects of {width} × {height}": measured(lambda: train_large(root / "large")),
            f"{defects} defects of {types} types": measured(lambda: train_types(root / "types", types)),
        }
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name, row in rows.items():
        print(name, *(f"{value:.0f} {key}" for key, value in row.items()), sep=", ")
    print(record("extremes", {"width": width, "height": height, "types": types, "defects": defects, "rows": rows}))


if __name__ == "__main__":
    arguments = [int(value) for value in sys.argv[1:]]
    main(*(arguments + [12_000, 9_000, 40, 1_000][len(arguments) :]))
