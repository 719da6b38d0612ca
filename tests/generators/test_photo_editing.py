"""Whole pictures as layout files: from a photo and its layout, edited, drawn by a renderer that `photo train` made."""

import hashlib
import json

import numpy as np
import pytest
import torch
import yaml

from fastsynth.images import read_image
from fastsynth.layouts.editing import set_class, set_style
from fastsynth.layouts.layout import remove_instance
from fastsynth.layouts.regions import layered
from fastsynth.types import CentreStyle, Layout, ReferenceStyle, SeedStyle
from generators.layout_model import LayoutModel
from generators.photo_renderer import PhotoRenderer
from generators.sample_sheet import pixels

NAMES = ("wall", "door", "window")
SEED = 5


@pytest.fixture(scope="module")
def gan(fit_pix2pixhd, pairs, tmp_path_factory) -> LayoutModel:
    return fit_pix2pixhd(pairs, tmp_path_factory.mktemp("gan"), steps=(30,), batch_size=4)


@pytest.fixture(scope="module")
def crn(fit_crn, pairs, tmp_path_factory) -> LayoutModel:
    return fit_crn(pairs, tmp_path_factory.mktemp("crn"), steps=(30,), batch_size=4)


@pytest.fixture
def pair(pairs):
    """A street whose door and window do not touch: a wall, a door and a window."""
    return next(
        pair
        for pair in (pairs.pair(str(number)) for number in range(12))
        if len(layered(pair.labels, pair.instances, NAMES)) == 3 and {*np.unique(pair.labels)} == {0, 1, 2}
    )


@pytest.fixture
def layout(pair) -> Layout:
    return Layout(pair.image, "street.png", "photo", layered(pair.labels, pair.instances, NAMES))


def find(style: ReferenceStyle) -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError(f"{style}: no reference was asked for")


def drawn(model: LayoutModel, layout: Layout, references=find) -> np.ndarray:
    (sample,) = PhotoRenderer(model, references=references).render([layout], [SEED])
    return sample.image


def number_of(layout: Layout, name: str) -> int:
    return next(one.id for one in layout.instances if one.defect == name)


@pytest.mark.parametrize("name", ["gan", "crn"])
def test_it_draws_what_the_model_draws_of_the_same_maps(request, name, layout, pair):
    model = request.getfixturevalue(name)
    labels = torch.from_numpy(pair.labels.astype(np.int64))
    ids = torch.from_numpy(layout.instance_map().astype(np.int64))
    np.testing.assert_array_equal(drawn(model, layout), pixels(model.draw(labels, ids, seed=SEED)[None])[0])


@pytest.mark.parametrize("name", ["gan", "crn"])
def test_a_door_that_becomes_a_window_is_drawn_as_one(request, name, layout):
    """The toy's doors are red and its windows green."""
    model, door = request.getfixturevalue(name), number_of(layout, "door")
    inside = layout.instance_map() == door
    before, after = (drawn(model, one)[inside].mean(axis=0) for one in (layout, set_class(layout, door, "window")))
    assert before[0] - before[1] > after[0] - after[1] + 10
    gone = drawn(model, remove_instance(layout, door))[inside].mean(axis=0)
    assert gone[2] > before[2] + 10  # the wall is blue


def test_seeds_centres_and_references_give_instances_their_looks(gan, layout, pair):
    window = number_of(layout, "window")
    inside = layout.instance_map() == window

    def references(style: ReferenceStyle) -> tuple[np.ndarray, np.ndarray]:
        assert style == ReferenceStyle("other.png", 2)
        return pair.image, pair.labels == 1

    styles = [SeedStyle(1), *(CentreStyle(centre) for centre in range(3)), ReferenceStyle("other.png", 2)]
    looks = [drawn(gan, set_style(layout, window, style), references)[inside] for style in styles]
    again = drawn(gan, set_style(layout, window, SeedStyle(1)), references)[inside]
    np.testing.assert_array_equal(looks[0], again)
    assert any((looks[0] == look).all() for look in looks[1:4])  # a seed chooses among the centres
    assert len({look.tobytes() for look in looks[1:]}) > 2


def test_without_styles_a_seed_chooses_one_of_the_outputs(crn, layout, pair):
    window = number_of(layout, "window")
    inside = layout.instance_map() == window
    labels = torch.from_numpy(pair.labels.astype(np.int64))
    around = crn.choose_output(labels, seed=SEED)
    for own in range(3):
        picture = drawn(crn, set_style(layout, window, SeedStyle(own)))
        for region, output in ((inside, crn.choose_output(torch.tensor([2]), seed=own)), (~inside, around)):
            expected = pixels(crn.draw(labels, labels, seed=SEED, output=output)[None])[0]
            np.testing.assert_array_equal(picture[region], expected[region])


def test_what_cannot_be_drawn_is_one_line(crn, layout):
    with pytest.raises(ValueError, match=r"instance 1 has the style CentreStyle.*crn renderer knows seeds only"):
        drawn(crn, set_style(layout, 1, CentreStyle(0)))
    with pytest.raises(ValueError, match=r"no instances; a renderer of whole pictures draws nothing"):
        drawn(crn, Layout(layout.background, "a.png", "photo"))
    with pytest.raises(ValueError, match=r"leaves \d+ pixels without a class.*put an instance there"):
        drawn(crn, remove_instance(layout, 1))
    with pytest.raises(ValueError, match=r"roof is not among the classes of this renderer: wall, door, window"):
        drawn(crn, set_class(layout, 1, "roof"))
    with pytest.raises(ValueError, match=r"uint16; renderers of whole pictures draw uint8"):
        drawn(crn, Layout(layout.background.astype(np.uint16), "a.png", "photo", layout.instances))


class TestCommand:
    @pytest.fixture
    def config(self, gan, pair_folder, tmp_path):
        """A finished training's folder: the model that is there is not asked how it was trained."""
        colours = {"wall": [40, 40, 200], "door": [200, 60, 40], "window": [60, 190, 90]}
        values = {
            "output": str(tmp_path / "photos"),
            "data": {
                "photos": str(pair_folder / "photos"), "layouts": str(pair_folder / "layouts"), "load_size": 32,
                "crop_size": 32, "held_out": 2, "classes": colours,
            },
            "renderer": {
                "kind": "pix2pixhd", "network": {"num_downsamples": 2, "encoder_downsamples": 2},
                "training": {"num_scales": 1},
            },
        }  # fmt: skip
        path = tmp_path / "photos.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        gan.save_pretrained(tmp_path / "photos" / "model")
        return path

    def test_a_window_is_moved_restyled_and_brought_back(self, call, config, pairs, pair_folder, tmp_path):
        file, output = tmp_path / "street.json", tmp_path / "new.png"
        made = call("edit", file, "--from-photo", config, "3", "--json")
        assert made.code == 0, made.err
        photo = read_image(pair_folder / "photos" / "3.png")
        np.testing.assert_array_equal(read_image(tmp_path / "street_background.png"), photo)
        assert {"wall", "door", "window"} == {one["defect"] for one in yaml.safe_load(made.out)["instances"]}
        pair = pairs.pair("3")
        ids = layered(pair.labels, pair.instances, NAMES)
        last = ids[-1].id

        answer = call("edit", file, "--set-style", f"{last}=4.png#2", "--render", config, "--output", output)
        assert answer.code == 0, answer.err
        drawn = read_image(output)
        inside = Layout(photo, "3.png", "photo", ids).instance_map() == last
        np.testing.assert_array_equal(drawn[~inside], photo[~inside])
        assert (drawn[inside] != photo[inside]).any()
        np.testing.assert_array_equal(read_image(tmp_path / "new_instances.png")[..., 0] == last, inside)
        record = json.loads((tmp_path / "new.json").read_text())
        model = tmp_path / "photos" / "model"
        lines = [
            f"{path.relative_to(model)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            for path in sorted(model.glob("*/*.safetensors"))
        ]
        assert record["model_sha256"] == hashlib.sha256("\n".join(lines).encode()).hexdigest()

        assert call("edit", file, "--remove", last, "--render", config, "--mode", "full", "--output", output).code == 0
        assert (read_image(output) != drawn).any()
        undone = call("edit", file, "--undo", 1, "--render", config, "--output", output, "--looks", 2)
        assert undone.code == 0, undone.err
        np.testing.assert_array_equal(read_image(tmp_path / "new_1.png"), drawn)

    def test_mistakes_are_one_line(self, call, config, tmp_path):
        file = tmp_path / "street.json"
        for options, said in (
            (("--from-photo", config, "99"), "no photo '99' among 12; wanted a name without its ending, as 0"),
            (("--from-photo", tmp_path / "none.yaml", "3"), "none.yaml: no such config file"),
            (("--from-photo", config, "3", "--from-image", config), "--from-image and --from-photo together"),
        ):
            answer = call("edit", file, *options)
            assert answer.code == 2
            assert said in answer.complaint
        assert not file.exists()
        assert call("edit", file, "--from-photo", config, "3").code == 0
        refused = call("edit", file, "--set-severity", "1=2", "--render", config)
        assert refused.code == 2
        assert "a severity is of a defect" in refused.complaint
        missing = call("edit", file, "--undo", 1, "--set-style", "1=77.png#1", "--render", config)
        assert "no photo '77' among 12" in missing.complaint
        paired = call("edit", file, "--undo", 1, "--render", config, "--mode", "paired")
        assert "has no instances" in paired.complaint
