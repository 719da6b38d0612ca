"""One door for annotations of other tools: a file and its pictures go in, an MVTec tree comes out, whole or not."""

from pathlib import Path
from typing import Literal

from fastsynth.data.export.folder import new_folder
from fastsynth.data.imports.coco import read_coco
from fastsynth.data.imports.cvat import read_cvat
from fastsynth.data.imports.tree import Tree

ImportFormat = Literal["coco", "cvat"]


def import_annotations(file: Path, output: Path, *, kind: ImportFormat, images: Path) -> tuple[int, int]:
    """Write the new folder `output`; returns how many normal and how many defect pictures it holds.

    Raises ValueError or FileNotFoundError: `output` exists, a name leads out of `images`, file or pictures are wrong.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder; pass the folder of the pictures with --images")
    with new_folder(output) as folder:
        tree = Tree(folder, images)
        if kind == "coco":
            read_coco(file, tree)
        else:
            read_cvat(file, tree)
        if not tree.normals + tree.defects:
            raise ValueError(f"{file}: names no picture; export it again")
    return tree.normals, tree.defects
