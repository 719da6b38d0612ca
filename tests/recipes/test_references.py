"""The reference renderers in a run: nothing to train, the same store, the same audit."""

import json

import pytest

from fastsynth.data.store import read_manifest


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
