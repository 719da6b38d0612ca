import html
import json
import subprocess
import sys

import pytest
import torch

from fastsynth.config import load_config
from fastsynth.recipes.judging import compare
from fastsynth.run import Run
from fastsynth.run_config import RunConfig

ROW = (
    "arm renderer ratio num_inference_steps seed samples miou miou_imagewise acc f1 ap pro false_alarm per_defect "
    "seconds_per_image train_minutes peak_memory_mb"
)
DIFFERENCE = "arm renderer ratio baseline metric mean low high"


@pytest.fixture(scope="module")
def metrics(whole_run) -> dict:
    return json.loads((whole_run.folder / "metrics.json").read_text())


def test_a_run_ends_with_a_report_that_holds_the_verdict(whole_run, metrics):
    report = whole_run.folder / "report.html"
    assert whole_run.said.splitlines() == [str(report), metrics["verdict"]]
    assert metrics["verdict"] in html.unescape(report.read_text())


def test_a_run_leaves_the_promised_files(whole_run):
    for name in ("config.yaml", "environment.json", "split.json", "log.jsonl", "metrics.json", "sheet.png"):
        assert (whole_run.folder / name).is_file(), name
    assert (whole_run.folder / "model" / "model_index.json").is_file()
    assert list(whole_run.folder.glob("checkpoints/checkpoint-*"))
    assert {path.parent.name for path in whole_run.folder.glob("segment/*/seed-0")} == {"real", "real+synthetic-1"}
    logged = [json.loads(line) for line in (whole_run.folder / "log.jsonl").read_text().splitlines()]
    stages = [line["stage"] for line in logged if "seconds" in line]
    assert stages == ["check", "train", "generate", "audit", "compare", "evaluate"]


def test_metrics_have_the_documented_form(metrics):
    assert metrics.keys() >= {"command", "commit", "machine", "data", "rows", "differences", "verdict"}
    assert [row["arm"] for row in metrics["rows"]] == ["real", "real+synthetic"]
    for row in metrics["rows"]:
        assert row.keys() >= set(ROW.split())
        assert row["per_defect"].keys() == {"blob", "crack"}
        assert all(0 <= row[key] <= 1 for key in ("miou", "miou_imagewise", "acc", "f1", "ap", "pro", "false_alarm"))
    synthetic = metrics["rows"][1]
    assert (synthetic["renderer"], synthetic["ratio"], synthetic["num_inference_steps"]) == ("fast", 1.0, 2)
    assert synthetic["seconds_per_image"] > 0
    assert metrics["rows"][0]["samples"] is None
    assert 5 <= synthetic["samples"] <= 10  # those that the real arm's segmenter does not find are left out
    assert {difference["metric"] for difference in metrics["differences"]} >= {"miou", "miou_imagewise", "acc"}
    for difference in metrics["differences"]:
        assert difference.keys() >= set(DIFFERENCE.split())
        assert difference["low"] <= difference["mean"] <= difference["high"]


def test_the_configuration_in_the_run_reproduces_it(whole_run, cli):
    shown = [cli("config", "show", path).out for path in (whole_run.config, whole_run.folder / "config.yaml")]
    assert shown[0] == shown[1]


def test_the_store_passes_the_audit(whole_run, cli):
    split = whole_run.folder / "split.json"
    answer = cli("audit", whole_run.store, "--data", whole_run.data, "--split", split, "--json")
    report = json.loads(answer.out)
    assert (answer.code, report["samples"], report["problems"]) == (0, 10, [])


@pytest.mark.data
def test_the_store_passes_an_independent_check(checker, whole_run):
    command = [sys.executable, checker, whole_run.store, whole_run.data, "--split", whole_run.folder / "split.json"]
    answer = subprocess.run([*command, "--expect", "10"], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    assert "10 samples, 0 problems" in answer.stdout


def test_a_second_run_makes_nothing_new(whole_run, cli, contents):
    clocks = {"environment.json", "log.jsonl", "report.html"}  # the report shows minutes per stage
    before = contents(whole_run.folder)
    answer = cli("run", whole_run.config)
    after = contents(whole_run.folder)
    assert answer.code == 0, answer.err
    assert answer.out == whole_run.said
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name] and name not in clocks] == []
    assert "train" not in answer.err
    assert "generate" not in answer.err


def test_raising_the_count_keeps_the_samples_there_are(whole_run, copied_run, cli, contents):
    answer = cli("generate", copied_run.config, "-s", "generate.count=13")
    assert answer.code == 0, answer.err
    old, new = contents(whole_run.store), contents(copied_run.store)
    assert len([name for name in new if "/train/" in name]) == 13
    assert {name for name in old if new[name] != old[name]} == {"manifest.jsonl"}
    assert new["manifest.jsonl"].startswith(old["manifest.jsonl"])


def test_data_problems_end_a_run_before_it_starts_with_exit_code_3(write_config, tiny_tree, tmp_path, cli):
    mask = tiny_tree / "ground_truth" / "crack" / "crack03_mask.png"
    mask.rename(mask.with_name("nobody_mask.png"))
    answer = cli("run", write_config(tmp_path, tiny_tree))
    assert answer.code == 3
    assert "1 problems, first test/crack/crack03.png: no mask" in answer.complaint
    assert not (tmp_path / "run" / "model").exists()


def test_a_store_that_breaks_its_promise_ends_a_run_with_exit_code_3(copied_run, cli):
    mask = next(copied_run.store.glob("*/ground_truth/crack/*"))
    mask.write_bytes(next(copied_run.store.glob("*/ground_truth/blob/*")).read_bytes())
    answer = cli("run", copied_run.config)
    assert answer.code == 3
    assert "mask_sha256 differs" in answer.complaint
    assert not (copied_run.folder / "segment").exists()


def test_segmenters_trained_side_by_side_are_those_trained_one_by_one(whole_run, copied_run, contents, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # one for each of two processes
    found = compare(Run(load_config(RunConfig, copied_run.config)))
    costs = {"train_minutes", "peak_memory_mb"}
    before = json.loads((whole_run.folder / "metrics.json").read_text())["rows"]
    without_costs = [
        [{k: v for k, v in row.items() if k not in costs} for row in rows] for rows in (found["rows"], before)
    ]
    assert without_costs[0] == without_costs[1]
    made, wanted = (contents(run.folder / "segment") for run in (copied_run, whole_run))
    for name in wanted:
        if name.endswith((".safetensors", ".npz")):
            assert made[name] == wanted[name], name
