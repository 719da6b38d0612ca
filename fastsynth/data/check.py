"""What is wrong with the user's images, found before hours are spent: every file is decoded, every problem named."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fastsynth.data.datasets import DataSet, Record, stem
from fastsynth.data.groups import GROUPS_FILE
from fastsynth.data.split import Split
from fastsynth.files import sha256_file
from fastsynth.images import IMAGE_SUFFIXES, list_images, read_mask, read_undamaged

MIN_SIDE = 16
"""Smaller pictures hold nothing to learn from, in pixels."""
BORDER: tuple[tuple[int | slice, int | slice], ...] = (
    (0, slice(None)),
    (-1, slice(None)),
    (slice(None), 0),
    (slice(None), -1),
)
"""Of a mask: its first and last row and column."""
NO_PICTURES = frozenset({"Thumbs.db", "desktop.ini"})
"""What file managers leave in folders of pictures."""
PER_DEFECT = frozenset({"test", "ground_truth", "defects", "masks"})
"""Folders that hold a folder for every defect type."""
HARMLESS = frozenset({"mask_without_image", "unused_groups", "duplicate_in_tree", "not_read", "same_name"})
"""Kinds of problems that leave every image usable."""


@dataclass(frozen=True)
class Problem:
    """One thing to repair.

    path: relative to the data root, forward slashes.
    message: one line: what is wrong and what to do.
    """

    path: str
    kind: Literal[
        "unreadable",
        "too_small",
        "image_without_mask",
        "mask_without_image",
        "wrong_size",
        "not_binary",
        "empty_mask",
        "mostly_marked",
        "unused_groups",
        "not_read",
        "same_name",
        "too_few",
        "duplicate_in_tree",
        "stale_split",
        "duplicate_across_parts",
    ]
    message: str

    @property
    def harmless(self) -> bool:
        """Whether a run may start all the same: nothing that is used is affected."""
        return self.kind in HARMLESS


def check_dataset(dataset: DataSet, split: Split | None = None) -> list[Problem]:
    """Decode every image and mask and list what is wrong, sorted by path; empty when all is well.

    With a split also: images it does not know, images that changed since, same bytes in different parts; without
    one, same bytes in the tree's own train and test folders.
    """
    problems = [
        Problem(mask, "mask_without_image", "no image has this name; rename it to <image name>_mask, or delete it")
        for mask in dataset.orphan_masks
    ]
    with ThreadPoolExecutor() as threads:
        for found in threads.map(lambda record: list(_check_record(dataset.root, record)), dataset.records):
            problems += found
    problems += [*_check_groups(dataset), *_check_counts(dataset), *_check_unread(dataset), *_check_names(dataset)]
    problems += _check_tree(dataset) if split is None else _check_split(dataset, split)
    return sorted(problems, key=lambda problem: (problem.path, problem.kind))


def _check_record(root: Path, record: Record) -> Iterator[Problem]:
    image = _decoded(root, record.image)
    if isinstance(image, Problem):
        yield image
    elif min(image.shape[:2]) < MIN_SIDE:
        yield Problem(
            record.image, "too_small", f"{_size(image)} pixels, at least {MIN_SIDE}×{MIN_SIDE} are needed; remove it"
        )
    if record.mask is not None:
        yield from _check_mask(root, record.mask, None if isinstance(image, Problem) else image)
    elif record.defect is not None:
        yield Problem(record.image, "image_without_mask", f"no mask; add {_mask_for(record)}, or remove the image")


def _mask_for(record: Record) -> str:
    """Where the mask of a defect image is looked for, below the root."""
    *above, kind, defect, _ = Path(record.image).parts
    name = stem(Path(record.image))
    found = ("masks", defect, f"{name}.png") if kind == "defects" else ("ground_truth", defect, f"{name}_mask.png")
    return Path(*above, *found).as_posix()


def _check_mask(root: Path, path: str, image: np.ndarray | None) -> Iterator[Problem]:
    pixels = _decoded(root, path)
    if isinstance(pixels, Problem):
        yield pixels
        return
    if image is not None and pixels.shape[:2] != image.shape[:2]:
        yield Problem(
            path, "wrong_size", f"mask is {_size(pixels)}, its image {_size(image)} pixels; save it at the image's size"
        )
    try:
        foreground = read_mask(root / path)
    except ValueError as error:  # it decodes, so its values are what is wrong
        yield Problem(path, "not_binary", _without_path(error, root / path))
        return
    if not foreground.any():
        yield Problem(path, "empty_mask", "no pixel is marked; draw the defect, or move its image to the normal ones")
    elif foreground.mean() > 0.5 and all(foreground[side].all() for side in BORDER):
        yield Problem(
            path,
            "mostly_marked",
            f"{foreground.mean():.0%} of the picture are marked, its whole border too; if it is inverted, or its shape "
            "is in an alpha channel or a colour table, save it with 0 outside and 255 inside",
        )


def _decoded(root: Path, path: str) -> np.ndarray | Problem:
    """The pixels, (H, W, C)."""
    try:
        return read_undamaged(root / path)
    except (ValueError, OSError) as error:
        message = _without_path(error, root / path)
        return Problem(path, "unreadable", message if ";" in message else f"{message}; save it again or remove it")


def _check_groups(dataset: DataSet) -> Iterator[Problem]:
    if dataset.groups and not any(dataset.group_of(record) for record in dataset.records):
        example = stem(Path(dataset.records[0].image))
        yield Problem(
            GROUPS_FILE,
            "unused_groups",
            f"no image has one of its names; write names without suffix: {example}",
        )


def _check_counts(dataset: DataSet) -> Iterator[Problem]:
    if not dataset.defects:
        yield Problem(".", "too_few", "no defect images; put some into test/<defect> or defects/<defect>, with masks")
    kinds: dict[tuple[str, str | None], list[str]] = {}
    for record in dataset.defects:
        kinds.setdefault((record.category, record.defect), []).append(record.image)
    for (_, defect), images in kinds.items():
        if len(images) == 1:
            message = "at least 2 are needed, one to learn from, one to judge on; add images or remove it"
            yield Problem(images[0], "too_few", f"the only image of {defect}: {message}")


def _check_unread(dataset: DataSet) -> Iterator[Problem]:
    """What lies in the folders of pictures and is none by its name: a user may believe that it is learnt from."""
    masks = (record.mask for record in dataset.records if record.mask)
    used = {Path(path).parent for path in (*(r.image for r in dataset.records), *masks, *dataset.orphan_masks)}
    beside = {folder.parent for folder in used if folder.parent.name in PER_DEFECT}
    folders = {dataset.root / folder for folder in used}
    folders |= {path for above in beside for path in (dataset.root / above).iterdir() if path.is_dir()}
    for folder in sorted(folders):
        pictures = set(list_images(folder))
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        unread = [path.name for path in entries if path not in pictures and path.name not in NO_PICTURES]
        if unread:
            wanted = " ".join(sorted(IMAGE_SUFFIXES))
            more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
            message = f"{unread[0]}{more} is not read; pictures lie in the folder itself and end in {wanted}"
            yield Problem(folder.relative_to(dataset.root).as_posix(), "not_read", message)


def _check_names(dataset: DataSet) -> Iterator[Problem]:
    first: dict[tuple[Path, str], Record] = {}
    for record in dataset.defects:
        path = Path(record.image)
        other = first.setdefault((path.parent, path.stem), record)
        if other is not record:
            message = f"the same name as {Path(other.image).name}: one mask serves both; rename one, and its mask"
            yield Problem(record.image, "same_name", message)


def _check_tree(dataset: DataSet) -> Iterator[Problem]:
    """Splitting makes a test image of both, so nothing leaks."""
    first: dict[str, Record] = {}
    for record in dataset.records:
        other = first.setdefault(sha256_file(dataset.root / record.image), record)
        if other.part != record.part:
            yield Problem(
                record.image, "duplicate_in_tree", f"the same picture as {other.image}; remove one of the two"
            )


def _check_split(dataset: DataSet, split: Split) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for record in dataset.records:
        image = record.image
        if image not in split.sha256:
            yield Problem(image, "stale_split", "not in the split; remove it, or make a new split in a new run")
            continue
        sha256 = sha256_file(dataset.root / image)
        if sha256 != split.sha256[image]:
            yield Problem(image, "stale_split", "changed since the split; restore it, or make a new split in a new run")
        other = first.setdefault(sha256, image)
        if split.part_of(other) != split.part_of(image):
            yield Problem(
                image,
                "duplicate_across_parts",
                f"in {split.part_of(image)}, but the same picture as {other} in {split.part_of(other)}; "
                "remove one, and make a new split in a new run",
            )


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"


def _without_path(error: Exception, path: Path) -> str:
    return " ".join(str(error).split()).removeprefix(f"{path}: ")
