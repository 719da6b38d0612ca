"""Masks of a store are wider by the halo, and say so; what a segmenter learns from is not."""

import shutil

import numpy as np
import pytest

from fastsynth.config import load_config
from fastsynth.data.identity import read_identity
from fastsynth.data.store import read_manifest
from fastsynth.halo import shrink
from fastsynth.images import read_mask
from fastsynth.recipes.items import synthetic_items
from fastsynth.recipes.layouts import draw_layouts
from fastsynth.recipes.rendering import generate, replay
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from segment.data import decode_item


@pytest.fixture
def run(copied_run):
    shutil.rmtree(copied_run.folder / "synthetic")
    shutil.rmtree(copied_run.folder / "model")
    settings = ["renderer={kind: copy_paste}", "data.halo=2", f"output={copied_run.folder}"]
    return Run(load_config(RunConfig, copied_run.config, settings))


def test_a_store_says_how_much_wider_its_masks_are(run):
    generate(run)
    lines = list(read_manifest(run.store_folder))
    assert {line["halo"] for line in lines} == {2}
    for line, item in zip(lines, synthetic_items(run, lines), strict=True):
        mask = read_mask(run.store_folder / line["mask"])
        label = decode_item(item).foreground
        assert np.array_equal(label, shrink(mask, 2))
        assert 0 < label.sum() < mask.sum()
    first = replay(run, int(lines[0]["id"]), attempt=lines[0]["attempt"])
    assert np.array_equal(first.mask > 0, read_mask(run.store_folder / lines[0]["mask"]))


def test_one_store_has_one_halo(run):
    generate(run)
    assert read_identity(run.store_folder)["halo"] == 2
    changed = {"data": run.config.data.model_copy(update={"halo": 4})}
    with pytest.raises(ValueError, match="was made with halo 2, this run has 4"):
        generate(Run(run.config.model_copy(update=changed)))
    assert "halo: 2" in (run.folder / "config.yaml").read_text()  # what was refused is not what the store was made with


def test_exemplars_and_layouts_are_grown_alike(run, copied_run):
    bare = Run(load_config(RunConfig, copied_run.config, ["data.halo=0", f"output={copied_run.folder}"]))
    for wide, narrow in zip(run.exemplars("train"), bare.exemplars("train"), strict=True):
        assert wide.foreground.sum() > narrow.foreground.sum()
    (wide_layout,), (narrow_layout,) = (list(draw_layouts(each, [3])) for each in (run, bare))
    assert wide_layout.foreground.sum() > narrow_layout.foreground.sum()


def test_unless_it_is_given_it_is_measured_and_part_of_what_a_model_is_trained_with(copied_run):
    run = Run(load_config(RunConfig, copied_run.config, [f"output={copied_run.folder}"]))
    assert run.config.data.halo is None
    assert run.training_settings()["data.halo"] == run.halo
    assert {line["halo"] for line in read_manifest(copied_run.store)} == {run.halo}


def test_a_renderer_with_another_halo_learns_from_views_of_its_own(copied_run, cli):
    kept = []
    for halo in (0, 3):
        for name in ("model", "checkpoints"):  # as the refusal of another halo says
            shutil.rmtree(copied_run.folder / name)
        assert cli("train", copied_run.config, "-s", f"data.halo={halo}").code == 0
        kept.append({path.name for path in (copied_run.folder / "cache").glob("views-*")})
    assert len(kept[1] - kept[0]) == 1
