"""CVAT's "Segmentation mask 1.1" zip to an MVTec tree, exactly. Nothing of the archive is unpacked to disk."""

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from fastsynth.data.export.cvat import CLASSES, LABELS
from fastsynth.data.export.folder import inside
from fastsynth.data.imports.tree import Tree
from fastsynth.images import IMAGE_SUFFIXES, MAX_PIXELS, image_size

MAX_BYTES = 1_000_000_000
"""Larger entries of an archive are refused."""


def read_cvat(file: Path, tree: Tree) -> None:
    """Add every listed image; one without a mask, or with an empty one, is normal.

    Raises ValueError that names the entry when the file is no such zip or does not fit the pictures.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; export it from CVAT as Segmentation mask 1.1")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = set(archive.namelist())
            colors = _colors(_read(archive, LABELS).decode())
            for name in sorted(entry for entry in entries if entry.startswith("ImageSets/Segmentation/")):
                for stem in _read(archive, name).decode().splitlines():
                    if stem.strip():
                        _add(archive, entries, stem.strip(), colors, tree)
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{file}: not a readable zip ({error}); export it again") from error


def _add(
    archive: zipfile.ZipFile, entries: set[str], stem: str, colors: dict[tuple[int, ...], str], tree: Tree
) -> None:
    image = _find(tree.images, stem)
    entry = f"{CLASSES}/{stem}.png"
    regions = []
    if entry in entries:
        mask = _decode(_read(archive, entry), entry, size=image_size(inside(tree.images, image)))
        for color in np.unique(mask.reshape(-1, 3), axis=0).tolist():
            label = colors.get(tuple(color))
            if label is None:
                raise ValueError(f"{entry}: the colour {color} is not in {LABELS}; export the task again")
            if label != "background":
                regions.append((label, (mask == color).all(axis=2)))
    tree.add(image, regions)


def _find(images: Path, stem: str) -> str:
    """Name of the picture with this stem, which may hold folders."""
    path = inside(images, stem)
    found = sorted(
        other.suffix
        for other in path.parent.glob("*")
        if other.stem == path.name and other.suffix.lower() in IMAGE_SUFFIXES
    )
    if len(found) != 1:
        raise ValueError(f"{path}: {len(found)} pictures of this name, wanted 1; pass their folder with --images")
    return stem + found[0]


def _colors(text: str) -> dict[tuple[int, ...], str]:
    """Colour → label from lines like `crack:128,0,0::`."""
    colors = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, rest = line.partition(":")
            try:
                color = tuple(int(value) for value in rest.split(":")[0].split(","))
            except ValueError:
                raise ValueError(f"{LABELS}: {line!r}; wanted label:r,g,b::") from None
            colors[color] = name
    return colors


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"{archive.filename}: no {name}; export it from CVAT as Segmentation mask 1.1") from None
    if entry.file_size > MAX_BYTES:
        raise ValueError(f"{archive.filename}: {name} has {entry.file_size:,} bytes; at most {MAX_BYTES:,} are read")
    return archive.read(entry)


def _decode(data: bytes, name: str, *, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 of a PNG whose header says the right size: nothing larger is decoded."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            found = (header.height, header.width)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{name}: not a readable picture; export the task again") from error
    if found != size or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{name} is {found}, its picture {size} (height, width); wanted the same, not above {MAX_PIXELS:,}"
        )
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"{name}: cannot be decoded; export the task again")
    return np.asarray(pixels[..., ::-1], np.uint8)
