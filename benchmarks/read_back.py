"""Our exports read by the libraries they are meant for: python benchmarks/read_back.py LIBRARY

LIBRARY is one of pycocotools, datumaro (COCO, and CVAT's zip as the Pascal VOC folder that it is), ultralytics,
anomalib. Twelve samples of ragged masks, every third of two classes, are exported and read back; printed are the
library, its version, samples, classes, masks compared, and pixels that differ. A library that is too large for the
tests goes into an environment of its own.
"""

import importlib.metadata
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastsynth.data.export.formats import Format, export_store
from fastsynth.data.export.reading import read_samples
from fastsynth.data.store import Store
from fastsynth.files import atomic_write, sha256_file
from fastsynth.images import encode_png
from fastsynth.types import Instance, Layout, Sample

SAMPLES, NAMES, SOURCE = 12, ["pit", "scratch"], "plate/train/good/000.png"
Masks = dict[tuple[str, str], np.ndarray]
"""(sample, class) → (H, W) bool; class "" is all of them."""


def make_store(root: Path) -> Path:
    """On grey noise; masks with holes and specks, inverted."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 256, (60, 80, 1)).astype(np.uint8)
    atomic_write(root / "data" / SOURCE, encode_png(background))
    sha256 = sha256_file(root / "data" / SOURCE)
    identity = {**dict.fromkeys(("config_sha256", "model_sha256", "data_sha256", "version"), "x"), "run_seed": 1}
    with Store.open(root / "store", identity={**identity, "defects": NAMES}) as store:
        for number in range(SAMPLES):
            instances = []
            for i, defect in enumerate(NAMES[::-1][: 2 if number % 3 == 0 else 1], start=1):
                mask = rng.random((12, 15)) < 0.7
                mask[[0, -1], [0, -1]] = True
                instances.append(Instance(i, defect, mask, 20 * i - 18, 3 + 9 * i, shape_source="procedural:x"))
            layout = Layout(background, SOURCE, "plate", tuple(instances))
            image = np.where(layout.foreground[..., None], ~background, background)
            sample = Sample(image, layout.foreground.astype(np.uint8) * 255, layout, number, "invert")
            store.write(number, sample, category="plate", source_sha256=sha256, extra={})
    return root / "store"


def truth(store: Path, *, classes: bool) -> Masks:
    found = {}
    for sample in read_samples(store):
        for index, name in enumerate(NAMES, start=1):
            if classes and (sample.classes == index).any():
                found[sample.id, name] = sample.classes == index
        if not classes:
            found[sample.id, ""] = sample.classes > 0
    return found


def united(found: Iterator[tuple[str, str, np.ndarray]]) -> Masks:
    masks: Masks = {}
    for sample, name, mask in found:
        masks[sample, name] = masks.get((sample, name), np.zeros(mask.shape, bool)) | mask.astype(bool)
    return masks


def read_pycocotools(out: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    from pycocotools.coco import COCO

    coco = COCO(str(out / "annotations.json"))
    for item in coco.anns.values():
        image, category = coco.imgs[item["image_id"]], coco.cats[item["category_id"]]
        yield image["file_name"][:-4], category["name"], coco.annToMask(item)


def read_datumaro(out: Path, kind: str) -> Iterator[tuple[str, str, np.ndarray]]:
    from datumaro.components.annotation import Mask, Polygon
    from datumaro.components.dataset import Dataset

    if kind == "cvat":
        with zipfile.ZipFile(out / "annotations.zip") as archive:
            archive.extractall(out / "voc")
        dataset = Dataset.import_from(str(out / "voc"), "voc_segmentation")
    else:
        (out / "annotations").mkdir()
        (out / "annotations.json").rename(out / "annotations" / "instances_default.json")
        (out / "images" / "default").mkdir()
        for path in sorted((out / "images").glob("*.png")):
            path.rename(path.parent / "default" / path.name)
        dataset = Dataset.import_from(str(out), "coco_instances")
    labels = dataset.categories()[next(k for k in dataset.categories() if k.name == "label")]
    for item in dataset:
        for annotation in item.annotations:
            if isinstance(annotation, Mask) and labels[annotation.label].name != "background":
                yield item.id, labels[annotation.label].name, annotation.image
            assert not isinstance(annotation, Polygon), "run lengths became polygons"


def read_ultralytics(out: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    data = check_det_dataset(str(out / "data.yaml"))
    dataset = YOLODataset(img_path=data["train"], data=data, task="segment", augment=False)
    for label in dataset.labels:
        height, width = label["shape"]
        for index, points in zip(label["cls"].ravel(), label["segments"], strict=True):
            mask = polygon2mask((height, width), [(points * (width, height)).ravel()])
            yield Path(label["im_file"]).stem, data["names"][int(index)], mask


def read_anomalib(out: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    import yaml
    from anomalib.data import Folder

    values = yaml.safe_load((out / "plate.yaml").read_text())["init_args"]
    module = Folder(**{**values, "root": out / values["root"]}, num_workers=0, val_split_mode="none")
    module.setup()
    for sample in module.test_data:
        if int(sample.gt_label):
            yield Path(sample.image_path).stem, "", np.asarray(sample.gt_mask).squeeze()


def compare(library: str, kind: Format, store: Path) -> None:
    out = store.parent / kind
    export_store(store, out, kind=kind, data_root=store.parent / "data")
    match library:
        case "pycocotools":
            found = united(read_pycocotools(out))
        case "datumaro":
            found = united(read_datumaro(out, kind))
        case "ultralytics":
            found = united(read_ultralytics(out))
        case _:
            found = united(read_anomalib(out))
    wanted = truth(store, classes=library != "anomalib")
    assert found.keys() == wanted.keys(), sorted(found.keys() ^ wanted.keys())
    differ = sum(int((found[key] != wanted[key]).sum()) for key in wanted)
    pixels = sum(mask.size for mask in wanted.values())
    classes = len({name for _, name in wanted})
    print(
        f"{kind} with {library} {importlib.metadata.version(library)}: {len({s for s, _ in wanted})} samples, "
        f"{classes} classes, {len(wanted)} masks, {differ} of {pixels} pixels differ"
    )


KINDS: dict[str, tuple[Format, ...]] = {
    "pycocotools": ("coco", "coco-polygons"),
    "datumaro": ("coco", "cvat"),
    "ultralytics": ("yolo",),
    "anomalib": ("anomalib",),
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
        raise SystemExit(f"usage: python benchmarks/read_back.py {'|'.join(KINDS)}")
    with tempfile.TemporaryDirectory() as folder:
        made = make_store(Path(folder))
        for each in KINDS[sys.argv[1]]:
            compare(sys.argv[1], each, made)
