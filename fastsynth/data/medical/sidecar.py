"""`medical.json`, beside the tree of slices: which picture is which slice of which volume, and what goes back with it.

Its presence makes a data set medical: every store made from it, and every export of such a store, is stamped.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fastsynth.data.datasets import DataSet
from fastsynth.data.identity import read_identity
from fastsynth.data.medical.volume import Record
from fastsynth.files import read_json, write_json

SIDECAR = "medical.json"
NOTICE_FILE = "NOTICE.txt"
NOTICE = "synthetic, not for clinical use"


@dataclass
class Sidecar:
    """volumes: name → how to rebuild it. slices: name → paths of its pictures by index, relative to the sidecar.

    classes: defect names in the order of their indices in `classes/`.
    """

    classes: list[str]
    volumes: dict[str, Record] = field(default_factory=dict)
    slices: dict[str, list[str]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        volumes = {
            name: {**record.to_json(), "slices": self.slices[name]} for name, record in sorted(self.volumes.items())
        }
        write_json(folder / SIDECAR, {"notice": NOTICE, "classes": self.classes, "volumes": volumes})

    @classmethod
    def read(cls, folder: Path) -> "Sidecar":
        """Raises FileNotFoundError when the data were not imported by this tool, ValueError when it is damaged."""
        path = folder / SIDECAR
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; volumes can only be rebuilt for data made by `fastsynth data import`"
            )
        value = read_json(path)
        try:
            found = cls([str(name) for name in value["classes"]])
            for name, entry in value["volumes"].items():
                found.slices[name] = [str(slice_) for slice_ in entry.pop("slices")]
                found.volumes[name] = Record.from_json(entry)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a sidecar of this tool ({error}); import the data again") from error
        return found


@dataclass(frozen=True)
class Place:
    """Where a picture belongs. folder: of its sidecar. name: of its volume."""

    folder: Path
    name: str
    index: int
    record: Record


def read_places(root: Path) -> dict[str, Place]:
    """Path of every picture, relative to `root` → its place: from the sidecars of the root and of its categories.

    Empty when the data are not medical.
    """
    places = {}
    for folder in _folders(root):
        sidecar = Sidecar.read(folder)
        prefix = "" if folder == root else f"{folder.name}/"
        for name, pictures in sidecar.slices.items():
            for index, picture in enumerate(pictures):
                places[prefix + picture] = Place(folder, name, index, sidecar.volumes[name])
    return places


def notice_of(dataset: DataSet) -> str | None:
    """What everything made from these data must say, or None when they are not medical."""
    return NOTICE if any(_folders(dataset.root, dataset.categories)) else None


def write_notice(store: Path, folder: Path) -> None:
    """NOTICE.txt in `folder` when the store in `store` is stamped."""
    notice = read_identity(store).get("notice")
    if notice:
        (folder / NOTICE_FILE).write_text(f"{notice}\n", encoding="utf-8")


def _folders(root: Path, categories: Iterable[str] | None = None) -> list[Path]:
    """Folders with a sidecar: the root, or its categories."""
    if (root / SIDECAR).is_file():
        return [root]
    names = categories if categories is not None else sorted(p.name for p in root.iterdir() if p.is_dir())
    return [root / name for name in names if (root / name / SIDECAR).is_file()]
