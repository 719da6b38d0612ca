"""The table of renderers: one real arm, one split, the same masks for all, and nothing is done twice."""

import json
import shutil

import pytest
import yaml

from fastsynth.bench_config import load_bench
from fastsynth.config import load_config
from fastsynth.recipes.bench_sheet import most_shared_masks
from fastsynth.recipes.benching import _row_cells, _share_model, share_split
from fastsynth.recipes.rendering import train_renderer
from fastsynth.run import Run
from fastsynth.run_config import RunConfig

ROWS = {
    "copy-paste": {"renderer": {"kind": "copy_paste"}},
    "FAST": {},
    "FAST, 3 steps": {"renderer": {"num_inference_steps": 3}},
}


def cells_of(said: str) -> dict[str, str]:
    """Row and cell → what a dry run says of it."""
    return dict(line.rsplit(": ", 1) for line in said.splitlines())


@pytest.fixture(scope="module")
def table(cli, write_config, shared_tree, tmp_path_factory):
    """A finished table, its first row filled on its own: (its folder, its configuration, what the calls printed)."""
    folder = tmp_path_factory.mktemp("table")
    run = write_config(folder, shared_tree)
    config = folder / "bench.yaml"
    values = {"run": run.name, "output": str(folder / "bench"), "rows": ROWS, "compare_with": ["FAST"]}
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    answers = [
        cli("bench", config, *options)
        for options in (["--dry-run"], ["--row", "copy-paste"], ["--dry-run"], [], ["--dry-run"])
    ]
    assert [answer.code for answer in answers] == [0] * 5, answers[-1].err
    return folder / "bench", config, [answer.out for answer in answers]


def test_a_dry_run_says_which_cells_are_finished(table):
    nothing, one_row, everything = (cells_of(table[2][place]) for place in (0, 2, 4))
    assert set(nothing.values()) == {"missing"}
    assert {cell for cell, state in one_row.items() if state == "finished"} == {
        cell for cell in nothing if cell.startswith(("real:", "copy-paste:"))
    }
    assert set(everything.values()) == {"finished"}
    assert [cell for cell in nothing if cell.startswith("FAST:")] == [
        "FAST: model",
        "FAST: store",
        "FAST: image metrics",
        "FAST: segmenter real+synthetic-1, seed 0",
    ]


def test_a_dry_run_names_segmenters_that_learnt_with_other_settings(table, call):
    values = yaml.safe_load(table[1].read_text())
    run = yaml.safe_load((table[1].parent / values["run"]).read_text())
    run["segment"]["learning_rate"] = 0.001
    (table[1].parent / "faster.yaml").write_text(yaml.safe_dump(run))
    changed = table[1].parent / "bench_faster.yaml"
    changed.write_text(yaml.safe_dump({**values, "run": "faster.yaml"}, sort_keys=False))
    states = cells_of(call("bench", changed, "--dry-run").out)
    outdated = {cell for cell, state in states.items() if state.startswith("finished with other settings")}
    assert outdated == {cell for cell in states if "segmenter" in cell}
    refused = call("bench", changed)
    assert refused.code > 0
    assert "a run with other settings" in refused.complaint


def test_a_row_can_be_filled_alone_and_the_verdict_of_every_row_is_printed(table):
    alone, everything = ([line.partition(":")[0] for line in table[2][place].splitlines()] for place in (1, 3))
    assert alone[-1:] == ["copy-paste"]
    assert "FAST" not in alone
    assert everything[-3:] == list(ROWS)


def test_every_row_has_scores_quality_and_cost(table):
    found = json.loads((table[0] / "bench.json").read_text())
    assert found.keys() >= {"command", "commit", "machine", "data", "rows", "differences", "verdict", "rules"}
    assert [(row["row"], row["renderer"]) for row in found["rows"]] == [
        (None, None),
        ("copy-paste", "copy_paste"),
        ("FAST", "fast"),
        ("FAST, 3 steps", "fast"),
    ]
    assert found["references"] == ["copy-paste"]
    assert list(found["table"]) == sorted(ROWS)
    for name, row in found["table"].items():
        assert row["quality"]["mean"]["visible"] > 0
        assert "presence_iou" in row["quality"]["mean"]
        assert row["samples"] == 10
        assert row["seconds_per_image"] > 0
        assert row["renderer_peak_memory_mb"] > 50
        assert (row["renderer_minutes"] is None) == (name == "copy-paste")
    trained = json.loads((table[0] / "FAST" / "model" / "training.json").read_text())
    assert trained["peak_memory_mb"] > 50


def test_rows_are_compared_with_the_real_arm_the_best_reference_and_the_named_row(table):
    found = json.loads((table[0] / "bench.json").read_text())
    pairs = {(d["row"], d["baseline"]) for d in found["differences"]}
    assert pairs == {
        *((name, "real") for name in ROWS),
        *((name, "copy-paste") for name in ROWS if name != "copy-paste"),
        *((name, "FAST") for name in ROWS if name != "FAST"),
    }


def test_all_rows_share_split_and_masks_and_the_real_arm_is_trained_once(table):
    folder = table[0]
    assert len({(folder / name / "split.json").read_bytes() for name in ("real", *ROWS)}) == 1
    masks = [
        {p.relative_to(folder / name): p.read_bytes() for p in (folder / name / "synthetic").rglob("*_mask.png")}
        for name in ROWS
    ]
    assert masks[0]
    assert masks[0] == masks[1] == masks[2]
    assert [path.parents[1].name for path in folder.glob("*/segment/real")] == ["real"]


def test_rows_that_differ_in_sampling_alone_share_the_model_but_not_the_pictures(table):
    folder = table[0]
    models, pictures = (
        [
            {p.name: p.read_bytes() for p in sorted((folder / name / part).rglob(pattern))}
            for name in ("FAST", "FAST, 3 steps")
        ]
        for part, pattern in (("model/unet", "*.safetensors"), ("synthetic", "0*[0-9].png"))
    )
    assert models[0]
    assert models[0] == models[1]
    assert pictures[0].keys() == pictures[1].keys()
    assert pictures[0] != pictures[1]


def test_a_renamed_row_costs_nothing_of_the_others_and_every_store_is_audited(table, cli, tmp_path):
    folder = tmp_path / "bench"
    shutil.copytree(table[0], folder)
    (folder / "copy-paste").rename(folder / "pasted")
    rows = {"pasted" if name == "copy-paste" else name: changes for name, changes in ROWS.items()}
    config = tmp_path / "bench.yaml"
    values = yaml.safe_load(table[1].read_text())
    run = str(table[1].parent / values["run"])
    config.write_text(yaml.safe_dump({**values, "run": run, "output": str(folder), "rows": rows}, sort_keys=False))
    kept = [*folder.rglob("*.safetensors"), *folder.rglob("scores.npz"), *folder.rglob("quality.json")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert cli("bench", config).code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    stages = [json.loads(line)["stage"] for line in (folder / "pasted" / "log.jsonl").read_text().splitlines()]
    assert stages[-1] == "audit"


def test_a_part_of_a_hybrid_takes_over_the_model_of_a_row_with_its_settings(copied_run, contents, tmp_path):
    alone = Run(load_config(RunConfig, copied_run.config))
    settings = alone.config.renderer
    parts = {"learnt": {"weight": 1, "renderer": settings}, "pasted": {"weight": 1, "renderer": {"kind": "copy_paste"}}}
    mixed = RunConfig.model_validate(
        {**dict(alone.config), "output": tmp_path / "mixed", "renderer": {"kind": "hybrid", "parts": parts}}
    )
    untrained = [cell.finished for cell in _row_cells("mix", Run(mixed)) if cell.name == "model"]
    _share_model(Run(mixed), {"FAST": alone})
    trained = [cell.finished for cell in _row_cells("mix", Run(mixed)) if cell.name == "model"]
    assert (untrained, trained) == ([False], [True])
    assert contents(tmp_path / "mixed" / "model" / "learnt") == contents(alone.model_folder)
    assert not (tmp_path / "mixed" / "model" / "pasted").exists()
    train_renderer(Run(mixed))
    assert contents(tmp_path / "mixed" / "model" / "learnt") == contents(alone.model_folder)


@pytest.fixture
def mistaken(write_config, shared_tree, tmp_path):
    """Writes a table with a mistake in it."""
    run = write_config(tmp_path, shared_tree)

    def write(**changes):
        config = tmp_path / "bench.yaml"
        good = {"run": run.name, "output": str(tmp_path / "bench"), "rows": ROWS}
        config.write_text(yaml.safe_dump({**good, **changes}, sort_keys=False))
        return config

    return write


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rows": {}}, "rows"),
        ({"rows": {"a/b": {}}}, "a row is called 'a/b'"),
        ({"rows": {"real": {}}}, "a row is called 'real'"),
        ({"rows": {"FAST": {"rendrer": {}}}}, "rows.FAST changes rendrer"),
        ({"rows": {"FAST": {"renderer": {"frm": "off"}}}}, "rows.FAST: unknown key 'renderer.frm'"),
        ({"run": "absent.yaml"}, "absent.yaml"),
        (
            {"compare_with": ["fast"]},
            "compare_with names 'fast', which is no row; wanted one of 'copy-paste', 'FAST', 'FAST, 3 steps'",
        ),
        *(
            ({"rows": {"FAST": {key: {}}}}, f"rows.FAST changes {key}; a row may change renderer and generate only")
            for key in ("data", "split", "seed", "segment", "compare", "layouts", "device", "output")
        ),
        (
            {"rows": {"one": {}, "two": {"generate": {"count": 11}}}},
            "rows.two has generate.count 11, rows.one has 10; set the same for all",
        ),
    ],
)
def test_mistakes_are_named(mistaken, call, changes, complaint):
    answer = call("bench", mistaken(**changes))
    assert answer.code == 2
    assert complaint in answer.complaint


def test_a_row_may_change_the_gate_and_all_counts_at_once(mistaken):
    rows = {"one": {"generate": {"count": 7}}, "two": {"generate": {"count": 7, "gate": {"enabled": True}}}}
    table = load_bench(mistaken(rows=rows), [])
    assert [(run.generate.count, run.generate.gate.enabled) for run in table.rows.values()] == [(7, False), (7, True)]
    assert table.real.output.name == "real"


def test_a_row_that_was_split_otherwise_is_refused(write_config, shared_tree, tmp_path):
    runs = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        config = write_config(tmp_path / str(seed), shared_tree)
        runs.append(Run(load_config(RunConfig, config, [f"seed={seed}"])))
    assert runs[0].split.train != runs[1].split.train
    with pytest.raises(ValueError, match=r"is not the split of .*; delete .* and start again"):
        share_split(runs[1], runs[0])


def test_the_sheet_begins_with_the_masks_that_most_rows_have():
    crack = {"id": "000000", "defect": "crack", "mask_sha256": "a"}
    redrawn = {**crack, "mask_sha256": "b"}
    later, blob = {**crack, "id": "000001"}, {**crack, "defect": "blob", "id": "000002"}
    shared = most_shared_masks([[crack, later, blob], [redrawn, later], [crack, later, blob]], "crack")
    assert shared == [("000001", "a"), ("000000", "a"), ("000000", "b")]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_an_unknown_row_is_named(mistaken, call, options):
    answer = call("bench", mistaken(), "--row", "fast", *options)
    assert answer.code == 2
    wanted = "'real' or one of 'copy-paste', 'FAST', 'FAST, 3 steps'"
    assert f"no row 'fast' in the table; wanted {wanted}" in answer.complaint
