"""The augmentation stage on its own: a preview sheet, or a whole store written out augmented."""

from pathlib import Path

from tqdm import tqdm

from fastsynth.augment import augment_preview, augment_sample, build_augmentation, save_augmentation
from fastsynth.data.export.folder import inside
from fastsynth.data.medical.sidecar import write_notice
from fastsynth.data.store import read_manifest
from fastsynth.files import atomic_write
from fastsynth.images import encode_png, read_image, read_mask
from fastsynth.layouts.crop import ValueRange
from fastsynth.run import Run
from fastsynth.sheets import contact_sheet, save_sheet
from fastsynth.types import sample_seed

PREVIEW_COLUMNS = 6


def preview_augmentation(run: Run, path: Path) -> Path:
    """A sheet: one training defect per type, as it is and as training may see it."""
    first = {(record.category, record.defect): record for record in reversed(run.training_defects())}
    compose = build_augmentation(run.config.segment.augment)
    samples = [run.read(record) for record in first.values()]
    rows = augment_preview(compose, samples, columns=PREVIEW_COLUMNS, seed=run.config.seed)
    labels = [str(defect) for _, defect in first]
    columns = ["original", *(str(number) for number in range(1, PREVIEW_COLUMNS + 1))]
    save_sheet(path, contact_sheet(rows, row_labels=labels, column_labels=columns, tile=160))
    return path


def augment_store(run: Run, output: Path, *, copies: int) -> Path:
    """Write `copies` augmented versions of every stored sample as an MVTec-style tree, and the pipeline beside it.

    The result is a training set of its own without the store's promise that the background equals its source.
    """
    compose = build_augmentation(run.config.segment.augment)
    lines = list(read_manifest(run.store_folder))
    run.check_stored(lines)
    run.record("augment")
    for line in tqdm(lines, desc="augment"):
        image = read_image(inside(run.store_folder, line["image"]))
        foreground = read_mask(inside(run.store_folder, line["mask"]))
        for copy in range(copies):
            seed = sample_seed(run.config.seed, int(line["id"]), copy)
            augmented, changed = augment_sample(compose, image, foreground, seed=seed, values=ValueRange.of(image))
            name = f"{line['id']}_{copy}"
            folder = output / line["category"]
            atomic_write(folder / "train" / line["defect"] / f"{name}.png", encode_png(augmented))
            mask = folder / "ground_truth" / line["defect"] / f"{name}_mask.png"
            atomic_write(mask, encode_png(changed.astype("uint8") * 255))
    save_augmentation(compose, output / "augmentation.json")
    write_notice(run.store_folder, output)
    return output
