"""Every seed learns from samples of its own: disjoint, equally many, of every type, whatever the manifest's order."""

import shutil
from collections import Counter

import numpy as np
import pytest

from fastsynth.config import load_config
from fastsynth.data.store import read_manifest
from fastsynth.recipes.judging import compare, own_lines
from fastsynth.run import Run
from fastsynth.run_config import RunConfig

# types take turns, and there are as many as seeds: every third sample would be of one type
LINES = [{"id": f"{n:06d}", "defect": ("crack", "dent", "pit")[n % 3]} for n in range(24)]


def test_seeds_share_out_the_store():
    dealt = [own_lines(LINES, seed=seed, seeds=(4, 0, 9)) for seed in (4, 0, 9)]
    assert sorted(line["id"] for lines in dealt for line in lines) == [line["id"] for line in LINES]
    assert [len(lines) for lines in dealt] == [8, 8, 8]
    for lines in dealt:
        assert max(Counter(line["defect"] for line in lines).values()) <= 3
        assert min(Counter(line["defect"] for line in lines).values()) >= 2


def test_the_order_of_the_manifest_does_not_matter():
    shuffled = [LINES[i] for i in np.random.default_rng(0).permutation(len(LINES))]
    assert own_lines(shuffled, seed=1, seeds=(0, 1)) == own_lines(LINES, seed=1, seeds=(0, 1))


@pytest.mark.parametrize(
    ("count", "seed", "message"),
    [
        (24, 3, r"deals samples to the seeds \[0, 1, 2\]; seed 3 is not among them"),
        (6, 0, "2 samples of crack for 3 seeds; generate at least one for each"),
    ],
)
def test_what_cannot_be_dealt_is_said(count, seed, message):
    with pytest.raises(ValueError, match=message):
        own_lines(LINES[:count], seed=seed, seeds=(0, 1, 2))


def test_what_is_missing_for_a_verdict_is_said_before_anything_is_trained(copied_run):
    run = Run(load_config(RunConfig, copied_run.config, [f"output={copied_run.folder}", "compare.own_samples=true"]))
    shutil.rmtree(run.folder / "segment", ignore_errors=True)
    many = run.config.compare.model_copy(update={"seeds": tuple(range(6))})
    with pytest.raises(ValueError, match=r"samples of .* for 6 seeds"):
        compare(Run(run.config.model_copy(update={"compare": many})))
    shutil.rmtree(run.store_folder)
    with pytest.raises(FileNotFoundError, match="holds no samples yet, generate some first"):
        compare(run)
    assert not (run.folder / "segment").exists()


def test_a_verdict_of_own_samples_says_how_many_each_segmenter_had(copied_run):
    settings = [f"output={copied_run.folder}", "compare.own_samples=true", "compare.seeds=[0, 1]"]
    settings.append("compare.min_presence=0")
    run = Run(load_config(RunConfig, copied_run.config, settings))
    rows = compare(run)["rows"]
    assert [(row["arm"], row["seed"], row["samples"]) for row in rows] == [
        ("real", 0, None),
        ("real", 1, None),
        ("real+synthetic", 0, 5),
        ("real+synthetic", 1, 5),
    ]
    assert len(list(read_manifest(copied_run.store))) == 10
