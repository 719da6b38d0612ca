"""`generate` writes what a kept sample costs beside the store, and goes on counting after an interruption."""

import json

import pytest

from fastsynth.config import parse_config
from fastsynth.data.manifest import read_manifest
from fastsynth.recipes import rendering
from fastsynth.recipes.speed import GENERATION
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


def open_run(folder, root, count: int) -> Run:
    rules = {rule: {"enabled": False} for rule in ("seam", "copies", "duplicates")}
    values = {
        "output": folder / "run",
        "device": "cpu",
        "data": {"root": root},
        "renderer": {"kind": "cutpaste"},  # the gate finds many of its defects invisible here
        "generate": {"count": count, "gate": rules},
    }
    return Run(parse_config(RunConfig, values, source="test"))


@pytest.mark.filterwarnings("ignore:.*the gate refused every drawing")
def test_the_figure_is_per_kept_sample_over_all_sittings(tmp_path, shared_tree):
    found = []
    for count in (8, 16, 16):
        run = open_run(tmp_path, shared_tree, count)
        rendering.generate(run)
        found.append(json.loads((run.folder / GENERATION).read_text()))
    assert found[0]["made"] < found[1]["made"]
    assert found[0]["seconds"] < found[1]["seconds"]
    assert found[1] == found[2]  # nothing was missing
    kept = len(list(read_manifest(run.store_folder)))
    assert (found[1]["kept"], found[1]["made"] >= kept) == (kept, True)
    assert found[1]["seconds_per_image"] == pytest.approx(found[1]["seconds"] / kept, abs=1e-4)
    assert found[1]["peak_memory_mb"] > 50
