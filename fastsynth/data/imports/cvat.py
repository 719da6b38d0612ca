"""CVAT's "Segmentation mask 1.1" zip to an MVTec tree, exactly. Nothing of the archive is unpacked to disk."""

import zipfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.export.cvat import CLASSES, LABELS
from fastsynth.data.export.folder import inside
from fastsynth.data.imports.tree import Marks, Tree
from fastsynth.errors import shorten_words, shown
from fastsynth.images import IMAGE_SUFFIXES, image_size, parse_image

MAX_TEXT = 5_000_000
"""Bytes of a list of names or colours: longer ones are refused, whatever they are packed to."""
MAX_PICTURE = 1_000_000_000
"""Bytes of a picture of the archive."""
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What CVAT writes; of other compressions Python unpacks more than was asked for."""


def read_cvat(file: Path, tree: Tree) -> None:
    """Add every listed image; one without a mask, or with an empty one, is normal.

    Raises ValueError that names the entry when the file is no such zip or does not fit the pictures,
    FileNotFoundError when a picture or the file is missing.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give the zip that CVAT exports as Segmentation mask 1.1")
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; export it from CVAT as Segmentation mask 1.1")
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # of every kind on damaged files
        raise ValueError(f"{file}: not a readable zip ({_reason(error)}); export it again") from error
    with archive:
        colors = _colors(_read_text(archive, LABELS))
        pictures = cache(_pictures)
        for entry in sorted({name for name in archive.namelist() if name.startswith("ImageSets/Segmentation/")}):
            for line in _read_text(archive, entry).splitlines():
                if name := line.strip():
                    path = inside(tree.images, name)
                    found = pictures(path.parent).get(path.name, [])
                    if len(found) != 1:
                        what = f"{shorten_words(str(path))}: {len(found)} pictures of this name, wanted 1"
                        raise ValueError(f"{what}; pass their folder with --images")
                    picture = name + found[0]
                    tree.add(picture, _marks(archive, f"{CLASSES}/{name}.png", colors, tree.picture(picture)))


def _pictures(folder: Path) -> dict[str, list[str]]:
    """Stem → suffixes of the pictures directly in `folder`."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in folder.glob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found[path.stem].append(path.suffix)
    return found


def _marks(archive: zipfile.ZipFile, entry: str, colors: dict[int, str], picture: Path) -> Marks:
    marks = Marks()
    if entry not in archive.NameToInfo:
        return marks
    mask = parse_image(_read(archive, entry, MAX_PICTURE), entry)
    size = image_size(picture)
    if mask.dtype != np.uint8 or mask.shape[:2] != size:
        raise ValueError(
            f"{entry} is {mask.dtype} {mask.shape[:2]}, its picture {size} (height, width); wanted uint8 of the same"
        )
    channels = mask.astype(np.int32)
    codes = _code(*(channels[..., min(i, mask.shape[2] - 1)] for i in range(3)))
    for code in np.unique(codes).tolist():
        label = colors.get(code)
        if label is None:
            color = [code >> 16, code >> 8 & 255, code & 255]
            raise ValueError(f"{entry}: the colour {color} is not in {LABELS}; export the task again")
        if label != "background":
            marks.add(label, codes == code)
    return marks


def _colors(text: str) -> dict[int, str]:
    """Code of a colour → label, from lines like `crack:128,0,0::`."""
    colors = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, rest = line.partition(":")
            values = rest.split(":")[0].split(",")
            if len(values) != 3 or not all(v.strip().isdecimal() and len(v) < 9 and int(v) < 256 for v in values):
                raise ValueError(f"{LABELS}: {shown(line)}; wanted label:r,g,b::")
            colors[_code(*map(int, values))] = name
    return colors


def _code(red: Any, green: Any, blue: Any) -> Any:
    """One whole number for a colour, or an array of them: faster to look for than three."""
    return red << 16 | green << 8 | blue


def _read_text(archive: zipfile.ZipFile, name: str) -> str:
    try:
        return _read(archive, name, MAX_TEXT).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{archive.filename}: {shown(name)} is not UTF-8; export it again") from None


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """An entry of at most `limit` bytes; no more is unpacked, whatever its header says."""
    where = f"{archive.filename}: {shown(name)}"
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"{where} is missing; export it from CVAT as Segmentation mask 1.1") from None
    if entry.file_size > limit:
        raise ValueError(f"{where} has {entry.file_size:,} bytes; at most {limit:,} are read")
    if entry.compress_type not in PACKED:
        raise ValueError(f"{where} is packed in an unusual way ({entry.compress_type}); wanted deflate, pack it again")
    try:
        with archive.open(entry) as file:
            return file.read(entry.file_size)
    except Exception as error:  # of every kind on damaged files
        raise ValueError(f"{where} cannot be unpacked ({_reason(error)}); export it again") from error


def _reason(error: Exception) -> str:
    return shorten_words(" ".join(str(error).split())) or type(error).__name__
