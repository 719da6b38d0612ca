"""Nothing may learn from a test image, whatever it is called. Each verb that learns is a door of its own."""

import json
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Answer

from fastsynth.data.store import read_manifest
from fastsynth.images import encode_png, read_image


def part(folder: Path, name: str, *, containing: str) -> list[str]:
    return [image for image in json.loads((folder / "split.json").read_text())[name] if containing in image]


@dataclass(frozen=True)
class Leak:
    """A finished run at another place. victims: a training normal and a training defect. test_image: a test defect."""

    folder: Path
    data: Path
    config: Path
    victims: dict[str, Path]
    test_image: Path

    def refused(self, answer: Answer, victim: Path, *, how: str) -> None:
        """One line that names both files, and nothing is learnt."""
        assert answer.code == 2, answer.out
        assert f"{victim} {how} the test image {self.test_image.relative_to(self.data)};" in answer.complaint
        assert not (self.folder / "segment" / "real" / "seed-0" / "result.json").exists()


@pytest.fixture
def leaky(whole_run, write_config, tmp_path) -> Leak:
    data, folder = tmp_path / "tile", tmp_path / "run"
    shutil.copytree(whole_run.data, data)
    shutil.copytree(whole_run.folder, folder, ignore=shutil.ignore_patterns("segment", "cache"))
    victims = {kind: data / part(folder, "train", containing=kind)[0] for kind in ("good", "crack")}
    test_image = data / part(folder, "test", containing="crack")[0]
    return Leak(folder, data, write_config(tmp_path, data), victims, test_image)


def exact(path: Path) -> bytes:
    return path.read_bytes()


def encoded_anew(path: Path) -> bytes:
    return cv2.imencode(".png", cv2.imread(str(path)), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def brighter(path: Path) -> bytes:
    return encode_png(np.clip(read_image(path).astype(int) + 3, 0, 255).astype(np.uint8))


COPIES = {exact: "is", encoded_anew: "shows the same as", brighter: "shows the same as"}
LEARN = ["train", "generate", "masks", "segment train", "compare"]
LOOK = ["filter", "evaluate", "augment"]
OPTIONS = {"generate": ["-s", "generate.count=12"], "augment": ["--preview"]}


@pytest.mark.parametrize(("door", "kind"), [*product(LEARN, ["good", "crack"]), *product(LOOK, ["crack"])])
def test_a_test_image_in_place_of_a_training_image_is_refused_with_both_names(leaky, cli, door, kind):
    if door == "train":
        shutil.rmtree(leaky.folder / "model")
        shutil.rmtree(leaky.folder / "checkpoints")
    victim = leaky.victims[kind]
    before = victim.read_bytes()
    for copy, how in COPIES.items():
        victim.write_bytes(copy(leaky.test_image))
        leaky.refused(cli(*door.split(), leaky.config, *OPTIONS.get(door, [])), victim, how=how)
    if door == "masks":  # the door opens again with the old file
        victim.write_bytes(before)
        assert cli(door, leaky.config).code == 0


@pytest.mark.parametrize("door", ["filter", "segment train", "compare", "evaluate", "augment"])
def test_a_test_image_in_place_of_a_stored_sample_is_refused_with_both_names(leaky, cli, door):
    line = next(read_manifest(leaky.folder / "synthetic"))
    victim = leaky.folder / "synthetic" / line["image"]
    options = ["--arm", "real+synthetic-1"] if door == "segment train" else []
    # the real arm is trained before compare comes to the store
    copies = {brighter: COPIES[brighter]} if door == "compare" else COPIES
    for copy, how in copies.items():
        victim.write_bytes(copy(leaky.test_image))
        answer = cli(*door.split(), leaky.config, *options)
        assert answer.code == 2
        assert f"{victim} {how} the test image {leaky.test_image.relative_to(leaky.data)};" in answer.complaint
    assert not (leaky.folder / "augmented").exists()


def test_filter_refuses_a_sample_whose_background_has_become_a_test_image(leaky, cli):
    line = next(read_manifest(leaky.folder / "synthetic"))
    victim = leaky.data / line["source_image"]
    stored = (leaky.folder / "synthetic" / "manifest.jsonl").read_bytes()
    for copy, how in COPIES.items():
        victim.write_bytes(copy(leaky.test_image))
        leaky.refused(cli("filter", leaky.config), victim, how=how)
    assert (leaky.folder / "synthetic" / "manifest.jsonl").read_bytes() == stored


def test_a_training_image_that_changed_otherwise_is_refused_and_named(leaky, cli):
    victim = leaky.victims["good"]
    victim.write_bytes(encode_png(np.random.default_rng(3).integers(0, 255, (40, 48, 3), np.uint8)))
    answer = cli("generate", leaky.config, *OPTIONS["generate"])
    assert answer.code == 2
    assert f"{victim} has changed; {leaky.folder / 'split.json'} knows another picture" in answer.complaint
    assert "restore it, or choose another output" in answer.complaint


def test_an_image_added_after_the_split_is_refused_by_name(whole_run, copied_run, write_config, cli, tmp_path):
    data = tmp_path / "tile"
    shutil.copytree(whole_run.data, data)
    shutil.copy(data / part(whole_run.folder, "test", containing="blob")[0], data / "train" / "good" / "copy.png")
    answer = cli("generate", write_config(tmp_path, data), "-s", "generate.count=12")
    assert answer.code == 2
    assert "train/good/copy.png" in answer.complaint
    assert "the split is made once" in answer.complaint


def test_a_copy_of_a_test_image_that_is_there_from_the_start_becomes_a_test_image(
    tiny_tree, write_config, tmp_path, cli
):
    original = tiny_tree / "test" / "good" / "test00.png"
    shutil.copy(original, tiny_tree / "train" / "good" / "another name.png")
    assert cli("data", "split", write_config(tmp_path, tiny_tree)).code == 0
    assert "train/good/another name.png" in part(tmp_path / "run", "test", containing="good")
