"""Layout files: made from pictures, opened, saved. A layout's pictures lie beside it. No torch."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastsynth.data.export.folder import inside
from fastsynth.files import atomic_write, sha256_bytes, sha256_file
from fastsynth.images import read_image, read_mask
from fastsynth.layouts.editing_history import History
from fastsynth.layouts.layout_json import MAX_BYTES, LayoutDocument, PictureData, dump_document, parse_document
from fastsynth.layouts.parts import RealMask, split_parts
from fastsynth.types import Instance, Layout

Edits = Callable[[History], History]
"""What a history becomes by edits."""


@dataclass(frozen=True, eq=False)
class LayoutFile:
    """An opened layout file. picture: (H, W, C), or None when the background is the picture."""

    path: Path
    document: LayoutDocument
    history: History
    picture: np.ndarray | None

    @property
    def pictures(self) -> list[Path]:
        """The picture files beside it."""
        named = (self.document.background, self.document.picture)
        return [self.path.parent / data.file for data in named if data is not None]

    def describe(self) -> dict[str, Any]:
        """Source, seed, the instances as they are now, the edits and what was undone, as JSON values."""
        layout = self.history.layout
        return {
            "source": layout.source,
            "category": layout.category,
            "seed": self.document.seed,
            "instances": [described(instance) for instance in layout.instances],
            "edits": [edit.op for edit in self.history.edits],
            "undone": [edit.op for edit in self.history.undone],
        }


def open_layout(path: Path) -> LayoutFile:
    """Raises FileNotFoundError for missing files, ValueError for a document or pictures that cannot be believed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such layout; make one with --from-image, --from-store or --from-photo")
    with path.open("rb") as stored:
        document = parse_document(stored.read(MAX_BYTES + 1), source=str(path))
    background = _checked(path, document.background)
    picture = None if document.picture is None else _checked(path, document.picture)
    try:
        return LayoutFile(path, document, document.history(background), picture)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_layout(file: LayoutFile, history: History) -> LayoutFile:
    """Write the file with other edits, at once or not at all."""
    _ = history.layout
    document = file.document.with_history(history)
    atomic_write(file.path, dump_document(document).encode())
    return LayoutFile(file.path, document, history, file.picture)


def layout_from_image(
    path: Path,
    image: Path,
    *,
    category: str,
    mask: Path | None = None,
    defect: str | None = None,
    clean: Path | None = None,
    seed: int = 0,
    edits: Edits | None = None,
) -> LayoutFile:
    """A new layout file at `path` from a picture; the mask's parts become its instances.

    image: without a mask a normal picture. mask, defect: where its defects are and what they are.
    clean: the same picture without them; without it they can be restyled, but not removed or moved in an edit render.
    edits: as in `create_layout`.
    Raises ValueError or FileNotFoundError for files that do not fit one another, or when `path` exists.
    """
    if (mask is None) != (defect is None) or (clean is not None and mask is None):
        raise ValueError("a mask needs the name of its defect, a clean picture needs both; pass --mask and --defect")
    shown = read_image(image)
    instances: list[Instance] = []
    if mask is not None and defect is not None:
        foreground = read_mask(mask)
        if foreground.shape != shown.shape[:2]:
            raise ValueError(f"{mask} is {foreground.shape}, {image} is {shown.shape[:2]}; save it at the image's size")
        parts = split_parts(RealMask(mask.name, defect, foreground))
        if not parts:
            raise ValueError(f"{mask}: the mask is empty; mark the defect, or leave --mask out")
        instances = [
            Instance(number, defect, part.foreground, part.left, part.top, shape_source=mask.name)
            for number, part in enumerate(parts, start=1)
        ]
    background = image if clean is None else clean
    layout = Layout(read_image(background), background.name, category, tuple(instances))
    return create_layout(path, layout, background, None if clean is None else image, seed, edits=edits)


def described(instance: Instance) -> dict[str, Any]:
    """What a reader wants to know of an instance, as JSON values."""
    return {
        "id": instance.id,
        "defect": instance.defect,
        "bbox": list(instance.bbox),
        "area": instance.area,
        "style": None if instance.style is None else vars(instance.style),
        "locked": instance.locked,
        "severity": instance.severity,
    }


def create_layout(
    path: Path, layout: Layout, background: Path, picture: Path | None, seed: int, *, edits: Edits | None = None
) -> LayoutFile:
    """A new layout file at `path`: copies of the pictures beside it, byte for byte, and last the document.

    background: file of the layout's background. picture: of it with the instances; None: the background shows them.
    edits: the first ones; when they fail, nothing is written.
    Raises ValueError when `path` exists, or the pictures differ in size or depth.
    """
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists already; choose another name, or edit it without --from-…")
    if path.suffix.lower() != ".json":
        raise ValueError(f"{path}: a layout is written as .json")
    shown = None if picture is None else read_image(picture)
    if shown is not None and (shown.shape != layout.background.shape or shown.dtype != layout.background.dtype):
        raise ValueError(
            f"{picture} is {shown.dtype} {shown.shape}, {background} is {layout.background.dtype} "
            f"{layout.background.shape}; save the two alike"
        )
    history = History(layout)
    edited = history if edits is None else edits(history)
    stem = re.sub(r"[^\w.-]", "_", path.stem)
    copies = {
        part: (path.parent / f"{stem}_{part}{original.suffix}", original.read_bytes())
        for part, original in (("background", background), ("picture", picture))
        if original is not None
    }
    named = {part: PictureData(file=copy.name, sha256=sha256_bytes(data)) for part, (copy, data) in copies.items()}
    document = LayoutDocument.of(history, seed=seed, background=named["background"], picture=named.get("picture"))
    for copy, data in copies.values():
        if copy.exists() and copy.read_bytes() != data:
            raise ValueError(f"{copy} exists already; choose another name for the layout")
        atomic_write(copy, data)
    return save_layout(LayoutFile(path, document, history, shown), edited)


def _checked(path: Path, data: PictureData) -> np.ndarray:
    """The picture beside the document `path`. Raises ValueError when it is not the one the document was made with."""
    picture = inside(path.parent, data.file)
    if picture.is_file() and sha256_file(picture) != data.sha256:
        raise ValueError(f"{picture} changed since {path.name} was made; restore it, or make the layout again")
    return read_image(picture)
