"""The MVTec tree that imports are written to: train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from fastsynth.data.datasets import MAX_NAME, NO_NAME, check_defect_name
from fastsynth.data.export.folder import inside, write
from fastsynth.errors import shorten_words, shown
from fastsynth.images import IMAGE_SUFFIXES, encode_png
from fastsynth.types import COMBINED


@dataclass
class Marks:
    """What is marked in one picture, all regions united. foreground: (H, W) bool, None as long as no pixel is."""

    defects: set[str] = field(default_factory=set)
    foreground: np.ndarray | None = None

    def add(self, defect: str, region: np.ndarray) -> None:
        """region: (H, W) bool; an empty one marks nothing. Raises ValueError for a name no defect folder can have."""
        check_defect_name(defect)
        if region.any():
            self.defects.add(defect)
            self.foreground = region.copy() if self.foreground is None else self.foreground | region


@dataclass
class Tree:
    """Takes one picture after the other. images: folder they come from. normals, defects: how many were taken."""

    folder: Path
    images: Path
    normals: int = 0
    defects: int = 0
    _stems: set[str] = field(default_factory=set)

    def add(self, name: str, marks: Marks) -> None:
        """Copy the picture `name` as it is; without a marked pixel it is normal.

        Several defects in one picture go to `combined`, as in MVTec. Raises ValueError for a name that leaves a
        folder, is hidden or too long, or meets another one, FileNotFoundError when there is no such picture.
        """
        source = self.picture(name)
        flat = "_".join(PurePosixPath(name).parts)
        stem = flat[: -len(source.suffix)]
        if flat.startswith(".") or len(flat.encode()) > MAX_NAME:
            raise ValueError(
                f"picture {shown(name)}: a name may not be hidden, nor longer than {MAX_NAME} bytes with its "
                "folders; rename it"
            )
        if stem.casefold() in self._stems:
            raise ValueError(f"{name!r}: another picture is called {stem} too; rename one")
        self._stems.add(stem.casefold())
        if marks.foreground is None:
            self._copy(source, self.folder / "train" / "good" / flat)
            self.normals += 1
            return
        (folder,) = marks.defects if len(marks.defects) == 1 else (COMBINED,)
        self._copy(source, inside(self.folder, f"test/{folder}/{flat}"))
        mask = marks.foreground.astype(np.uint8) * 255
        write(inside(self.folder, f"ground_truth/{folder}/{stem}_mask.png"), encode_png(mask))
        self.defects += 1

    def picture(self, name: str) -> Path:
        """Where the picture is. Raises ValueError or FileNotFoundError for a name that is none."""
        if NO_NAME.search(name):
            raise ValueError(f"{shown(name)} is not the path of a picture; export the file again")
        source = inside(self.images, name)
        if not source.is_file():
            where = shorten_words(str(source))
            raise FileNotFoundError(f"{where}: no such file; pass the folder of the pictures with --images")
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{shown(name)} is not a picture; wanted {', '.join(sorted(IMAGE_SUFFIXES))}")
        return source

    def _copy(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
