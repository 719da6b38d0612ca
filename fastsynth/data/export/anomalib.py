"""anomalib: <category>/normal, /defects/<defect> and /masks/<defect>, and <category>.yaml for its Folder data. Exact.

Image and mask have the same name: anomalib sorts both lists and pairs them by position. Lost: which pixels of a
`combined` sample are which class; anomalib reads 16-bit pictures as 8 bits.
"""

from collections.abc import Iterable
from pathlib import Path

import yaml

from fastsynth.data.export.folder import inside, write
from fastsynth.data.export.mvtec import Normals
from fastsynth.data.export.reading import StoredSample


def write_anomalib(samples: Iterable[StoredSample], folder: Path, *, data_root: Path) -> None:
    """data_root: where the samples' `source_image` paths start. The YAML's root is relative to the export's folder."""
    normals = Normals(data_root)
    categories = set()
    for sample in samples:
        category, defect = (inside(folder, sample.line["category"]), sample.line["defect"])
        write(inside(category, f"defects/{defect}/{sample.id}.png"), sample.data("image"))
        write(inside(category, f"masks/{defect}/{sample.id}.png"), sample.data("mask"))
        normals.copy(sample, category / "normal")
        categories.add(str(sample.line["category"]))
    for name in sorted(categories):
        arguments = {
            "name": name,
            "root": name,
            "normal_dir": "normal",
            "abnormal_dir": "defects",
            "mask_dir": "masks",
        }
        values = {"class_path": "anomalib.data.Folder", "init_args": arguments}
        write(folder / f"{name}.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
