"""Do thin cracks and pits of three pixels survive the autoencoder? Crops to look at, and the contrast that is kept.

    python benchmarks/fine_detail.py configs/magnetic_tile.yaml

The finest training defects of the run, and pits of 3 px drawn on its normal images, at native scale and enlarged to
the model's size as generation does it, each before and after encode and decode. Contrast is the mean difference between
the defect and the ring around it. Writes docs/fine_detail_<data>.jpg and benchmarks/results/fine_detail_<data>.json.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from record import record

from fastsynth.config import load_config
from fastsynth.diffusion.autoencoder import CompactAutoencoder
from fastsynth.diffusion.base import load_autoencoder
from fastsynth.layouts.crop import Crop, ValueRange, crop_around, cut, cut_mask, mask_to_model, ring, to_model
from fastsynth.layouts.parts import RealMask, split_parts
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from fastsynth.sheets import contact_sheet, save_sheet

SIZE, COLUMNS = 128, 8
PIT = 3
"""Side of a drawn pit, px."""
DARKER = 0.35
"""By how much of the value range a drawn pit is darker than its surroundings."""

Defect = tuple[np.ndarray, np.ndarray]
"""image (H, W, C), foreground (H, W) bool of one defect."""


def finest(run: Run) -> list[Defect]:
    """The thinnest defect parts of the training images, thinnest first: by area over length."""
    found = []
    for exemplar in run.exemplars("train"):
        for part in split_parts(RealMask(exemplar.source, exemplar.defect, exemplar.foreground)):
            height, width = part.foreground.shape
            foreground = np.zeros(exemplar.foreground.shape, bool)
            foreground[part.top : part.top + height, part.left : part.left + width] = part.foreground
            if part.foreground.sum() >= 9:
                found.append((part.foreground.sum() / np.hypot(height, width), len(found), exemplar.image, foreground))
    return [(image, foreground) for _, _, image, foreground in sorted(found, key=lambda entry: entry[:2])]


def pits(run: Run, rng: np.random.Generator) -> list[Defect]:
    """Normal images with one drawn pit each."""
    drawn = []
    for record_of in run.training_normals[:: max(1, len(run.training_normals) // COLUMNS)][:COLUMNS]:
        image = run.read(record_of)[0].copy()
        top, left = (int(rng.integers(length // 4, 3 * length // 4)) for length in image.shape[:2])
        foreground = np.zeros(image.shape[:2], bool)
        foreground[top : top + PIT, left : left + PIT] = True
        darker = image[foreground].astype(np.float64) - DARKER * np.iinfo(image.dtype).max
        image[foreground] = np.clip(darker, 0, None).astype(image.dtype)
        drawn.append((image, foreground))
    return drawn


def views(defects: list[Defect], *, native: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 3, S, S) float in [-1, 1] and masks (N, S, S) bool, one crop around each defect."""
    pictures, masks = [], []
    for image, foreground in defects:
        x, y, width, height = cv2.boundingRect(foreground.astype(np.uint8))
        if native:
            left = int(np.clip(x + width // 2 - SIZE // 2, 0, max(0, image.shape[1] - SIZE)))
            top = int(np.clip(y + height // 2 - SIZE // 2, 0, max(0, image.shape[0] - SIZE)))
            crop = Crop(left=left, top=top, side=SIZE)
        else:
            crop = crop_around((x, y, x + width, y + height), image_size=foreground.shape)
        pictures.append(to_model(cut(image, crop), size=SIZE, values=ValueRange.of(image)))
        masks.append(mask_to_model(cut_mask(foreground, crop), size=SIZE)[0] > 0)
    return np.stack(pictures), np.stack(masks)


def decoded(autoencoder: CompactAutoencoder, pictures: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return autoencoder(torch.from_numpy(pictures)).sample.clamp(-1, 1).numpy()


def contrasts(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(N,) mean inside the mask minus mean of the ring around it, of grey values in [-1, 1]."""
    grey = pictures.mean(1)
    return np.array([g[m].mean() - g[ring(m, width=4)].mean() for g, m in zip(grey, masks, strict=True)])


def main() -> None:
    config = Path(sys.argv[1])
    run = Run(load_config(RunConfig, config, sys.argv[2:]))
    autoencoder, rng = load_autoencoder(None), np.random.default_rng(run.config.seed)
    groups = {"thinnest defects": finest(run)[:: max(1, len(finest(run)) // (3 * COLUMNS))][:COLUMNS]}
    groups["pits of 3 px"] = pits(run, rng)
    rows, labels, kept = [], [], {}
    for name, defects in groups.items():
        for native in (True, False):
            pictures, masks = views(defects, native=native)
            after = decoded(autoencoder, pictures)
            scale = "native" if native else "enlarged"
            share = contrasts(after, masks) / contrasts(pictures, masks)
            kept[f"{name}, {scale}"] = round(float(np.median(share)), 3)
            for label, images in (("before", pictures), ("after", after)):
                rows.append([((image.transpose(1, 2, 0).clip(-1, 1) + 1) * 127.5).astype(np.uint8) for image in images])
                labels.append(f"{name}, {scale}, {label}")
    name = f"fine_detail_{config.stem}"
    print(record(name, {"median_share_of_contrast_kept": kept, "pit_px": PIT, "pit_darker_by": DARKER}))
    # after the record: a sheet that differs from the committed one would make the commit a dirty one
    save_sheet(Path("docs") / f"{name}.jpg", contact_sheet(rows, row_labels=labels, tile=SIZE))
    print(kept)


if __name__ == "__main__":
    main()
