"""The table of renderers: one real arm, one split, the same masks for all, and nothing is done twice."""

import json

import pytest
import yaml

ROWS = {
    "copy-paste": {"renderer": {"kind": "copy_paste"}},
    "FAST": {},
    "FAST with FARM": {"renderer": {"farm": "input"}},
}


@pytest.fixture(scope="module")
def table(cli, write_config, shared_tree, tmp_path_factory):
    """A finished table: (its folder, its configuration)."""
    folder = tmp_path_factory.mktemp("table")
    run = write_config(folder, shared_tree)
    config = folder / "bench.yaml"
    config.write_text(yaml.safe_dump({"run": run.name, "output": str(folder / "bench"), "rows": ROWS}, sort_keys=False))
    answer = cli("bench", config)
    assert answer.code == 0, answer.err
    assert [line.partition(":")[0] for line in answer.out.splitlines()[-3:]] == list(ROWS)
    return folder / "bench", config


def test_every_row_has_scores_differences_quality_and_cost(table):
    found = json.loads((table[0] / "bench.json").read_text())
    assert [row["name"] for row in found["rows"]] == list(ROWS)
    seeds = len(found["baseline"])
    for row in found["rows"]:
        assert len(row["scores"]) == seeds
        assert {score["renderer"] for score in row["scores"]} == {
            "copy_paste" if row["name"] == "copy-paste" else "fast"
        }
        assert {d["baseline"] for d in row["differences"]} == {"real"}
        assert row["quality"]["mean"]["visible"] > 0
        assert (row["renderer_minutes"] is None) == (row["name"] == "copy-paste")


def test_all_rows_share_split_and_masks_and_the_real_arm_is_trained_once(table):
    folder, _ = table
    assert len({(folder / name / "split.json").read_bytes() for name in ROWS}) == 1
    masks = [
        {p.relative_to(folder / name): p.read_bytes() for p in (folder / name / "synthetic").rglob("*_mask.png")}
        for name in ROWS
    ]
    assert masks[0]
    assert masks[0] == masks[1] == masks[2]
    assert [name for name in ROWS if (folder / name / "segment" / "real").exists()] == ["copy-paste"]


def test_rows_that_differ_in_sampling_alone_share_the_model_but_not_the_pictures(table):
    folder, _ = table
    models, pictures = (
        [
            {p.name: p.read_bytes() for p in sorted((folder / name / part).rglob(pattern))}
            for name in ("FAST", "FAST with FARM")
        ]
        for part, pattern in (("model/unet", "*.safetensors"), ("synthetic", "0*[0-9].png"))
    )
    assert models[0]
    assert models[0] == models[1]
    assert pictures[0].keys() == pictures[1].keys()
    assert pictures[0] != pictures[1]


def test_a_second_call_does_nothing_anew(table, cli):
    folder, config = table
    kept = [*folder.rglob("*.safetensors"), *folder.rglob("scores.npz"), *folder.rglob("quality.json")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert cli("bench", config).code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rows": {}}, "rows"),
        ({"rows": {"a/b": {}}}, "a row is called 'a/b'"),
        ({"rows": {"FAST": {"rendrer": {}}}}, "rows.FAST"),
        ({"run": "absent.yaml"}, "absent.yaml"),
    ],
)
def test_mistakes_are_named(table, cli, tmp_path, changes, complaint):
    config = tmp_path / "bench.yaml"
    good = yaml.safe_load(table[1].read_text())
    config.write_text(yaml.safe_dump({**good, "run": str(table[1].parent / good["run"]), **changes}))
    answer = cli("bench", config)
    assert answer.code == 2
    assert complaint in answer.complaint
