"""`fastsynth edit`: layout files from pictures and stores, edits in the order given, renders that keep the rest."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastsynth.data.store import read_manifest
from fastsynth.images import encode_png, read_image, read_mask

SHAPE = np.zeros((40, 48), np.uint8)
SHAPE[5:9, 6:16] = 255


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "Bild ü.png"
    path.write_bytes(encode_png(np.random.default_rng(0).integers(60, 160, (40, 48, 3), np.uint8)))
    return path


@pytest.fixture
def mask(tmp_path) -> Path:
    path = tmp_path / "mask.png"
    path.write_bytes(encode_png(SHAPE))
    return path


@pytest.fixture
def layout(call, picture, mask, tmp_path) -> Path:
    """Instance 1, a crack of 10×4 pixels at 6, 5."""
    path = tmp_path / "edit" / "layout.json"
    answer = call("edit", path, "--from-image", picture, "--category", "tile", "--add", f"crack={mask}")
    assert answer.code == 0, answer.err
    return path


def shown(call, path: Path, *options: object) -> dict:
    answer = call("edit", path, *options, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_a_layout_of_a_picture_holds_its_very_bytes_and_no_path_of_the_machine(layout, picture, tmp_path):
    assert [path.name for path in sorted(layout.parent.iterdir())] == ["layout.json", "layout_background.png"]
    assert (layout.parent / "layout_background.png").read_bytes() == picture.read_bytes()
    assert str(tmp_path) not in layout.read_text()


def test_of_a_first_edit_that_fails_nothing_is_left(call, picture, tmp_path):
    start = (tmp_path / "new" / "layout.json", "--from-image", picture, "--category", "tile")
    answer = call("edit", *start, "--remove", 9)
    assert answer.code == 2
    assert "--remove 9" in answer.complaint
    assert not (tmp_path / "new").exists()
    assert call("edit", *start).code == 0


def test_options_act_in_the_order_they_are_given(call, layout):
    grown_first = shown(call, layout, "--move", "1=12,12", "--grow", "1=1", "--scale", "1=2")
    assert grown_first["edits"] == ["add", "move", "grow", "turn"]
    scaled_first = shown(call, layout, "--undo", 2, "--scale", "1=2", "--grow", "1=1")
    assert scaled_first["edits"] == ["add", "move", "turn", "grow"]
    assert grown_first["instances"][0]["bbox"] != scaled_first["instances"][0]["bbox"]


def test_every_option_makes_its_edit_and_undo_and_redo_walk_through_them(call, layout, mask):
    options = [
        *("--move", "1=2,-1", "--copy", "1=20,20", "--turn", "2=90", "--scale", "2=0.5", "--grow", "1=1"),
        *("--bend", "1=2", "--bend", "1=1@7", "--paint", "1=3@30,30;35,30", "--erase", "1=1@30,30"),
        *("--set-class", "2=blob", "--set-style", "1=seed:7"),
        *("--set-style", "2=test/a b.png#2", "--swap-styles", "1,2", "--set-severity", "1=2", "--restyle", "4"),
        *("--lock", "1", "--unlock", "1", "--remove", "2", "--add", f"blob={mask}@30,2"),
    ]
    found = shown(call, layout, *options)
    names = [option.removeprefix("--").replace("-", "_") for option in options[::2]]
    same = {"scale": "turn", "erase": "paint", "unlock": "lock"}
    assert found["edits"] == ["add", *(same.get(name, name) for name in names)]
    assert [(item["id"], item["defect"]) for item in found["instances"]] == [(1, "crack"), (2, "blob")]
    assert found["instances"][1]["bbox"] == [30, 2, 40, 6]
    before = layout.read_bytes()
    undone = shown(call, layout, "--undo", len(names))
    assert [item["bbox"] for item in undone["instances"]] == [[6, 5, 16, 9]]
    assert shown(call, layout, "--redo", len(names)) == {**found, "files": []}
    assert layout.read_bytes() == before


def test_without_options_it_only_looks(call, layout):
    before = layout.read_bytes()
    answer = call("edit", layout)
    assert answer.out == "1: crack at [6, 5, 16, 9], 40 px\n1 instances; edits: add\n"
    assert layout.read_bytes() == before


WRONG = {
    "unknown id": (("--remove", "7"), "--remove 7: layout on Bild ü.png has no instance 7; its ids: 1"),
    "id 0": (("--remove", "0"), "--remove 0: id: got 0"),
    "outside": (("--move", "1=90,0"), "--move 1=90,0: instance 1 covers"),
    "no number": (("--move", "1=x,0"), "'x' is not a whole number"),
    "one number": (("--move", "1=3"), "wanted 2 numbers"),
    "no value": (("--set-class", "1"), "defect"),
    "a path as class": (("--set-class", "1=../x"), "defect: got '../x'"),
    "no mask": (("--add", "crack=absent.png"), "absent.png: no such file"),
    "style": (("--set-style", "1=red"), "wanted seed:N, centre:K, IMAGE#INSTANCE or none"),
    "style out of the data": (("--set-style", "1=../a.png#1"), "wanted a relative one"),
    "undo": (("--undo", "2"), "--undo 2: cannot undo 2 edits; there are 1"),
    "redo": (("--redo", "1"), "--redo 1: cannot redo 1 edits; 0 are undone"),
    "scale": (("--scale", "1=nan"), "scale"),
    "bend": (("--bend", "1=-2"), "--bend 1=-2: pixels: got -2"),
    "seed of a bend": (("--bend", "1=2@"), "'' is not a whole number"),
    "unlocked first": (("--lock", "1", "--move", "1=1,1"), "is locked; unlock it first"),
    "the second of two": (("--move", "1=1,1", "--remove", "9"), "--remove 9"),
    "both starts": (("--from-image", "a.png", "--from-store", "a.yaml", "1"), "a layout starts from one of them"),
    "mask of nothing": (("--mask", "a.png"), "give that too"),
    "no category": (("--from-image", "a.png"), "name the category"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_the_file_stays_as_it_was(call, layout, case):
    options, message = WRONG[case]
    before = layout.read_bytes()
    answer = call("edit", layout, *options)
    assert answer.code == 2
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1
    assert layout.read_bytes() == before


def test_a_file_or_picture_that_is_not_what_it_was_is_refused(call, layout, picture):
    answer = call("edit", layout.with_name("absent.json"))
    assert (answer.code, "no such layout; make one with" in answer.err) == (2, True)
    answer = call("edit", layout, "--from-image", picture, "--category", "tile")
    assert "exists already" in answer.err
    background = layout.parent / "layout_background.png"
    background.write_bytes(encode_png(read_image(picture)[::-1]))
    assert "changed since layout.json was made" in call("edit", layout).err
    background.unlink()
    assert "layout_background.png: no such file" in call("edit", layout).err


def test_a_picture_reached_through_a_link_out_of_the_folder_is_refused(call, layout, tmp_path):
    background = layout.parent / "layout_background.png"
    shutil.move(background, tmp_path / "elsewhere.png")
    background.symlink_to(tmp_path / "elsewhere.png")
    assert "leads out of" in call("edit", layout).err


def test_the_parts_of_a_mask_are_the_instances(call, picture, tmp_path):
    parts = SHAPE.copy()
    parts[35:38, 40:44] = 255
    (tmp_path / "parts.png").write_bytes(encode_png(parts))
    start = ("--from-image", picture, "--category", "tile", "--mask", tmp_path / "parts.png", "--defect", "crack")
    found = shown(call, tmp_path / "l.json", *start)
    assert [item["bbox"] for item in found["instances"]] == [[6, 5, 16, 9], [40, 35, 44, 38]]
    wrong = call("edit", tmp_path / "m.json", *start[:-1], "a/b")
    assert (wrong.code, "defect: got 'a/b'" in wrong.err) == (2, True)
    assert not (tmp_path / "m.json").exists()
    (tmp_path / "parts.png").write_bytes(encode_png(parts[::2]))
    assert "save it at the image's size" in call("edit", tmp_path / "m.json", *start).err


COPY_PASTE = ("-s", "renderer={kind: copy_paste}", "-s", "generate.count=3")


def test_a_stored_sample_is_edited_and_rendered_and_the_rest_of_it_stays(cli, write_config, shared_tree, tmp_path):
    config, out = write_config(tmp_path, shared_tree), tmp_path / "out" / "new.png"
    assert cli("generate", config, *COPY_PASTE).code == 0
    line = next(line for line in read_manifest(tmp_path / "run" / "synthetic") if line["id"] == "000001")
    stored = read_image(tmp_path / "run" / "synthetic" / line["image"])
    layout = tmp_path / "l.json"
    rendered = ("--render", config, *COPY_PASTE, "--output", out, "--json")
    answer = cli("edit", layout, "--from-store", config, 1, *rendered)
    assert answer.code == 0, answer.err
    np.testing.assert_array_equal(read_image(out), stored)
    np.testing.assert_array_equal(read_mask(out.with_name("new_mask.png")), read_mask(
        tmp_path / "run" / "synthetic" / line["mask"]))  # fmt: skip
    assert json.loads(answer.out)["seed"] == line["seed"]

    answer = cli("edit", layout, "--restyle", 3, "--looks", 3, "--sheet", tmp_path / "s.jpg", *rendered)
    assert answer.code == 0, answer.err
    inside = read_mask(out.with_name("new_mask.png"))
    looks = [read_image(out.with_name(f"new_{number}.png")) for number in (1, 2, 3)]
    assert any((look != stored).any() for look in looks)
    assert all((look == stored)[~inside].all() for look in looks)
    assert set(np.unique(read_image(out.with_name("new_instances.png")))) == {0, 1}
    record = json.loads(out.with_suffix(".json").read_text())
    assert (record["mode"], len(record["looks"]), record["edits"]) == ("edit", 3, ["restyle"])
    assert record["model_sha256"] is None  # copy_paste has no model

    answer = cli("edit", layout, "--remove", 1, "--mode", "paired", *rendered)
    assert answer.code == 0, answer.err
    np.testing.assert_array_equal(read_image(out), read_image(shared_tree / line["source_image"].removeprefix("tile/")))
    np.testing.assert_array_equal(read_image(out), read_image(out.with_name("new_without.png")))

    for options, message in (
        (("--undo", 1, "--set-style", "1=centre:2"), "renderer copy_paste knows seeds only"),
        (("--set-style", "1=none", "--set-class", "1=rust"), "no training defect"),
    ):
        answer = cli("edit", layout, *options, *rendered)
        assert answer.code == 2
        assert message in answer.complaint
    answer = cli("edit", tmp_path / "m.json", "--from-store", config, 9, *COPY_PASTE)
    assert (answer.code, "no sample 000009" in answer.complaint) == (2, True)


def test_a_test_image_is_not_drawn_on(cli, write_config, shared_tree, tmp_path):
    config = write_config(tmp_path, shared_tree)
    image = next(iter(sorted((shared_tree / "test" / "good").iterdir())))
    options = ("--from-image", image, "--category", "tile", "--render", config, *COPY_PASTE)
    answer = cli("edit", tmp_path / "l.json", *options, folder=tmp_path)
    assert answer.code == 2
    assert "is the test image" in answer.complaint
    assert not (tmp_path / "edited.png").exists()
