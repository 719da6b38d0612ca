import gc
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import weakref

import numpy as np
import pytest

from fastsynth.config import load_config
from fastsynth.data.duplicates import Looks
from fastsynth.data.split import LeakError
from fastsynth.files import sha256_folder
from fastsynth.images import encode_png, read_mask
from fastsynth.run import TRAINED_FROM, Run
from fastsynth.run_config import RunConfig


@pytest.fixture
def open_run(tmp_path, tiny_tree):
    """Opens the run `run` of the tiny tree, with overrides."""
    path = tmp_path / "config.yaml"
    path.write_text(f"output: {tmp_path / 'run'}\ndata: {{root: {tiny_tree}}}\n")
    return lambda *overrides: Run(load_config(RunConfig, path, overrides))


def test_opening_a_run_and_planning_its_split_write_nothing(open_run):
    run = open_run()
    planned = run.planned_split()
    assert not run.folder.exists()
    assert run.split == planned
    assert sorted(path.name for path in run.folder.iterdir()) == ["fingerprints.npz", "split.json"]


def test_training_defects_are_in_memory_once_and_only_while_somebody_holds_them(open_run):
    run = open_run()
    first, again = run.exemplars("train"), run.exemplars("train")
    assert len(first) > 0
    assert all(one is other for one, other in zip(first, again, strict=True))
    pictures = [weakref.ref(exemplar.image) for exemplar in first]
    del first, again
    gc.collect()
    assert not any(picture() is not None for picture in pictures)


def test_the_split_is_made_once(open_run):
    made = open_run().split
    before = sha256_folder(open_run().folder)
    assert open_run("seed=7").split == made
    assert sha256_folder(open_run().folder) == before


def test_other_split_settings_than_the_split_was_made_with_are_refused(open_run):
    open_run().split  # noqa: B018
    with pytest.raises(ValueError, match=r"made with split\.val_fraction 0\.2, this configuration has 0\.3; .*output"):
        open_run("split.val_fraction=0.3").split  # noqa: B018


def test_a_mask_that_was_drawn_anew_counts_as_other_data(open_run, tiny_tree):
    before = open_run().training_sha256()
    run = open_run()
    record = run.training_defects()[0]
    foreground = read_mask(run.path(record.mask))
    foreground[0, 0] = not foreground[0, 0]
    run.path(record.mask).write_bytes(encode_png(foreground.astype(np.uint8)[..., None] * 255))
    assert run.training_sha256() != before


def test_a_stage_records_what_it_ran_with_and_how_long_even_when_it_fails(open_run):
    run = open_run("seed=3")
    with pytest.raises(RuntimeError), run.stage("train"):
        raise RuntimeError
    with run.stage("generate"):
        run.log({"step": 1})
    assert load_config(RunConfig, run.folder / "config.yaml") == run.config
    told = json.loads((run.folder / "environment.json").read_text())
    assert (told["stage"], list(told["stages"])) == ("generate", ["generate", "train"])
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [line.get("stage") for line in lines] == ["train", None, "generate"]
    assert lines[0]["seconds"] >= 0


def test_every_stage_records_versions_machine_and_the_hashes_that_there_are(open_run):
    accelerators, run = gpus(), open_run()  # asks torch, which is loaded from then on
    with run.stage("check", hash_data=False):
        pass
    with run.stage("train"):  # ends with the weights it makes
        (run.model_folder / "unet").mkdir(parents=True)
        (run.model_folder / "unet" / "weights.safetensors").write_bytes(b"weights")
    with open_run("generate.count=3").stage("generate"):
        pass
    told = json.loads((run.folder / "environment.json").read_text())
    check, train, generate = (told["stages"][name] for name in ("check", "train", "generate"))
    versions = importlib.metadata.version
    for package in ("torch", "scipy", "scikit-image", "timm", "transformers", "peft", "pydicom", "nibabel", "numpy"):
        assert train["packages"][package] == versions(package)
    assert (train["python"], train["platform"]) == (platform.python_version(), platform.platform())
    assert (train["cores"], train["memory_gb"] > 0, train["devices"]) == (os.cpu_count(), True, accelerators)
    assert train.keys() >= {"commit", "command", "threads", "processor", "created"}
    weights = hashlib.sha256(f"unet/weights.safetensors {hashlib.sha256(b'weights').hexdigest()}".encode()).hexdigest()
    hashes = [(stage["data_sha256"], stage["model_sha256"]) for stage in (check, train, generate)]
    data = run.training_sha256()
    assert hashes == [(None, None), (data, weights), (data, weights)]
    assert train["config_sha256"] == generate["config_sha256"] == run.rendering_sha256()
    assert train["config_yaml_sha256"] != generate["config_yaml_sha256"]
    written = hashlib.sha256((run.folder / "config.yaml").read_bytes()).hexdigest()
    assert generate["config_yaml_sha256"] == written
    assert {key: told[key] for key in generate} == generate


def gpus() -> list[str]:
    torch = pytest.importorskip("torch")
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def test_the_parts_share_no_image_and_lose_none(open_run):
    run = open_run()
    parts = [
        {record.image for record in run.records(part, normal=normal)}
        for part in ("train", "val", "test")
        for normal in (True, False)
    ]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == len(run.dataset.records)
    assert {record.image for record in run.training_defects()} == parts[1]
    assert {record.image for record in run.training_normals} == parts[0]


def test_an_image_added_after_the_split_is_refused_by_name(open_run, tiny_tree):
    assert open_run().split
    shutil.copy(tiny_tree / "test" / "good" / "test00.png", tiny_tree / "train" / "good" / "added.png")
    with pytest.raises(ValueError, match=r"train/good/added\.png and 0 more are not in .*split\.json"):
        open_run().training_normals  # noqa: B018


def test_a_training_image_that_became_a_test_image_is_refused_by_name(open_run, tiny_tree):
    run = open_run()
    normal, defect = run.training_normals[0], run.training_defects()[0]
    test_image = run.path(run.records("test", normal=False)[0].image)
    for record, learn in (
        (normal, lambda: open_run().training_normals),
        (defect, lambda: open_run().training_defects()),
    ):
        shutil.copy(test_image, run.path(record.image))
        with pytest.raises(LeakError, match=f"{record.image} is the test image"):
            learn()


def test_a_changed_image_of_any_part_is_refused_by_name(open_run):
    run = open_run()
    rng = np.random.default_rng(9)
    for part, normal in (("train", False), ("val", True), ("test", False)):
        victim = run.path(run.records(part, normal=normal)[0].image)
        before = victim.read_bytes()
        victim.write_bytes(encode_png(rng.integers(0, 255, (40, 48, 3), np.uint8)))
        with pytest.raises(ValueError, match=rf"{victim} has changed; .*split\.json knows another picture"):
            open_run().records(part, normal=normal)
        victim.write_bytes(before)


def test_how_the_test_images_look_is_found_again_for_a_split_without_it(open_run):
    kept = open_run()
    split, before = kept.split, kept.looks_path.read_bytes()
    kept.looks_path.unlink()
    assert open_run().guard
    assert kept.looks_path.read_bytes() == before
    kept.looks_path.unlink()
    kept.path(split.test[0]).unlink()
    assert open_run().guard
    assert set(Looks.read(kept.looks_path).images) == set(split.test[1:])


def test_a_defect_without_a_mask_is_refused_by_name(open_run):
    run = open_run()
    record = run.training_defects()[0]
    run.path(record.mask).unlink()
    with pytest.raises(ValueError, match=f"{record.image} has no mask"):
        open_run().training_defects()


def test_an_image_is_read_with_its_foreground_and_a_normal_one_with_none(open_run):
    run = open_run()
    image, foreground = run.read(run.training_defects()[0])
    assert image.shape == (40, 48, 3)
    assert foreground.sum() == 6 * 12
    assert not run.read(run.training_normals[0])[1].any()


def test_a_mask_of_another_size_is_refused_with_both_sizes(open_run):
    run = open_run()
    record = run.training_defects()[0]
    _, foreground = run.read(record)
    run.path(record.mask).write_bytes(encode_png(foreground[:30].astype("uint8") * 255))
    with pytest.raises(ValueError, match=r"is \(30, 48\), its image is \(40, 48\)"):
        run.read(record)


def test_only_settings_that_can_change_a_sample_change_its_hash(open_run):
    base = open_run().rendering_sha256()
    for free in ("device=cpu", "generate.count=7", "segment.iterations=9", "compare.seeds=[5]", "output=elsewhere"):
        assert open_run(free).rendering_sha256() == base, free
    changed = ("seed=1", "renderer.feather=1", "renderer.training.max_train_steps=9", "split.train_fraction=0.5")
    assert len({base, *(open_run(override).rendering_sha256() for override in changed)}) == len(changed) + 1


def test_a_run_with_a_model_refuses_other_training_settings_and_allows_other_sampling(open_run):
    run = open_run()
    path = run.model_folder / TRAINED_FROM
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(run.training_settings()))
    for allowed in ("renderer.num_inference_steps=3", "generate.count=3"):
        open_run(allowed)
    for key, value in {
        "seed": 1,
        "renderer.crop_size": 64,
        "renderer.training.batch_size": 7,
        "renderer.training.learning_rate": 0.1,
    }.items():
        with pytest.raises(ValueError, match=rf"is trained with {key} .*, this configuration has {value}; choose"):
            open_run(f"{key}={value}")


def test_layouts_are_drawn_from_the_masks_of_training_defects_alone(open_run):
    run = open_run()
    (sampler,) = run.layout_samplers.values()
    sources = {part.source for parts in sampler.parts.values() for part in parts}
    assert sources == {record.mask for record in run.training_defects()}


def test_layouts_know_which_masks_are_of_one_piece(open_run, tiny_tree):
    (tiny_tree / "groups.json").write_text(json.dumps({f"crack{i:02d}": f"piece {i // 3}" for i in range(6)}))
    (sampler,) = open_run().layout_samplers.values()
    assert {part.source: part.group for part in sampler.parts["crack"]} == {
        part.source: f"piece {int(part.source[-11:-9]) // 3}" for part in sampler.parts["crack"]
    }
    assert {part.group for part in sampler.parts["blob"]} == {None}
