"""Every export read back, by its ecosystem's library or an independent reading, and compared mask by mask."""

import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from fastsynth.data.datasets import open_dataset
from fastsynth.data.export.formats import export_store
from fastsynth.data.export.shapes import contour_polygons
from fastsynth.data.imports.formats import import_annotations
from fastsynth.data.manifest import dump_line
from fastsynth.data.store import FILE_KEYS, Store, read_manifest
from fastsynth.files import atomic_write, sha256_file
from fastsynth.images import encode_png, read_image, read_mask
from fastsynth.types import Instance, Layout, Sample

KINDS = ["coco", "coco-polygons", "yolo", "cvat", "imagefolder", "webdataset", "mvtec", "anomalib"]
SOURCE = "plate/train/good/000.png"


@pytest.fixture(params=[np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def store(request, tmp_path) -> Path:
    """Six samples of ragged masks with holes and specks; every third holds two classes. Its data set is `data`."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, np.iinfo(request.param).max, (40, 56, 1)).astype(request.param)
    atomic_write(tmp_path / "data" / SOURCE, encode_png(background))
    sha256 = sha256_file(tmp_path / "data" / SOURCE)
    values = dict.fromkeys(("config_sha256", "model_sha256", "data_sha256", "version"), "x")
    with Store.open(tmp_path / "store", identity={**values, "run_seed": 1, "defects": ["pit", "scratch"]}) as opened:
        for number in range(6):
            instances = []
            for i, defect in enumerate(("scratch", "pit")[: 2 if number % 3 == 0 else 1], start=1):
                mask = rng.random((12, 15)) < 0.7
                mask[[0, -1], [0, -1]] = True
                instances.append(Instance(i, defect, mask, 2 + 20 * i - 20, 3 + 9 * i, shape_source="procedural:x"))
            layout = Layout(background, SOURCE, "plate", tuple(instances))
            image = np.where(layout.foreground[..., None], ~background, background)
            sample = Sample(image, layout.foreground.astype(np.uint8) * 255, layout, number, "invert")
            opened.write(number, sample, category="plate", source_sha256=sha256, extra={})
    return tmp_path / "store"


def export(store: Path, kind: str, name: str = "out") -> Path:
    assert export_store(store, store.parent / name, kind=kind, data_root=store.parent / "data") == 6
    return store.parent / name


def truth(store: Path) -> dict[str, np.ndarray]:
    return {line["id"]: read_mask(store / line["mask"]) for line in read_manifest(store)}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
@pytest.mark.parametrize("kind", ["coco", "coco-polygons"])
def test_coco_is_exact_for_pycocotools_and_comes_back_through_the_import(store, kind):
    coco_module = pytest.importorskip("pycocotools.coco")
    out = export(store, kind)
    coco = coco_module.COCO(out / "annotations.json")
    for image in coco.imgs.values():
        masks = [coco.annToMask(item) for item in coco.loadAnns(coco.getAnnIds(image["id"]))]
        np.testing.assert_array_equal(np.sum(masks, axis=0), truth(store)[image["file_name"][:-4]])
    for item in coco.anns.values():
        assert item["area"] == coco.annToMask(item).sum()
    check_import(store, out / "annotations.json", "coco", out / "images")


def check_import(store: Path, file: Path, kind: str, images: Path) -> None:
    tree = store.parent / "tree"
    assert import_annotations(file, tree, kind=kind, images=images) == (0, 6)
    for line in read_manifest(store):
        mask = read_mask(tree / "ground_truth" / line["defect"] / f"{line['id']}_mask.png")
        np.testing.assert_array_equal(mask, truth(store)[line["id"]])


def test_cvat_is_exact_in_classes_and_comes_back_through_the_import(store):
    out = export(store, "cvat")
    with zipfile.ZipFile(out / "annotations.zip") as archive:
        for name, mask in truth(store).items():
            colors = np.asarray(Image.open(BytesIO(archive.read(f"SegmentationClass/{name}.png"))))
            np.testing.assert_array_equal(colors.any(axis=2), mask)
    check_import(store, out / "annotations.zip", "cvat", out / "images")


def test_yolo_differs_at_most_on_the_lines_to_holes(store):
    out = export(store, "yolo")
    assert yaml.safe_load((out / "data.yaml").read_text())["names"] == {0: "pit", 1: "scratch"}
    for name, mask in truth(store).items():
        found = np.zeros(mask.shape, np.uint8)
        for line in (out / "labels" / "train" / f"{name}.txt").read_text().splitlines():
            points = np.array(line.split()[1:], float).reshape(-1, 2) * mask.shape[::-1]
            cv2.fillPoly(found, [points.astype(np.int32)], 1)
        assert ((found > 0) != mask).mean() <= 0.01


def test_a_region_without_holes_is_exact_as_a_contour():
    mask = np.zeros((30, 40), np.uint8)
    cv2.ellipse(mask, (18, 14), (12, 7), 30, 0, 360, 1, -1)
    found = np.zeros_like(mask)
    cv2.fillPoly(found, contour_polygons(mask > 0), 1)
    np.testing.assert_array_equal(found, mask)


def test_imagefolder_rows_name_image_mask_and_classes(store):
    out = export(store, "imagefolder") / "train"
    for raw in (out / "metadata.jsonl").read_text().splitlines():
        row = json.loads(raw)
        np.testing.assert_array_equal(np.asarray(Image.open(out / row["mask_file_name"])) > 0, truth(store)[row["id"]])
        np.testing.assert_array_equal(read_mask_of_classes(out / row["classes_file_name"]), truth(store)[row["id"]])


def read_mask_of_classes(path: Path) -> np.ndarray:
    return read_image(path)[..., 0] > 0


def test_webdataset_shards_hold_the_very_files(store):
    out = export(store, "webdataset")
    with tarfile.open(out / "shard-000000.tar") as shard:
        for line in read_manifest(store):
            for key, suffix in (("image", "png"), ("mask", "mask.png")):
                data = shard.extractfile(f"{line['id']}.{suffix}").read()
                assert data == (store / line[key]).read_bytes()


@pytest.mark.parametrize("kind", ["mvtec", "anomalib"])
def test_trees_are_read_by_the_package_itself(store, kind):
    dataset = open_dataset(export(store, kind) / "plate")
    assert (len(dataset.normals), len(dataset.defects)) == (1, 6)
    for record in dataset.defects:
        np.testing.assert_array_equal(read_mask(dataset.root / record.mask), truth(store)[Path(record.image).stem])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_store_gives_the_same_bytes_and_an_existing_output_is_refused(store, kind):
    first, second = (export(store, kind, name) for name in "ab")
    trees = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (first, second)]
    assert trees[0] == trees[1]
    with pytest.raises(ValueError, match="exists already"):
        export(store, kind, "a")


def calls_of(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, `work` calls."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", KINDS)
def test_every_further_sample_costs_an_export_the_same(store, kind):
    """Counted, not timed: 24 samples more cost as many calls from the 12th sample on as from the 60th on."""
    lines = list(read_manifest(store))

    def renamed(line: dict, name: str) -> dict:
        """The same sample under another id."""
        paths = {key: line[key].replace(line["id"], name) for key in FILE_KEYS if key in line}
        for key, path in paths.items():
            if not (store / path).exists():
                (store / path).hardlink_to(store / line[key])
        return line | paths | {"id": name}

    def calls(count: int) -> int:
        more = (renamed(lines[number % 6], f"{number:06d}") for number in range(count))
        (store / "manifest.jsonl").write_bytes(b"".join(map(dump_line, more)))
        output = store.parent / f"{count} samples"
        return calls_of(lambda: export_store(store, output, kind=kind, data_root=store.parent / "data"))

    calls(6)  # what is done once, imports and caches, does not count
    first, later = calls(36) - calls(12), calls(84) - calls(60)
    assert later == pytest.approx(first, rel=0.02)


def test_a_changed_file_stops_the_export_and_nothing_is_left(store):
    line = list(read_manifest(store))[-1]
    (store / line["image"]).write_bytes(b"x")
    with pytest.raises(ValueError, match="changed since it was stored"):
        export(store, "coco")
    assert {path.name for path in store.parent.iterdir()} == {"store", "data"}


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png", "..\\a.png"])
def test_an_import_refuses_names_that_leave_the_folder(tmp_path, name):
    (tmp_path / "images").mkdir()
    content = {"categories": [], "annotations": [], "images": [{"id": 1, "file_name": name}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not a path inside"):
        import_annotations(tmp_path / "a.json", tmp_path / "out", kind="coco", images=tmp_path / "images")
    assert not (tmp_path / "out").exists()
