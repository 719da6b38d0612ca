"""The reference renderers in a run: nothing to train, the same store, the same audit."""

import json
import shutil
import struct
import zlib

import pytest
import yaml

from fastsynth.config import load_config
from fastsynth.data.store import read_manifest
from fastsynth.recipes.rendering import unit_size
from fastsynth.run import Run
from fastsynth.run_config import RunConfig


@pytest.mark.parametrize("kind", ["copy_paste", "cutpaste", "draem", "nsa"])
def test_a_store_without_training_passes_the_audit(kind, cli, write_config, shared_tree, tmp_path):
    config, chosen = write_config(tmp_path, shared_tree), ("-s", f"renderer={{kind: {kind}}}")
    answer = cli("generate", config, *chosen)
    assert answer.code == 0, answer.err
    store = tmp_path / "run" / "synthetic"
    assert {(line["renderer"], line["num_inference_steps"]) for line in read_manifest(store)} == {(kind, 0)}
    report = json.loads(cli("audit", store, "--data", shared_tree, "--json").out)
    assert (report["samples"], report["problems"]) == (10, [])
    again = cli("replay", config, *chosen, "--id", 3, "--output", tmp_path / "again.png")
    assert again.code == 0, again.err


def test_the_gate_is_on_by_default_and_its_store_passes_audit_replay_resume_and_a_shard(
    cli, write_config, shared_tree, tmp_path, contents
):
    config = write_config(tmp_path, shared_tree)
    settings = yaml.safe_load(config.read_text())
    del settings["generate"]["gate"]
    config.write_text(yaml.safe_dump(settings))
    chosen = ("-s", "renderer={kind: cutpaste}", "-s", "generate.count=40")  # so many that the gate refuses some
    answer = cli("generate", config, *chosen)
    assert answer.code == 0, answer.err
    store = tmp_path / "run" / "synthetic"
    lines = list(read_manifest(store))
    assert all(line["checks"]["gate"]["visible"] > 0 for line in lines)
    redrawn = max(lines, key=lambda line: line["attempt"])
    assert redrawn["attempt"] > 0
    report = json.loads(cli("audit", store, "--data", shared_tree, "--json").out)
    assert (report["samples"], report["problems"]) == (len(lines), [])
    assert cli("replay", config, *chosen, "--id", redrawn["id"], "--output", tmp_path / "again.png").code == 0
    assert (tmp_path / "again.png").read_bytes() == (store / redrawn["image"]).read_bytes()

    refused = cli("generate", config, *chosen, "-s", "generate.gate.visible.min_share=0.2")
    assert refused.code == 2
    (said,) = refused.err.strip().splitlines()
    assert "generate.gate.visible.min_share 0.08 (this run has 0.2); " in said

    before = contents(store)
    (store / redrawn["image"]).unlink()
    (store / "rejected" / "rejected.jsonl").unlink()
    assert cli("generate", config, *chosen, "--shard", "1/1").code == 0
    assert contents(store) == before


@pytest.mark.parametrize(("side", "wanted"), [(32, 8), (4097, 7), (20_000, 1)])
def test_of_large_pictures_fewer_are_computed_together(side, wanted, shared_tree, write_config, tmp_path):
    """Written as a header alone: sizes are read without the pictures."""
    root = tmp_path / "data"
    shutil.copytree(shared_tree, root)
    run = Run(load_config(RunConfig, write_config(tmp_path, root), []))
    for record in run.training_normals:
        path = run.path(record.image)
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)
    assert unit_size(run) == wanted


def test_train_has_nothing_to_do(cli, write_config, shared_tree, tmp_path):
    answer = cli("train", write_config(tmp_path, shared_tree), "-s", "renderer={kind: nsa}")
    assert answer.code == 0, answer.err
    assert not (tmp_path / "run" / "model").exists()


def test_a_typo_in_a_reference_names_the_closest_key(cli, write_config, shared_tree, tmp_path):
    answer = cli("generate", write_config(tmp_path, shared_tree), "-s", "renderer={kind: draem, opacitty: [0, 1]}")
    assert answer.code == 2
    assert "opacity" in answer.err


def test_an_unknown_kind_names_the_known_ones(cli, write_config, shared_tree, tmp_path):
    answer = cli("generate", write_config(tmp_path, shared_tree), "-s", "renderer={kind: dream}")
    assert answer.code == 2
    assert "draem" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
