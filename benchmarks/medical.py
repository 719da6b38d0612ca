"""The picture of docs/medical.md, from generated phantoms alone, by the commands that the page shows.

python benchmarks/medical.py WORK docs/medical.jpg

WORK is a folder for phantoms, tree, run and volumes; what is there already is not made again.
"""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from fastsynth.data.medical.extra import library
from fastsynth.data.medical.phantom import write_phantoms
from fastsynth.data.medical.volume import windowed
from fastsynth.data.store import read_manifest
from fastsynth.files import read_json
from fastsynth.images import outline
from fastsynth.sheets import contact_sheet, save_sheet

WINDOW = (40.0, 300.0)
COLUMNS, ZOOM = 6, 3
CONFIG = """output: {work}/run
data: {{root: {work}/data}}
device: cpu
layouts: {{severity_range: [0.5, 2.0]}}
renderer: {{kind: copy_paste}}
generate: {{count: 12}}
"""


def main(work: Path, picture: Path) -> None:
    if not (work / "src").is_dir():
        write_phantoms(work / "src", patients=6, seed=0)
    if not (work / "c.yaml").is_file():
        (work / "c.yaml").write_text(CONFIG.format(work=work))
    marks = ["--masks", work / "src" / "masks", "--patient", r"regex:sub-(\d+)"]
    call(work / "data", "data", "import", work / "src" / "images", "--format", "nifti", *marks)
    if not (work / "run" / "sheet.png").is_file():
        run("generate", work / "c.yaml")
    call(work / "out", "data", "export", work / "run" / "synthetic", "--format", "nifti", "--data", work / "data")
    save_sheet(picture, draw(work))


def call(output: Path, *arguments: object) -> None:
    if not output.is_dir():
        run(*arguments, "--output", output)


def run(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "fastsynth", *map(str, arguments)], check=True)


def draw(work: Path) -> np.ndarray:
    """Slices of the phantoms, and the same slices of the volumes that came back, by ascending severity."""
    sources = sorted((work / "src" / "images").iterdir())
    severities = {line["id"]: line["instances"][0]["severity"] for line in read_manifest(work / "run" / "synthetic")}
    names = sorted(read_json(work / "data" / "medical.json")["volumes"])
    columns = []
    for name, entry in read_json(work / "out" / "volumes.json")["volumes"].items():
        before = read(sources[names.index(entry["source"])])
        after, labels = (read(work / "out" / part / f"{name}.nii.gz") for part in ("images", "labels"))
        for index, sample in entry["samples"].items():
            planes = [array[:, :, int(index)].T for array in (before, after, labels)]
            columns.append((severities[sample], *planes))
    columns.sort(key=lambda column: column[0])
    chosen = [columns[i] for i in np.linspace(0, len(columns) - 1, COLUMNS).round().astype(int)]
    rows = [
        [shown(before) for _, before, _, _ in chosen],
        [shown(after) for _, _, after, _ in chosen],
        [outline(shown(after), enlarged(marks) > 0) for _, _, after, marks in chosen],
    ]
    titles = [f"severity {severity:.2f}" for severity, *_ in chosen]
    labels = ["phantom", "volume from the store", "with its labels"]
    return contact_sheet(rows, row_labels=labels, column_labels=titles, tile=160)


def read(path: Path) -> np.ndarray:
    return np.asarray(library("nibabel").load(path).dataobj)


def shown(plane: np.ndarray) -> np.ndarray:
    return np.repeat(enlarged(windowed(plane.astype(float), WINDOW))[..., None], 3, axis=2)


def enlarged(plane: np.ndarray) -> np.ndarray:
    """Each pixel as ZOOM × ZOOM pixels."""
    return np.asarray(cv2.resize(plane, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_NEAREST))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
