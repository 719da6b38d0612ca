"""Phantoms through the command line: slices, synthesis, audit, report, and volumes again."""

import numpy as np
import pytest

from fastsynth.data.medical.phantom import write_phantoms
from fastsynth.data.medical.sidecar import NOTICE
from fastsynth.data.store import read_manifest
from fastsynth.files import read_json
from fastsynth.images import read_mask

nibabel = pytest.importorskip("nibabel")


def read(path):
    return np.asarray(nibabel.load(path).dataobj.get_unscaled())


def test_a_phantom_goes_through_slices_and_synthesis_to_a_volume(cli, write_config, tmp_path):
    def call(*arguments):
        answer = cli(*arguments)
        assert answer.code == 0, answer.err
        return answer.out

    source, data, run = tmp_path / "src", tmp_path / "data", tmp_path / "run"
    write_phantoms(source, patients=6, seed=0, shape=(40, 36, 6))
    call(
        *("data", "import", source / "images", "--format", "nifti", "--masks", source / "masks"),
        *("--patient", r"regex:sub-(\d+)", "--output", data),
    )
    config, renderer = write_config(tmp_path, data), ("-s", "renderer={kind: copy_paste}")
    call("generate", config, *renderer, "-s", "layouts.severity_range=[0.5, 2]")
    call("audit", run / "synthetic", "--data", data, "--split", run / "split.json")
    call("data", "export", run / "synthetic", "--format", "nifti", "--data", data, "--output", tmp_path / "out")
    call("report", run)
    assert NOTICE in (run / "report.html").read_text(encoding="utf-8")
    assert read_json(run / "synthetic" / "store.json")["notice"] == NOTICE

    lines = {line["id"]: line for line in read_manifest(run / "synthetic")}
    assert {line["notice"] for line in lines.values()} == {NOTICE}
    assert len({line["instances"][0]["severity"] for line in lines.values()}) == len(lines)
    split, groups = read_json(run / "split.json"), read_json(data / "groups.json")
    tested = {groups[image.split("/")[-1].removesuffix(".png")] for image in split["test"]}
    volumes, found = sorted((source / "images").iterdir()), read_json(tmp_path / "out" / "volumes.json")["volumes"]
    names = sorted(read_json(data / "medical.json")["volumes"])
    for name, entry in found.items():
        assert name.split("-")[0] not in tested
        before = read(volumes[names.index(entry["source"])])
        after = read(tmp_path / "out" / "images" / f"{name}.nii.gz")
        inside = np.zeros(before.shape, bool)
        for index, sample in entry["samples"].items():
            inside[:, :, int(index)] = read_mask(run / "synthetic" / lines[sample]["mask"]).T
        np.testing.assert_array_equal(after[~inside], before[~inside])
        assert (after != before).any()
    assert sum(len(entry["samples"]) for entry in found.values()) == len(lines) == 10


def test_pictures_said_to_be_medical_are_stamped_like_imported_volumes(cli, write_config, shared_tree, tmp_path):
    config, renderer = write_config(tmp_path, shared_tree), ("-s", "renderer={kind: copy_paste}")
    assert cli("generate", config, *renderer, "-s", "data.medical=true").code == 0
    store = tmp_path / "run" / "synthetic"
    assert read_json(store / "store.json")["notice"] == NOTICE
    assert {line["notice"] for line in read_manifest(store)} == {NOTICE}
