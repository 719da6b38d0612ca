"""Exports read back by the libraries they are meant for, and the verbs that write and read them."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from fastsynth.data.export.formats import export_store
from fastsynth.data.store import Store, read_manifest
from fastsynth.files import atomic_write, sha256_file
from fastsynth.images import encode_png, read_image, read_mask
from fastsynth.types import Instance, Layout, Sample

SOURCE = "plate/train/good/000.png"
os.environ["HF_HUB_OFFLINE"] = "1"  # read when `datasets` is imported: a test asks no hub


@pytest.fixture(params=[np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def store(request, tmp_path):
    """Five samples of ragged masks on a grey noise picture; its data set is `data`."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, np.iinfo(request.param).max, (40, 56, 1)).astype(request.param)
    atomic_write(tmp_path / "data" / SOURCE, encode_png(background))
    sha256 = sha256_file(tmp_path / "data" / SOURCE)
    values = dict.fromkeys(("config_sha256", "model_sha256", "data_sha256", "version"), "x")
    with Store.open(tmp_path / "store", identity={**values, "run_seed": 1, "defects": ["scratch"]}) as opened:
        for number in range(5):
            mask = rng.random((12, 15)) < 0.7
            mask[[0, -1], [0, -1]] = True
            scratch = Instance(1, "scratch", mask, 2 + number, 3 + 2 * number, shape_source="procedural:x")
            layout = Layout(background, SOURCE, "plate", (scratch,))
            image = np.where(layout.foreground[..., None], ~background, background)
            sample = Sample(image, layout.foreground.astype(np.uint8) * 255, layout, number, "invert")
            opened.write(number, sample, category="plate", source_sha256=sha256, extra={})
    return tmp_path / "store"


def by_id(store) -> dict[str, dict]:
    return {line["id"]: line for line in read_manifest(store)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the library
def test_datasets_loads_images_and_masks_bit_for_bit(store, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the library `datasets` is not installed")
    out = tmp_path / "out"
    export_store(store, out, kind="imagefolder")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    lines = by_id(store)
    assert len(rows) == len(lines)
    for row in rows:
        line = lines[row["id"]]
        np.testing.assert_array_equal(np.asarray(row["mask"]) > 0, read_mask(store / line["mask"]))
        image = np.asarray(row["image"])
        image = image[..., :1] if image.ndim == 3 else image[..., None]  # grey, or grey three times
        np.testing.assert_array_equal(image, read_image(store / line["image"]))
        assert (row["defect"], row["seed"]) == (line["defect"], line["seed"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the library
def test_webdataset_reads_images_masks_and_lines_bit_for_bit(store, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="the library `webdataset` is not installed")
    export_store(store, tmp_path / "out", kind="webdataset")
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    lines = by_id(store)
    found = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == sorted(lines)
    for sample in found:
        line = lines[sample["__key__"]]
        assert sample["png"] == (store / line["image"]).read_bytes()
        assert sample["mask.png"] == (store / line["mask"]).read_bytes()
        assert json.loads(sample["json"]) == line


def test_anomalib_pairs_images_and_masks(store, tmp_path):
    anomalib = pytest.importorskip("anomalib.data", reason="anomalib is not installed: too large for a test")
    export_store(store, tmp_path / "out", kind="anomalib", data_root=tmp_path / "data")
    module = anomalib.Folder(
        name="plate", root=tmp_path / "out" / "plate", normal_dir="normal", abnormal_dir="defects", mask_dir="masks"
    )
    module.setup()
    masks = {sample.image_path: sample.gt_mask for sample in module.test_data if int(sample.gt_label)}
    assert masks
    for path, mask in masks.items():
        line = next(line for line in read_manifest(store) if line["id"] in path)
        np.testing.assert_array_equal(np.asarray(mask) > 0, read_mask(store / line["mask"]))


@pytest.mark.parametrize("kind", ["coco", "coco-polygons", "yolo", "cvat", "imagefolder", "webdataset", "mvtec"])
def test_the_verb_exports_and_says_how_many(kind, store, tmp_path, call):
    arguments = ("data", "export", store, "--format", kind, "--data", tmp_path / "data", "--output", tmp_path / "out")
    answer = call(*arguments)
    assert (answer.code, answer.out) == (0, f"{tmp_path / 'out'}: 5 samples as {kind}\n"), answer.err
    again = call(*arguments)
    assert again.code == 2
    assert again.complaint.endswith("exists already; choose another folder, or delete it")


def test_the_verb_asks_for_the_data_where_normal_images_belong(store, tmp_path, call):
    answer = call("data", "export", store, "--format", "mvtec", "--output", tmp_path / "out")
    assert answer.code == 2
    assert "pass the data set of the store with --data" in answer.complaint
    assert call("data", "export", tmp_path, "--format", "coco", "--output", tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "file"), [("coco", "annotations.json"), ("cvat", "annotations.zip")])
def test_the_verb_imports_what_it_exported(kind, file, store, tmp_path, call):
    assert call("data", "export", store, "--format", kind, "--output", tmp_path / "out").code == 0
    options = ("--format", kind, "--images", tmp_path / "out" / "images", "--output", tmp_path / "tree")
    answer = call("data", "import", tmp_path / "out" / file, *options)
    assert answer.code == 0, answer.err
    assert answer.out.startswith(f"{tmp_path / 'tree'}: 0 normal and 5 defect pictures; put normal pictures into ")
    for name, line in by_id(store).items():
        mask = tmp_path / "tree" / "ground_truth" / "scratch" / f"{name}_mask.png"
        np.testing.assert_array_equal(read_mask(mask), read_mask(store / line["mask"]))
        np.testing.assert_array_equal(np.asarray(Image.open(mask)) > 0, read_mask(store / line["mask"]))
    missing = call("data", "import", tmp_path / "nothing", *options[:-1], tmp_path / "other")
    assert missing.code == 2
    assert "no such file" in missing.complaint.lower()


def test_a_store_that_shards_are_filling_is_exported_as_one(store, tmp_path):
    """The main manifest becomes that of a shard: the same samples, not yet merged."""
    whole = tmp_path / "whole"
    export_store(store, whole, kind="coco")
    (store / "shards").mkdir()
    (store / "manifest.jsonl").rename(store / "shards" / "1-of-1.jsonl")
    assert export_store(store, tmp_path / "sharded", kind="coco") == 5
    assert (tmp_path / "sharded" / "annotations.json").read_bytes() == (whole / "annotations.json").read_bytes()
