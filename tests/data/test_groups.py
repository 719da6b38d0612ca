"""Groups: what the user says belongs together is on one side of the split, whichever way it is said."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
from pydantic import ValidationError

from fastsynth.config import load_config
from fastsynth.data.datasets import open_dataset
from fastsynth.data.split import SplitConfig
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def group_of(image: str) -> str:
    """Two neighbours of a kind belong together: crack00 and crack01, crack02 and crack03, …; never two kinds."""
    name = Path(image).stem
    return f"{name[:-2]} {int(name[-2:]) // 2}"


def write_table(root: Path, images: list[str], *, prefix: str = "") -> None:
    with (root / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "age", "patient_id"])
        rows.writerows([image.removeprefix(prefix), 50, group_of(image)] for image in images)


@pytest.fixture(params=["tiny_tree", "plain_folders"])
def root(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def opened(root, tmp_path):
    """Opens a run on the data without near-duplicates: only what the user says ties images together."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"output": str(tmp_path / "run"), "data": {"root": str(root)}}))
    return lambda *overrides: Run(load_config(RunConfig, path, ["split.near_duplicates=false", *overrides]))


def sides(run: Run) -> dict[str, set[str]]:
    """Group → the sides of the split it is on; train and val are one side each."""
    found = defaultdict(set)
    for image in run.split.sha256:
        found[group_of(image)].add(run.split.part_of(image))
    return found


def pairs_apart(run: Run) -> int:
    return sum(len(parts) > 1 for parts in sides(run).values())


def rename_to_patients(root: Path) -> None:
    """crack03.png → patient1-crack03.png: what an expression can find."""
    for path in sorted(root.rglob("*.png")):
        number = path.stem.removesuffix("_mask")
        path.rename(path.with_name(f"{group_of(number).replace(' ', '')}-{path.name}"))


def test_without_groups_some_neighbours_are_apart(opened):
    assert pairs_apart(opened()) > 0


def test_no_group_of_an_expression_is_on_two_sides(root, opened):
    rename_to_patients(root)
    for seed in range(4):
        run = opened(r"split.group_regex=/([a-z]+\d+)-", f"seed={seed}", f"output={root.parent / f'run{seed}'}")
        ids = {image: Path(image).name.partition("-")[0] for image in run.split.sha256}
        assert len(set(ids.values())) < len(ids)
        parts = defaultdict(set)
        for image, name in ids.items():
            parts[name].add(run.split.part_of(image))
        assert all(len(part) == 1 for part in parts.values())
        assert all(run.dataset.group_of(record) == ids[record.image] for record in run.dataset.records)
        assert json.loads(run.split_path.read_text())["settings"]["group_regex"] == r"/([a-z]+\d+)-"


def test_no_patient_of_the_table_is_on_two_sides(root, opened):
    write_table(root, [record.image for record in open_dataset(root).records])
    for seed in range(4):
        run = opened(f"seed={seed}", f"output={root.parent / f'run{seed}'}")
        assert pairs_apart(run) == 0
        assert all(run.dataset.group_of(record) == group_of(record.image) for record in run.dataset.records)


def test_no_group_of_groups_json_is_on_two_sides(root, opened):
    names = [Path(record.image).stem for record in open_dataset(root).records]
    (root / "groups.json").write_text(json.dumps({name: group_of(name) for name in names}))
    assert pairs_apart(opened()) == 0


def test_a_category_may_have_a_table_of_its_own(tiny_tree):
    images = [record.image for record in open_dataset(tiny_tree).records]
    write_table(tiny_tree, images)
    dataset = open_dataset(tiny_tree.parent, categories=["tile"])
    assert {dataset.group_of(record) for record in dataset.records} == {group_of(image) for image in images}


def test_a_table_without_patients_says_nothing(tiny_tree):
    (tiny_tree / "metadata.csv").write_text("file_name,age\na.png,3\n")
    assert {open_dataset(tiny_tree).group_of(record) for record in open_dataset(tiny_tree).records} == {None}


def test_a_bad_expression_is_one_line(opened, tmp_path, call):
    with pytest.raises(ValidationError):
        SplitConfig(group_regex="(")
    for bad, why in (("(", "not a regular expression"), ("crack", "no group in it")):
        answer = call("data", "split", tmp_path / "config.yaml", "-s", f"split.group_regex='{bad}'")
        assert (answer.code, "split.group_regex" in answer.complaint, why in answer.complaint) == (2, True, True)


def test_an_image_that_the_expression_does_not_fit_is_named(tmp_path, opened, call):
    for expression in (r"(crack\d+)", r"(patient\d+)?\.png"):
        answer = call("data", "split", tmp_path / "config.yaml", "-s", f"split.group_regex='{expression}'")
        assert answer.code == 2
        assert "blob00.png; every image needs one: widen it" in answer.complaint
        assert not (tmp_path / "run").exists()


def test_an_image_without_a_patient_is_named(tiny_tree):
    images = [record.image for record in open_dataset(tiny_tree).records]
    write_table(tiny_tree, images[1:])
    with pytest.raises(ValueError, match=rf"metadata\.csv gives no patient_id for {images[0]}; every image needs one"):
        open_dataset(tiny_tree)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"name,patient_id\na,b\n", "no column file_name"),
        (b"file_name;patient_id\na.png;1\n", "has the columns 'file_name;patient_id'; separate them by commas"),
        (b"file_name,patient_id\na.png,1\na.png,2\n", "a.png has the patients 1 and 2"),
        (b"file_name,patient_id\n\xff\xfe,1\n", "not a table of comma-separated UTF-8 text"),
        (b'file_name,patient_id\n"' + b"a" * 200_000 + b'",1\n', "not a table of comma-separated UTF-8 text"),
    ],
)
def test_a_bad_table_is_named(tiny_tree, content, why):
    (tiny_tree / "metadata.csv").write_bytes(content)
    with pytest.raises(ValueError, match=why) as refusal:
        open_dataset(tiny_tree)
    assert "metadata.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_two_sources_of_groups_are_refused(tiny_tree):
    write_table(tiny_tree, [record.image for record in open_dataset(tiny_tree).records])
    with pytest.raises(ValueError, match=r"metadata\.csv and split\.group_regex both say .*; keep one of them"):
        open_dataset(tiny_tree, group_regex=r"([a-z]+)\d+\.png")
    (tiny_tree / "groups.json").write_text('{"crack00": "a"}')
    with pytest.raises(ValueError, match=r"groups\.json and metadata\.csv both say"):
        open_dataset(tiny_tree)


def test_another_expression_than_the_split_was_made_with_is_refused(opened):
    opened().split  # noqa: B018
    with pytest.raises(ValueError, match=r"made with split\.group_regex None, this configuration has \(\[a-z\]"):
        opened(r"split.group_regex=([a-z]+\d+)\.png").split  # noqa: B018


def test_a_split_of_before_there_were_expressions_is_refused_with_one(opened):
    run = opened()
    value = json.loads((run.split and run.split_path).read_text())
    del value["settings"]["group_regex"]
    run.split_path.write_text(json.dumps(value))
    assert opened().split.train == run.split.train
    with pytest.raises(ValueError, match=r"made with split\.group_regex None"):
        opened(r"split.group_regex=([a-z]+\d+)\.png").split  # noqa: B018
