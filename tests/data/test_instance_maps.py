"""Instances that touch stay apart in the store and in the exports that can hold them."""

import tarfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fastsynth.data.export.formats import export_store
from fastsynth.data.export.reading import read_samples
from fastsynth.data.store import Store
from fastsynth.files import atomic_write, sha256_file
from fastsynth.images import encode_png, read_image
from fastsynth.quality.audit import audit
from fastsynth.types import Instance, Layout, Sample

SOURCE = "tile/train/good/0.png"


@pytest.fixture
def layout():
    """Three pits of one class: two overlap, the third touches the second."""
    background = np.random.default_rng(0).integers(50, 90, (40, 48, 1)).astype(np.uint8)
    square = np.ones((10, 10), bool)
    places = ((4, 4), (10, 8), (20, 8))
    return Layout(
        background,
        SOURCE,
        "tile",
        tuple(
            Instance(number, "pit", square, left, top, shape_source="procedural:blob")
            for number, (left, top) in enumerate(places, start=1)
        ),
    )


@pytest.fixture
def store(layout, tmp_path):
    atomic_write(tmp_path / "data" / SOURCE, encode_png(layout.background))
    identity = dict.fromkeys(("config_sha256", "model_sha256", "data_sha256", "version"), "x")
    with Store.open(tmp_path / "store", identity={**identity, "run_seed": 0, "defects": ["pit"]}) as opened:
        image = np.where(layout.foreground[..., None], 200, layout.background).astype(np.uint8)
        sample = Sample(image, layout.foreground.astype(np.uint8) * 255, layout, 5, "flat")
        opened.write(0, sample, category="tile", source_sha256=sha256_file(tmp_path / "data" / SOURCE), extra={})
    return tmp_path / "store"


def test_the_store_keeps_the_topmost_id_of_every_pixel(layout, store):
    ids = read_image(store / "tile/instances/pit/000000.png")[..., 0]
    assert ids.dtype == np.uint16
    np.testing.assert_array_equal(ids, layout.instance_map())


def test_objects_of_one_class_that_touch_are_told_apart(layout, store):
    (sample,) = read_samples(store)
    objects = sample.objects()
    assert [name for name, _ in objects] == ["pit"] * 3
    for number, (_, mask) in enumerate(objects, start=1):
        np.testing.assert_array_equal(mask, layout.instance_map() == number)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_exports_hold_them(layout, store, tmp_path):
    coco_module = pytest.importorskip("pycocotools.coco")
    export_store(store, tmp_path / "coco", kind="coco")
    coco = coco_module.COCO(tmp_path / "coco" / "annotations.json")
    found = np.sum([number * coco.annToMask(item) for number, item in coco.anns.items()], axis=0)
    np.testing.assert_array_equal(found, layout.instance_map())
    export_store(store, tmp_path / "tars", kind="webdataset")
    with tarfile.open(tmp_path / "tars" / "shard-000000.tar") as shard:
        picture = Image.open(BytesIO(shard.extractfile("000000.instances.png").read()))
    np.testing.assert_array_equal(np.asarray(picture), layout.instance_map())


def test_opening_again_keeps_the_map_and_the_audit_reads_it(store, tmp_path):
    assert audit(store, data_root=tmp_path / "data", split=None).problems == []
    identity = dict.fromkeys(("config_sha256", "model_sha256", "data_sha256", "version"), "x")
    with Store.open(store, identity={**identity, "run_seed": 0, "defects": ["pit"]}) as opened:
        assert opened.done() == {0}
    path, manifest = store / "tile/instances/pit/000000.png", store / "manifest.jsonl"
    before = sha256_file(path)
    ids = read_image(path)[..., 0]
    path.write_bytes(encode_png(np.where(ids == 1, 3, ids).astype(np.uint16)))
    manifest.write_text(manifest.read_text().replace(before, sha256_file(path)))
    (problem,) = audit(store, data_root=tmp_path / "data", split=None).problems
    assert "holds instance 3 outside its box" in problem
