"""Image metrics of a store, on a whole run: what they say follows from the files, and copies are called copies."""

import json
import shutil

import numpy as np
import pytest

from fastsynth.config import load_config
from fastsynth.files import sha256_file, write_json
from fastsynth.images import encode_png, read_image
from fastsynth.quality.image_metrics import defect_crops, inception_score, kid, trunk_features
from fastsynth.recipes import evaluating
from fastsynth.recipes.evaluating import evaluate
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from segment.models import THRESHOLD_FILE, load_segmenter
from segment.predict import predict


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
    lines = manifest(run)
    for line in lines:
        known = [record for record in run.training_defects() if record.defect == line["defect"]]
        image, foreground = run.read(known[int(line["id"]) % len(known)])
        (run.store_folder / line["image"]).write_bytes(encode_png(image))
        (run.store_folder / line["mask"]).write_bytes(encode_png(foreground.astype(np.uint8)[..., None] * 255))
        line["image_sha256"] = sha256_file(run.store_folder / line["image"])
    (run.store_folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for values in evaluate(run)["types"].values():
        assert values["nearest"] == pytest.approx(0, abs=1e-4)
        assert values["copies"] == 1


def test_the_yardstick_of_kid_is_the_distance_of_the_training_defects(run):
    """The fixture trains on too few for a distance; test defects stand in for them."""
    defect = run.training_defects()[0].defect
    records = [record for record in run.records("test", normal=False) if record.defect == defect]
    lines = [line for line in manifest(run) if line["defect"] == defect]
    features = trunk_features(defect_crops(*map(list, zip(*map(run.read, records), strict=True))))
    expected = kid(features, features, rng=np.random.default_rng(run.config.seed))
    found = evaluating._measure(run, lines, records, records)
    assert found["kid_training"]["mean"] == pytest.approx(expected.mean, rel=1e-4)
    assert "kid_training" not in evaluating._measure(run, lines, records[:3], records)


def test_truth_is_measured_where_the_manifest_does_not_say_it_and_found_where_it_does(run):
    """FAST without a gate leaves it out; what is measured from the files is what the manifest would have said."""
    lines = manifest(run)
    assert not any("truth" in line for line in lines)
    measured = evaluate(run)["types"]
    told = {"alignment": 0.25, "leak": 0.5, "visible": {"1": 0.5, "2": 0.0}, "invisible": 1}
    rewritten = "".join(json.dumps({**line, "truth": told}) + "\n" for line in lines)
    (run.store_folder / "manifest.jsonl").write_text(rewritten)
    for defect, values in evaluate(run)["types"].items():
        assert (values["alignment"], values["leak"], values["invisible"]) == (0.25, 0.5, 0.5)
        assert measured[defect]["leak"] == 0
        assert 0 <= measured[defect]["alignment"] <= 1


def test_samples_of_several_types_are_judged_but_compared_with_no_type(run, whole_run):
    segmenter = whole_run.folder / "segment" / "real" / "seed-0" / "segmenter"
    before = evaluate(run, segmenter=segmenter)["types"]
    renamed, kept = before
    lines = manifest(run)
    for line in lines:
        if line["defect"] == renamed:
            line["defect"] = "combined"
            for key in ("image", "mask"):
                path = run.store_folder / line[key]
                line[key] = line[key].replace(f"/{renamed}/", "/combined/")
                (run.store_folder / line[key]).parent.mkdir(parents=True, exist_ok=True)
                path.rename(run.store_folder / line[key])
    (run.store_folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate(run, segmenter=segmenter)["types"]
    judged = {"samples", "visible", "alignment", "leak", "invisible", "presence_iou", "presence_acc"}
    assert found == {kept: before[kept], "combined": {name: before[renamed][name] for name in judged}}


def test_presence_is_what_the_real_arm_s_segmenter_finds_of_every_sample(run, whole_run):
    assert "presence_iou" not in evaluate(run)["mean"]
    folder, threshold = run.folder / "segmenter", 0.5
    shutil.copytree(whole_run.folder / "segment" / "real" / "seed-0" / "segmenter", folder)
    write_json(folder / THRESHOLD_FILE, {"threshold": threshold})
    found, segmenter = evaluate(run, segmenter=folder), load_segmenter(folder)
    by_id = {line["id"]: line for line in manifest(run)}
    seen = [json.loads(line) for line in (run.folder / "presence.jsonl").read_text().splitlines()]
    assert [line["id"] for line in seen] == sorted(by_id)
    for line in seen:
        image, mask = (read_image(run.store_folder / by_id[line["id"]][key]) for key in ("image", "mask"))
        predicted, inside = predict(segmenter.model, image, tile=64, overlap=8) >= threshold, mask[..., 0] > 0
        assert line["iou"] == pytest.approx((predicted & inside).sum() / (predicted | inside).sum())
        assert line["acc"] == pytest.approx(predicted[inside].mean())
    for defect, values in found["types"].items():
        of_type = [line["iou"] for line in seen if by_id[line["id"]]["defect"] == defect]
        assert values["presence_iou"] == pytest.approx(np.mean(of_type))


def test_a_whole_run_asks_its_own_real_arm(whole_run):
    stored = json.loads((whole_run.folder / "quality.json").read_text())
    assert {"presence_iou", "presence_acc", "alignment", "leak", "invisible"} <= stored["mean"].keys()
    assert stored["mean"].keys() <= stored["names"].keys()


def test_the_command_prints_the_means_that_the_file_holds(copied_run, cli):
    answer = cli("evaluate", copied_run.config, "--json")
    assert answer.code == 0
    stored = json.loads((copied_run.folder / "quality.json").read_text())
    assert json.loads(answer.out) == stored
    for name in ("nearest", "visible", "inception_score"):
        assert stored["mean"][name] == pytest.approx(np.mean([v[name] for v in stored["types"].values()]))
    logged = [json.loads(line) for line in (copied_run.folder / "log.jsonl").read_text().splitlines()]
    assert {"stage": "evaluate", "quality": stored["mean"]} in logged


def test_the_inception_score_counts_equally_common_certain_classes():
    assert inception_score(np.eye(7)) == pytest.approx(7)
    assert inception_score(np.tile([0.2, 0.3, 0.5], (4, 1))) == pytest.approx(1)
