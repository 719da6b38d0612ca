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
from fastsynth.images import encode_png, read_mask
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


def class_truth(store: Path) -> dict[str, dict[str, np.ndarray]]:
    """id → defect → (H, W) bool, from the files of the store alone."""
    found = {}
    for line in read_manifest(store):
        if "classes" in line:
            indices = np.asarray(Image.open(store / line["classes"]))
            found[line["id"]] = {n: indices == i for i, n in enumerate(("pit", "scratch"), 1) if (indices == i).any()}
        else:
            found[line["id"]] = {line["defect"]: np.asarray(Image.open(store / line["mask"])) > 0}
    return found


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
    for image in coco.imgs.values():
        items = coco.loadAnns(coco.getAnnIds(image["id"]))
        objects = [(coco.cats[item["category_id"]]["name"], coco.annToMask(item) > 0) for item in items]
        wanted = class_truth(store)[image["file_name"][:-4]]
        assert sorted(name for name, _ in objects) == sorted(wanted)  # one object of each class in every sample
        for name, mask in objects:
            np.testing.assert_array_equal(mask, wanted[name])
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
            objects = np.asarray(Image.open(BytesIO(archive.read(f"SegmentationObject/{name}.png"))))
            np.testing.assert_array_equal(objects.any(axis=2), mask)
            wanted = class_truth(store)[name]
            for defect, color in (("pit", [128, 0, 0]), ("scratch", [0, 128, 0])):  # Pascal VOC's first two
                found = (colors == color).all(axis=2)
                np.testing.assert_array_equal(found, wanted.get(defect, np.zeros_like(mask)))
                assert len(np.unique(objects[found], axis=0)) == (defect in wanted)  # one object, one colour
            assert len(np.unique(objects[mask], axis=0)) == len(wanted)
        labels = archive.read("labelmap.txt").decode().splitlines()[1:]
    assert labels == ["background:0,0,0::", "pit:128,0,0::", "scratch:0,128,0::"]
    check_import(store, out / "annotations.zip", "cvat", out / "images")


def test_yolo_differs_at_most_on_the_lines_to_holes(store):
    out = export(store, "yolo")
    assert yaml.safe_load((out / "data.yaml").read_text())["names"] == {0: "pit", 1: "scratch"}
    for name, mask in truth(store).items():
        found = np.zeros((2, *mask.shape), np.uint8)
        for line in (out / "labels" / "train" / f"{name}.txt").read_text().splitlines():
            points = np.array(line.split()[1:], float).reshape(-1, 2) * mask.shape[::-1]
            cv2.fillPoly(found[int(line.split()[0])], [points.astype(np.int32)], 1)
        for index, defect in enumerate(("pit", "scratch")):
            wanted = class_truth(store)[name].get(defect, np.zeros_like(mask))
            assert ((found[index] > 0) != wanted).mean() <= 0.01
            assert (found[index][wanted] > 0).all()  # no pixel is lost


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
        indices = np.asarray(Image.open(out / row["classes_file_name"]))
        wanted = class_truth(store)[row["id"]]
        for index, defect in enumerate(("pit", "scratch"), start=1):
            np.testing.assert_array_equal(indices == index, wanted.get(defect, np.zeros(indices.shape, bool)))
        assert indices.max() <= 2
    labels = json.loads((out.parent / "id2label.json").read_text())
    assert labels == {"0": "background", "1": "pit", "2": "scratch"}


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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_coco_of_another_hand_is_read_as_pycocotools_reads_it(tmp_path):
    """Two polygons of one object, a crowd in plain run lengths, compressed ones, a picture without any."""
    masks_of = pytest.importorskip("pycocotools.mask")
    height, width = 24, 32
    rng = np.random.default_rng(0)
    ragged = np.asfortranarray(rng.random((height, width)) < 0.3, np.uint8)
    compressed = {"size": [height, width], "counts": masks_of.encode(ragged)["counts"].decode()}
    crowd = {"size": [height, width], "counts": [5, 10, 24, 3, height * width - 42]}
    polygons = [[2.0, 2.0, 12.0, 2.0, 12.0, 9.0, 2.0, 9.0], [20.0, 15.0, 28.0, 15.0, 28.0, 20.0, 20.0, 20.0]]
    shapes = {1: (3, polygons, 0), 2: (90, crowd, 1), 3: (3, compressed, 0)}
    content = {
        "info": {"year": 2014, "version": "1.0"},
        "licenses": [{"id": 1, "name": "CC BY", "url": "x"}],
        "images": [
            {"id": 100 + n, "license": 1, "file_name": f"{n}.png", "height": height, "width": width} for n in range(4)
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "comb", "supercategory": "a"}],
        "annotations": [
            {"id": n, "image_id": 100 + n, "category_id": c, "segmentation": s, "iscrowd": crowd, "bbox": [0, 0, 1, 1],
             "area": 1}
            for n, (c, s, crowd) in shapes.items()
        ],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(content))
    for number in range(4):
        atomic_write(tmp_path / f"images/{number}.png", encode_png(np.full((height, width, 1), 90, np.uint8)))
    out = tmp_path / "tree"
    assert import_annotations(tmp_path / "instances.json", out, kind="coco", images=tmp_path / "images") == (1, 3)
    for number, (category, shape, _) in shapes.items():
        name = {3: "car", 90: "comb"}[category]
        runs = masks_of.merge(masks_of.frPyObjects(shape, height, width)) if isinstance(shape, list) else shape
        if number == 2:
            runs = masks_of.frPyObjects(shape, height, width)
        wanted = masks_of.decode(runs) > 0
        np.testing.assert_array_equal(read_mask(out / f"ground_truth/{name}/{number}_mask.png"), wanted)


def test_cvat_of_another_hand_is_read(tmp_path):
    """As CVAT's documentation lays it out: own colours, a background, a folder in the list, an unlabelled frame."""
    mask = np.zeros((20, 30, 3), np.uint8)
    mask[3:8, 4:9] = (250, 50, 83)
    files = {
        "labelmap.txt": b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nrust:250,50,83::\nrim:51,221,255:a,b:\n",
        "ImageSets/Segmentation/default.txt": b"day 1/frame_000000\nframe_000001\n",
    }
    with zipfile.ZipFile(tmp_path / "task.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for folder in ("SegmentationClass", "SegmentationObject"):
            buffer = BytesIO()
            Image.fromarray(mask).save(buffer, "PNG")
            archive.writestr(f"{folder}/day 1/frame_000000.png", buffer.getvalue())
    for name in ("day 1/frame_000000.JPG", "frame_000001.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask + 5).save(path)
    out = tmp_path / "tree"
    assert import_annotations(tmp_path / "task.zip", out, kind="cvat", images=tmp_path / "images") == (1, 1)
    (found,) = (out / "ground_truth" / "rust").iterdir()
    np.testing.assert_array_equal(read_mask(found), mask.any(axis=2))


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png", "..\\a.png"])
def test_an_import_refuses_names_that_leave_the_folder(tmp_path, name):
    (tmp_path / "images").mkdir()
    content = {"categories": [], "annotations": [], "images": [{"id": 1, "file_name": name}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not a path inside"):
        import_annotations(tmp_path / "a.json", tmp_path / "out", kind="coco", images=tmp_path / "images")
    assert not (tmp_path / "out").exists()
