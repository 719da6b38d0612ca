"""The MVTec tree that imports are written to: train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from fastsynth.data.export.folder import inside, write
from fastsynth.images import IMAGE_SUFFIXES, encode_png
from fastsynth.types import COMBINED


@dataclass
class Tree:
    """Takes one picture after the other. images: folder they come from. normals, defects: how many were taken."""

    folder: Path
    images: Path
    normals: int = 0
    defects: int = 0
    _stems: set[str] = field(default_factory=set)

    def add(self, name: str, regions: list[tuple[str, np.ndarray]]) -> None:
        """Copy the picture `name` as it is. regions: defect names and (H, W) bool; without any the picture is normal.

        Several defects in one picture go to `combined`, as in MVTec. Raises ValueError for a name that leaves a
        folder or meets another one, FileNotFoundError when there is no such picture.
        """
        source = inside(self.images, name)
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such file; pass the folder of the pictures with --images")
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{name!r} is not a picture; wanted {', '.join(sorted(IMAGE_SUFFIXES))}")
        flat = "_".join(PurePosixPath(name).parts)
        stem = flat[: -len(source.suffix)]
        if stem.casefold() in self._stems:
            raise ValueError(f"{name!r}: another picture is called {stem} too; rename one")
        self._stems.add(stem.casefold())
        regions = [(defect, mask) for defect, mask in regions if mask.any()]
        defects = {defect for defect, _ in regions}
        if not defects:
            self._copy(source, self.folder / "train" / "good" / flat)
            self.normals += 1
            return
        folder = defects.pop() if len(defects) == 1 else COMBINED
        if folder == "good" or "/" in folder:
            raise ValueError(f"{folder!r} cannot be the name of a defect folder; rename the label")
        self._copy(source, inside(self.folder, f"test/{folder}/{flat}"))
        mask = np.logical_or.reduce([mask for _, mask in regions]).astype(np.uint8) * 255
        write(inside(self.folder, f"ground_truth/{folder}/{stem}_mask.png"), encode_png(mask))
        self.defects += 1

    def _copy(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
