"""MVTec tree: <category>/train/good, <category>/test/<defect>, <category>/ground_truth/<defect>/<id>_mask.png. Exact.

The normal images are the sources of the samples, so no image of the test split gets in. Lost: which pixels of a
`combined` sample are which class. The tree calls its defect folder `test`; the samples are training data all the same.
"""

from collections.abc import Iterable
from pathlib import Path

from fastsynth.data.export.folder import inside, write
from fastsynth.data.export.reading import StoredSample
from fastsynth.files import sha256_bytes


def write_mvtec(samples: Iterable[StoredSample], folder: Path, *, data_root: Path) -> None:
    """data_root: where the samples' `source_image` paths start."""
    normals = Normals(data_root)
    for sample in samples:
        category, defect = (inside(folder, sample.line["category"]), sample.line["defect"])
        write(inside(category, f"test/{defect}/{sample.id}.png"), sample.data("image"))
        write(inside(category, f"ground_truth/{defect}/{sample.id}_mask.png"), sample.data("mask"))
        normals.copy(sample, category / "train" / "good")


class Normals:
    """Copies the source of each sample, once."""

    def __init__(self, data_root: Path) -> None:
        self.data_root = data_root
        self._copied: set[Path] = set()

    def copy(self, sample: StoredSample, folder: Path) -> None:
        """Into `folder`, as <stem>_<hash>: sources of different folders may share a name.

        Raises FileNotFoundError when it is missing, ValueError when it changed since the sample was made.
        """
        sha256 = sample.line["source_sha256"]
        source = inside(self.data_root, sample.line["source_image"])
        target = inside(folder, f"{source.stem}_{sha256[:12]}{source.suffix}")
        if target in self._copied:
            return
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such file; pass the data set of the store with --data")
        data = source.read_bytes()
        if sha256_bytes(data) != sha256:
            raise ValueError(f"{source}: changed since sample {sample.id} was made; restore it")
        write(target, data)
        self._copied.add(target)
