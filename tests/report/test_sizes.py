"""Sizes of synthetic beside real defects: the gap against scipy, the areas against masks that are known."""

import json

import numpy as np
import pytest
from medical_stores import fill_store
from scipy.stats import ks_2samp

from fastsynth.data.medical.importing import import_volumes
from fastsynth.data.medical.phantom import write_phantoms
from fastsynth.data.store import read_manifest
from fastsynth.files import write_json
from fastsynth.images import encode_png
from fastsynth.report.html import write_report
from fastsynth.report.sizes import largest_gap, size_lines


def test_the_gap_is_that_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(0)
    for shift in (0, 1, 10):
        first, second = rng.integers(0, 20, 30).astype(float), rng.integers(0, 20, 45).astype(float) + shift
        assert largest_gap(first, second) == pytest.approx(ks_2samp(first, second).statistic)


def test_areas_are_those_of_the_training_masks_and_of_the_manifest(tmp_path):
    for number, side in enumerate((4, 6, 20)):
        mask = np.zeros((64, 64), np.uint8)
        mask[5 : 5 + side, 5 : 5 + side] = 255
        for path in (f"test/dent/{number}.png", f"train/good/{number}.png", f"ground_truth/dent/{number}_mask.png"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(encode_png(mask))
    lines = [
        {
            "source_image": "train/good/0.png",
            "instances": [{"defect": "dent", "area": 30}, {"defect": "dent", "area": 50}],
        },
        {"source_image": "train/good/1.png", "instances": [{"defect": "new", "area": 30}]},
    ]
    (line,) = size_lines(tmp_path, None, ["test/dent/0.png", "test/dent/1.png", "train/good/2.png"], lines)
    assert (line.defect, line.unit) == ("dent", "px")
    assert sorted(line.real) == [16, 36]  # not the 400 of an image that was not learnt from
    assert sorted(line.synthetic) == [30, 50]
    assert line.gap == 0.5
    assert size_lines(tmp_path, None, [], lines) == []


def test_real_areas_have_the_halo_of_the_samples_masks_as_far_as_the_picture_reaches(tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[0:6, 10:16] = 255  # at the frame
    for path in ("test/dent/0.png", "train/good/0.png", "ground_truth/dent/0_mask.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(encode_png(mask))
    drawn = {"source_image": "train/good/0.png", "instances": [{"defect": "dent", "area": 60}], "halo": 1}
    (line,) = size_lines(tmp_path, None, ["test/dent/0.png"], [drawn])
    assert line.real.tolist() == [36 + 6 + 6 + 6]  # a pixel more below and on either side, without corners


@pytest.fixture
def medical_run(tmp_path):
    """A run folder whose data are phantoms."""
    pytest.importorskip("nibabel")
    write_phantoms(tmp_path / "src", patients=2, seed=0, shape=(40, 36, 6))
    root, run = tmp_path / "data", tmp_path / "run"
    import_volumes(tmp_path / "src" / "images", root, kind="nifti", masks=tmp_path / "src" / "masks")
    fill_store(root, run / "synthetic", count=6)
    images = [path.relative_to(root).as_posix() for path in (root / "test").rglob("*.png")]
    write_json(run / "split.json", {"train": images, "val": [], "test": [], "seed": 0, "sha256": {}})
    (run / "config.yaml").write_text(json.dumps({"data": {"root": str(root)}}))
    return run


def test_the_report_of_medical_data_is_stamped_and_counts_in_mm2(medical_run):
    text = write_report(medical_run).read_text(encoding="utf-8")
    assert "synthetic, not for clinical use" in text
    assert "area, mm²" in text
    root = medical_run.parent / "data"
    split = json.loads((medical_run / "split.json").read_text())
    manifest = list(read_manifest(medical_run / "synthetic"))
    (line,) = size_lines(root, None, split["train"], manifest)
    pixel = np.hypot(0.8, 0.05) ** 2
    np.testing.assert_allclose(
        sorted(line.synthetic), sorted(pixel * i["area"] for m in manifest for i in m["instances"]), rtol=1e-6
    )
    assert f"{np.median(line.synthetic):.4g} mm²" in text


def test_a_report_outlives_its_data(medical_run):
    (medical_run.parent / "data").rename(medical_run.parent / "gone")
    text = write_report(medical_run).read_text(encoding="utf-8")
    assert "Sizes are shown once" in text
    assert "synthetic, not for clinical use" in text
