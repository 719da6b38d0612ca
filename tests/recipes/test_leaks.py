"""Nothing may learn from a test image, whatever it is called. Each verb that learns is a door of its own."""

import json
import shutil
from pathlib import Path

import pytest


def part(folder: Path, name: str, *, containing: str) -> list[str]:
    return [image for image in json.loads((folder / "split.json").read_text())[name] if containing in image]


@pytest.fixture
def leaky(whole_run, write_config, tmp_path) -> tuple[Path, Path, Path]:
    """Config of a finished run in whose data a training normal was overwritten with a test image; the two images."""
    data = tmp_path / "tile"
    shutil.copytree(whole_run.data, data)
    shutil.copytree(whole_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("segment", "cache"))
    victim, test_image = (
        data / part(whole_run.folder, name, containing=kind)[0] for name, kind in (("train", "good"), ("test", "crack"))
    )
    shutil.copy(test_image, victim)
    return write_config(tmp_path, data), victim, test_image


@pytest.mark.parametrize(
    "command",
    [("train",), ("generate", "-s", "generate.count=12"), ("masks",), ("segment", "train")],
    ids=["train", "generate", "masks", "segment train"],
)
def test_a_test_image_among_the_training_images_is_refused_by_name(leaky, cli, command):
    config, victim, test_image = leaky
    if command == ("train",):
        shutil.rmtree(config.parent / "run" / "model")
        shutil.rmtree(config.parent / "run" / "checkpoints")
    verb = 2 if command[0] == "segment" else 1
    answer = cli(*command[:verb], config, *command[verb:])
    assert answer.code == 2
    assert f"{victim} is the test image {test_image.relative_to(config.parent / 'tile')}" in answer.complaint
    assert not (config.parent / "run" / "segment" / "real" / "seed-0" / "result.json").exists()


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
