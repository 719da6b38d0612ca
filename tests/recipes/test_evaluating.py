"""Image metrics of a store, on a whole run: what they say follows from the files, and copies are called copies."""

import json

import numpy as np
import pytest

from fastsynth.config import load_config
from fastsynth.images import encode_png, read_image
from fastsynth.quality.image_metrics import inception_score
from fastsynth.recipes.evaluating import evaluate
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


@pytest.fixture
def run(copied_run) -> Run:
    return Run(load_config(RunConfig, copied_run.config))


def manifest(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.store_folder / "manifest.jsonl").read_text().splitlines()]


def test_visible_is_the_share_of_mask_pixels_that_differ_from_the_source(run):
    found = evaluate(run)
    for defect, values in found["types"].items():
        shares = []
        for line in manifest(run):
            if line["defect"] == defect:
                image, mask = (read_image(run.store_folder / line[key]).astype(int) for key in ("image", "mask"))
                source = read_image(run.path(line["source_image"])).astype(int)
                change = np.abs(image - source).max(axis=-1)
                shares.append((change[mask[..., 0] > 0] >= 2).mean())
        assert values["samples"] == len(shares)
        assert values["visible"] == pytest.approx(np.mean(shares))


def test_copies_of_training_defects_are_counted_as_copies(run):
    for line in manifest(run):
        known = [record for record in run.training_defects() if record.defect == line["defect"]]
        image, foreground = run.read(known[int(line["id"]) % len(known)])
        (run.store_folder / line["image"]).write_bytes(encode_png(image))
        (run.store_folder / line["mask"]).write_bytes(encode_png(foreground.astype(np.uint8)[..., None] * 255))
    for values in evaluate(run)["types"].values():
        assert values["nearest"] == pytest.approx(0, abs=1e-4)
        assert values["copies"] == 1


def test_the_command_prints_the_means_that_the_file_holds(copied_run, cli):
    answer = cli("evaluate", copied_run.config, "--json")
    assert answer.code == 0
    stored = json.loads((copied_run.folder / "quality.json").read_text())
    assert json.loads(answer.out) == stored
    for name in ("nearest", "visible", "inception_score"):
        assert stored["mean"][name] == pytest.approx(np.mean([v[name] for v in stored["types"].values()]))


def test_the_inception_score_counts_equally_common_certain_classes():
    assert inception_score(np.eye(7)) == pytest.approx(7)
    assert inception_score(np.tile([0.2, 0.3, 0.5], (4, 1))) == pytest.approx(1)
