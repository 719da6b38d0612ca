"""Filling a store through the gate: the same bytes after any interruption, and a line for everything refused."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hand_drawn import (
    ATTEMPTS,
    COUNT,
    IDENTITY,
    REFUSED,
    RULES,
    SOURCE,
    TWIN,
    UNITS,
    WANTED,
    drawer,
    fill,
    rejected_lines,
)

from fastsynth.config import dump_config, parse_config
from fastsynth.data.store import Store, read_manifest
from fastsynth.errors import CheckFailedError
from fastsynth.files import atomic_write, sha256_file
from fastsynth.images import read_image
from fastsynth.quality.audit import audit
from fastsynth.quality.gate import REASONS, Gate
from fastsynth.quality.gate_config import GateConfig
from fastsynth.recipes.filtering import Filling, filter_store
from fastsynth.recipes.rejects import Rejects
from fastsynth.report.summary import funnel
from fastsynth.run import Run
from fastsynth.run_config import RunConfig
from fastsynth.types import Instance, Layout, Sample, sample_seed


def test_refused_ids_are_drawn_again_until_they_pass_or_are_given_up(whole, tmp_path):
    kept = {int(line["id"]): line for line in read_manifest(tmp_path / "whole")}
    assert {number: line["attempt"] for number, line in kept.items()} == WANTED
    assert {number: line["seed"] for number, line in kept.items()} == {
        number: sample_seed(7, number, attempt) for number, attempt in WANTED.items()
    }
    lines = rejected_lines(tmp_path / "whole")
    assert {(int(line["id"]), line["attempt"]) for line in lines} == REFUSED
    assert len(lines) == len(REFUSED)
    for line in lines:
        twin = (int(line["id"]), line["attempt"]) == (TWIN, 0)
        assert line["reason"] == (REASONS["duplicates"] if twin else REASONS["visible"])
        for key in ("image", "mask"):
            assert (tmp_path / "whole" / line[key]).is_file()


def test_the_funnel_of_the_report_adds_up(whole, tmp_path):
    (line,) = funnel(list(read_manifest(tmp_path / "whole")), rejected_lines(tmp_path / "whole"))
    assert (line.made, line.kept, line.rejected) == (17, 9, 8)
    assert line.reasons == {REASONS["visible"]: 7, REASONS["duplicates"]: 1}


def test_first_drawings_are_whole_units_and_later_ones_single_ids(tmp_path, data_root):
    drawn = []
    fill(tmp_path / "store", data_root, drawer(data_root, drawn))
    assert [ids for ids, attempt in drawn if attempt == 0] == UNITS
    assert all(len(ids) == 1 for ids, attempt in drawn if attempt > 0)


@pytest.mark.parametrize("calls", range(1, 9))
def test_stopped_after_any_drawing_and_started_again_gives_the_same_bytes(calls, whole, tmp_path, data_root, contents):
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        fill(folder, data_root, drawer(data_root, stop_after=calls))
    fill(folder, data_root, drawer(data_root))
    assert contents(folder) == whole


def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(whole, tmp_path, data_root, contents):
    """SIGKILL as soon as so many files are there, again and again, in processes of their own."""
    folder = tmp_path / "killed"
    for files in (1, 3, 4, 7, 12, 18, 25, 30):
        kill_when(lambda files=files: sum(1 for _ in folder.rglob("*.*")) >= files, folder, data_root)
    fill(folder, data_root, drawer(data_root))
    assert contents(folder) == whole


def kill_when(reached: Callable[[], bool], folder: Path, data_root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking; the child only works and is killed
        child = os.fork()
    if child == 0:
        try:
            fill(folder, data_root, drawer(data_root))
        finally:
            os._exit(0)
    while not reached() and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.0005)
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        return


@pytest.mark.parametrize("damage", ["cut line", "no line", "no picture", "no log", "no sample", "stray picture"])
def test_what_is_damaged_or_removed_is_made_again(damage, whole, tmp_path, data_root, contents):
    folder = tmp_path / "whole"
    log = folder / "rejected" / "rejected.jsonl"
    raws = log.read_bytes().splitlines(keepends=True)
    match damage:
        case "cut line":
            log.write_bytes(b"".join(raws)[:-9])
        case "no line":
            log.write_bytes(b"".join(raws[:1] + raws[2:]))
        case "no picture":
            (folder / "rejected" / "000004-1.png").unlink()
        case "no log":
            log.unlink()
        case "no sample":
            (folder / "plate" / "train" / "spot" / "000004.png").unlink()
        case "stray picture":
            (folder / "rejected" / "000003-0.png").write_bytes(b"")
    fill(folder, data_root, drawer(data_root))
    assert contents(folder) == whole


def test_a_finished_store_draws_nothing_and_a_larger_count_keeps_what_there_is(tmp_path, data_root, whole, contents):
    folder = tmp_path / "grown"
    fill(folder, data_root, drawer(data_root), count=6)
    fill(folder, data_root, drawer(data_root))
    assert contents(folder) == whole
    assert fill(folder, data_root, drawer(data_root, stop_after=0)) == 0


def test_ids_that_were_given_up_are_told(tmp_path, data_root):
    with Store.open(tmp_path / "store", identity=IDENTITY) as store:
        hashes = {SOURCE: sha256_file(data_root / SOURCE)}
        gate = Gate([], rules=RULES)
        filling = Filling(
            store, source_sha256=hashes, gate=gate, attempts=ATTEMPTS, keep_rejected=False, halo=0, with_truth=False
        )
        filling.settle(UNITS[0], drawer(data_root), count=8)
        with pytest.warns(UserWarning, match="refused every drawing of 1 of 8 samples"):
            filling.finish(count=8)
    assert [path.name for path in (tmp_path / "store" / "rejected").iterdir()] == ["rejected.jsonl"]


def test_a_store_that_stays_empty_is_a_failed_check(tmp_path, data_root):
    never = GateConfig.model_validate({"visible": {"min_contrast": 1e6, "min_share": 1.0}}).rules()
    never = {"visible": never["visible"]}
    with Store.open(tmp_path / "store", identity=IDENTITY) as store:
        hashes = {SOURCE: sha256_file(data_root / SOURCE)}
        gate = Gate([], rules=never)
        filling = Filling(
            store, source_sha256=hashes, gate=gate, attempts=1, keep_rejected=False, halo=0, with_truth=False
        )
        filling.settle(UNITS[0], drawer(data_root), count=4)
        with pytest.raises(CheckFailedError, match=r"every drawing of 4 of 4 samples \(no visible defect 4\)"):
            filling.finish(count=4)


def test_without_a_gate_everything_is_kept(tmp_path, data_root):
    assert fill(tmp_path / "store", data_root, drawer(data_root), gated=False) == COUNT
    lines = list(read_manifest(tmp_path / "store"))
    assert [(line["attempt"], line["checks"]["gate"]) for line in lines] == [(0, None)] * COUNT
    assert not (tmp_path / "store" / "rejected").exists()


def test_a_gated_store_passes_the_audit(whole, tmp_path, data_root):
    report = audit(tmp_path / "whole", data_root=data_root, split=None)
    assert (report.samples, report.problems) == (9, [])


@pytest.mark.data
def test_a_gated_store_passes_an_independent_check(checker, whole, tmp_path, data_root):
    command = [sys.executable, checker, tmp_path / "whole", data_root, "--expect", "9"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_a_line_that_is_not_of_the_gate_is_named(tmp_path):
    log = tmp_path / "rejected" / "rejected.jsonl"
    atomic_write(log, b'{"id": "000001"}\n')
    with pytest.raises(ValueError, match=r"rejected\.jsonl:1: not a line of the gate"):
        Rejects(tmp_path, keep_pictures=True)


@pytest.fixture
def filled_run(tiny_tree, tmp_path) -> Run:
    """A run whose store was filled without a gate: bars on training normals, id 2 equal to its source."""
    rules = {"seam": {"enabled": False}, "copies": {"enabled": False}, "duplicates": {"enabled": False}}
    values = {
        "output": tmp_path / "run",
        "data": {"root": tiny_tree},
        "renderer": {"kind": "copy_paste"},
        "generate": {"count": 4, "gate": rules},
    }
    run = Run(parse_config(RunConfig, values, source="test"))
    normals = run.training_normals

    def draw(ids: Sequence[int], attempt: int) -> list[Sample]:
        samples = []
        for number in ids:
            path = normals[number % len(normals)].image
            background = read_image(run.path(path))
            bar = Instance(1, "crack", np.ones((6, 14), bool), 4 + number, 10, shape_source="m")
            layout = Layout(background, path, "tile", (bar,))
            value = background if number == 2 else np.uint8(250)
            image = np.where(layout.foreground[..., None], value, background)
            samples.append(Sample(image, layout.foreground.astype(np.uint8) * 255, layout, number, "copy_paste"))
        return samples

    identity = {**IDENTITY, "defects": ["blob", "crack"]}
    del identity["gate"]
    with Store.open(run.store_folder, identity=identity) as store:
        filling = Filling(
            store, source_sha256=run.split.sha256, gate=None, attempts=1, keep_rejected=True, halo=0, with_truth=False
        )
        filling.settle([0, 1, 2, 3], draw, count=4)
        filling.finish(count=4)
    return run


def test_filter_moves_what_the_gate_refuses_and_says_why(filled_run, contents):
    before = contents(filled_run.store_folder)
    found = filter_store(filled_run, dry_run=True)
    assert found == {"samples": 4, "kept": 3, "reasons": {REASONS["visible"]: 1}}
    assert contents(filled_run.store_folder) == before
    assert filter_store(filled_run, dry_run=False) == found
    (line,) = rejected_lines(filled_run.store_folder)
    assert (line["id"], line["attempt"], line["reason"]) == ("000002", 0, REASONS["visible"])
    lines = list(read_manifest(filled_run.store_folder))
    assert [line["id"] for line in lines] == ["000000", "000001", "000003"]
    assert all(line["checks"]["gate"]["visible"] > 0.5 for line in lines)
    assert not list(filled_run.store_folder.glob("tile/*/crack/000002*"))
    report = audit(filled_run.store_folder, data_root=filled_run.config.data.root, split=filled_run.split)
    assert report.problems == []
    again = filter_store(filled_run, dry_run=False)
    assert again == {"samples": 3, "kept": 3, "reasons": {}}


def test_the_verb_prints_the_funnel_and_changes_nothing_in_a_dry_run(filled_run, call, contents, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(filled_run.config))
    before = contents(filled_run.store_folder)
    answer = call("filter", config, "--dry-run")
    assert (answer.code, answer.out.splitlines()) == (0, ["no visible defect: 1", "3 of 4 samples kept"])
    assert contents(filled_run.store_folder) == before
    found = json.loads(call("filter", config, "--json").out)
    assert found == {"samples": 4, "kept": 3, "reasons": {"no visible defect": 1}}
    assert len(list(read_manifest(filled_run.store_folder))) == 3


def test_filter_refuses_a_store_that_was_made_from_a_test_image(filled_run):
    test_image = next(image for image in filled_run.split.test if "good" in image)
    manifest = filled_run.store_folder / "manifest.jsonl"
    lines = [json.loads(raw) for raw in manifest.read_text().splitlines()]
    lines[0]["source_image"] = test_image
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=f"{test_image} is the test image {test_image};"):
        filter_store(filled_run, dry_run=False)


def test_filter_without_a_store_says_what_to_do(tiny_tree, tmp_path):
    values = {"output": tmp_path / "run", "data": {"root": tiny_tree}}
    with pytest.raises(FileNotFoundError, match="generate some samples first"):
        filter_store(Run(parse_config(RunConfig, values, source="test")), dry_run=True)
