"""Finding the user's images: an MVTec-AD tree, a folder of such trees, or plain folders. Nothing is decoded here.

    train/good  test/good  test/<defect>  ground_truth/<defect>      one category, named after the folder
    <category>/train/good …                                          a folder of categories
    normal  defects/<defect>  masks/<defect>                         plain folders

A mask belongs to the image of the same stem: `<stem>_mask.*` or `<stem>.*`. Everything else in the tree is ignored.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fastsynth.config import Config
from fastsynth.data.groups import GROUPS_FILE, METADATA_FILE, by_regex, patients_of, read_groups
from fastsynth.errors import shown
from fastsynth.images import list_images
from fastsynth.types import COMBINED

LAYOUTS = (
    "train/good with test/<defect> and ground_truth/<defect> (one category), a folder of such categories, "
    "or normal with defects/<defect> and masks/<defect>"
)

MAX_NAME = 200
"""Bytes of a new file's or folder's name: with `_mask.png` it must be one that file systems take."""
NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters and halves of characters."""


class DataConfig(Config):
    """Where the user's images are. The kind of tree is detected."""

    root: Path
    """Folder of one MVTec category, of several, or of normal, defects and masks."""
    categories: list[str] | None = None
    """Only these categories; all when left out or empty."""
    halo: Annotated[int, Field(ge=0, le=8)] | None = None
    """Pixels by which defects reach beyond their annotated masks: a sample's mask is wider by so many, so that its
    border can be as soft as a photographed one. null: measured on the training defects."""
    medical: bool = False
    """Pictures of patients: whatever is made from them is stamped as not for clinical use. Volumes that `data import`
    brought in say so themselves."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] | None = None
    """What the samples may be used for, as the Hugging Face hub spells it, like cc-by-4.0; for `fastsynth card`."""
    source_url: Annotated[str, Field(pattern=r"^\S+$")] | None = None
    """Where the pictures come from; for `fastsynth card`."""
    follow_links: bool = False
    """Also read what symbolic links inside the root bring in from outside it. The root itself may always be a link."""


@dataclass(frozen=True)
class Record:
    """One image of the user's.

    image: path relative to the data root, forward slashes.
    mask: path of its mask, or None when it is normal or the mask is missing.
    defect: class name, None for a normal image.
    part: where the tree puts it. Plain folders: normal images in train, defects in test.
    """

    image: str
    mask: str | None
    category: str
    defect: str | None
    part: Literal["train", "test"]


@dataclass(frozen=True)
class DataSet:
    """All images below a root, sorted by path.

    groups: stem → group, from groups.json at the root; `<category>/<stem>` → group from one in a category's folder.
    image_groups: image → group, from metadata.csv or `split.group_regex`; empty when groups.json speaks.
    orphan_masks: paths of masks to which no image belongs.
    """

    root: Path
    records: tuple[Record, ...]
    groups: dict[str, str] = field(default_factory=dict)
    orphan_masks: tuple[str, ...] = ()
    image_groups: dict[str, str] = field(default_factory=dict)

    @property
    def normals(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record.defect is None)

    @property
    def defects(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record.defect is not None)

    @property
    def categories(self) -> list[str]:
        return sorted({record.category for record in self.records})

    def defect_names(self, category: str) -> list[str]:
        """Sorted class names of one category."""
        return sorted({record.defect for record in self.records if record.category == category and record.defect})

    def group_of(self, record: Record) -> str | None:
        """What the user says must stay together with this image, e.g. a patient; None when nothing is said."""
        if record.image in self.image_groups:
            return self.image_groups[record.image]
        name = stem(Path(record.image))
        return self.groups.get(name, self.groups.get(f"{record.category}/{name}"))


def open_dataset(
    root: Path,
    *,
    categories: Sequence[str] | None = None,
    group_regex: str | None = None,
    follow_links: bool = False,
) -> DataSet:
    """List the images below `root`; the kind of tree is detected.

    group_regex: searched in every path below `root`; its first group tells which images belong together.
    follow_links: see `DataConfig`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file, an unknown tree, an unknown category, a category without normal images, a bad groups.json
            or metadata.csv, groups from two sources, an image that the regular expression does not fit, a symbolic
            link that leads out of the root.
    """
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such folder; give the folder that holds {LAYOUTS}")
    if not root.is_dir():
        raise ValueError(f"{root} is a file; give the folder that holds {LAYOUTS}")
    folders = category_folders(root)
    records: list[Record] = []
    orphans: list[str] = []
    groups = read_groups(root / GROUPS_FILE)
    patients: dict[str, str] = {}
    for name in _chosen(root, folders, categories):
        folder = folders[name]
        found, unused = _read_category(root, folder, name)
        if not any(record.defect is None and record.part == "train" for record in found):
            raise ValueError(f"{folder} holds no normal images; put some into {_normal_folder(folder)}")
        records += found
        orphans += unused
        if folder != root:
            groups |= {f"{name}/{key}": f"{name}/{group}" for key, group in read_groups(folder / GROUPS_FILE).items()}
            patients |= patients_of(folder, (record.image for record in found), prefix=f"{name}/")
    if not follow_links:
        _refuse_links_out(root, [*(record.image for record in records), *(r.mask for r in records if r.mask), *orphans])
    patients |= patients_of(root, (record.image for record in records), prefix="")
    images = tuple(sorted(records, key=lambda r: r.image))
    searched = {} if group_regex is None else by_regex(group_regex, (record.image for record in images))
    _refuse_two_sources(root, {GROUPS_FILE: groups, METADATA_FILE: patients, "split.group_regex": searched})
    return DataSet(root, images, groups, tuple(sorted(orphans)), patients | searched)


def _refuse_two_sources(root: Path, sources: Mapping[str, Mapping[str, str]]) -> None:
    """Two lists may contradict each other, and then neither would be kept."""
    speaking = [name for name, found in sources.items() if found]
    if len(speaking) > 1:
        raise ValueError(f"{root}: {' and '.join(speaking)} both say which images belong together; keep one of them")


def require_defects(dataset: DataSet) -> None:
    """Raises ValueError when there is no defect image: for verbs that learn from defects."""
    for category in dataset.categories:
        if not dataset.defect_names(category):
            raise ValueError(
                f"{dataset.root}: category {category} has no defect images; "
                "put some into test/<defect> or defects/<defect>, with their masks"
            )


def require_outside(dataset: DataSet, folder: Path) -> None:
    """Raises ValueError when `folder` lies in one of the data's own, where its pictures would be read as data."""
    folders = {Path(path).parent for r in dataset.records for path in (r.image, r.mask) if path}
    home = folder.resolve()
    for parent in sorted({above for path in folders for above in (path, *path.parents)} - {Path()}):
        if home.is_relative_to((dataset.root / parent).resolve()):
            raise ValueError(f"output {folder} lies in the data, in {dataset.root / parent}; choose a folder outside")


def check_defect_name(name: str) -> None:
    """Raises ValueError unless a folder of this name is found again as that of one defect type."""
    bad = not name.strip() or name.startswith(".") or NO_NAME.search(name) or name in ("good", COMBINED)
    if bad or any(character in name for character in "/\\:") or len(name.encode()) > MAX_NAME:
        raise ValueError(f"{shown(name)} cannot be the name of a defect folder; rename the label")


def stem(path: Path) -> str:
    """File name without suffix, composed Unicode: macOS writes é as two characters, others as one."""
    return unicodedata.normalize("NFC", path.stem)


def _refuse_links_out(root: Path, paths: Iterable[str]) -> None:
    """Raises ValueError that names the first link on the way to one of `paths` that leads out of `root`."""
    home = root.resolve()
    seen: set[Path] = set()
    for path in (GROUPS_FILE, *paths):
        found = root
        for part in Path(path).parts:
            found = found / part
            if found in seen:
                continue
            seen.add(found)
            if found.is_symlink() and not (target := found.resolve()).is_relative_to(home):
                raise ValueError(
                    f"{found} is a link out of the data, to {target}; put the files themselves there, "
                    "or set data.follow_links to true"
                )


def category_folders(root: Path) -> dict[str, Path]:
    """Category name → folder."""
    if (root / "train" / "good").is_dir() and (root / "normal").is_dir():
        raise ValueError(f"{root} holds both train/good and normal; keep one kind of tree, wanted {LAYOUTS}")
    if _is_category(root):
        return {root.resolve().name: root}
    folders = {folder.name: folder for folder in _folders(root) if (folder / "train" / "good").is_dir()}
    if not folders:
        raise ValueError(f"{root} holds no images that could be found; wanted {LAYOUTS}")
    return folders


def _is_category(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() or (folder / "normal").is_dir()


def _normal_folder(folder: Path) -> Path:
    return folder / "normal" if (folder / "normal").is_dir() else folder / "train" / "good"


def _chosen(root: Path, folders: dict[str, Path], categories: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(categories or ()) - set(folders))
    if unknown:
        raise ValueError(f"{root} has no category {', '.join(unknown)}; it has {', '.join(sorted(folders))}")
    return sorted(set(categories or folders))


def _read_category(root: Path, folder: Path, category: str) -> tuple[list[Record], list[str]]:
    """Records of one category, and the masks nobody uses."""
    if (folder / "train" / "good").is_dir():
        normals: list[tuple[Path, Literal["train", "test"]]] = [
            (folder / "train" / "good", "train"),
            (folder / "test" / "good", "test"),
        ]
        defects, masks = folder / "test", folder / "ground_truth"
    else:
        normals = [(folder / "normal", "train")]
        defects, masks = folder / "defects", folder / "masks"
    records = [
        Record(_relative(image, root), None, category, None, part)
        for normal, part in normals
        for image in list_images(normal)
    ]
    orphans = []
    names = {path.name for path in (*_folders(defects), *_folders(masks))} - {"good"}
    for defect in sorted(names):
        matches, unused = _match(list(list_images(defects / defect)), list(list_images(masks / defect)))
        for image, mask in matches:
            path = None if mask is None else _relative(mask, root)
            records.append(Record(_relative(image, root), path, category, defect, "test"))
        orphans += [_relative(mask, root) for mask in unused]
    return records, orphans


def _match(images: list[Path], masks: list[Path]) -> tuple[list[tuple[Path, Path | None]], list[Path]]:
    """Each image with its mask or None, and the masks left over."""
    by_stem = {stem(mask): mask for mask in masks}
    matches = []
    for image in images:
        name = stem(image)
        matches.append((image, by_stem.get(f"{name}_mask", by_stem.get(name))))
    used = {mask for _, mask in matches}
    return matches, [mask for mask in masks if mask not in used]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
